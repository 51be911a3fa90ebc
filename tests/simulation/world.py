"""A world made of a seed: logs, servers, workers that come, freeze and die, and in the end one that is left in peace.

The last worker has the log to itself and nothing goes wrong any more, but for what its predecessors had under way.
"""

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Any

from pipeline.core.identity_deltas import decode_delta
from pipeline.settings import Settings
from tests.properties.random_logs import small_rules
from tests.simulation.broker import Broker
from tests.simulation.network import SLOW_SECONDS, Faults
from tests.simulation.oracle import Truth, differences, identity_differences
from tests.simulation.stores import Disk
from tests.simulation.traffic import make_logs
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.warehouse import Warehouse
from tests.simulation.worker import Worker

MAX_WORKERS = 10
"""Processes started before the world calms down."""
MAX_FREEZES = 4
SESSION_SECONDS = 10.0
RECOVERIES_CHECKED = 0.2
CALM_SECONDS = 3600.0
"""Far more than the last worker needs, which waits for nothing but servers that answer at once."""


class World:
    """Everything there is; `run` lets it happen."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = Random(seed)
        self.loop = VirtualLoop()
        logs = make_logs(chance)
        self.rules = small_rules(partitions=len(logs))
        self.broker = Broker(logs)
        self.broker.grown = self._grow
        self.warehouse = Warehouse()
        self.faults = Faults.draw(chance)
        self._keeps_disks = chance.random() < 0.2
        if self._keeps_disks:
            # Two machines that take turns, frozen again and again: what one knows, the other has missed.
            self.faults = Faults(frozen=0.02)
        self.compaction = chance.choice((0.0, 0.3, 1.0))
        self.fetch_seconds = chance.choice((0.05, 0.3, 1.0))
        self.chunk_records = chance.choice((1, 3, 8, 20))
        self._settings = {
            "epoch_rows": chance.choice((3, 10, 50)),
            "epoch_milliseconds": chance.choice((50, 300, 1000)),
            "checkpoint_rows": chance.choice((3, 20, 500)),
            "checkpoint_milliseconds": chance.choice((100, 1000, 5000)),
        }
        self._settings["checkpoint_rows"] = max(
            self._settings["epoch_rows"], self._settings["checkpoint_rows"]
        )
        self.growth: list[asyncio.Event] = []
        self.workers: list[Worker] = []
        """All that live, in the order in which they were started."""
        self._deaf: list[Worker] = []
        """Those of them that hear nothing of the group, be they frozen or cut off from it."""
        self._disks: list[Disk] = []
        self.started = 0
        self.kills = 0
        self._freezes = 0
        self.failures: list[BaseException] = []
        self.quiet_at = 0.0
        """From then on nothing of the dead arrives any more."""
        self.journal: list[str] = []
        self._calm = asyncio.Event()

    def run(self) -> None:
        """Lets the world happen; raises what a worker raised that is no fault of the world's."""
        asyncio.set_event_loop(None)
        try:
            self.loop.run_until_complete(self._run())
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    async def _run(self) -> None:
        self.growth = [asyncio.Event() for _ in self.broker.logs]
        for _ in range(self.chance.choice((1, 1, 2))):
            self._start()
        self._rebalance()
        await self._trouble()
        await self._peace()

    async def _trouble(self) -> None:
        actions = [self._join, self._leave, self._kick, self._kill_any, self._merge]
        for _ in range(self.chance.randint(0, 8)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._calm.wait(), self.chance.expovariate(1 / 5))
            if self._is_over():
                break
            self.chance.choice(actions)()
        until = self.loop.time() + 60
        while not self._is_over() and self.loop.time() < until:  # noqa: ASYNC110 - time costs nothing here
            await asyncio.sleep(1)

    def _is_over(self) -> bool:
        """Whether nothing more can come of trouble."""
        return bool(self.failures) or self.started >= MAX_WORKERS or (self._is_drained() and not self._deaf)

    async def _peace(self) -> None:
        self._calm.set()
        for worker in list(self.workers):
            self._end(worker)
        self.faults.calm()
        last = self._start()
        self._rebalance()
        until = self.loop.time() + CALM_SECONDS
        while not self.failures and (not self._is_drained() or self.loop.time() < self.quiet_at):
            assert self.loop.time() < until, f"stuck at {self.broker.committed}"
            await asyncio.sleep(1)
        if not self.failures:
            await last.begin(last.meter.stop)
            await asyncio.sleep(2 * SLOW_SECONDS)  # Inserts that were given up, too.
        self._end(last)
        if self.failures:
            raise self.failures[0]

    def _is_drained(self) -> bool:
        return all(self.broker.committed[number] == len(log) for number, log in enumerate(self.broker.logs))

    # What happens to workers.

    def _start(self) -> Worker:
        disk = self._disk()
        worker = Worker(
            self,
            self.started,
            Settings(partitions=self.rules.partitions, **self._settings),
            self.rules,
            self.faults,
            disk,
        )
        self.started += 1
        self.workers.append(worker)
        self.note("starts", worker)
        return worker

    def _disk(self) -> Disk | None:
        """None, a new one, or one whose worker is gone."""
        used = [worker.disk for worker in self.workers]
        free = [each for each in self._disks if each not in used]
        new = Disk()
        disk = self.chance.choice((free or [new]) if self._keeps_disks else (None, None, new, *free))
        if disk is new:
            self._disks.append(new)
        return disk

    def kill(self, worker: Worker) -> None:
        """The process dies now; another is started in its place, and the group notices after a while."""
        if worker.is_dead:
            return
        self.kills += 1
        self._end(worker)
        self._later(self.chance.random() * SESSION_SECONDS, self._join)

    def _end(self, worker: Worker) -> None:
        self.note("ends", worker)
        self.workers.remove(worker)
        self._deaf = [each for each in self._deaf if each is not worker]
        self.quiet_at = max(self.quiet_at, worker.end())
        if worker.disk is not None:
            worker.disk.lose_power(self.chance)

    def fail(self, error: BaseException) -> None:
        """What no fault explains: the seed has found something."""
        self.failures.append(error)
        self._calm.set()

    def may_freeze(self) -> bool:
        """Not all the time: somebody has to get on with the log meanwhile."""
        return self._freezes < MAX_FREEZES

    def freeze(self, worker: Worker, seconds: float) -> None:
        """A worker is frozen for so long: the group goes on without it, and it learns of that when it has thawed."""
        self._freezes += 1
        self._deaf.append(worker)
        self._later(self.chance.random() * min(seconds, 3), lambda: self._exclude(worker))
        self._later(seconds + self.chance.random(), lambda: self._wake(worker))

    def _exclude(self, worker: Worker) -> None:
        """The group goes on without a worker that it does not hear of."""
        if worker not in self._deaf or worker not in self.broker.members:
            return
        self.note("is excluded", worker)
        if len(self.workers) == len(self._deaf):
            self._start()
        self._rebalance()

    def _wake(self, worker: Worker) -> None:
        """Who was excluded learns of it: it joins again, or ends."""
        if worker not in self._deaf:
            return
        self._deaf.remove(worker)
        if worker in self.broker.members:
            return
        self.note("wakes", worker)
        worker.on_revoked()
        if self.chance.random() < 0.5:
            self._rebalance()
        else:
            self._end(worker)

    def _join(self) -> None:
        if self.started < MAX_WORKERS:
            self._start()
        elif not self.workers:
            self._calm.set()
            return
        self._rebalance()

    def _leave(self) -> None:
        """A worker is told to stop: it stores what is open, and goes."""
        if self.workers:
            worker = self.chance.choice(self.workers)
            worker.begin(self._farewell, worker)

    async def _farewell(self, worker: Worker) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                await worker.meter.stop()
        self.note("leaves", worker)
        # Not from within: what ends a process cancels its tasks.
        self._later(0, lambda: worker.is_dead or self._end(worker))
        self._later(0.01, self._join)

    def _kick(self) -> None:
        """A worker that goes on all the same, because only its heartbeats were lost."""
        members = [worker for worker in self.broker.members if worker in self.workers]
        if members:
            worker = self.chance.choice(members)
            if worker not in self._deaf:
                self._deaf.append(worker)
            self._exclude(worker)
            self._later(self.chance.random() * SESSION_SECONDS, lambda: self._wake(worker))

    def _kill_any(self) -> None:
        if self.workers:
            self.kill(self.chance.choice(self.workers))

    def _merge(self) -> None:
        for table in self.warehouse.tables.values():
            table.merge()

    def _rebalance(self) -> None:
        """A new generation of all that live; who is frozen does not hear of it."""
        members = [worker for worker in self.workers if worker not in self._deaf]
        for worker in members:
            worker.on_revoked()
        broker = self.broker
        broker.generation += 1
        broker.members = {worker: set() for worker in members}
        for partition in range(len(broker.logs)):
            if members:
                broker.members[self.chance.choice(members)].add(partition)
        self.note(
            f"generation {broker.generation}", {each.number: owned for each, owned in broker.members.items()}
        )
        generation = broker.generation
        for worker in members:
            self.loop.call_later(self.chance.random(), self._assign, worker, generation)

    def _assign(self, worker: Worker, generation: int) -> None:
        if not worker.is_dead and self.broker.is_member(worker, generation):
            worker.on_assigned(self.broker.members[worker], generation)

    def _grow(self, partition: int) -> None:
        self.growth[partition].set()
        self.growth[partition] = asyncio.Event()

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        """Something for the time of trouble."""
        self.loop.call_later(seconds, lambda: self._calm.is_set() or call())

    def check_identities(self, partition: int, deltas: list[bytes]) -> None:
        """Holds what a worker has recovered against the log, now and then, since it costs a fold."""
        if deltas and self.chance.random() < RECOVERIES_CHECKED:
            applied_offset = max(decode_delta(delta).applied_offset for delta in deltas)
            truth = Truth(self.broker.logs[partition][: applied_offset + 1], self.rules, partition)
            found = list(identity_differences(deltas, truth, self.rules))
            assert not found, f"recovered up to {applied_offset}: " + "; ".join(found)

    def differences(self) -> list[str]:
        """What is not as it must be; to be asked when all is over."""
        return list(differences(self.broker, self.warehouse, self.rules))

    def note(self, what: str, about: Any) -> None:
        """For whoever replays a seed."""
        who = f"worker {about.number}" if isinstance(about, Worker) else about
        self.journal.append(f"{self.loop.time():8.3f} {who} {what}")
