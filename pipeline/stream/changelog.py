# ruff: noqa: SLF001 - confluent_kafka spells public error codes with a leading underscore.
"""Reading changelogs in bulk, and the rule which of two values of a key wins.

Decides where a changelog ends and which value a key has after it. Takes the stores' positions; gives values
to the stores, and the keys whose winner must be written again. Never writes to Kafka. Reads with librdkafka,
in a thread of its own, because Faust's way costs 230 us a record and this one 3.

Invariants:
- of all values of a key the one with the highest applied offset wins, wherever it stands: a worker that was
  paused past its session may append old values behind newer ones. Equal offsets mean equal content, because a
  value is a pure function of the log up to its offset;
- nothing is stored of a batch with a value of a newer state version;
- a tombstone counts like a value; its applied offset is in a header;
- that a key is absent counts like one only where the log alone decides which keys there are;
- everything acknowledged before the reading began is read: compaction gaps, tombstones and transaction
  markers at the end included, because the end is where the broker says that nothing follows.
"""

import logging
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec

from pipeline.access import RECOVERY_GROUP
from pipeline.core.kept import APPLIED_BYTES, check_versions
from pipeline.errors import MsgmeterError
from pipeline.kafka_clients import Questions
from pipeline.stream.notes import Notes, tombstone_note
from pipeline.stream.stores import NOTHING, Changes, PartitionedStore, Position

_log = logging.getLogger(__name__)

APPLIED_HEADER = "applied"
"""Name of the header that holds a tombstone's applied offset, 8 bytes big-endian."""

TopicAndPartition = tuple[str, int]
_Answer = TypeVar("_Answer")
_Table = TypeVar("_Table")

_TOPIC_ID = struct.Struct(">qq")
_REQUEST_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_POLL_RECORDS = 5_000  # 15 ms of work between two looks at `stopped`
_POLL_SECONDS = 0.2
# Followers tell a new leader how far they are within replica.lag.time.max.ms, which is 30 s.
_EARLY_END_SECONDS = 60.0
_CONSUMER = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    # What is acknowledged is state. An open transaction of somebody else must not hide what lies behind it.
    "isolation.level": "read_uncommitted",
    # librdkafka fetches ahead up to this much and, when it is full, looks again after the back-off, which is
    # a second by default: most of a recovery would be waiting.
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 65_536,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 50,
}
# `KafkaError.retriable()` knows these only in answers to transactional calls. While brokers die and leaders move, a
# broker answers with any of them, the epochs included. Source: Kafka, protocol guide, "Retriable" error codes.
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)


class ChangelogError(MsgmeterError):
    """A changelog is missing, or is no changelog of this version: the worker cannot start from it."""


class Bounds(NamedTuple):
    """What the broker holds of one changelog partition: offsets in [low, high)."""

    low: int
    high: int
    topic_id: bytes
    """The broker's own name of the topic: another one when the topic was made anew, or lies in another cluster."""


def reading_passes(tables: Sequence[_Table]) -> tuple[Sequence[_Table], Sequence[_Table]]:
    """Give the tables to read, pass after pass, each up to the end it has by then.

    Takes them in the order in which a checkpoint writes them, and is the reverse of it: the last one, accounts, leans
    on the others, so the others are read up to an end that lies behind its own. A worker that has lost the partition
    may still write while its successor recovers; accounts of its checkpoint without the identities of it would say
    that records are known which are not.
    """
    return tables, tables[:-1]


class Values(Protocol):
    """Where a replay puts what it reads: a store, or whatever else holds values by partition."""

    def lookup(self, partition: int) -> Callable[[bytes], bytes | None]:
        """Give the function that finds a key's value."""

    def position_of(self, partition: int) -> Position:
        """Give how far the values are complete."""

    def notes_of(self, partition: int) -> Notes:
        """Give what is remembered besides values; whoever changes it names the keys in the next `apply`."""

    def apply(
        self, partition: int, changes: Changes, position: Position, noted: Iterable[bytes] = ()
    ) -> None:
        """Take changes, the position they lead to, and the notes of the keys `noted`."""


