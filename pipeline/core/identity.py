"""Which records are about the same message, and which of them charges it.

Identity is (tenant, source, id), never with a time in it: a retry with a new time stamp is still the same
message. An `IdentityIndex` is the memory of one partition. It holds

- *charged* identities, compactly: 128-bit key, offset of the charging record, set of statuses seen,
  fingerprint of the immutable fields: 28 bytes and an index slot each;
- *pending* ones: messages no billable status was seen of, or whose content (body or segment count) is
  still missing. They carry a `Draft`, because a later receipt has no body to count.

Invariants
- A message is charged by the first record after which a billable status *and* its content have been seen:
  once, whatever the order of its statuses.
- What the index answers for a record is a function of the log up to that record. Charged identities may be
  evicted at any time after their rows are stored, because the same answer is then found there
  (`occurred_at <= horizon_at` says when to look).
- For a record at or below `applied_offset` (a replay after a crash) the index changes nothing and answers as it
  did then: the record charges iff it is the charging record, and refunds iff `refunded` has its offset.

It is persisted as deltas, each one value with its own applied offset, so each is a valid state by itself:
an open delta is rewritten at every checkpoint until it is large, then sealed.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from struct import Struct as Layout

from pipeline.core.identity_deltas import (
    NEVER_AT,
    Draft,
    IdentityDelta,
    KeptDelta,
    Span,
    delta_key,
    delta_number,
    drop_obsolete,
    encode_delta,
    take_apart,
)
from pipeline.core.outcomes import Fact

KEY_BYTES = 16
SEALED_WEIGHT = 4096
"""New and changed identities after which a delta is sealed; 4 096 x 28 B is rewritten at most per checkpoint."""
CUT_WEIGHT = 16_384
"""A delta is sealed even between checkpoints at this size, to stay well under the largest Kafka value."""
REFUND_WEIGHT = 16
"""Of a refund's charge, which is some 400 bytes, in units of a charged identity's 28 bytes."""
OPEN_MILLISECONDS = 3_600_000
"""A delta is sealed after this time, so that eviction, which drops whole deltas, stays fine-grained."""


def message_key(tenant: str, source: str, message_id: str) -> bytes:
    """The 128-bit key of an identity; NUL separates, which no field can hold."""
    return blake2b(f"{tenant}\0{source}\0{message_id}".encode(), digest_size=KEY_BYTES).digest()


_halves: Callable[[bytes], tuple[int, int]] = Layout("<QQ").unpack


class IdentityIndex:
    """The identities of one partition; see the module for what it promises."""

    def __init__(
        self, *, hold_milliseconds: int, limit: int, pending_milliseconds: int, pending_limit: int
    ) -> None:
        """Bounds are per partition: charged ones by time and number, pending ones likewise."""
        self.hold_milliseconds = hold_milliseconds
        self.limit = limit
        self.pending_milliseconds = pending_milliseconds
        self.pending_limit = pending_limit
        self.applied_offset = -1
        self.folded_offset = -1
        """Behind `applied_offset` while records are replayed."""
        self.horizon_at = NEVER_AT
        self.pending: dict[bytes, Draft] = {}
        self.charged_drafts: dict[int, Draft] = {}
        self.refunded: dict[int, Fact] = {}
        """By offset of a record that is still to be replayed: the charge that it took back."""
        self._highs = array("Q")
        self._lows = array("Q")
        self._words = array("Q")
        self._fingerprints = array("I")
        self._first = 0  # sequence number of slot 0
        self._live = 0  # slots below this one are evicted, until the next rebuild drops them
        self._spans: deque[Span] = deque()
        self._persisted: deque[KeptDelta] = deque()  # the deltas in the table
        self._kept_offset = -1  # where the checkpoint before ended: a replay begins behind it
        self._sealed: list[tuple[bytes, bytes]] = []
        self._changed: dict[int, int] = {}
        self._pending_changes: dict[bytes, Draft | None] = {}
        self._pending_weight = 0  # of drafts in the open delta, in units of a charged identity's 28 bytes
        self._open_drafts: dict[int, Draft] = {}
        self._open_refunded: dict[int, Fact] = {}
        self._received_until = self._occurred_until = self._occurred_before = NEVER_AT
        self._resize(1024)
        self._open_delta()

    def __len__(self) -> int:
        """How many charged identities are held."""
        return len(self._highs) - self._live

    @property
    def held_bytes(self) -> int:
        """Memory of the charged identities, index included."""
        return len(self._highs) * 28 + self._table.itemsize * len(self._table)

    # Charged identities.

    def find(self, key: bytes) -> int:
        """The slot of a charged identity, or -1."""
        high, low = _halves(key)
        table, mask, lows, live = self._table, self._mask, self._lows, self._live
        at = low & mask
        while slot := table[at]:
            slot -= 1
            if lows[slot] == low and slot >= live and self._highs[slot] == high:
                return slot
            at = (at + 1) & mask
        return -1

    def fingerprint_of(self, slot: int) -> int:
        """The fingerprint of the immutable fields of a charged identity."""
        return self._fingerprints[slot]

    def charged_by(self, slot: int) -> int:
        """The offset of the record that charged it."""
        return self._words[slot] >> 16

    def saw_status(self, slot: int, status_bit: int) -> bool:
        """Adds a status to the set seen; false when it was there before: a duplicate."""
        word = self._words[slot]
        if word & status_bit:
            return False
        self._words[slot] = word | status_bit
        sequence = self._first + slot
        if sequence < self._base:
            self._changed[sequence] = word | status_bit
        return True

    def charge(
        self,
        key: bytes,
        offset: int,
        statuses: int,
        fingerprint: int,
        received_at: int,
        occurred_at: int,
        draft: Draft | None = None,
    ) -> None:
        """Remembers that the record at `offset` charged this identity, and forgets what was pending of it.

        `draft` is what the record was charged with, if it was not charged by itself alone.
        """
        if draft is not None:
            self.charged_drafts[offset] = draft
            self._open_drafts[offset] = draft
        if self.pending and self.pending.pop(key, None) is not None:
            self._pending_changes[key] = None
        slots = len(self._highs) + 1
        if slots * 3 > len(self._table) * 2:
            self._rebuild()
            slots = len(self._highs) + 1
        high, low = _halves(key)
        self._highs.append(high)
        self._lows.append(low)
        self._words.append(offset << 16 | statuses)
        self._fingerprints.append(fingerprint)
        table, mask = self._table, self._mask
        at = low & mask
        while table[at]:
            at = (at + 1) & mask
        table[at] = slots
        if received_at > self._received_until:
            self._received_until = received_at
        if occurred_at > self._occurred_until:
            self._occurred_until = occurred_at

    def refund(self, offset: int, charge: Fact) -> None:
        """Remembers that the record at `offset` took back this charge, for a replay of it."""
        self._open_refunded[offset] = charge
        self._pending_weight += REFUND_WEIGHT

    # Pending identities.

    def draft(self, key: bytes, received_at: int) -> Draft | None:
        """What is known of an identity not yet charged; none once it was waited for too long."""
        draft = self.pending.get(key)
        if draft is not None and draft.first_received_at + self.pending_milliseconds <= received_at:
            return None
        return draft

    def keep(self, key: bytes, draft: Draft, received_at: int) -> list[Draft]:
        """Remembers a draft; returns the drafts given up for their age or for room, oldest first.

        The bound is applied here, at a place in the log, and not at a checkpoint: where it falls must not
        depend on how the stream was cut.
        """
        given_up = []
        before = self.pending.get(key)
        if before is not None and before.first_offset != draft.first_offset:
            given_up.append(before)
            del self.pending[key]
        self.pending[key] = draft
        self._pending_changes[key] = draft
        self._pending_weight += 4 + (len(draft.category) + len(draft.list) + len(draft.campaign)) // 7
        if received_at > self._received_until:
            self._received_until = received_at
        given_up += self.give_up(received_at)
        while len(self.pending) > self.pending_limit and (oldest := next(iter(self.pending))) != key:
            given_up.append(self._forget(oldest))
        return given_up

    def give_up(self, now: int) -> list[Draft]:
        """Forgets the drafts that have been waited for long enough; gives them, oldest first."""
        given_up = []
        while self.pending:
            oldest = next(iter(self.pending))
            if self.pending[oldest].first_received_at + self.pending_milliseconds > now:
                break
            given_up.append(self._forget(oldest))
        return given_up

    def _forget(self, key: bytes) -> Draft:
        self._pending_changes[key] = None
        return self.pending.pop(key)

    # Eviction and persistence.

    def evict(self, now: int) -> None:
        """Forgets charged identities past their time or number.

        Only those folded before the checkpoint before: their rows are stored, where `look_ups` find them, and no
        replay comes to their records, which only the index can tell from duplicates.
        """
        while self._spans and self._spans[0].applied_offset <= self._kept_offset:
            span = self._spans[0]
            # A gateway whose clock is ahead must not push the horizon so far that every message is looked up.
            held_until = max(span.received_until, span.occurred_until) + self.hold_milliseconds
            if held_until > now and len(self) <= self.limit:
                break
            self._spans.popleft()
            self._live = span.end - self._first
            self.horizon_at = max(self.horizon_at, span.occurred_until)

    def advance(self, applied_offset: int) -> None:
        """Marks everything up to `applied_offset` as folded; seals a delta that has grown large."""
        self.folded_offset = applied_offset
        if applied_offset <= self.applied_offset:
            return
        self.applied_offset = applied_offset
        if self._weight() >= CUT_WEIGHT:
            self._sealed.append(self._delta())
            self._close()

    def checkpoint(self, now: int) -> dict[bytes, bytes | None]:
        """The deltas to write since the last checkpoint, in order, and the ones that can go.

        What replays of charges and refunds need, they need only up to the commit that follows this checkpoint,
        so the next call drops it.
        """
        changes: dict[bytes, bytes | None] = dict(self._sealed)
        oldest_draft = next(iter(self.pending.values()), None)
        obsolete = drop_obsolete(
            self._persisted,
            first_unwritten=delta_number(self._sealed[0][0]) if self._sealed else self._number,
            kept_offset=self._kept_offset,
            first_live=self._first + self._live,
            first_pending=oldest_draft.first_offset if oldest_draft else self.applied_offset + 1,
            pending_from=now - self.pending_milliseconds,
        )
        self._sealed = []
        # A deletion without the horizon that goes with it would make its messages look new after a restart.
        if self._weight() or obsolete:
            key, value = self._delta()
            changes[key] = value
            self._open_drafts, self._open_refunded = {}, {}
            if self._weight() >= SEALED_WEIGHT or now - self._received_from >= OPEN_MILLISECONDS:
                self._close()
        for replayed in (self.charged_drafts, self.refunded):
            for offset in [offset for offset in replayed if offset <= self.folded_offset]:
                del replayed[offset]
        self._kept_offset = self.folded_offset
        return changes | dict.fromkeys(obsolete)

    def load(self, deltas: Iterable[bytes]) -> None:
        """Takes up the persisted deltas of a partition, in any order, into an empty index."""
        left_over, decoded = take_apart(deltas)
        self._persisted.extend(KeptDelta(each.number, 0, each.applied_offset, 0) for each in left_over)
        for delta in decoded:
            self._load(delta)
        # Changes are taken in the order of the log, which after a worker's pause may not be that of the numbers.
        for delta in sorted(decoded, key=lambda delta: delta.applied_offset):
            self._load_changes(delta)
        self.pending = dict(sorted(self.pending.items(), key=lambda item: item[1].first_offset))
        self._resize(_table_size(len(self._highs)))
        self._open_delta()

    def _load(self, delta: IdentityDelta) -> None:
        if not self._highs:
            self._first = delta.base
            self.horizon_at = max(self.horizon_at, delta.occurred_before)
        columns = (self._highs, self._lows, self._words, self._fingerprints)
        # Around a worker's pause deltas overlap: sequence numbers follow the log, so the longer one is taken.
        overlap = delta.base - self._first
        assert 0 <= overlap <= len(self._highs), f"identity delta {delta.number} follows no other"
        if overlap + len(delta.new[0]) // 8 >= len(self._highs):
            for column, data in zip(columns, delta.new, strict=True):
                del column[overlap:]
                column.frombytes(data)
        self.applied_offset = max(self.applied_offset, delta.applied_offset)
        self.horizon_at = max(self.horizon_at, delta.horizon_at)
        self._occurred_before = max(self._occurred_before, delta.occurred_before, delta.occurred_until)
        end = self._first + len(self._highs)
        self._spans.append(Span(end, self.applied_offset, delta.received_until, delta.occurred_until))
        self._persisted.append(KeptDelta(delta.number, end, delta.applied_offset, delta.received_until))

    def _load_changes(self, delta: IdentityDelta) -> None:
        for sequence, word in zip(array("Q", delta.changed[0]), array("Q", delta.changed[1]), strict=True):
            if sequence >= self._first:
                self._words[sequence - self._first] = word
        for key, draft in delta.pending.items():
            self.pending.pop(key, None)
            if draft is not None:
                self.pending[key] = draft
        self.charged_drafts.update(delta.charged_drafts)
        self.refunded.update(delta.refunded)

    def _weight(self) -> int:
        new = self._first + len(self._highs) - self._base + len(self._changed)
        return new + len(self._pending_changes) + self._pending_weight

    def _open_delta(self) -> None:
        self._base, self._number = self._first + len(self._highs), self.applied_offset + 1
        self._pending_weight = 0
        self._changed = {}
        self._pending_changes = {}
        self._open_drafts, self._open_refunded = {}, {}
        self._received_from = self._received_until = self._spans[-1].received_until if self._spans else 0
        self._occurred_until = NEVER_AT

    def _close(self) -> None:
        """Ends the open delta, which has just been written, and opens the next."""
        end = self._first + len(self._highs)
        self._spans.append(Span(end, self.applied_offset, self._received_until, self._occurred_until))
        self._occurred_before = max(self._occurred_before, self._occurred_until)
        self._open_delta()

    def _delta(self) -> tuple[bytes, bytes]:
        start = self._base - self._first
        columns = (self._highs, self._lows, self._words, self._fingerprints)
        high, low, word, fingerprint = (column[start:].tobytes() for column in columns)
        delta = IdentityDelta(
            applied_offset=self.applied_offset,
            number=self._number,
            base=self._base,
            new=(high, low, word, fingerprint),
            changed=(array("Q", self._changed).tobytes(), array("Q", self._changed.values()).tobytes()),
            pending=self._pending_changes,
            charged_drafts=self._open_drafts,
            received_until=self._received_until,
            occurred_until=self._occurred_until,
            horizon_at=self.horizon_at,
            refunded=self._open_refunded,
            occurred_before=self._occurred_before,
        )
        if self._persisted and self._persisted[-1].number == self._number:
            self._persisted.pop()
        end = self._first + len(self._highs)
        self._persisted.append(KeptDelta(self._number, end, self.applied_offset, self._received_until))
        return delta_key(self._number), encode_delta(delta)

    # The open-addressing index: slot + 1, or 0 for a free place; at most two thirds full.

    def _rebuild(self) -> None:
        """Drops evicted slots and makes room for a third more."""
        if self._live:
            for name in ("_highs", "_lows", "_words", "_fingerprints"):
                setattr(self, name, getattr(self, name)[self._live :])
            self._first += self._live
            self._live = 0
        self._resize(_table_size(len(self._highs) + 1))

    def _resize(self, size: int) -> None:
        self._table = array("I", bytes(4 * size))
        self._mask = size - 1
        table, mask = self._table, self._mask
        for number, low in enumerate(self._lows, 1):
            at = low & mask
            while table[at]:
                at = (at + 1) & mask
            table[at] = number


def _table_size(entries: int) -> int:
    """The smallest power of two of at least twice as many places."""
    return max(1024, 1 << (2 * entries - 1).bit_length()) if entries else 1024
