"""Writes log records into `messages.raw`, for the command line's generator, `send` and commands.

Takes records; gives the number that the broker acknowledged. Never signs and never judges: what a record says
is its author's business. A record may be refused by the broker alone, and the rest goes on.

Invariants: records of one tenant arrive in the order they were given, each once (idempotent producer); a
tenant's records go to `partition_of` its name, as all our producers do.
"""

from time import monotonic

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.errors import Transient
from pipeline.kafka_clients import Connection
from pipeline.logfile import LogRecord
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

_MEBIBYTE = 1 << 20
_ERRORS_SHOWN = 5
_RETRY_SECONDS = 5.0


class LogSender:
    """One producer on `messages.raw`; call `flush` before the end, or what is queued is lost."""

    def __init__(self, settings: Settings) -> None:
        """Raise Transient where no broker answers, Permanent where it refuses us or has no such topic."""
        self.sent_count = 0
        """Records given to the producer."""
        self.refused_count = 0
        """Those of them that the client or the broker would not take."""
        self.errors: list[str] = []
        """What was said of the first few of those."""
        connection = Connection(settings)
        self._producer = Producer(
            {
                **connection.configuration(),
                # Java's default partitioner: librdkafka's own default would split tenants over two owners.
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "batch.size": _MEBIBYTE,
                # Values above 1 MiB are refused by the worker, with a record of it, so they must pass here.
                "message.max.bytes": 2 * _MEBIBYTE,
                "queue.buffering.max.kbytes": 64 * 1024,
                "queue.buffering.max.messages": 200_000,
                "delivery.report.only.error": True,
                "on_delivery": self._note,
            }
        )
        connection.topic_partitions(self._producer, MESSAGES_RAW)

    def send(self, record: LogRecord) -> None:
        """Queue a record; waits while the queue is full."""
        self.sent_count += 1
        while True:
            try:
                self._producer.produce(
                    MESSAGES_RAW, value=record.value, key=record.key, headers=record.headers or None
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                self._refuse(error.args[0])
                return
            else:
                break
        if self.sent_count % 1_000 == 0:
            self._producer.poll(0)

    def flush(self, deadline_seconds: float = 120.0) -> None:
        """Wait until the broker has answered for everything; raise Transient where it does not in time."""
        end = monotonic() + deadline_seconds
        left = self._producer.flush(deadline_seconds)
        while left and monotonic() < end:
            left = self._producer.flush(max(0.0, end - monotonic()))
        if left:
            raise Transient(
                f"{left} records were not acknowledged in {deadline_seconds:.0f} s",
                retry_after_seconds=_RETRY_SECONDS,
            )

    def _note(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._refuse(error)

    def _refuse(self, error: KafkaError) -> None:
        self.refused_count += 1
        if len(self.errors) < _ERRORS_SHOWN:
            self.errors.append(error.str())
