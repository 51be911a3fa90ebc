"""The state of an era, checked and then copied into the changelogs of the next: `msgmeter repartition`.

Reads the changelogs of the era before, as recovery does, and refuses them where a worker would: the marks that follow
would hide from all who come that something is lost. Writes each value to the partition its tenant lives in now, and
behind them a mark of its own (pipeline/stream/agreement.py): complete up to where the new era begins.
Never interprets more of a value than where it belongs (core/moving.py), never deletes, and never writes to a changelog
that it reads. What is written twice is the same value twice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain

from confluent_kafka import KafkaError, Message, Producer

from pipeline.core.eras import Era, offset_of
from pipeline.core.identity_deltas import Draft
from pipeline.core.kept import APPLIED_BYTES
from pipeline.core.moving import drafts_without_tenant, heir_of_account, heir_of_window, heirs, moved_delta
from pipeline.core.rules import HOUR_MILLISECONDS
from pipeline.eras import EraError
from pipeline.errors import Transient
from pipeline.kafka_clients import kafka_configuration
from pipeline.reading import committed_offsets
from pipeline.settings import Settings
from pipeline.stream.agreement import MARK_KEY, Kept, Written, check_agreement, mark_of
from pipeline.stream.changelog import PartitionReplay, bounds_of, read_to_end
from pipeline.stream.notes import Notes
from pipeline.stream.stores import NOTHING, Changes, Position
from pipeline.topics import MESSAGES_RAW, changelog_names

_FLUSH_SECONDS = 120.0
_MEBIBYTE = 1 << 20
_TABLES = ("accounts", "windows", "ids")
"""In the order of `changelog_names`."""

Placed = tuple[int, bytes, bytes]
"""Partition, key and value."""


class _Held:
    """The values of one changelog partition, in memory."""

    def __init__(self, lost: int) -> None:
        self.lost = lost
        """So many of its first records are gone."""
        self.values: dict[bytes, bytes] = {}
        self._notes = Notes()

    def lookup(self, partition: int) -> Callable[[bytes], bytes | None]:  # noqa: ARG002 - there is one
        return self.values.get

    def position_of(self, partition: int) -> Position:  # noqa: ARG002 - there is one
        return NOTHING

    def notes_of(self, partition: int) -> Notes:  # noqa: ARG002 - there is one
        return self._notes

    def apply(
        self,
        partition: int,  # noqa: ARG002 - there is one
        changes: Changes,
        position: Position,  # noqa: ARG002 - it is read once
        noted: Iterable[bytes] = (),  # noqa: ARG002 - notes are in memory already
    ) -> None:
        for key, value in changes.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value


def check_state(settings: Settings, first_position: int, ends: Sequence[int]) -> None:
    """Raises where what is kept in an era cannot be moved; `ends` are the offsets that the next one begins at.

    AgreementError where the era's own workers would not go on with it, KeptValueError where it cannot be read, and
    EraError where it is of another log, or messages wait of which an earlier version did not note where they belong.
    """
    # Asked before the changelogs are read: what was committed until then was written before.
    committed = committed_offsets(settings, settings.partitions)
    log = [(MESSAGES_RAW, partition) for partition in range(settings.partitions)]
    bounds = bounds_of(_reading(settings), log, _never)
    kept: list[Kept] = []
    unplaced: list[Draft] = []
    for (_, partition), bound in bounds.items():
        held = _kept(settings, partition)
        tables = [_written(name, each) for name, each in held.items()]
        kept.append(Kept(partition, committed[partition], bound.low, bound.high, tables))
        _check_behind(held, partition, first_position + ends[partition])
        unplaced += drafts_without_tenant(_values(held["ids"]).values())
    check_agreement(kept, settings.application, MESSAGES_RAW)
    if unplaced:
        last_at = max(draft.first_received_at for draft in unplaced)
        last_at += settings.pending_hours * HOUR_MILLISECONDS
        raise EraError(
            f"{len(unplaced)} messages wait that were first heard of under an earlier version, which did not note"
            f" where they belong. They have ended at {_instant(last_at)}: let workers run until then, and try again"
        )


def _written(table: str, held: _Held) -> Written:
    """How far a table is complete, as its worker would see it."""
    mark = held.values.get(MARK_KEY)
    written = None if mark is None else offset_of(int.from_bytes(mark[:APPLIED_BYTES], "big"))
    return Written(table, written, is_empty=not held.values, lost=held.lost)


def _check_behind(kept: dict[str, _Held], partition: int, end_position: int) -> None:
    for value in (value for held in kept.values() for value in held.values.values()):
        if int.from_bytes(value[:APPLIED_BYTES], "big") > end_position:
            raise EraError(
                f"the state of partition {partition} is ahead of the log: it is that of another one"
            )


def _instant(at: int) -> str:
    """RFC 3339 in UTC, the second that has ended by then."""
    return f"{datetime.fromtimestamp(-(-at // 1_000), UTC):%Y-%m-%dT%H:%M:%SZ}"


def copy_partition(old: Settings, new: Settings, partition: int, end_position: int, era: Era) -> None:
    """Copies what `old` keeps of a partition into `era`; it must be of records before `end_position`."""
    producer = Producer(
        {
            **kafka_configuration(new),
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "message.max.bytes": 8 * _MEBIBYTE,
            "log_level": 2,
        }
    )
    failed: list[KafkaError] = []

    def note(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    kept = _kept(old, partition)
    _check_behind(kept, partition, end_position)
    accounts, windows, deltas = map(_values, kept.values())
    placed: tuple[Iterable[Placed], ...] = (
        ((heir_of_account(key, new.partitions), key, value) for key, value in accounts.items()),
        ((heir_of_window(key, new.partitions), key, value) for key, value in windows.items()),
        _deltas(deltas, partition, old.partitions, new.partitions),
    )
    marks = [
        (heir, MARK_KEY, mark_of(era.first_position + era.first_offset(heir)))
        for heir in heirs(partition, old.partitions, new.partitions)
    ]
    for name, records in zip(changelog_names(new.application), placed, strict=True):
        for heir, key, value in chain(records, marks):
            while True:
                try:
                    producer.produce(name, value, key, heir, on_delivery=note)
                    break
                except BufferError:
                    producer.poll(0.1)
    left = producer.flush(_FLUSH_SECONDS)
    if left or failed:
        reason = failed[0].str() if failed else f"no answer to {left} records"
        raise Transient(f"state could not be written ({reason}): start it again", retry_after_seconds=5.0)


def _deltas(deltas: dict[bytes, bytes], partition: int, before: int, partitions: int) -> Iterator[Placed]:
    for heir in heirs(partition, before, partitions):
        for key, value in deltas.items():
            yield heir, *moved_delta(key, value, heir, partitions)


def _kept(settings: Settings, partition: int) -> dict[str, _Held]:
    """What is kept in a partition, by table: accounts, windows, ids; as recovery takes it up, marks included."""
    kafka = _reading(settings)
    names = changelog_names(settings.application)
    bounds = bounds_of(kafka, [(name, partition) for name in names], _never)
    held = {name: _Held(bounds[name, partition].low) for name in names}
    replays = {name: PartitionReplay(values, partition) for name, values in held.items()}
    starts = {where: each.low for where, each in bounds.items() if each.low < each.high}
    read_to_end(kafka, starts, bounds, lambda where, records: replays[where[0]].take(records), _never)
    return dict(zip(_TABLES, held.values(), strict=True))


def _values(held: _Held) -> dict[bytes, bytes]:
    """Without the mark."""
    return {key: value for key, value in held.values.items() if key != MARK_KEY}


def _reading(settings: Settings) -> dict[str, str]:
    return {**kafka_configuration(settings), "log_level": "2"}


def _never() -> bool:
    return False
