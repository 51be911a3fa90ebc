"""Chunks into folds: which of them this worker may fold, with what is stored of their messages.

Takes chunks of the partitions it owns; gives the folds, which the epochs are taken from. Never writes anything: what a
fold has decided counts for nothing until an epoch has carried it out.

Invariants:
- a chunk is folded by the worker that owns its partition, in the generation of the group in which it was fetched, and
  only with tables that are recovered; what was fetched before a rebalance is passed over, because the partition's
  owner, perhaps this worker again, reads it anew from the committed offset;
- a generation's chunks are folded without a hole from the offset on at which its reading began. Behind a hole,
  accounts would be kept as applied, and the hole's records never be counted;
- a revoked partition's fold is dropped with all that it knows; its successor folds the same records again.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from pipeline.core.admission import Admitted
from pipeline.core.identity_deltas import StoredCharge
from pipeline.core.outcomes import Document
from pipeline.core.process import PartitionFold, Stored
from pipeline.core.refunds import StoredMessage
from pipeline.core.rules import Rules
from pipeline.stream import storing
from pipeline.stream.cutter import LogHoleError
from pipeline.stream.partitions import ChunkEvent, OwnedPartition, Tables
from pipeline.stream.until_stored import UntilStored

_APART_BYTES = 1 << 20
"""Of a partition's identities: what takes longer than some 10 ms to take up is not taken up in the event loop."""


class Folding:
    """The folds of this worker's partitions."""

    def __init__(
        self,
        rules: Rules,
        tables: Tables,
        until_stored: UntilStored,
        generation: Callable[[], int],
        reads_from: Callable[[int], int],
    ) -> None:
        """`generation` gives the group's generation as this worker knows it.

        `reads_from` gives the offset at which the reading of a partition began in it: the committed one, or the
        first of the log.
        """
        self._rules = rules
        self._tables = tables
        self._until_stored = until_stored
        self._generation = generation
        self._reads_from = reads_from
        self.partitions: dict[int, OwnedPartition] = {}
        """Those taken up, by number."""
        self._taking_up = asyncio.Lock()
        self._is_ended = False

    async def fold(self, event: ChunkEvent, partition: int) -> list[Document] | None:
        """Folds one chunk; gives the results of its commands, or None where it is not this worker's to fold.

        Nothing is waited for after its records were folded. Raises LogHoleError for a chunk that does not follow.
        """
        chunk = event.value
        owned = await self._owned(partition, chunk.generation_id)
        if owned is None:
            return None
        if chunk.start_offset > owned.folded_offset + 1:
            raise LogHoleError(
                f"partition {partition}: offsets {owned.folded_offset + 1} to {chunk.start_offset - 1} are missing"
            )
        records, first_offset = chunk.records, self._rules.era.first_offset(partition)
        if chunk.start_offset < first_offset:
            # The group's offsets were forgotten, and the log is read again; these were folded in the era before.
            records = [record for record in records if record.offset >= first_offset]
        admitted = owned.fold.admit(records)
        stored = await self._look_up(owned, admitted)
        if stored is None:
            return (
                None  # Revoked or leaving while it waited: whoever owns the partition next folds this chunk.
            )
        owned.fold.fold(admitted, stored)
        owned.fold.applied(chunk.last_offset)
        owned.events.append(event)
        owned.folded_offset = chunk.last_offset
        owned.last_received_at = chunk.records[-1].timestamp
        results, owned.fold.outcomes.results = owned.fold.outcomes.results, []
        return results

    def revoke(self, partitions: set[int]) -> None:
        """Drops the folds of partitions that are somebody else's now."""
        for partition in partitions:
            self.partitions.pop(partition, None)

    def end(self) -> None:
        """Folds nothing from now on."""
        self._is_ended = True

    def holds(self, owned: OwnedPartition) -> bool:
        """Whether this is still the partition's fold, and not one from before a revocation."""
        return self.partitions.get(owned.fold.partition) is owned

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
        while not self._is_ended and self.holds(owned):
            missing = [each for each in fold.look_ups(admitted) if each not in asked_charges]
            refundable = [each for each in fold.refund_look_ups(admitted) if each not in asked_messages]
            if not missing and not refundable:
                return Stored(charges, messages)
            if missing:
                charges |= await self._until_stored(partial(storing.look_up, keys=missing))
                asked_charges.update(missing)
            if refundable:
                messages |= await self._until_stored(partial(storing.look_up_messages, keys=refundable))
                asked_messages.update(refundable)
        return None

    async def _owned(self, partition: int, generation_id: int) -> OwnedPartition | None:
        """The partition's fold in this generation of the group, taken up from its tables if it is new.

        None where the partition is not ours any more, or not yet.
        """
        if not self._may_fold(partition, generation_id):
            return None
        owned = self.partitions.get(partition)
        if owned is not None and owned.generation_id == generation_id:
            return owned
        # One after the other: what was read of a partition and not yet taken up is memory.
        async with self._taking_up:
            if not self._may_fold(partition, generation_id):
                return None
            fold = await self._take_up(partition)
        if not self._may_fold(partition, generation_id):
            return None  # Lost meanwhile; whoever has it now takes it up anew.
        owned = self.partitions[partition] = OwnedPartition(
            fold, generation_id, self._reads_from(partition) - 1
        )
        return owned

    def _may_fold(self, partition: int, generation_id: int) -> bool:
        """Whether a partition is ours in this generation.

        Its tables must be owned, not only readable, because between a revocation and the next assignment they still
        show the last checkpoint.
        """
        return (
            not self._is_ended and generation_id == self._generation() and self._tables.are_owned(partition)
        )

    async def _take_up(self, partition: int) -> PartitionFold:
        tables = self._tables
        deltas = [value for _, value in tables.identities.items(partition)]
        make = partial(
            PartitionFold,
            partition,
            self._rules,
            lambda key: tables.accounts.get(partition, key),
            lambda key: tables.windows.get(partition, key),
            deltas,
            [key for key, _ in tables.windows.items(partition)],
        )
        if sum(map(len, deltas)) < _APART_BYTES:
            return make()
        # Another thread shares the interpreter every few milliseconds, so the loop goes on, if at half the speed.
        return await asyncio.to_thread(make)
