"""Closing an epoch: the order in which what was folded becomes true outside.

Takes what was taken from the folds at one moment; carries it out. The order is the proof that nothing is lost or
counted twice:

1. facts, the ledger's entries and the marks of contacts are stored;
2. alerts, recharges, refusals and forwards are written to Kafka, and these and all results of the epoch's commands
   are acknowledged by the broker;
3. at a checkpoint: usage windows and account snapshots, which are absolute, are stored;
4. at a checkpoint: tables are written, identities and windows first, accounts last, each acknowledged;
5. at a checkpoint: the chunks are acknowledged in order, and Faust is asked to commit their offsets.

Before step 4 the group is asked whether the partitions are still ours. That keeps a worker that has lost them from
writing for long: recovery takes the highest applied offset of each key, so its values would do no harm, as long as
compaction and the end of tombstones are further away than they come late.

A crash anywhere replays from the committed offset. Steps 1 to 3 replace themselves; of 4 each value knows the
offset it has applied, and as accounts come last, an account that has seen a record proves that identities and
windows have.

Results do not wait for step 1: they are sent as soon as their chunk is folded, because whoever sent the command
waits, and an insert takes longer than folding. That is safe, since a result is a function of the log alone, as the
account that answers is: whatever is lost after it was sent, the same record folded again by whomever gives the same
result under the same command id. And none is lost: an account in the tables no longer answers what it has applied,
but step 4 comes after the acknowledgement of step 2, and until then the command is folded again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from pipeline.clickhouse.client import Table
from pipeline.clickhouse.facts import FACTS, fact_columns
from pipeline.clickhouse.snapshots import ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.outcomes import Fact, Outcomes
from pipeline.core.process import StateChanges
from pipeline.core.rules import Rules
from pipeline.metrics import worker as metrics
from pipeline.stream import storing
from pipeline.stream.figures import observe_epoch, tell_unstorable
from pipeline.stream.log_lines import tell_checkpoint, tell_epoch
from pipeline.stream.partitions import ChunkEvent, OwnedPartition, Tables
from pipeline.stream.pieces import snapshots_by_partition
from pipeline.stream.publishing import publications, publish
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
    """Changes and the chunks they cover; none where it is no checkpoint."""
    answered: list[asyncio.Task[None]]
    """Results on their way to the broker."""
    is_checkpoint: bool
    opened_at: float | None
    """When the first of its records was folded, in monotonic seconds; none where it has no record."""
    spans: dict[int, tuple[int, int]]
    """By partition the positions of its first and last record."""

    @property
    def facts(self) -> list[Fact]:
        """All partitions' facts."""
        return [fact for outcomes in self.outcomes.values() for fact in outcomes.facts]


class Closing:
    """Carries epochs out, one at a time."""

    def __init__(
        self,
        rules: Rules,
        tables: Tables,
        until_stored: UntilStored,
        producer: Callable[[], Any],
        owns: Callable[[], Awaitable[bool]],
        commit: Callable[[], Awaitable[object]],
        holds: Callable[[OwnedPartition], bool],
        clock: Callable[[], float],
    ) -> None:
        """`owns` asks the group whether this worker's assignment still holds; `commit` commits what is acked.

        `holds` tells whether a partition was neither revoked nor assigned anew meanwhile; `clock` gives monotonic
        seconds.
        """
        self._rules = rules
        self._tables = tables
        self._until_stored = until_stored
        self._producer = producer
        self._owns = owns
        self._commit = commit
        self._holds = holds
        self._clock = clock
        self._tokens = storing.Tokens()
        self._numbers = count(1)
        self.unstored_since: float | None = None
        """When the epoch was opened that is being stored or published; none where none is."""

    async def carry_out(self, epoch: Epoch) -> None:
        """Steps 1 to 5; raises what will not pass by itself, after which nothing more of it is to be carried out."""
        began_at = self._clock()
        self.unstored_since = epoch.opened_at
        await self._store(epoch)
        await self._publish(epoch)
        self.unstored_since = None
        observe_epoch(epoch.outcomes.values(), self._clock() - began_at)
        number, rows = next(self._numbers), sum(len(each.facts) for each in epoch.outcomes.values())
        tell_epoch(number, rows, epoch.spans, self._clock() - began_at)
        if epoch.is_checkpoint:
            began_at = self._clock()
            await self._keep(epoch)
            seconds = self._clock() - began_at
            metrics.CHECKPOINT_SECONDS.observe(seconds)
            tell_checkpoint(number, len(epoch.state), seconds)

    async def _store(self, epoch: Epoch) -> None:
        """Step 1, and what is derived from stored facts alone."""
        facts = epoch.facts
        if facts:
            call = partial(storing.insert_facts, columns=fact_columns(facts), token=self._tokens.next())
            for index in await self._until_stored(call, into=FACTS.name):
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
            columns = await self._until_stored(partial(storing.recompute, windows=recomputed))
            await self._insert(USAGE, columns)

    async def _publish(self, epoch: Epoch) -> None:
        """Step 2."""
        records = [
            record
            for outcomes in epoch.outcomes.values()
            for record in publications(outcomes, self._rules.partitions)
        ]
        await asyncio.gather(publish(self._producer(), records), *epoch.answered)

    async def _keep(self, epoch: Epoch) -> None:
        """Steps 3 to 5 for the partitions that are still ours."""
        kept = [(owned.fold.partition, changes) for owned, changes, _ in epoch.state]
        snapshots = await snapshots_by_partition(kept, self._rules.plan_at, self._clock)
        for table, columns in snapshots:
            await self._insert(table, columns)
        while not await self._owns():
            # The folds have let go of these changes: they are written, or the partitions are lost to others.
            if not any(self._holds(owned) for owned, _, _ in epoch.state):
                return
            await asyncio.sleep(_OWNERSHIP_RETRY_SECONDS)
        for owned, changes, events in epoch.state:
            partition = owned.fold.partition
            if not self._holds(owned):
                continue
            try:
                await self._write(partition, changes)
            except NotOwnedError as error:
                _log.warning("checkpoint of partition %d dropped: %s", partition, error)
                continue
            for event in events:
                event.ack()
            owned.acknowledged_offset = events[-1].value.last_offset
        await self._commit()
        metrics.LAST_CHECKPOINT.set_to_current_time()

    async def _write(self, partition: int, changes: StateChanges) -> None:
        """Step 4: what accounts lean on first."""
        applied, tables = changes.applied_offset + 1, self._tables
        await asyncio.gather(
            tables.identities.write(partition, changes.identities, applied_offset=applied),
            tables.windows.write(partition, changes.windows, applied_offset=applied),
        )
        await tables.accounts.write(partition, changes.accounts, applied_offset=applied)

    async def _insert(self, table: Table, columns: _Columns) -> None:
        if columns and columns[0]:
            call = partial(storing.insert_rows, table=table, columns=columns, token=self._tokens.next())
            tell_unstorable(table.name, await self._until_stored(call, into=table.name))
