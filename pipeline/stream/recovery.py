# ruff: noqa: SLF001, ANN401 - it replaces a private service of Faust, with upstream lines.
"""Recovery of the tables after a rebalance, and the order in which streams are let go again (mend A).

Decides when a partition's tables are complete and when its messages may flow. Takes the group's assignment;
gives owned partitions to the tables, then resumes the streams. Never reads through Faust's consumer: the
changelogs are not in the group (upstream subscribes to them and receives one event per record,
faust/tables/manager.py:155), so nothing of them is fetched, sought or paused there. Which changelog
partitions are ours follows from the source topic's: same number, same owner. So do standbys: Faust's assignor gives
them out for the source topic (`table_standby_replicas`), and makes a standby the next owner where it can.

Order after an assignment, each step only if no other rebalance has begun:
1. end the thread that follows the changelogs of others, and drop the partitions that are neither ours nor followed;
2. read the changelogs to their end, in a thread, see that they fit the group's offsets and the log (agreement.py),
   and write the winners again that stood before losers;
3. run the tables' callbacks, letting their exceptions out (upstream's `asyncio.wait` swallows them,
   faust/tables/recovery.py:638);
4. seek the source partitions to the committed offsets, and only then let partitions and flow go. Upstream
   resumes first (:649) and seeks while messages from the old position are on their way; these are then
   cleared from the queues (:657), and the hole is booked as a gap and committed (issue 596). Before they go, the
   group is asked whether the assignment still holds: a worker that was frozen on the way here would else fold
   with tables read at different times, and with offsets that its successor has committed since;
5. follow the changelogs of the partitions that this worker is a standby of.

A worker that starts reads the partitions it had last until the group has assigned some: after `kill -9` that takes as
long as a session, and a group rarely gives a lone worker others.

A fault that is not a rebalance ends the process: a worker without its tables must not meter.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from faust.tables.manager import TableManager
from mode import Service

import pipeline.stream.pins  # noqa: F401 - replaces private methods
from pipeline.core.kept import KeptValueError
from pipeline.errors import MsgmeterError
from pipeline.metrics import worker as metrics
from pipeline.stream.agreement import Kept, check_agreement, committed_offsets, gone_unread, written_of
from pipeline.stream.changelog import TopicAndPartition, bounds_of, check_alike
from pipeline.stream.exits import ExitCode, end_process
from pipeline.stream.figures import Assignment
from pipeline.stream.gone import tell_gone_unread
from pipeline.stream.replaying import Replayed, Replaying
from pipeline.stream.standbys import Standbys
from pipeline.stream.tables import ChangelogTable
from pipeline.stream.watchdog import is_still_assigned

_log = logging.getLogger(__name__)

_CONFIRM_RETRY_SECONDS = 0.2
_LAST_PARTITIONS = "last-partitions"
"""File in the worker's directory: numbers of the partitions it had last. A hint and no more."""


class _OvertakenError(Exception):
    """Another rebalance has begun: its own recovery does everything again."""


@dataclass(frozen=True)
class _Assignment:
    """What the group gave this worker at one rebalance, and whether another one has begun since."""

    partitions: frozenset[int]
    standbys: frozenset[int]
    generation_id: int
    rebalances: int
    overtaken: threading.Event
    """Each assignment's own: the recovery of one must not take the next one's for its own."""
    began_at: float = field(default_factory=time.monotonic)


