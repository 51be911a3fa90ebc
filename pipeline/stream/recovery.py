# ruff: noqa: SLF001, ANN401 - it replaces a private service of Faust, with upstream lines.
"""Recovery of the tables after a rebalance, and the order in which streams are let go again (mend A).

Decides when a partition's tables are complete and when its messages may flow. Takes the group's assignment;
gives owned partitions to the tables, then resumes the streams. Never reads through Faust's consumer: the
changelogs are not in the group (upstream subscribes to them and receives one event per record,
faust/tables/manager.py:155), so nothing of them is fetched, sought or paused there. Which changelog
partitions are ours follows from the source topic's: same number, same owner. No standbys.

Order after an assignment, each step only if no other rebalance has begun:
1. drop the partitions that went to others;
2. read the changelogs to their end, in a thread, and write the winners again that stood before losers,
   and see that they fit the group's offsets and the log (agreement.py);
3. run the tables' callbacks, letting their exceptions out (upstream's `asyncio.wait` swallows them,
   faust/tables/recovery.py:638);
4. seek the source partitions to the committed offsets, and only then let partitions and flow go. Upstream
   resumes first (:649) and seeks while messages from the old position are on their way; these are then
   cleared from the queues (:657), and the hole is booked as a gap and committed (issue 596).

A fault that is not a rebalance ends the process: a worker without its tables must not meter.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from faust.tables.manager import TableManager
from mode import Service

import pipeline.stream.pins  # noqa: F401 - replaces private methods
from pipeline.core.kept import KeptValueError
from pipeline.errors import MsgmeterError
from pipeline.stream.agreement import Kept, check_agreement, committed_offsets, written_of
from pipeline.stream.changelog import (
    PartitionReplay,
    TopicAndPartition,
    bounds_of,
    check_alike,
    read_to_end,
    trusted_position,
)
from pipeline.stream.exits import ExitCode, end_process
from pipeline.stream.tables import ChangelogTable

_log = logging.getLogger(__name__)

# Opening a RocksDB file takes 30 ms, mostly of waiting for the disk; a worker may have 96.
_OPENING_THREADS = 8


class _OvertakenError(Exception):
    """Another rebalance has begun: its own recovery does everything again."""


@dataclass(frozen=True)
class _Assignment:
    """What the group gave this worker at one rebalance, and whether another one has begun since."""

    partitions: frozenset[int]
    generation_id: int
    rebalances: int
    overtaken: threading.Event
    """Each assignment's own: the recovery of one must not take the next one's for its own."""


class Recovery(Service):  # type: ignore[misc]
    """Brings the tables up to date once per rebalance; replaces faust/tables/recovery.py."""

    def __init__(self, app: Any, tables: "MeterTableManager", **kwargs: Any) -> None:
        self.app = app
        self.tables = tables
        self.completed = asyncio.Event()
        """Set when a first recovery is done; the app's `on_started` waits for it."""
        self._assigned = asyncio.Event()
        self._assignment = _Assignment(frozenset(), -1, -1, threading.Event())
        self._reading: asyncio.Future[list[tuple[ChangelogTable, int, PartitionReplay]]] | None = None
        super().__init__(**kwargs)

    def on_partitions_revoked(self, _revoked: Any) -> None:
        """Close the tables to writers, and end the reading of changelogs if it is going on."""
        self._assignment.overtaken.set()
        for table in self.tables.values():
            table.owned.clear()

    async def on_rebalance(
        self, assigned: Any, _revoked: Any, _newly_assigned: Any, generation_id: int = 0
    ) -> None:
        """Begin a recovery; called while the group waits for us, so it only takes note."""
        self._assignment.overtaken.set()
        self._assignment = _Assignment(
            frozenset(tp.partition for tp in assigned if tp.topic == self.tables.source_topic),
            generation_id,
            self.app.rebalancing_count,
            threading.Event(),
        )
        self._assigned.set()

    async def on_stop(self) -> None:
        """End the reading of changelogs, and wait for it: the stores are closed next."""
        self._assignment.overtaken.set()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    @Service.task  # type: ignore[untyped-decorator]
    async def _recover_after_each_rebalance(self) -> None:
        while not self.should_stop:
            if await self.wait_for_stopped(self._assigned):
                return
            self._assigned.clear()
            assignment = self._assignment
            try:
                await self._recover(assignment)
                await self._let_streams_go(assignment)
            except _OvertakenError:
                self.log.info("another rebalance has begun")
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker is without its tables
                if not self.should_stop and self._is_current(assignment):
                    is_told = isinstance(error, MsgmeterError | KeptValueError)
                    end_process(
                        ExitCode.RECOVERY_FAILED,
                        f"tables could not be recovered: {error}",
                        cause=None if is_told else error,
                    )
                self.log.info("recovery given up during a rebalance: %r", error)

    def _is_current(self, assignment: _Assignment) -> bool:
        return (
            not assignment.overtaken.is_set()
            and self.app.rebalancing_count == assignment.rebalances
            and self.app.consumer_generation_id == assignment.generation_id
        )

    def _assert_current(self, assignment: _Assignment) -> None:
        if not self._is_current(assignment):
            raise _OvertakenError

    async def _recover(self, assignment: _Assignment) -> None:
        tables = list(self.tables.values())
        for table in tables:
            table.readable = frozenset()
            for partition in table.data.opened() - assignment.partitions:
                table.data.close_partition(partition)
        if tables and assignment.partitions:
            self.app.in_recovery = True
            self._reading = asyncio.get_running_loop().run_in_executor(
                None, self._read_changelogs, tables, assignment
            )
            replays = await asyncio.shield(self._reading)
            self._assert_current(assignment)
            for table, partition, replay in replays:
                await self._repeat_winners(assignment, table, partition, replay)
        self._assert_current(assignment)
        for table in tables:
            table.owned = {partition: object() for partition in assignment.partitions}
            table.readable = assignment.partitions

    def _read_changelogs(
        self, tables: list[ChangelogTable], assignment: _Assignment
    ) -> list[tuple[ChangelogTable, int, PartitionReplay]]:
        """Bring the local stores up to date; runs in a thread, while nobody else uses these partitions."""
        began = time.monotonic()
        by_changelog: dict[TopicAndPartition, ChangelogTable] = {
            (table.changelog_topic_name, partition): table
            for table in tables
            for partition in assignment.partitions
        }
        names = [table.changelog_topic_name for table in tables]
        check_alike(self.tables.kafka, self.tables.source_topic, names, assignment.overtaken.is_set)
        committed = committed_offsets(
            self.tables.kafka,
            self.app.conf.id,
            self.tables.source_topic,
            assignment.partitions,
            assignment.overtaken.is_set,
        )
        bounds = bounds_of(self.tables.kafka, by_changelog, assignment.overtaken.is_set)
        with ThreadPoolExecutor(_OPENING_THREADS, "open-tables") as pool:
            positions = pool.map(
                lambda where: trusted_position(by_changelog[where].data, where[1], bounds[where]),
                by_changelog,
            )
        replays = {where: PartitionReplay(table.data, where[1]) for where, table in by_changelog.items()}
        starts: dict[TopicAndPartition, int] = {}
        lost: dict[TopicAndPartition, int] = {}
        for where, position in zip(by_changelog, positions, strict=True):
            start = max(position.next_offset, bounds[where].low)
            lost[where] = start - position.next_offset
            if start < bounds[where].high:
                starts[where] = start
        count = read_to_end(
            self.tables.kafka,
            starts,
            lambda where, records: replays[where].take(records),
            assignment.overtaken.is_set,
        )
        _log.info("recovered %d changelog records in %.1f s", count, time.monotonic() - began)
        if not assignment.overtaken.is_set():
            self._check_agreement(tables, assignment, committed, lost)
        return [(by_changelog[where], where[1], replay) for where, replay in replays.items()]

    def _check_agreement(
        self,
        tables: list[ChangelogTable],
        assignment: _Assignment,
        committed: Mapping[int, int],
        lost: Mapping[TopicAndPartition, int],
    ) -> None:
        """Raise AgreementError where the group's offsets, the log and what was recovered do not fit."""
        topic = self.tables.source_topic
        ends = bounds_of(
            self.tables.kafka, [(topic, each) for each in assignment.partitions], assignment.overtaken.is_set
        )
        check_agreement(
            [
                Kept(
                    partition,
                    committed[partition],
                    ends[topic, partition].high,
                    [
                        written_of(
                            table.name, table.data, partition, lost[table.changelog_topic_name, partition]
                        )
                        for table in tables
                    ],
                )
                for partition in sorted(assignment.partitions)
            ],
            self.app.conf.id,
            topic,
        )

    async def _repeat_winners(
        self, assignment: _Assignment, table: ChangelogTable, partition: int, replay: PartitionReplay
    ) -> None:
        """Write winners behind the losers that followed them, so that compaction keeps the right ones."""
        winners = replay.winners_to_repeat()
        if winners:
            self._assert_current(assignment)
            _log.warning(
                "%s: %d keys of partition %d had older values behind newer ones; a worker wrote after it had"
                " lost the partition. The newer ones are written again",
                table.name, len(winners), partition,
            )  # fmt: skip
            await table.send(partition, ((key, value, applied) for key, (value, applied) in winners.items()))

    async def _let_streams_go(self, assignment: _Assignment) -> None:
        app, consumer = self.app, self.app.consumer
        await app.on_rebalance_complete.send()
        app.in_recovery = False
        await asyncio.gather(*(table.on_recovery_completed(set(), set()) for table in self.tables.values()))
        self._assert_current(assignment)
        partitions = consumer.assignment()
        if partitions:
            await asyncio.wait_for(consumer.perform_seek(), app.conf.broker_request_timeout)
            self._assert_current(assignment)
        self.completed.set()
        app.flow_control.resume()  # This clears the queues, so it comes before anything can be put there.
        consumer.resume_partitions(partitions)
        consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()
        self.log.info("worker ready: %d partitions", len(assignment.partitions))


class MeterTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager with this recovery, and without subscribing to the changelogs.

    `faust.App(TableManager=functools.partial(MeterTableManager, kafka=..., source_topic=...))`: `kafka` is
    librdkafka's configuration of a client (`bootstrap.servers`, security).
    """

    def __init__(self, app: Any, *, kafka: Mapping[str, str], source_topic: str, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.kafka = dict(kafka)
        self.source_topic = source_topic

    @cached_property
    def recovery(self) -> Recovery:
        """The one recovery service."""
        self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def _update_channels(self) -> None:
        """Start the tables; upstream adds a channel per changelog here (faust/tables/manager.py:155)."""
        self._tables_finalized.set()
        for table in self.values():
            await table.maybe_start()
        self._tables_registered.set()
