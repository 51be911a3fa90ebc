"""Bringing the local stores of some partitions up to date from the changelogs of all tables.

Takes tables, partitions and the broker; changes the stores. Decides nothing: which value wins is changelog.py's, and
which partitions are read, and when reading ends, is the caller's: recovery reads those it was given, to the end;
standbys read those of others, for as long as they are others'. Runs in a thread, while nobody else changes these
partitions.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from confluent_kafka import Message

from pipeline.stream.changelog import (
    Bounds,
    PartitionReplay,
    TopicAndPartition,
    bounds_of,
    read_changelogs,
    read_to_end,
    reading_passes,
    trusted_position,
)
from pipeline.stream.rocksdb_files import FILE_ERRORS, said
from pipeline.stream.stores import Position
from pipeline.stream.tables import ChangelogTable

_log = logging.getLogger(__name__)

# Opening a RocksDB file takes 30 ms, mostly of waiting for the disk; a worker may have 96.
_OPENING_THREADS = 8


class Replayed(NamedTuple):
    """One partition of one table, and the replay that went through it."""

    table: ChangelogTable
    partition: int
    replay: PartitionReplay


class Replaying:
    """One reading of some partitions of all tables."""

    def __init__(
        self,
        kafka: Mapping[str, str],
        tables: Iterable[ChangelogTable],
        partitions: Iterable[int],
        stopped: Callable[[], bool],
    ) -> None:
        """`kafka` is librdkafka's configuration of a client; nothing is opened or asked yet.

        Tables come in the order in which a checkpoint writes them.
        """
        self._kafka = kafka
        self._stopped = stopped
        self._tables: dict[TopicAndPartition, ChangelogTable] = {
            (table.changelog_topic_name, partition): table for table in tables for partition in partitions
        }
        self._replays: dict[TopicAndPartition, PartitionReplay] = {}
        self._starts: dict[TopicAndPartition, int] = {}
        self._bounds: dict[TopicAndPartition, Bounds] = {}
        self._gone: set[TopicAndPartition] = set()
        self._told: set[TopicAndPartition] = set()
        self.records = 0
        """How many records were read."""
        self.size_bytes = 0
        """Of their values."""
        self.lost: dict[TopicAndPartition, int] = {}
        """So many of a changelog's first records are gone, and were needed."""
        self.behind: dict[TopicAndPartition, int] = {}
        """Records not read yet, as far as is known."""

    def open(self, *, is_owner: bool = True) -> bool:
        """Open the stores that are not open yet, tell whether one more is, and find where reading begins.

        An owner waits for a file that another process has open. One that is not leaves out such a partition, and one
        whose file is hindered otherwise, which it may try again, and one whose changelog has lost what is needed: its
        owner has to notice that. Raises ChangelogError where a changelog is missing.
        """
        count = len(self._replays)
        missing = [where for where in self._tables if where not in self._replays and where not in self._gone]
        bounds = bounds_of(self._kafka, missing, self._stopped)
        self._bounds |= bounds
        with ThreadPoolExecutor(_OPENING_THREADS, "open-tables") as pool:
            opened = pool.map(lambda where: self._open(where, bounds[where], is_owner=is_owner), missing)
        for where, found in zip(missing, opened, strict=True):
            if found is None:
                continue
            position, replay = found
            start = max(position.next_offset, bounds[where].low)
            self.lost[where] = start - position.next_offset
            if self.lost[where] and not is_owner:
                self._gone.add(where)
                self._tell_left_out(where, "its first records are gone")
                continue
            self._replays[where] = replay
            self._starts[where] = start
            self.behind[where] = max(0, bounds[where].high - start)
        return len(self._replays) > count

    def _tell_left_out(self, where: TopicAndPartition, reason: object) -> None:
        if where not in self._told:
            self._told.add(where)
            _log.warning("%s: partition %d is not followed: %s", *where, reason)

    @property
    def may_open_more(self) -> bool:
        """Whether something could not be opened that may be, later."""
        return len(self._replays) + len(self._gone) < len(self._tables)

    @property
    def is_open(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._replays)

    @property
    def complete_partitions(self) -> int:
        """How many partitions are read of every table; for any thread."""
        opened = list(self._replays)
        return len(
            {number for _, number in self._tables} - {number for _, number in self._tables.keys() - opened}
        )

    def _open(
        self, where: TopicAndPartition, bounds: Bounds, *, is_owner: bool
    ) -> tuple[Position, PartitionReplay] | None:
        """Where a partition's values end; none where its file is somebody else's, or cannot be used."""
        table, partition = self._tables[where], where[1]
        try:
            position = trusted_position(table.data, partition, bounds, waits=is_owner)
            return position, PartitionReplay(table.data, partition, keys_follow_log=table.keys_follow_log)
        except FILE_ERRORS as error:
            if is_owner:
                raise
            self._set_aside(where, error)
            return None

    def _set_aside(self, where: TopicAndPartition, error: Exception) -> None:
        """Leave out what cannot be read or written here now; it may be opened again."""
        for known in (self._replays, self._starts, self.behind):
            known.pop(where, None)
        # After a failed write RocksDB takes no other one, until the file is opened again.
        self._tables[where].data.close_partition(where[1])
        self._tell_left_out(where, said(error))

    def read_to_end(self) -> None:
        """Return when the ends of all partitions are reached, as `reading_passes` has it, or when told to stop."""
        every, leant_on = reading_passes(list(dict.fromkeys(self._tables.values())))
        self._read_to_ends(every, self._bounds)
        if leant_on and not self._stopped():
            # Their ends as they are now, behind all that was read; nearly always nothing has come.
            again = [where for where, table in self._tables.items() if _is_among(table, leant_on)]
            self._read_to_ends(leant_on, bounds_of(self._kafka, again, self._stopped))

    def _read_to_ends(
        self, tables: Iterable[ChangelogTable], bounds: Mapping[TopicAndPartition, Bounds]
    ) -> None:
        tables = list(tables)
        starts = {
            where: max(start, self._tables[where].data.position_of(where[1]).next_offset)
            for where, start in self._starts.items()
            if _is_among(self._tables[where], tables)
        }
        behind = {where: start for where, start in starts.items() if start < bounds[where].high}
        read_to_end(self._kafka, behind, bounds, self._take, self._stopped)

    def follow(
        self, rest: Callable[[], None], consumer: Mapping[str, int], is_over: Callable[[], bool]
    ) -> None:
        """Read on until `is_over`; a partition whose file is hindered is left out from then on.

        `rest` is called after each batch of one partition. May be called again. `consumer` is librdkafka's
        configuration of fetching, before what a recovery needs.
        """

        def take(where: TopicAndPartition, records: list[Message], end: int) -> None:
            if where not in self._replays:
                return
            try:
                self._take(where, records)
            except FILE_ERRORS as error:
                self._set_aside(where, error)
                return
            self._starts[where] = records[-1].offset() + 1
            self.behind[where] = max(0, end - records[-1].offset() - 1)
            rest()

        def at_end(where: TopicAndPartition, _: int) -> None:
            if where in self._replays:
                self.behind[where] = 0

        read_changelogs({**self._kafka, **consumer}, dict(self._starts), take, at_end, is_over)

    def _take(self, where: TopicAndPartition, records: list[Message]) -> None:
        self._replays[where].take(records)
        self.records += len(records)
        self.size_bytes += sum(map(len, records))

    def forget_deleted_before(self, instant: int) -> None:
        """Forget deletions that no value can follow any more; milliseconds since 1970. Not for an owner."""
        for where, replay in list(self._replays.items()):
            try:
                replay.forget_deleted_before(instant)
            except FILE_ERRORS as error:
                self._set_aside(where, error)

    def replayed(self) -> list[Replayed]:
        """All partitions with their replays."""
        return [Replayed(self._tables[where], where[1], replay) for where, replay in self._replays.items()]


def _is_among(table: ChangelogTable, tables: Iterable[ChangelogTable]) -> bool:
    """Whether it is one of them; `in` would compare tables as mappings, and read and decode them whole."""
    return any(table is each for each in tables)