class Recovery(Service):  # type: ignore[misc]
    """Brings the tables up to date once per rebalance; replaces faust/tables/recovery.py."""

    def __init__(self, app: Any, tables: "MeterTableManager", **kwargs: Any) -> None:
        self.app = app
        self.tables = tables
        self.completed = asyncio.Event()
        """Set when a first recovery is done; the app's `on_started` waits for it."""
        self._assigned = asyncio.Event()
        self._assignment = _Assignment(frozenset(), frozenset(), -1, -1, threading.Event())
        self._reading: asyncio.Future[list[Replayed]] | None = None
        self._read_ahead = (0, 0)
        self._standbys = Standbys(tables.kafka, tables.remembered_seconds)
        super().__init__(**kwargs)

    def assignment(self) -> Assignment:
        """What the group has given; nothing between a revocation and the next assignment. For metrics."""
        assignment = self._assignment
        assigned = frozenset() if assignment.overtaken.is_set() else assignment.partitions
        owned = assigned.intersection(*(list(table.owned) for table in self.tables.values()))
        return Assignment(assigned, owned, assignment.began_at)

    def standby_figures(self) -> dict[str, float]:
        """How many partitions are followed, and how many records of their changelogs were not read yet."""
        partitions = self._assignment.standbys
        behind = self._standbys.records_behind if partitions else 0
        followed = self._standbys.partitions_followed if partitions else 0
        told: dict[str, float] = {"standby_partitions": followed}
        return told if behind is None else told | {"standby_lag_records": behind}

    async def on_start(self) -> None:
        """Read the partitions of the life before, until the group has assigned some."""
        if not self._assigned.is_set():
            self._standbys.follow(self.tables.values(), self.tables.last_partitions(), is_urgent=True)

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
        metrics.REBALANCES.inc()
        self._assignment = _Assignment(
            self._of_source(assigned),
            self._of_source(self.app.assignor.assigned_standbys()) - self._of_source(assigned),
            generation_id,
            self.app.rebalancing_count,
            threading.Event(),
        )
        self._assigned.set()

    def _of_source(self, topic_partitions: Any) -> frozenset[int]:
        return frozenset(tp.partition for tp in topic_partitions if tp.topic == self.tables.source_topic)

    async def on_stop(self) -> None:
        """End the reading of changelogs, and wait for it: the stores are closed next."""
        self._assignment.overtaken.set()
        await self._standbys.stop()
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
        read = await self._standbys.stop()
        self._read_ahead = (0, 0) if self.completed.is_set() else read
        tables = list(self.tables.values())
        kept = assignment.partitions | assignment.standbys
        for table in tables:
            table.readable = frozenset()
            for partition in table.data.opened() - kept:
                table.data.close_partition(partition)
        if tables and assignment.partitions:
            self.app.in_recovery = True
            self._reading = asyncio.get_running_loop().run_in_executor(
                None, self._read_changelogs, tables, assignment
            )
            replayed = await asyncio.shield(self._reading)
            self._assert_current(assignment)
            for each in replayed:
                await self._repeat_winners(assignment, each)
        self._assert_current(assignment)
        for table in tables:
            table.owned = {partition: object() for partition in assignment.partitions}
            table.readable = assignment.partitions
        if tables:
            self.tables.remember(assignment.partitions)

    def _read_changelogs(self, tables: list[ChangelogTable], assignment: _Assignment) -> list[Replayed]:
        """Bring the local stores up to date; runs in a thread, while nobody else uses these partitions."""
        began = time.monotonic()
        names = [table.changelog_topic_name for table in tables]
        check_alike(self.tables.kafka, self.tables.source_topic, names, assignment.overtaken.is_set)
        self.tables.check_era(assignment.overtaken.is_set)
        committed = committed_offsets(
            self.tables.kafka,
            self.app.conf.id,
            self.tables.source_topic,
            assignment.partitions,
            assignment.overtaken.is_set,
        )
        replaying = Replaying(self.tables.kafka, tables, assignment.partitions, assignment.overtaken.is_set)
        replaying.open()
        replaying.read_to_end()
        ahead, ahead_bytes = self._read_ahead
        _log.info(
            "recovered %d changelog records, %d bytes, in %.1f s; %d of them before the assignment",
            ahead + replaying.records, ahead_bytes + replaying.size_bytes, time.monotonic() - began, ahead,
        )  # fmt: skip
        if not assignment.overtaken.is_set():
            self._check_agreement(tables, assignment, committed, replaying.lost)
        return replaying.replayed()

    def _check_agreement(
        self,
        tables: list[ChangelogTable],
        assignment: _Assignment,
        committed: Mapping[int, int],
        lost: Mapping[TopicAndPartition, int],
    ) -> None:
        """Raise AgreementError where the group's offsets, the log and what was recovered do not fit."""
        topic = self.tables.source_topic
        log = bounds_of(
            self.tables.kafka, [(topic, each) for each in assignment.partitions], assignment.overtaken.is_set
        )
        kept = [
            Kept(
                partition,
                committed[partition],
                log[topic, partition].low,
                log[topic, partition].high,
                [
                    written_of(table.name, table.data, partition, lost[table.changelog_topic_name, partition])
                    for table in tables
                ],
            )
            for partition in sorted(assignment.partitions)
        ]
        check_agreement(kept, self.app.conf.id, topic)
        for each in kept:
            tell_gone_unread(topic, each.partition, gone_unread(each))

    async def _repeat_winners(self, assignment: _Assignment, replayed: Replayed) -> None:
        """Write winners behind the losers that followed them, so that compaction keeps the right ones."""
        table, partition, replay = replayed
        winners = replay.winners_to_repeat()
        if winners:
            self._assert_current(assignment)
            _log.warning(
                "%s: %d keys of partition %d had older values behind newer ones; a worker wrote after it had"
                " lost the partition. The newer ones are written again",
                table.name, len(winners), partition,
            )  # fmt: skip
            records = ((key, value, applied) for key, (value, applied) in winners.items())
            replay.repeated(winners, await table.send(partition, records))

    async def _let_streams_go(self, assignment: _Assignment) -> None:
        app, consumer = self.app, self.app.consumer
        await app.on_rebalance_complete.send()
        app.in_recovery = False
        await asyncio.gather(*(table.on_recovery_completed(set(), set()) for table in self.tables.values()))
        self._assert_current(assignment)
        partitions = consumer.assignment()
        if partitions:
            await asyncio.wait_for(consumer.perform_seek(), app.conf.broker_request_timeout)
            await self._confirm(assignment)
        self.completed.set()
        app.flow_control.resume()  # This clears the queues, so it comes before anything can be put there.
        consumer.resume_partitions(partitions)
        consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()
        if not self.should_stop:  # Behind `on_stop` nobody would end the thread.
            self._standbys.follow(self.tables.values(), assignment.standbys)
        if partitions:
            metrics.RECOVERY_SECONDS.observe(time.monotonic() - assignment.began_at)
        self.log.info("worker ready: %d partitions", len(assignment.partitions))

    async def _confirm(self, assignment: _Assignment) -> None:
        """Return when the group says that nobody else has owned the partitions since they were assigned."""
        self._assert_current(assignment)
        while not await is_still_assigned(self.app):
            self._assert_current(assignment)
            await asyncio.sleep(_CONFIRM_RETRY_SECONDS)
        self._assert_current(assignment)


class MeterTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager with this recovery, and without subscribing to the changelogs.

    `faust.App(TableManager=functools.partial(MeterTableManager, kafka=..., source_topic=...))`: `kafka` is
    librdkafka's configuration of a client (`bootstrap.servers`, security). A standby remembers a deletion for
    `remembered_seconds`, a day by default: longer than any worker writes on without owning. `check_era` raises where
    the log is in another era by now; it is given what says to stop waiting.
    """

    def __init__(
        self,
        app: Any,
        *,
        kafka: Mapping[str, str],
        source_topic: str,
        remembered_seconds: float = 86_400.0,
        check_era: Callable[[Callable[[], bool]], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self.kafka = dict(kafka)
        self.source_topic = source_topic
        self.remembered_seconds = remembered_seconds
        self.check_era = check_era

    async def on_start(self) -> None:
        """Start the tables; upstream sleeps for a second first, for tables declared while the app starts."""
        await self._update_channels()
        await self.recovery.start()

    def assignment(self) -> Assignment:
        """What the group has given; asked in another thread, perhaps before there is a recovery."""
        return (
            Assignment(frozenset(), frozenset(), 0.0)
            if self._recovery is None
            else self._recovery.assignment()
        )

    def standby_figures(self) -> dict[str, float]:
        """Figures of `metrics.STATE`; asked as above."""
        return {} if self._recovery is None else self._recovery.standby_figures()

    def last_partitions(self) -> frozenset[int]:
        """The partitions that the worker of this directory had last; none where nobody knows."""
        try:
            return frozenset(map(int, self._last_partitions_path.read_text("ascii").split()))
        except (OSError, ValueError):
            return frozenset()

    def remember(self, partitions: frozenset[int]) -> None:
        """Keep the partitions for `last_partitions`."""
        try:
            self._last_partitions_path.parent.mkdir(parents=True, exist_ok=True)
            self._last_partitions_path.write_text(" ".join(map(str, sorted(partitions))), "ascii")
        except OSError as error:
            _log.warning("the next start will read nothing ahead: %s", error)

    @property
    def _last_partitions_path(self) -> Path:
        return Path(self.app.conf.tabledir) / _LAST_PARTITIONS

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