class PartitionReplay:
    """Brings the values of one partition up to date, record by record in changelog order.

    What it remembers besides is the store's (pipeline/stream/notes.py), so another replay may go on where this ends.
    """

    def __init__(self, store: Values, partition: int, *, keys_follow_log: bool = True) -> None:
        """`keys_follow_log` is what the table says of itself (pipeline/stream/tables.py)."""
        self._store = store
        self._partition = partition
        self._lookup = store.lookup(partition)
        self._floor = store.position_of(partition).floor if keys_follow_log else b""
        self._notes = store.notes_of(partition)

    def take(self, records: Iterable[Message]) -> None:
        """Store the winners among what is stored and these records, and the position behind the last one.

        Raises StateVersionError before anything of the batch is stored.
        """
        changes: dict[bytes, bytes | None] = {}
        noted: set[bytes] = set()
        lookup, tombstones, outdated = self._lookup, self._notes.tombstones, self._notes.outdated
        offset = -1
        for record in records:
            offset = record.offset()
            key, value = record.key(), record.value()
            held = changes[key] if key in changes else lookup(key)
            held_applied = self._absent_since(key) if held is None else held[:APPLIED_BYTES]
            applied = (
                value[:APPLIED_BYTES] if value is not None else _applied_of_tombstone(record, held_applied)
            )
            if applied < held_applied or (held is None and applied == held_applied and value is not None):
                outdated.add(key)
                noted.add(key)
                continue
            changes[key] = value
            if value is None and applied:  # None is known where nothing is, and somebody else deleted it.
                tombstones[key] = tombstone_note(applied, record.timestamp()[1])
                noted.add(key)
            elif tombstones and tombstones.pop(key, None) is not None:
                noted.add(key)
            if outdated and key in outdated:
                outdated.remove(key)
                noted.add(key)
        check_versions(changes.values())
        self._store.apply(self._partition, changes, Position(offset + 1, self._floor), noted)

    def _absent_since(self, key: bytes) -> bytes:
        """Give the applied offset at which a key that has no value had none."""
        note = self._notes.tombstones.get(key)
        return self._floor if note is None else note[:APPLIED_BYTES]

    def forget_deleted_before(self, instant: int) -> None:
        """Forget deletions older than any value that somebody may still append; milliseconds since 1970."""
        forgotten = self._notes.forget_deleted_before(instant)
        if forgotten:
            self._store.apply(self._partition, {}, self._store.position_of(self._partition), forgotten)

    def winners_to_repeat(self) -> dict[bytes, tuple[bytes | None, bytes]]:
        """Give the keys to write again: key to (value or None for a tombstone, applied offset)."""
        repeated = {}
        for key in self._notes.outdated:
            value = self._lookup(key)
            applied = self._absent_since(key) if value is None else value[:APPLIED_BYTES]
            assert len(applied) == APPLIED_BYTES, "a repetition without its applied offset would lose again"
            repeated[key] = (value, applied)
        return repeated

    def repeated(self, keys: Collection[bytes], next_offset: int) -> None:
        """Take note that the winners of these keys were written again, up to before `next_offset`."""
        self._notes.outdated.difference_update(keys)
        position = self._store.position_of(self._partition)
        self._store.apply(self._partition, {}, position.behind(next_offset, len(keys)), keys)


def _applied_of_tombstone(record: Message, otherwise: bytes) -> bytes:
    """Give the applied offset of a tombstone; one that somebody else wrote deletes what is there."""
    return next((value for name, value in record.headers() or () if name == APPLIED_HEADER), otherwise)


