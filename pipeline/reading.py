"""Reads topics from one offset to another, for commands that ask what the log or our answers say.

Takes a topic and spans of offsets; gives records, and where a topic begins and ends. Joins no group, commits nothing
and changes nothing; what an aborted transaction wrote is not given. Raises `Transient` where the broker does not answer
and `Permanent` where there is no topic, or it refuses us.
"""

from collections.abc import Callable, Iterator, Mapping
from time import monotonic, sleep
from typing import Any, NamedTuple, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from pipeline.access import COMMAND_LINE_GROUP
from pipeline.errors import Transient
from pipeline.kafka_clients import Connection
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

_POLL_SECONDS = 0.05
"""How long a batch is waited for to fill: the end of each span costs one such wait."""
_SILENT_POLLS = 600
_BATCH_RECORDS = 1_000
_REQUEST_SECONDS = 10
_COORDINATOR_SECONDS = 30
_COORDINATOR_RETRY_SECONDS = 0.2
_COORDINATOR_COMES = frozenset({
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
})  # fmt: skip
"""A broker that has just started, or makes the offsets' topic at the first question."""

_Answer = TypeVar("_Answer")

Span = tuple[int, int]
"""The offsets `[start, end)` of a partition."""


class RawRecord(NamedTuple):
    """A record of `messages.raw`, as the core takes it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def raw_record(message: KafkaMessage) -> RawRecord:
    """The record in a message of the client's."""
    headers: Any = message.headers() or []
    return RawRecord(message.offset(), message.timestamp()[1], message.key(), message.value(), headers)


class TopicReader:
    """Reads spans of one topic's partitions, outside of any group."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Raise Transient where no broker answers, Permanent where it refuses us or has no such topic."""
        self._topic = topic
        self._connection = Connection(settings)
        # A group is never joined, but the client wants a name.
        self._consumer = Consumer(reader_configuration(self._connection, COMMAND_LINE_GROUP))
        self.partitions = self._connection.topic_partitions(self._consumer, topic)

    def bounds(self, partition: int, since_at: int | None = None) -> Span:
        """The first offset that is still there, or of a record of `since_at` or later, and the one after the last."""
        place = TopicPartition(self._topic, partition)
        try:
            low, high = self._consumer.get_watermark_offsets(place, timeout=_REQUEST_SECONDS)
            if since_at is None or low == high:
                return low, high
            place.offset = since_at
            [found] = self._consumer.offsets_for_times([place], timeout=_REQUEST_SECONDS)
        except KafkaException as error:
            raise self._connection.error(error) from error
        # Where no record is as young as that, the client names the end by a negative number.
        return (found.offset if low <= found.offset < high else high), high

    def read(self, spans: Mapping[int, Span]) -> Iterator[KafkaMessage]:
        """The records of one span per partition; those of a partition in order, partitions mixed."""
        ends = {number: end for number, (start, end) in spans.items() if start < end}
        self._consumer.assign([TopicPartition(self._topic, number, spans[number][0]) for number in ends])
        while ends:
            for message in self._consume():
                number, offset = message.partition(), message.offset()
                if number not in ends:
                    continue
                error = message.error()
                if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise self._connection.not_permitted(self._topic)
                if error is None and offset < ends[number]:
                    yield message
                # What lies between the last record of a span and its end may be holes only, so both end it.
                is_end = error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - its name
                if is_end or (error is None and offset >= ends[number] - 1):
                    del ends[number]
                    self._consumer.incremental_unassign([TopicPartition(self._topic, number)])

    def _consume(self) -> list[KafkaMessage]:
        """The next messages and events; raise Transient where none come for long."""
        for _ in range(_SILENT_POLLS):
            messages: list[KafkaMessage] = self._consumer.consume(_BATCH_RECORDS, _POLL_SECONDS)
            if messages:
                return messages
        raise Transient(f"{self._topic} could not be read: the broker is silent", retry_after_seconds=5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def committed_offsets(settings: Settings, partitions: int) -> dict[int, int]:
    """The first offset of each partition of `messages.raw` that the workers have not committed; 0 where none is."""
    connection = Connection(settings)
    consumer = Consumer(reader_configuration(connection, settings.application))
    try:
        return ask_committed(consumer, partitions)
    except KafkaException as error:
        raise connection.error(error) from error
    finally:
        consumer.close()


def ask_committed(consumer: Consumer, partitions: int) -> dict[int, int]:
    """The same of the consumer's group; raises KafkaException."""
    asked = [TopicPartition(MESSAGES_RAW, number) for number in range(partitions)]
    found = until_coordinated(lambda: consumer.committed(asked, timeout=_REQUEST_SECONDS))
    for each in found:
        if each.error is not None:
            raise KafkaException(each.error)
    return {each.partition: max(each.offset, 0) for each in found}


def until_coordinated(ask: Callable[[], _Answer]) -> _Answer:
    """What a group's coordinator answers, who may be about to be elected; raises KafkaException."""
    end = monotonic() + _COORDINATOR_SECONDS
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _COORDINATOR_COMES or monotonic() > end:
                raise
            sleep(_COORDINATOR_RETRY_SECONDS)


def reader_configuration(connection: Connection, group: str) -> dict[str, Any]:
    """Librdkafka's configuration of a consumer that joins no group and is told where a partition ends.

    `group` is named all the same: the client wants one, and asks what that group has committed.
    """
    return {
        **connection.configuration(),
        "group.id": group,
        "enable.auto.commit": False,
        # Retention and aborted records leave holes; the end of the log ends a span too.
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
    }
