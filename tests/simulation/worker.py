"""A worker process: the real meter, tables, replay and book of chunks, among servers that are not real.

What Faust and the driver do around them is done here in their order: the group takes partitions away and gives them,
changelogs are read and winners repeated, the log is read from the committed offset, chunks come to their agents.
"""

import asyncio
import contextvars
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError
from clickhouse_connect.driver import exceptions as driver

from pipeline.core.rules import Rules
from pipeline.settings import Settings
from pipeline.stream.changelog import Bounds, PartitionReplay, reading_passes, trusted_position
from pipeline.stream.chunks import ChunkConsumer
from pipeline.stream.cutter import Chunk
from pipeline.stream.epochs import Meter
from pipeline.stream.partitions import Tables
from pipeline.stream.stores import PartitionedStore
from pipeline.stream.tables import ChangelogTable, StateTable
from tests.simulation.broker import Broker, Producer
from tests.simulation.network import ASKING, SLOW_SECONDS, Faults, Line
from tests.simulation.stores import Disk, DiskFiles, MemoryFiles
from tests.simulation.virtual_time import OWNER, VirtualLoop
from tests.simulation.warehouse import Warehouse, WarehouseClient

if TYPE_CHECKING:
    from tests.simulation.world import World

TABLE_NAMES = ("ids", "windows", "accounts")


class FaultyClient(WarehouseClient):
    """A worker's client of the warehouse."""

    def __init__(self, warehouse: Warehouse, line: Line, loop: VirtualLoop, chance: Random) -> None:
        super().__init__(warehouse)
        self._line = line
        self._loop = loop
        self._chance = chance

    def insert(self, table: str, columns: Any, **options: Any) -> SimpleNamespace:
        happens, faults = self._line.happens, self._line.faults
        stored = self.warehouse.tables[table]
        if happens(faults.forgetful):
            stored.tokens.clear()
        if happens(faults.refused):
            raise driver.OperationalError("no answer")
        if happens(faults.late):
            kept = [list(column) for column in columns]
            seconds = self._chance.random() * SLOW_SECONDS
            self._loop.call_later(seconds, lambda: super(FaultyClient, self).insert(table, kept, **options))
            raise driver.OperationalError("given up")
        told = super().insert(table, columns, **options)
        if happens(faults.repeated):
            stored.merge()
        if happens(faults.unanswered):
            raise driver.OperationalError("the answer was lost")
        return told


class Changelog:
    """What a `StateTable` has beneath: a changelog on the broker and a store."""

    send = ChangelogTable.send

    def __init__(self, name: str, producer: Producer, store: PartitionedStore) -> None:
        self.name = name
        self.changelog_topic_name = f"{name}-changelog"
        self.app = SimpleNamespace(producer=SimpleNamespace(_ensure_producer=lambda: producer))
        self.data = store
        self.keys_follow_log = name != "ids"
        self.owned: dict[int, object] = {}
        self.readable: frozenset[int] = frozenset()

    def state_table(self) -> StateTable:
        table = StateTable.__new__(StateTable)
        table._table = self
        return table


class Book:
    """The part of the consumer that knows what was handed out, and what of it may be committed."""

    _book = ChunkConsumer._book
    _forget_book = ChunkConsumer._forget_book
    _new_offset = ChunkConsumer._new_offset

    def __init__(self) -> None:
        self._handed_out: dict[int, deque[int]] = {}
        self._expected_offset: dict[int, int] = {}
        self._acked: dict[int, list[int]] = {}
        self._acked_index: dict[int, set[int]] = defaultdict(set)

    def is_chunked(self, _: int) -> bool:
        return True

    def begin(self, partition: int, offset: int) -> None:
        self._forget_book(partition)
        self._expected_offset[partition] = offset


