"""Epochs and checkpoints: the order in which what was folded becomes true outside.

`Meter` owns the folds of this worker's partitions. Agents hand it chunks; it folds them and, every N rows or T
milliseconds, closes an *epoch* of all partitions at once, so one insert carries them all. Every few epochs it
is also a *checkpoint*. The order is the proof that nothing is lost or counted twice:

1. facts, the ledger's entries and the marks of contacts are stored;
2. alerts, recharges, refusals and forwards are written to Kafka, and these and all results of the epoch's commands
   are acknowledged by the broker;
3. at a checkpoint: usage windows and account snapshots, which are absolute, are stored;
4. at a checkpoint: tables are written, identities and windows first, accounts last, each acknowledged;
5. at a checkpoint: the chunks are acknowledged in order, and Faust is asked to commit their offsets.

A crash anywhere replays from the committed offset. Steps 1 to 3 replace themselves; of 4 each value knows the
offset it has applied, and as accounts come last, an account that has seen a record proves that identities and
windows have. An epoch ends in each partition at the same offset in outcomes and in state, because both are taken in
one step of the event loop; folding goes on between partitions and afterwards, one epoch ahead at the most.

Results do not wait for step 1: they are sent as soon as their chunk is folded, because whoever sent the command
waits, and an insert takes longer than folding. That is safe, since a result is a function of the log alone, as the
account that answers is: whatever is lost after it was sent, the same record folded again by whomever gives the same
result under the same command id. And none is lost: an account in the tables no longer answers what it has applied,
but step 4 comes after the acknowledgement of step 2, and until then the command is folded again.

A revoked partition's fold is dropped; its successor folds the same records again. When ClickHouse is away the
epoch stays open for as long as it takes: folding stops one epoch ahead, queues fill, fetching pauses, and the
group's heartbeats, which are another thread's, go on.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from clickhouse_connect.driver.client import Client

from pipeline import metrics
from pipeline.clickhouse.client import Table
from pipeline.clickhouse.facts import fact_columns
from pipeline.clickhouse.snapshots import ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.admission import Admitted
from pipeline.core.identity_deltas import StoredCharge
from pipeline.core.outcomes import Fact, Outcomes
from pipeline.core.process import PartitionFold, StateChanges, Stored
from pipeline.core.refunds import StoredMessage
from pipeline.core.rules import Rules
from pipeline.settings import Settings
from pipeline.stream import storing
from pipeline.stream.figures import observe_epoch, observe_results, tell_unstorable
from pipeline.stream.partitions import ChunkEvent, OwnedPartition, Tables
from pipeline.stream.pieces import leave_room, snapshots_by_partition
from pipeline.stream.publishing import answers, publications, publish
from pipeline.stream.tables import NotOwnedError
from pipeline.stream.until_stored import UntilStored

_log = logging.getLogger(__name__)

_Columns = list[list[Any]]
_OWNERSHIP_RETRY_SECONDS = 0.5


@dataclass
class Epoch:
    """What was taken from the folds at one moment."""

    outcomes: dict[int, Outcomes]
    """By partition."""
    state: list[tuple[OwnedPartition, StateChanges, list[ChunkEvent]]]
    """At a checkpoint: changes and the chunks they cover."""
    answered: list[asyncio.Task[None]]
    """Results on their way to the broker."""

    @property
    def facts(self) -> list[Fact]:
        """All partitions' facts."""
        return [fact for outcomes in self.outcomes.values() for fact in outcomes.facts]


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
    ) -> None:
        """`owns` asks the group whether this worker's assignment still holds; `commit` commits what is acked.

        `generation` gives the group's generation as this worker knows it.
        """
        self._settings = settings
        self._rules = rules
        self._tables = tables
        self._connect = connect
        self._client: Client | None = None
        self._producer = producer
        self._owns = owns
        self._commit = commit
        self._generation = generation
        self._until_stored = UntilStored()
        self._tokens = storing.Tokens()
        self.partitions: dict[int, OwnedPartition] = {}
        self._answered: list[asyncio.Task[None]] = []
        self._rows = 0
        self._rows_since_checkpoint = 0
        self._checkpoint_at = time.monotonic()
        self._opened_at = 0.0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = asyncio.Lock()
        self._stopping = False

    # Chunks in.

    async def take(self, event: ChunkEvent, partition: int) -> None:
        """Folds one chunk; waits while a whole epoch is ahead of the one being stored.

        A chunk that was fetched before the last rebalance is passed over: its partition's owner, perhaps this
        worker again, reads it anew from the committed offset.
        """
        chunk = event.value
        # One chunk per turn of the event loop: queues that are never empty would else let all partitions fold one
        # after the other without a pause, seconds in which no epoch is closed and the watchdog sees a stalled loop.
        async with self._turn:
            await self._room.wait()
            await asyncio.sleep(0)
        owned = self._owned(partition, chunk.generation_id, chunk.start_offset)
        if owned is None:
            return
        # Behind a hole, accounts would be kept as applied, and the hole's records never be counted.
        expected_offset = owned.folded_offset + 1
        assert chunk.start_offset <= expected_offset, (
            f"{partition}: {expected_offset} to {chunk.start_offset} missing"
        )
        admitted = owned.fold.admit(chunk.records)
        stored = await self._look_up(owned, admitted)
        if stored is None:
            return  # Revoked or leaving while it waited: whoever owns the partition next folds this chunk.
        owned.fold.fold(admitted, stored)
        owned.fold.applied(chunk.last_offset)
        owned.events.append(event)
        owned.folded_offset = chunk.last_offset
        owned.last_received_at = chunk.records[-1].timestamp
        self._answer(owned.fold)
        self._count(len(chunk.records))
        chunk.release()

    def _answer(self, fold: PartitionFold) -> None:
        """Sends the results of the chunk just folded; the epoch waits for the broker to have them."""
        results, fold.outcomes.results = fold.outcomes.results, []
        if results:
            observe_results(results)
            records = answers(results, self._settings.partitions)
            self._answered.append(asyncio.create_task(publish(self._producer(), records)))

    async def _look_up(self, owned: OwnedPartition, admitted: Sequence[Admitted]) -> Stored | None:
        """What is stored of the identities that the fold no longer holds, and of messages that may be refunded.

        Asked again until nothing is new: while one answer is awaited, a checkpoint may let go of more of them, and
        an epoch of what was charged recently. Returns without a pause after the last question, so that the fold
        still holds what was not asked for. None when the partition was lost, or is being left, meanwhile: its
        accounts, which the questions depend on, cannot be read any more.
        """
        fold = owned.fold
        charges: dict[bytes, StoredCharge] = {}
        messages: dict[bytes, StoredMessage] = {}
        asked_charges: set[tuple[str, bytes]] = set()
        asked_messages: set[tuple[str, bytes]] = set()
        while not self._stopping and self.partitions.get(fold.partition) is owned:
            missing = [each for each in fold.look_ups(admitted) if each not in asked_charges]
            refundable = [each for each in fold.refund_look_ups(admitted) if each not in asked_messages]
            if not missing and not refundable:
                return Stored(charges, messages)
            if missing:
                charges |= await self._until_stored(partial(self._stored_charges, missing))
                asked_charges.update(missing)
            if refundable:
                messages |= await self._until_stored(partial(self._stored_messages, refundable))
                asked_messages.update(refundable)
        return None

    def _stored_charges(self, keys: Sequence[tuple[str, bytes]]) -> Mapping[bytes, StoredCharge]:
        return storing.look_up(self._clickhouse(), keys)

    def _stored_messages(self, keys: Sequence[tuple[str, bytes]]) -> Mapping[bytes, StoredMessage]:
        return storing.look_up_messages(self._clickhouse(), keys)

    def _owned(self, partition: int, generation_id: int, start_offset: int) -> OwnedPartition | None:
        """The partition's fold in this generation of the group, taken up from its tables if it is new.

        None where the partition is not ours any more, or not yet: its tables must be owned, not only readable,
        because between a revocation and the next assignment they still show the last checkpoint.
        """
        if self._stopping or generation_id != self._generation() or not self._tables.are_owned(partition):
            return None
        owned = self.partitions.get(partition)
        if owned is None or owned.generation_id != generation_id:
            tables = self._tables
            fold = PartitionFold(
                partition,
                self._rules,
                lambda key: tables.accounts.get(partition, key),
                lambda key: tables.windows.get(partition, key),
                [value for _, value in tables.identities.items(partition)],
                [key for key, _ in tables.windows.items(partition)],
            )
            owned = self.partitions[partition] = OwnedPartition(fold, generation_id, start_offset - 1)
        return owned

    def _count(self, rows: int) -> None:
        if not self._rows:
            # A first row starts the epoch's time.
            self._opened_at = time.monotonic()
            self._wake.set()
        self._rows += rows
        if self._rows >= self._settings.epoch_rows:
            self._room.clear()
            self._wake.set()

    def revoke(self, partitions: set[int]) -> None:
        """Drops the folds of partitions that are somebody else's now."""
        for partition in partitions:
            self.partitions.pop(partition, None)

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
        self._wake.set()
        await self.close_epoch(checkpoint=True)

    async def _until_due(self) -> None:
        """Returns when the open epoch is full or old enough, or a checkpoint is due."""
        while not self._stopping:
            if self._rows >= self._settings.epoch_rows:
                return
            now = time.monotonic()
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
        age_seconds = time.monotonic() - self._checkpoint_at
        rows = self._rows_since_checkpoint + self._rows
        return (
            rows >= self._settings.checkpoint_rows
            or age_seconds * 1000 >= self._settings.checkpoint_milliseconds
        )

    async def close_epoch(self, *, checkpoint: bool) -> None:
        """Takes what the folds decided and carries it out, steps 1 to 5."""
        async with self._closing:
            epoch = await self._take(checkpoint=checkpoint)
            started_at = time.monotonic()
            await self._store(epoch)
            records = [
                record
                for outcomes in epoch.outcomes.values()
                for record in publications(outcomes, self._settings.partitions)
            ]
            await asyncio.gather(publish(self._producer(), records), *epoch.answered)
            observe_epoch(epoch.outcomes.values(), time.monotonic() - started_at)
            if checkpoint:
                started_at = time.monotonic()
                await self._keep(epoch)
                metrics.CHECKPOINT_SECONDS.observe(time.monotonic() - started_at)

    async def _take(self, *, checkpoint: bool) -> Epoch:
        """Outcomes and state of all partitions, each partition's in one step of the event loop.

        Not all in one: the state of a checkpoint takes some 10 us a changed account, and results would stand
        still for half a second. Partitions share nothing, so none minds where another one ends.
        """
        # What is folded while the others are taken counts for the next epoch, though some of it is in this one.
        rows, self._rows = self._rows, 0
        self._rows_since_checkpoint = 0 if checkpoint else self._rows_since_checkpoint + rows
        if checkpoint:
            self._checkpoint_at = time.monotonic()
        self._room.set()
        outcomes, state = {}, []
        for number, owned in list(self.partitions.items()):
            if self.partitions.get(number) is not owned:
                continue  # Revoked meanwhile.
            began_at = time.monotonic()
            outcomes[number] = owned.fold.take_outcomes()
            if checkpoint and owned.events:
                state.append((owned, owned.fold.checkpoint(), list(owned.events)))
                owned.events.clear()
                await leave_room(began_at)
        answered, self._answered = self._answered, []
        return Epoch(outcomes, state, answered)

    async def _store(self, epoch: Epoch) -> None:
        """Step 1, and what is derived from stored facts alone."""
        facts = epoch.facts
        if facts:
            token = self._tokens.next()
            columns = fact_columns(facts)
            unstorable = await self._until_stored(
                lambda: storing.insert_facts(self._clickhouse(), columns, token)
            )
            for index in unstorable:
                refusal = storing.unstorable_refusal(facts[index])
                epoch.outcomes[refusal["partition"]].refusals.append(refusal)
        entries = [
            (partition, tenant, entry)
            for partition, outcomes in epoch.outcomes.items()
            for tenant, entry in outcomes.entries
        ]
        alerts = [alert for outcomes in epoch.outcomes.values() for alert in outcomes.alerts]
        marks = [mark for outcomes in epoch.outcomes.values() for mark in outcomes.contacts]
        await self._insert(ENTRIES, storing.entry_columns(entries))
        await self._insert(CONTACTS, storing.contact_columns(marks))
        await self._insert(ALERTS, storing.alert_columns(alerts))
        recomputed = {
            window: offset
            for outcomes in epoch.outcomes.values()
            for window, offset in outcomes.recomputed.items()
        }
        if recomputed:
            columns = await self._until_stored(lambda: storing.recompute(self._clickhouse(), recomputed))
            await self._insert(USAGE, columns)

    async def _keep(self, epoch: Epoch) -> None:
        """Steps 3 to 5 for the partitions that are still ours."""
        kept = [(owned.fold.partition, changes) for owned, changes, _ in epoch.state]
        snapshots = await snapshots_by_partition(kept, self._rules.plan_at)
        for table, columns in snapshots:
            await self._insert(table, columns)
        while not await self._owns():
            # The folds have let go of these changes: they are written, or the partitions are lost to others.
            if not any(self.partitions.get(owned.fold.partition) is owned for owned, _, _ in epoch.state):
                return
            await asyncio.sleep(_OWNERSHIP_RETRY_SECONDS)
        for owned, changes, events in epoch.state:
            partition = owned.fold.partition
            if self.partitions.get(partition) is not owned:
                continue
            try:
                await self._write(partition, changes)
            except NotOwnedError as error:
                _log.warning("checkpoint of partition %d dropped: %s", partition, error)
                continue
            for event in events:
                event.ack()
            owned.acknowledged_offset = changes.applied_offset
        await self._commit()

    async def _write(self, partition: int, changes: StateChanges) -> None:
        """Step 4: what accounts lean on first."""
        applied, tables = changes.applied_offset + 1, self._tables
        await asyncio.gather(
            tables.identities.write(partition, changes.identities, applied_offset=applied),
            tables.windows.write(partition, changes.windows, applied_offset=applied),
        )
        await tables.accounts.write(partition, changes.accounts, applied_offset=applied)

    # ClickHouse.

    def _clickhouse(self) -> Client:
        if self._client is None:
            self._client = self._connect()
        return self._client

    async def _insert(self, table: Table, columns: _Columns) -> None:
        if columns and columns[0]:
            token = self._tokens.next()
            unstorable = await self._until_stored(
                lambda: storing.insert_rows(self._clickhouse(), table, columns, token)
            )
            tell_unstorable(table.name, unstorable)
