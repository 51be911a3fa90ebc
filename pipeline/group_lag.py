"""How far the workers' group is behind the log, seen from outside: over all partitions, also those nobody owns.

Takes settings and the name of a group; gives one figure for the whole log at a time. A worker tells of what it owns: a
partition without an owner is in no worker's figures, and in these. Joins no group and commits nothing. All partitions
are asked for at once, and of each that lags one record is read, so a round is some requests per broker, however long
the log is.

What lags
- In each partition, what is not committed yet: from the committed offset on, or from the first record that is still
  there where that is later, or where nothing was committed.
- Until where a worker may read: behind that lies what an open transaction has written so far.
- Nothing that nobody is handed: where only markers of transactions or aborted records are left, nothing lags. Between
  records they count.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from time import monotonic
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from pipeline.errors import MsgmeterError, Transient
from pipeline.kafka_clients import Connection
from pipeline.log_groups import group_members
from pipeline.reading import Span, ask_committed, reader_configuration, until_coordinated
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

_REQUEST_SECONDS = 10.0
_FETCH_SECONDS = 10.0
"""For the first records of all partitions together."""
_POLL_SECONDS = 0.05
_BATCH_RECORDS = 1_000
_RETRY_SECONDS = 5.0
_FETCH_BYTES = 64 * 1024
"""Of each partition at a time. Only the first record is wanted, and behind a long outage there is much; a batch that is
larger a broker gives all the same, whole, of one partition after the other."""
_BACKOFF_MILLISECONDS = 10
"""With its default of a second the partitions with large batches would be waited for, one after the other."""


class GroupLag(NamedTuple):
    """How one group stands, over all partitions of the log."""

    members: int
    lag_offsets: int
    """From the first record of each partition that is not committed to the partition's end."""
    oldest_at: int
    """Append time of the oldest of those records, in epoch milliseconds; 0 where nothing lags."""


class GroupWatch:
    """Asks about one group again and again over the same connections; after an error make another one."""

    def __init__(self, settings: Settings) -> None:
        self._connection = Connection(settings)
        configuration = self._connection.configuration()
        self._admin = AdminClient(configuration)
        self._group = settings.application
        self._consumer = Consumer(
            {
                **reader_configuration(self._connection, self._group),
                "fetch.message.max.bytes": _FETCH_BYTES,
                "queued.min.messages": 1,
                "fetch.queue.backoff.ms": _BACKOFF_MILLISECONDS,
            }
        )

    def partitions(self) -> int:
        """The partitions of `messages.raw`.

        Raises Transient where no broker answers, Permanent where it refuses us or has no such topic.
        """
        return self._connection.topic_partitions(self._consumer, MESSAGES_RAW)

    def lag(self, partitions: int) -> GroupLag:
        """How the group stands; raises as `partitions` does, also where some partitions cannot be asked."""
        try:
            # Who may not ask about the group is told so here, and not further down.
            members = until_coordinated(self._members)
            # The ends come last: what is committed meanwhile lags for one round more, and never less than nothing.
            committed = ask_committed(self._consumer, partitions)
            starts = self._offsets(partitions, OffsetSpec.earliest())
            ends = self._offsets(partitions, OffsetSpec.latest())
            spans = {
                number: (max(committed[number], starts[number]), ends[number]) for number in range(partitions)
            }
            firsts = self._first_records(
                {number: span for number, span in spans.items() if span[0] < span[1]}
            )
        except KafkaException as error:
            raise self._error(error) from error
        return GroupLag(
            members,
            sum(spans[number][1] - offset for number, (offset, _) in firsts.items()),
            min((appended_at for _, appended_at in firsts.values()), default=0),
        )

    def close(self) -> None:
        """Hangs up."""
        self._consumer.close()

    def _members(self) -> int:
        return len(group_members(self._admin, self._group, _REQUEST_SECONDS))

    def _offsets(self, partitions: int, which: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(MESSAGES_RAW, number): which for number in range(partitions)}
        answers: Mapping[TopicPartition, Future[ListOffsetsResultInfo]] = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_REQUEST_SECONDS
        )
        return {place.partition: answer.result(_REQUEST_SECONDS).offset for place, answer in answers.items()}

    def _first_records(self, spans: Mapping[int, Span]) -> dict[int, tuple[int, int]]:
        """(offset, append time) of the first record in the span of each partition that has one."""
        found: dict[int, tuple[int, int]] = {}
        waiting = set(spans)
        self._consumer.assign(
            [TopicPartition(MESSAGES_RAW, number, start) for number, (start, _) in spans.items()]
        )
        end = monotonic() + _FETCH_SECONDS
        try:
            while waiting:
                if monotonic() > end:
                    raise Transient(
                        f"{len(waiting)} of {len(spans)} partitions of {MESSAGES_RAW} with records that are not"
                        f" committed did not give one in {_FETCH_SECONDS:.0f} s",
                        retry_after_seconds=_RETRY_SECONDS,
                    )
                for message in self._consumer.consume(_BATCH_RECORDS, _POLL_SECONDS):
                    number = message.partition()
                    if number not in waiting or not self._is_answer(message):
                        continue
                    waiting.discard(number)
                    self._consumer.incremental_unassign([TopicPartition(MESSAGES_RAW, number)])
                    if message.error() is None and message.offset() < spans[number][1]:
                        found[number] = message.offset(), message.timestamp()[1]
        finally:
            self._consumer.unassign()
        return found

    def _is_answer(self, message: KafkaMessage) -> bool:
        """Whether it is a record, or says that there is none; else it may still come."""
        error = message.error()
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise self._connection.not_permitted(MESSAGES_RAW)
        return error is None or error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - its name

    def _error(self, error: KafkaException) -> MsgmeterError:
        if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return self._connection.not_permitted(f"group {self._group}")
        return self._connection.error(error)
