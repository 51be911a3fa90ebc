"""Whether what is kept and the log belong together: asked after each recovery, before anything is folded.

Decides when a worker must not go on: where records at or below the committed offset are in no table, they would never
be metered; where the tables are ahead of the log, it is another log, and its records would be taken for repetitions.
Takes what the group has committed, where the log begins and ends, and how far each table is complete; gives faults for
a person, and which records retention has deleted unread. Never changes anything.

How far a table is complete is said by its *mark*: the last record of every write, under a key of its own, with the
applied offset that the write covers, also where nothing else changed. Offsets are committed after all tables are
written, so in every healthy partition each mark is at or above the committed offset. Accounts are written last.

Legitimate, and no fault: nothing committed while the log goes back to every mark (a new partition, or offsets that
Kafka forgot: all is read again, and changes nothing); marks above the committed offset (a kill between writing and
committing); values without a mark (written before marks were: state version 1, and the first of version 2). Where
nothing is committed and the log begins later, reading begins there, and the same is asked of that offset.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from pipeline.core.eras import offset_of
from pipeline.core.kept import APPLIED_BYTES, encode_kept
from pipeline.errors import MsgmeterError
from pipeline.kafka_clients import Questions
from pipeline.stream.changelog import until_answered
from pipeline.stream.stores import PartitionedStore

MARK_KEY = b"\0written"
"""No tenant, and no window's or identity's key, has this form."""

_WRITTEN_LAST = "accounts"
"""The table whose mark says that the other tables have theirs."""

_REQUEST_SECONDS = 30.0


class AgreementError(MsgmeterError):
    """State and log do not belong together; the text lists every fault and says what to do."""


@dataclass(frozen=True, slots=True)
class Written:
    """How far one table of a partition is complete."""

    table: str
    mark: int | None
    """The first offset of the log that it has not applied; none where no write has left a mark."""
    is_empty: bool
    """It holds no value at all."""
    lost: int = 0
    """So many of the changelog's first records are gone, and were needed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One partition of the log, and of everything that is kept of it."""

    partition: int
    committed: int
    """The group's offset; 0 where there is none."""
    begin: int
    """The first offset that the log still holds."""
    end: int
    """Where the log ends."""
    tables: Sequence[Written]


def mark_of(applied_offset: int) -> bytes:
    """The value of a mark; `applied_offset` is the first position of the log that a write does not cover."""
    return encode_kept(applied_offset - 1, None)


def written_of(table: str, store: PartitionedStore, partition: int, lost: int) -> Written:
    """What a recovered store says of a partition."""
    mark = store.lookup(partition)(MARK_KEY)
    if mark is not None:
        written = offset_of(int.from_bytes(mark[:APPLIED_BYTES], "big"))
        return Written(table, written, is_empty=False, lost=lost)
    return Written(table, None, is_empty=next(store.items_of(partition), None) is None, lost=lost)


def check_agreement(kept: Iterable[Kept], group: str, topic: str) -> None:
    """Raises AgreementError where state and log of a partition do not belong together."""
    faults = [(each, fault) for each in kept if (fault := fault_of(each))]
    if not faults:
        return
    lines = [f"- partition {each.partition}: {fault}" for each, fault in faults]
    moved = next(
        (each for each, _ in faults if 0 < _lowest(each) < each.committed and each.begin <= _lowest(each)),
        None,
    )
    if moved is not None:
        lines.append(
            "If the group's offsets were moved, stop all workers and set them back, partition by partition:"
            f" kafka-consumer-groups.sh --group {group} --topic {topic}:{moved.partition} --reset-offsets"
            f" --to-offset {_lowest(moved)} --execute"
        )
    lines.append(
        "If a topic lost records or was made anew, restore it from its backup. Where all three changelogs are empty and"
        f" {topic} still holds every record, setting the offsets to 0 builds everything anew"
    )
    raise AgreementError("\n".join([f"what is kept and {topic} do not belong together:", *lines]))