def bounds_of(
    kafka: Mapping[str, str], changelogs: Iterable[TopicAndPartition], stopped: Callable[[], bool]
) -> dict[TopicAndPartition, Bounds]:
    """Ask the broker what it holds, for as long as it is away.

    Raises ChangelogError where there is nothing, and Permanent where our login or certificate is refused.
    """
    questions = Questions(kafka)
    wanted = list(changelogs)

    def ask() -> dict[TopicAndPartition, Bounds]:
        low, high = (
            _list_offsets(questions, wanted, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
        )
        topic_ids = _topic_ids(questions, {topic for topic, _ in wanted})
        return {each: Bounds(low[each], high[each], topic_ids[each[0]]) for each in wanted}

    try:
        return until_answered(ask, stopped)
    except KafkaException as error:
        reason = error.args[0].str()
        raise ChangelogError(f"no changelog to read ({reason}); has `msgmeter migrate` run?") from error


def _list_offsets(
    questions: Questions, wanted: list[TopicAndPartition], spec: OffsetSpec
) -> dict[TopicAndPartition, int]:
    asked = {TopicPartition(topic, partition): spec for topic, partition in wanted}
    answers = questions.answers(questions.admin.list_offsets(asked, request_timeout=_REQUEST_SECONDS))
    return {(tp.topic, tp.partition): answer.offset for tp, answer in answers.items()}


def _topic_ids(questions: Questions, topics: Iterable[str]) -> dict[str, bytes]:
    asked = questions.admin.describe_topics(TopicCollection(list(topics)), request_timeout=_REQUEST_SECONDS)
    ids = {name: answer.topic_id for name, answer in questions.answers(asked).items()}
    return {
        name: _TOPIC_ID.pack(each.get_most_significant_bits(), each.get_least_significant_bits())
        for name, each in ids.items()
    }


def check_alike(
    kafka: Mapping[str, str], source_topic: str, changelogs: Iterable[str], stopped: Callable[[], bool]
) -> None:
    """Raises ChangelogError where the source has got other partitions than the changelogs since the worker began.

    Its tenants then live elsewhere, and whoever folded on would count them in two places. Waits for a broker; raises
    Permanent where our login or certificate is refused.
    """
    try:
        there = until_answered(Questions(kafka).topics, stopped)
    except KafkaException as error:
        raise ChangelogError(f"the broker does not tell its topics: {error.args[0].str()}") from error
    counts = {name: len(there[name].partitions) for name in (source_topic, *changelogs) if name in there}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ChangelogError(f"partitions were added, so tenants have moved to others ({said})")


def trusted_position(
    store: PartitionedStore, partition: int, bounds: Bounds, *, waits: bool = True
) -> Position:
    """Open a partition and give where its reading begins; wipes what cannot be of this changelog.

    Upstream ends the worker instead, again at every restart (faust/tables/recovery.py:409, issue 158).
    """
    lacks_file = store.lacks_file(partition)
    position = store.open_partition(partition, bounds.topic_id, bounds.high, waits=waits)
    reason = ""
    if position.next_offset > bounds.high:
        reason = f"it goes up to {position.next_offset}, the changelog only to {bounds.high}"
    elif NOTHING.next_offset < position.next_offset < bounds.low:
        reason = f"it ends at {position.next_offset}, the changelog begins at {bounds.low}"
    if not reason:
        if lacks_file and bounds.low < bounds.high:
            _log.warning(
                "%s: partition %d is rebuilt from its changelog: it has no file here",
                store.table_name,
                partition,
            )
        return position
    _log.warning("%s: partition %d is rebuilt from its changelog: %s", store.table_name, partition, reason)
    store.wipe_partition(partition)
    return NOTHING


def read_changelogs(
    kafka: Mapping[str, Any],
    starts: Mapping[TopicAndPartition, int],
    take: Callable[[TopicAndPartition, list[Message], int], None],
    at_end: Callable[[TopicAndPartition, int], None],
    stopped: Callable[[], bool],
) -> None:
    """Hand every record from `starts` on to `take`, in offset order per partition, until `stopped` says so.

    `take` is also told where the changelog ends, as far as it is known; `at_end`, when that was reached and at which
    offset, again after every further record. `kafka` is librdkafka's configuration, and goes before what a recovery
    needs. Blocks; runs in a thread. Waits for as long as the broker is away. Raises ChangelogError for what waiting
    does not cure.
    """
    if not starts or stopped():
        return
    # Never joins a group; librdkafka wants a name all the same.
    consumer = Consumer({**_CONSUMER, "group.id": RECOVERY_GROUP, **kafka})
    try:
        consumer.assign(
            [TopicPartition(topic, partition, offset) for (topic, partition), offset in starts.items()]
        )
        while not stopped():
            batches: dict[TopicAndPartition, list[Message]] = {}
            ended = []
            for message in consumer.consume(_POLL_RECORDS, _POLL_SECONDS):
                where = (message.topic(), message.partition())
                if message.error() is None:
                    batches.setdefault(where, []).append(message)
                elif _is_end(message.error()):
                    ended.append((where, message.offset()))
            for where, records in batches.items():
                _, end = consumer.get_watermark_offsets(TopicPartition(*where), cached=True)
                take(where, records, end)
            for where, offset in ended:
                at_end(where, offset)
    finally:
        consumer.close()


def read_to_end(
    kafka: Mapping[str, str],
    starts: Mapping[TopicAndPartition, int],
    bounds: Mapping[TopicAndPartition, Bounds],
    take: Callable[[TopicAndPartition, list[Message]], None],
    stopped: Callable[[], bool],
) -> None:
    """Hand every record from `starts` up to the end in `bounds`, or behind it, to `take`, as `read_changelogs` does.

    Whoever fetches from a new leader is told an end before that one, until its followers have told it how far they
    are; whoever asks for the end is not. Source: Apache Kafka, KIP-207. Raises ChangelogError also where a changelog
    goes on ending before, and nothing comes.
    """
    unfinished = set(starts)
    ended_early: dict[TopicAndPartition, float] = {}

    def take_on(where: TopicAndPartition, records: list[Message], _: int) -> None:
        ended_early.pop(where, None)
        take(where, records)

    def at_end(where: TopicAndPartition, offset: int) -> None:
        if offset >= bounds[where].high:
            unfinished.discard(where)
            ended_early.pop(where, None)
        else:
            ended_early.setdefault(where, time.monotonic())

    def is_over() -> bool:
        if not unfinished or stopped():
            return True
        for where, since in ended_early.items():
            if time.monotonic() - since > _EARLY_END_SECONDS:
                raise ChangelogError(f"partition {where[1]} of {where[0]} has lost its last records")
        return False

    read_changelogs(kafka, starts, take_on, at_end, is_over)


def _is_end(error: KafkaError) -> bool:
    """Tell the end of a partition from a fault that passes; raises ChangelogError for one that does not."""
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    if passes(error):
        return False
    raise ChangelogError(f"a changelog cannot be read: {error.str()}")


def until_answered(ask: Callable[[], _Answer], stopped: Callable[[], bool]) -> _Answer:
    """Ask for as long as the broker is away, with a pause between; raises what waiting does not cure.

    Raises the last KafkaException where `stopped` says so.
    """
    while True:
        try:
            return ask()
        except KafkaException as error:
            if stopped() or not passes(error.args[0]):
                raise
            time.sleep(_RETRY_SECONDS)


def passes(error: KafkaError) -> bool:
    """Tell whether waiting cures a fault: the broker is away, or another one is about to lead."""
    return error.retriable() or error.code() in _PASSING