class Event:
    """A chunk on its way to an agent."""

    def __init__(self, chunk: Chunk, partition: int, worker: "Worker") -> None:
        self.value = chunk
        self.partition = partition
        self._worker = worker

    def ack(self) -> bool:
        if self.value.generation_id != self._worker.generation:
            return False
        self._worker.book._acked_index[self.partition].add(self.value.last_offset)
        return True


class Worker:
    """One process from its start to its end."""

    def __init__(
        self, world: "World", number: int, settings: Settings, rules: Rules, faults: Faults, disk: Disk | None
    ) -> None:
        self.world = world
        self.number = number
        self.disk = disk
        self.is_dead = False
        self.generation = -1
        self.tasks: list[asyncio.Task[Any]] = []
        self.book = Book()
        self.line = Line(
            world.loop,
            world.chance,
            faults,
            lambda: world.kill(self),
            world.may_freeze,
            lambda seconds: world.freeze(self, seconds),
        )
        self._broker: Broker = world.broker
        producer = Producer(
            self._broker, self.line, world.chance, batch_records=world.chance.choice((1, 2, 5, 50))
        )
        self.changelogs = [
            Changelog(name, producer, MemoryFiles(name) if disk is None else DiskFiles(name, disk))
            for name in TABLE_NAMES
        ]
        self._reads_from: dict[int, int] = {}
        self._assignments = 0
        self._reading: list[asyncio.Task[None]] = []
        self._recovering = asyncio.Lock()
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, self)
        self.meter_tables = Tables(*(changelog.state_table() for changelog in self.changelogs))
        client: Any = FaultyClient(world.warehouse, self.line, world.loop, world.chance)
        self.meter = Meter(
            settings,
            rules,
            self.meter_tables,
            connect=lambda: client,
            producer=lambda: producer,
            owns=self._owns,
            commit=self._commit,
            generation=lambda: self.generation,
            reads_from=lambda partition: self._reads_from[partition],
            clock=world.loop.time,
        )
        self.begin(self.meter.run)

    def in_thread(self, call: Any) -> asyncio.Future[Any]:
        """A call of ClickHouse."""
        return self.line.trip(call)

    def begin(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> asyncio.Task[Any]:
        """A task of this process; whatever it raises ends the process."""
        return self.world.loop.create_task(self._guard(work, *arguments), context=self._context)

    async def _guard(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            await work(*arguments)
        except KafkaError:
            self.world.kill(self)
        except Exception as error:  # noqa: BLE001 - the world tells it, with its seed
            self.world.fail(error)

    def end(self) -> float:
        """The process is no more; gives the time up to which something of it may still arrive."""
        self.is_dead = True
        for task in self.tasks:
            task.cancel()
        return self.line.cut()

    # What the meter asks.

    async def _owns(self, delicacy: int = ASKING) -> bool:
        generation = self.generation
        answer: bool = await self.line.trip(
            lambda: self._broker.is_member(self, generation), delicacy=delicacy
        )
        return answer

    async def _commit(self) -> None:
        offsets = {partition: self.book._new_offset(partition) for partition in list(self.book._handed_out)}
        said = {partition: offset for partition, offset in offsets.items() if offset is not None}
        generation = self.generation
        await self.line.trip(lambda: self._broker.commit(self, generation, said), "commit")

    # What the group says.

    def on_revoked(self) -> None:
        """All partitions are taken away, as at every rebalance."""
        self._assignments += 1
        for changelog in self.changelogs:
            changelog.owned.clear()
        self.meter.revoke(set(range(len(self._broker.logs))))
        for task in self._reading:
            # An agent is cancelled, or goes on until it sees that its chunk is of another generation.
            if self.world.chance.random() < 0.5:
                task.cancel()
        self._reading = []

    def on_assigned(self, partitions: set[int], generation: int) -> None:
        """Partitions are given in a new generation."""
        self._assignments += 1
        self.generation = generation
        self.begin(self._take_up, frozenset(partitions), self._assignments)

    async def _take_up(self, partitions: frozenset[int], assignment: int) -> None:
        """What recovery does, each step only if no other rebalance has begun."""
        async with self._recovering:
            await self._recover(partitions, assignment)
            if self._assignments != assignment:
                return
            for changelog in self.changelogs:
                changelog.owned = {partition: object() for partition in partitions}
                changelog.readable = partitions
            offsets = await self.line.trip(lambda: list(self._broker.committed))
            while self._assignments == assignment and not await self._owns(delicacy=1):  # noqa: ASYNC110 - as recovery does
                await asyncio.sleep(0.2)
            if self._assignments != assignment:
                return
            for partition in sorted(partitions):
                identities = self.meter_tables.identities.items(partition)
                self.world.check_identities(partition, [delta for _, delta in identities])
                self.book.begin(partition, offsets[partition])
                self._reads_from[partition] = offsets[partition]
                self._reading.append(self.begin(self._read, partition, offsets[partition], self.generation))

    async def _recover(self, partitions: frozenset[int], assignment: int) -> None:
        for changelog in self.changelogs:
            changelog.readable = frozenset()
            for partition in changelog.data.opened() - partitions:
                changelog.data.close_partition(partition)
        replays = {
            (changelog, partition): await self._open(changelog, partition)
            for changelog in self.changelogs
            for partition in sorted(partitions)
        }
        for changelogs in reading_passes(self.changelogs):
            for (changelog, partition), replay in replays.items():
                if changelog in changelogs:
                    await self._catch_up(changelog, partition, replay, assignment)
        for (changelog, partition), replay in replays.items():
            if self._assignments == assignment:
                await self._repeat_winners(changelog, partition, replay)

    async def _open(self, changelog: Changelog, partition: int) -> PartitionReplay:
        topic = self._broker.topic(changelog.changelog_topic_name, partition)
        bounds = await self.line.trip(lambda: Bounds(0, topic.end, b"topic id"))
        trusted_position(changelog.data, partition, bounds)
        return PartitionReplay(changelog.data, partition, keys_follow_log=changelog.keys_follow_log)

    async def _catch_up(
        self, changelog: Changelog, partition: int, replay: PartitionReplay, assignment: int
    ) -> None:
        """Reads a changelog from where the store is to its end, unless another rebalance has begun."""
        topic = self._broker.topic(changelog.changelog_topic_name, partition)
        while self._assignments == assignment:
            next_offset = changelog.data.position_of(partition).next_offset
            most = self.world.chance.choice((1, 3, 100))
            records = await self.line.trip(lambda: topic.read(next_offset, most))  # noqa: B023 - awaited at once
            if not records:
                return
            replay.take(records)

    async def _repeat_winners(self, changelog: Changelog, partition: int, replay: PartitionReplay) -> None:
        """Writes winners behind losers; what was read may be compacted then."""
        end = changelog.data.position_of(partition).next_offset
        winners = replay.winners_to_repeat()
        if winners:
            repeated = ((key, value, applied) for key, (value, applied) in winners.items())
            replay.repeated(winners.keys(), await changelog.send(partition, repeated))
        if self.world.chance.random() < self.world.compaction and not self.is_dead:
            self._broker.topic(changelog.changelog_topic_name, partition).compact(end)

    # The log.

    async def _read(self, partition: int, position: int, generation: int) -> None:
        """Chunks of any size, each as soon as the one before has been taken."""
        world, log = self.world, self._broker.logs[partition]
        while generation == self.generation:
            await asyncio.sleep(world.chance.random() * world.fetch_seconds)
            while position >= len(log):
                await world.growth[partition].wait()
            records = log[position : position + world.chance.randint(1, world.chunk_records)]
            chunk: Any = Chunk(list(records), position, 0, generation)
            if generation == self.generation:
                self.book._book(partition, chunk)
            position = chunk.last_offset + 1
            await self.meter.take(Event(chunk, partition, self), partition)