def fault_of(kept: Kept) -> str:
    """What is wrong with a partition; empty for nothing."""
    marks = _marks(kept)
    applied = max([*marks, kept.committed])
    if applied > kept.end:
        return f"state and offsets go up to {applied}, the log ends at {kept.end}: it is another one, or lost its end"
    if kept.committed:
        missing = _missing(kept, kept.committed)
        return f"offset {kept.committed} is committed, but {missing}" if missing else ""
    # What lies behind every mark is lost to all tables alike, and told as gone unread.
    missing = _missing(kept, min(max(marks, default=kept.begin), kept.begin)) if kept.begin else ""
    return f"nothing is committed and the log begins at {kept.begin}, but {missing}" if missing else ""


def gone_unread(kept: Kept) -> range:
    """The offsets that no table has applied and the log holds no more, where nothing is committed.

    Where something is, the seek tells them (chunks.py). None where no mark says how far the tables are complete.
    """
    marks = _marks(kept)
    return range(max(marks), kept.begin) if marks and not kept.committed else range(0)


def _marks(kept: Kept) -> list[int]:
    return [each.mark for each in kept.tables if each.mark is not None]


def _missing(kept: Kept, due: int) -> str:
    """What is not in the tables although records before `due` are not read again; empty for nothing."""
    if cut := [each for each in kept.tables if each.lost]:
        return f"the first {cut[0].lost} records of the changelog of {cut[0].table} are gone"
    empty = [each.table for each in kept.tables if each.is_empty]
    if len(empty) == len(kept.tables):
        # A group that begins on an old log. With a committed offset: state version 1 left nothing of a partition that
        # had refusals only, which is taken for lost, as nothing tells them apart.
        return f"nothing is kept of {', '.join(empty)}" if kept.committed else ""
    if empty and _marks(kept) and not _is_in_first_checkpoint(kept):
        return f"nothing is kept of {', '.join(empty)}"
    behind = {each.table: each.mark for each in kept.tables if each.mark is not None and each.mark < due}
    if not behind:
        return ""
    said = ", ".join(f"{table} ends at {mark}" for table, mark in behind.items())
    return f"{said}: the records between would never be metered"


def _is_in_first_checkpoint(kept: Kept) -> bool:
    """Whether the first checkpoint that leaves marks may have been killed, so that a table may still be empty.

    Accounts then have no mark yet, and no mark is committed. Offsets committed before it are those of a version without
    marks, which has left accounts.
    """
    return all(mark > kept.committed for mark in _marks(kept)) and any(
        each.table == _WRITTEN_LAST and each.mark is None and not (kept.committed and each.is_empty)
        for each in kept.tables
    )


def _lowest(kept: Kept) -> int:
    """The offset from which all that is kept can be completed; 0 where a table is not there at all."""
    marks = [each.mark for each in kept.tables]
    return 0 if None in marks else min(mark for mark in marks if mark is not None)


def committed_offsets(
    kafka: Mapping[str, str], group: str, topic: str, partitions: Iterable[int], stopped: Callable[[], bool]
) -> dict[int, int]:
    """The group's offset by partition, 0 where there is none; waits for as long as the broker is away.

    Raises AgreementError for what waiting does not cure, and Permanent where our login or certificate is refused.
    To be asked before the end of the changelogs is: what was committed until then was written before.
    """
    questions = Questions(kafka)
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, each) for each in partitions])

    def ask() -> dict[int, int]:
        asked = questions.admin.list_consumer_group_offsets([wanted], request_timeout=_REQUEST_SECONDS)
        found = questions.answers(asked)[group].topic_partitions
        return {each.partition: max(each.offset, 0) for each in found}

    try:
        return until_answered(ask, stopped)
    except KafkaException as error:
        reason = error.args[0].str()
        raise AgreementError(f"the offsets of group {group} cannot be read: {reason}") from error
