"""How Settings become connections to Kafka, for librdkafka and for aiokafka alike, and what their failures mean.

Decides protocol, login and certificates of every client. Takes Settings; gives librdkafka's configuration, the
TLS context that aiokafka wants, and a broker's metadata or the error for a person. Whether settings contradict each
other was decided before (pipeline.connection_faults). Never shows a password.

Invariants: both kinds of clients trust the same CAs, show the same certificate and log in as the same user. A
login or a certificate that is refused is told within seconds and as `Permanent`; a broker that is away is
`Transient`.
"""

import re
import ssl
from collections.abc import Mapping
from concurrent.futures import Future
from time import monotonic
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, TopicMetadata

from pipeline.connection_faults import KAFKA_SECURITY
from pipeline.errors import MsgmeterError, Permanent, Transient
from pipeline.settings import Settings

METADATA_SECONDS = 5.0
_FIRST_SECONDS = 1.0
"""After this a client that tries again and again is asked what it was told."""
_RETRY_SECONDS = 5.0
_ANSWER_SECONDS = 0.01
"""From one look to the next whether an answer is there."""
_SAID_CHARACTERS = 300
_AROUND = re.compile(r"^\w+://\S+: | \(after \d+ms in state .*$")


class KafkaClient(Protocol):
    """What librdkafka's consumers, producers and admin clients have in common here."""

    def list_topics(self, topic: str | None = None, *, timeout: float) -> ClusterMetadata:
        """The brokers, and one topic or all of them; raises KafkaException."""

    def poll(self, timeout: float) -> object:
        """Runs callbacks."""


class ConnectionFaults:
    """What librdkafka tells of one client's connections; given to it as its `error_cb`, called when it is polled."""

    def __init__(self) -> None:
        self.last: KafkaError | None = None
        """The last fault that trying again does not cure, else the last of all."""
        self.is_lasting = False
        """Whether there was such a one: a login or a certificate is refused."""

    def __call__(self, error: KafkaError) -> None:
        """Take note of a fault."""
        # A certificate that the broker refuses is told as an alert, which comes when the handshake is over.
        is_lasting = error.code() in _LASTING or "SSL routines" in error.str()
        if error.code() != KafkaError._ALL_BROKERS_DOWN and (is_lasting or not self.is_lasting):  # noqa: SLF001
            self.last, self.is_lasting = error, is_lasting

    def text(self, otherwise: str = "") -> str:
        """What was said, without the URL before it and the milliseconds behind it."""
        said = self.last.str() if self.last is not None else otherwise
        return _AROUND.sub("", " ".join(said.split()))[:_SAID_CHARACTERS]


