"""Epochs and checkpoints: when what was folded is carried out.

`Meter` takes the chunks that agents hand it to their folds (`folding.py`) and, every N rows or T milliseconds, closes
an *epoch* of all partitions at once, so one insert carries them all (`closing.py`). Every few epochs it is also a
*checkpoint*. It decides when, and keeps folding and closing apart; what counts, and in which order, is theirs.

An epoch ends in each partition at the same offset in outcomes and in state, because both are taken in one step of the
event loop; folding goes on between partitions and afterwards, one epoch ahead at the most.

When ClickHouse is away the epoch stays open for as long as it takes: folding stops one epoch ahead, queues fill,
fetching pauses, and the group's heartbeats, which are another thread's, go on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from clickhouse_connect.driver.client import Client

from pipeline.core.outcomes import Document
from pipeline.core.rules import Rules
from pipeline.settings import Settings
from pipeline.stream.closing import Closing, Epoch
from pipeline.stream.figures import observe_results
from pipeline.stream.folding import Folding
from pipeline.stream.log_lines import tell_results
from pipeline.stream.partitions import ChunkEvent, Tables
from pipeline.stream.pieces import leave_room
from pipeline.stream.publishing import answers, publish
from pipeline.stream.until_stored import UntilStored


class Meter:
    """Folds this worker's partitions and closes their epochs; one per process."""

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        tables: Tables,
        connect: Callable[[], Client],
        producer: Callable[[], Any],
        owns: Callable[[], Awaitable[bool]],
        commit: Callable[[], Awaitable[object]],
        generation: Callable[[], int],
        reads_from: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`owns` and `commit` are said in `Closing`, `generation` and `reads_from` in `Folding`.

        `clock` gives monotonic seconds; a simulation has its own.
        """
        self._settings = settings
        self._producer = producer
        self._clock = clock
        self._until_stored = UntilStored(connect)
        self._folding = Folding(rules, tables, self._until_stored, generation, reads_from)
        self._closing = Closing(
            rules, tables, self._until_stored, producer, owns, commit, self._folding.holds, clock
        )
        self.partitions = self._folding.partitions
        self._answered: list[asyncio.Task[None]] = []
        self._rows = 0
        self._rows_since_checkpoint = 0
        self._checkpoint_at = clock()
        self._opened_at = 0.0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._one_epoch = asyncio.Lock()
        self._stopping = False

    def figures(self) -> dict[str, float]:
        """What `metrics.STATE` shows of the epochs; asked in another thread."""
        opened = [self._closing.unstored_since, self._opened_at if self._rows else None]
        ages = [self._clock() - each for each in opened if each is not None]
        is_answered = self._until_stored.is_answered
        return {"epoch_open_seconds": max(ages, default=0.0)} | (
            {} if is_answered is None else {"clickhouse_up": float(is_answered)}
        )

    # Chunks in.

    async def take(self, event: ChunkEvent, partition: int) -> None:
        """Folds one chunk; waits while a whole epoch is ahead of the one being stored."""
        # One chunk per turn of the event loop: queues that are never empty would else let all partitions fold one
        # after the other without a pause, seconds in which no epoch is closed and the watchdog sees a stalled loop.
        async with self._turn:
            await self._room.wait()
            await asyncio.sleep(0)
        results = await self._folding.fold(event, partition)
        if results is None:
            return
        self._answer(results)
        self._count(len(event.value.records))
        event.value.release()

    def _answer(self, results: list[Document]) -> None:
        """Sends the results of the chunk just folded; the epoch waits for the broker to have them."""
        if results:
            observe_results(results)
            tell_results(results)
            records = answers(results, self._settings.partitions)
            self._answered.append(asyncio.create_task(publish(self._producer(), records)))

    def _count(self, rows: int) -> None:
        if not self._rows:
            # A first row starts the epoch's time.
            self._opened_at = self._clock()
            self._wake.set()
        self._rows += rows
        if self._rows >= self._settings.epoch_rows:
            self._room.clear()
            self._wake.set()

    def revoke(self, partitions: set[int]) -> None:
        """Drops the folds of partitions that are somebody else's now."""
        self._folding.revoke(partitions)

    # Epochs out.

    async def run(self) -> None:
        """Closes epochs until `stop`; whatever goes wrong and may not pass by itself is raised."""
        while True:
            await self._until_due()
            if self._stopping:
                return  # The last epoch is `stop`'s.
            await self.close_epoch(checkpoint=self._checkpoint_due())

    async def stop(self) -> None:
        """Closes the last epoch with a checkpoint, so that a successor has nothing to replay."""
        self._stopping = True
        self._folding.end()
        self._wake.set()
        await self.close_epoch(checkpoint=True)

    async def _until_due(self) -> None:
        """Returns when the open epoch is full or old enough, or a checkpoint is due."""
        while not self._stopping:
            if self._rows >= self._settings.epoch_rows:
                return
            now = self._clock()
            due_at = self._opened_at + self._settings.epoch_milliseconds / 1000 if self._rows else None
            if self._rows_since_checkpoint:
                checkpoint_at = self._checkpoint_at + self._settings.checkpoint_milliseconds / 1000
                due_at = checkpoint_at if due_at is None else min(due_at, checkpoint_at)
            if due_at is not None and due_at <= now:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(None if due_at is None else due_at - now):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _checkpoint_due(self) -> bool:
        age_seconds = self._clock() - self._checkpoint_at
        rows = self._rows_since_checkpoint + self._rows
        return (
            rows >= self._settings.checkpoint_rows
            or age_seconds * 1000 >= self._settings.checkpoint_milliseconds
        )

    async def close_epoch(self, *, checkpoint: bool) -> None:
        """Takes what the folds decided and carries it out."""
        async with self._one_epoch:
            await self._closing.carry_out(await self._take(checkpoint=checkpoint))

    async def _take(self, *, checkpoint: bool) -> Epoch:
        """Outcomes and state of all partitions, each partition's in one step of the event loop.

        Not all in one: the state of a checkpoint takes some 10 us a changed account, and results would stand
        still for half a second. Partitions share nothing, so none minds where another one ends.
        """
        # What is folded while the others are taken counts for the next epoch, though some of it is in this one.
        rows, self._rows = self._rows, 0
        opened_at = self._opened_at if rows else None
        self._rows_since_checkpoint = 0 if checkpoint else self._rows_since_checkpoint + rows
        if checkpoint:
            self._checkpoint_at = self._clock()
        self._room.set()
        outcomes, state, spans = {}, [], {}
        for number, owned in list(self.partitions.items()):
            if not self._folding.holds(owned):
                continue  # Revoked meanwhile.
            began_at = self._clock()
            outcomes[number] = owned.fold.take_outcomes()
            if span := owned.take_span():
                spans[number] = span
            if checkpoint and owned.events:
                state.append((owned, owned.fold.checkpoint(), list(owned.events)))
                owned.events.clear()
                await leave_room(self._clock() - began_at)
        answered, self._answered = self._answered, []
        return Epoch(outcomes, state, answered, checkpoint, opened_at, spans)
