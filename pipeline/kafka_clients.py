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
from time import monotonic
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ClusterMetadata

from pipeline.connection_faults import KAFKA_SECURITY
from pipeline.errors import MsgmeterError, Permanent, Transient
from pipeline.settings import Settings

METADATA_SECONDS = 5.0
_FIRST_SECONDS = 1.0
"""After this a client that tries again and again is asked what it was told."""
_RETRY_SECONDS = 5.0
_SAID_CHARACTERS = 300
_AROUND = re.compile(r"^\w+://\S+: | \(after \d+ms in state .*$")


class KafkaClient(Protocol):
    """What librdkafka's consumers, producers and admin clients have in common here."""

    def list_topics(self, topic: str | None = None, *, timeout: float) -> ClusterMetadata:
        """The brokers, and one topic or all of them; raises KafkaException."""

    def poll(self, timeout: float) -> object:
        """Runs callbacks."""


class Connection:
    """How one client reaches Kafka, and what it was told when it could not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said: KafkaError | None = None
        self._is_lasting = False

    def configuration(self) -> dict[str, Any]:
        """Librdkafka's configuration, for one client; its own options go over it."""
        return {**kafka_configuration(self._settings), "log_level": 2, "error_cb": self._note}

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
                if self._is_lasting or seconds <= 0:
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
        said = _text(self._said or error.args[0])
        if not self._is_lasting or self._said is None:
            return Transient(
                f"No broker answers at {self._settings.kafka} ({said});"
                " is `make run` running, or MSGMETER_KAFKA or MSGMETER_KAFKA_SECURITY wrong?",
                retry_after_seconds=_RETRY_SECONDS,
            )
        if self._said.code() == KafkaError._AUTHENTICATION:  # noqa: SLF001 - its name
            return Permanent(
                f"Kafka at {self._settings.kafka} refuses the login of {self._who} ({said}):"
                " check MSGMETER_KAFKA_USER, MSGMETER_KAFKA_PASSWORD and MSGMETER_KAFKA_SASL_MECHANISM"
            )
        return Permanent(
            f"No TLS connection to Kafka at {self._settings.kafka} ({said}): check MSGMETER_KAFKA_SECURITY,"
            " MSGMETER_KAFKA_CA, MSGMETER_KAFKA_CERTIFICATE and MSGMETER_KAFKA_KEY"
        )

    def _note(self, error: KafkaError) -> None:
        """Librdkafka's callback: keeps the last fault that trying again does not cure, else the last of all."""
        # A certificate that the broker refuses is told as an alert, which comes when the handshake is over.
        is_lasting = error.code() in _LASTING or "SSL routines" in error.str()
        if error.code() != KafkaError._ALL_BROKERS_DOWN and (is_lasting or not self._is_lasting):  # noqa: SLF001
            self._said, self._is_lasting = error, is_lasting

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


def _text(error: KafkaError) -> str:
    """What is said of a fault, without the URL before it and the milliseconds behind it."""
    return _AROUND.sub("", " ".join(error.str().split()))[:_SAID_CHARACTERS]