class Questions:
    """A worker's questions to the brokers beside its stream: an admin client, and its answers.

    A login that is taken away ends them at once. The worker's older connections go on, so the group would let one that
    waits keep its partitions, and nobody would meter them.
    """

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self._faults = ConnectionFaults()
        self.admin = AdminClient({**kafka, "error_cb": self._faults})

    def answers(self, asked: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
        """The answers, once all are there; raises KafkaException, and Permanent where we are refused."""
        while not all(future.done() for future in asked.values()):
            self._listen(_ANSWER_SECONDS)
        return {name: future.result() for name, future in asked.items()}

    def topics(self) -> dict[str, TopicMetadata]:
        """Every topic one may see, by name; raises as `answers` does."""
        try:
            return self.admin.list_topics(timeout=METADATA_SECONDS).topics  # type: ignore[no-any-return]
        except KafkaException:
            self._listen(0)
            raise

    def _listen(self, seconds: float) -> None:
        self.admin.poll(seconds)
        if self._faults.is_lasting:
            raise Permanent(f"Kafka does not let this worker in any more ({self._faults.text()})")


class Connection:
    """How one client reaches Kafka, and what it was told when it could not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._faults = ConnectionFaults()

    def configuration(self) -> dict[str, Any]:
        """Librdkafka's configuration, for one client; its own options go over it."""
        return {**kafka_configuration(self._settings), "log_level": 2, "error_cb": self._faults}

    def metadata(
        self, client: KafkaClient, topic: str | None = None, timeout_seconds: float = METADATA_SECONDS
    ) -> ClusterMetadata:
        """The brokers, and one topic or all of them.

        Raises `Permanent` where login or certificates are refused, `Transient` where nobody answers.
        """
        end = monotonic() + timeout_seconds
        seconds = min(_FIRST_SECONDS, timeout_seconds)
        while True:
            try:
                return client.list_topics(topic, timeout=seconds)
            except KafkaException as error:
                # What librdkafka was told comes with its callbacks.
                client.poll(0)
                seconds = end - monotonic()
                if self._faults.is_lasting or seconds <= 0:
                    raise self.error(error) from error

    def topic_partitions(self, client: KafkaClient, topic: str) -> int:
        """The number of a topic's partitions; raises as `metadata` does, and `Permanent` where there is none."""
        found = self.metadata(client, topic).topics[topic]
        if found.error is not None and found.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise self.not_permitted(topic)
        if found.error is not None or not found.partitions:
            raise Permanent(f"Topic {topic} does not exist at {self._settings.kafka}: run `msgmeter migrate`")
        return len(found.partitions)

    def not_permitted(self, topic: str) -> Permanent:
        """The error for a person who may not do with a topic what was tried."""
        return Permanent(
            f"Kafka at {self._settings.kafka} does not permit {self._who} this use of {topic}:"
            " `msgmeter acls` lists what each needs"
        )

    def error(self, error: KafkaException) -> MsgmeterError:
        """The error for a person, of what a client raised and what it was told before."""
        faults = self._faults
        said = faults.text(error.args[0].str())
        if not faults.is_lasting or faults.last is None:
            return Transient(
                f"No broker answers at {self._settings.kafka} ({said});"
                " is `make run` running, or MSGMETER_KAFKA or MSGMETER_KAFKA_SECURITY wrong?",
                retry_after_seconds=_RETRY_SECONDS,
            )
        if faults.last.code() == KafkaError._AUTHENTICATION:  # noqa: SLF001 - its name
            return Permanent(
                f"Kafka at {self._settings.kafka} refuses the login of {self._who} ({said}):"
                " check MSGMETER_KAFKA_USER, MSGMETER_KAFKA_PASSWORD and MSGMETER_KAFKA_SASL_MECHANISM"
            )
        return Permanent(
            f"No TLS connection to Kafka at {self._settings.kafka} ({said}): check MSGMETER_KAFKA_SECURITY,"
            " MSGMETER_KAFKA_CA, MSGMETER_KAFKA_CERTIFICATE and MSGMETER_KAFKA_KEY"
        )

    @property
    def _who(self) -> str:
        return self._settings.kafka_user or "this client"


_LASTING = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})  # noqa: SLF001 - their names


def kafka_configuration(settings: Settings) -> dict[str, str]:
    """Librdkafka's configuration of where the brokers are and how one gets in."""
    wanted = {
        "bootstrap.servers": settings.kafka,
        "security.protocol": KAFKA_SECURITY[settings.kafka_security],
        "ssl.ca.location": settings.kafka_ca,
        "ssl.certificate.location": settings.kafka_certificate,
        "ssl.key.location": settings.kafka_key,
        "sasl.username": settings.kafka_user,
        "sasl.password": settings.kafka_password,
    }
    if settings.kafka_user:
        wanted["sasl.mechanism"] = settings.kafka_sasl_mechanism
    return {name: value for name, value in wanted.items() if value}


def kafka_tls(settings: Settings) -> ssl.SSLContext | None:
    """The same as `kafka_configuration`'s certificates, as Python wants them; none without TLS."""
    if not settings.kafka_security.endswith("tls"):
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ca or None)
    if settings.kafka_certificate:
        context.load_cert_chain(settings.kafka_certificate, settings.kafka_key)
    return context
