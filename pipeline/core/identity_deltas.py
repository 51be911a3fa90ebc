"""What is kept of a partition's identities: deltas, each a value that is valid by itself.

Takes and gives records; decides nothing. `IdentityIndex` says when a delta begins and ends, and when it can go.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from msgspec import Struct

from pipeline.core.kept import decode_kept, encode_kept
from pipeline.core.outcomes import Fact
from pipeline.core.records import Message

NEVER_AT = -(1 << 62)
"""Before anything."""


class Draft(Struct, gc=False, array_like=True):
    """What was learnt of a message before it could be charged. Empty strings and 0 stand for not yet known."""

    first_received_at: int
    first_offset: int
    fingerprint: int
    statuses: int = 0
    """The set of statuses seen, as bits of `records.STATUS_BITS`."""
    status: str = ""
    """The first billable status seen."""
    segments: int = 0
    encoding: str = ""
    country: str = ""
    category: str = ""
    list: str = ""
    campaign: str = ""
    recipients: int = 1
    member: str = ""
    inbox: str = ""
    tenant_hash: int = -1
    """`key_hash` of the tenant, of which the identity does not tell where it lives; -1 where it was not noted yet."""
    partition: int = -1
    """Of `first_offset`, which stays where it is when the tenant moves; -1: this one."""


class StoredCharge(NamedTuple):
    """What the stored rows say of an identity that is no longer held."""

    offset: int
    """Of the charging record, in the identity's partition."""
    fingerprint: int


def agrees(draft: Draft, message: Message, fingerprint: int) -> bool:
    """Whether a record says nothing else of the message than the records before it."""
    if draft.fingerprint != fingerprint:
        return False
    # Nearly every receipt says nothing of these, so each is asked for before it is compared.
    return not (
        (message.country and draft.country and message.country != draft.country)
        or (message.category and draft.category and message.category != draft.category)
        or (message.list and draft.list and message.list != draft.list)
        or (message.campaign and draft.campaign and message.campaign != draft.campaign)
    )


class IdentityDelta(Struct, array_like=True):
    """One persisted step of an index: what changed between two offsets."""

    applied_offset: int
    number: int
    """The offset behind which it begins, + 1: two workers' deltas of one number hold the same as far as both go.

    Which numbers there are depends on where a worker has cut the log. That one is missing says nothing.
    Up to state version 3 they were counted from 0, which gave lower numbers in the same order.
    """
    base: int
    """Sequence number of the first new charged identity; they are numbered in the order they were charged."""
    new: tuple[bytes, bytes, bytes, bytes]
    """Columns high, low, word, fingerprint of the new ones, little-endian."""
    changed: tuple[bytes, bytes]
    """Columns sequence, word of older ones whose set of statuses grew."""
    pending: dict[bytes, Draft | None]
    """Drafts as they are now; none where the identity was charged or given up."""
    charged_drafts: dict[int, Draft]
    """By charging offset: drafts of new ones, for a replay of the charging record."""
    received_until: int
    occurred_until: int
    horizon_at: int
    """Every charged identity ever evicted occurred at or before this instant."""
    refunded: dict[int, Fact] = {}
    """By offset: the charges that records since the last checkpoint took back, for a replay of them."""
    occurred_before: int = NEVER_AT
    """Every charged identity below `base` occurred at or before this instant: the horizon, where they are gone.

    `horizon_at` is not enough: deletions by a worker that had lost the partition may come late, and the delta they
    came with be replaced by one of its successor, which holds what is deleted.
    """


@dataclass(frozen=True, slots=True)
class Span:
    """The charged identities of one delta, as far as eviction needs to know them."""

    end: int
    """Sequence number after the last one."""
    applied_offset: int
    received_until: int
    occurred_until: int


class KeptDelta(NamedTuple):
    """What decides when a persisted delta can go."""

    number: int
    end: int
    applied_offset: int
    received_until: int


def drop_obsolete(
    persisted: deque[KeptDelta],
    *,
    first_unwritten: int,
    kept_offset: int,
    first_live: int,
    first_pending: int,
    pending_from: int,
) -> list[bytes]:
    """Takes off the oldest deltas that nothing needs any more, and gives their keys, oldest first.

    Nothing needs one without an identity from sequence number `first_live` on, without a draft first heard of from
    offset `first_pending` or instant `pending_from` on, and without a record that is replayed: those are above
    `kept_offset`, where the checkpoint before ended. None that is yet to be written either, from number
    `first_unwritten` on: it may take back what an older one says.
    """
    keys = []
    while persisted:
        oldest = persisted[0]
        if (
            oldest.number >= first_unwritten
            or oldest.applied_offset > kept_offset
            or oldest.end > first_live
            or oldest.applied_offset >= first_pending
            or oldest.received_until > pending_from
        ):
            break
        persisted.popleft()
        keys.append(delta_key(oldest.number))
    return keys


_decoder = msgspec.msgpack.Decoder(IdentityDelta)


def encode_delta(delta: IdentityDelta) -> bytes:
    """The delta as a kept value."""
    return encode_kept(delta.applied_offset, delta)


def decode_delta(value: bytes) -> IdentityDelta:
    """The delta in a kept value."""
    return decode_kept(_decoder, value)


def delta_key(number: int) -> bytes:
    """A delta's key among those of its partition; big-endian, so that the order of keys is that of time."""
    return number.to_bytes(8, "big")


def delta_number(key: bytes) -> int:
    """The number in a delta's key."""
    return int.from_bytes(key, "big")


def take_apart(deltas: Iterable[bytes]) -> tuple[list[IdentityDelta], list[IdentityDelta]]:
    """The deltas that nothing needs any more, and all others, each by number.

    Nothing needs what lies before a hole in the log, of which no delta tells. Deltas are deleted only where nothing
    needs them, the oldest first, and only those that the worker knows. So one before a hole came late, from a worker
    that had lost the partition; it would bring drafts back that deltas in the hole took back. Behind the last hole
    deltas may overlap, of several workers that cut the log at different places; together they tell everything.

    A hole is seen by offsets, and by identities that are missing: numbers counted from 0 tell no offsets.
    """
    decoded = sorted(map(decode_delta, deltas), key=lambda delta: delta.number)
    first, told_until, end = 0, -1, 0
    for place, delta in enumerate(decoded):
        if delta.number > told_until + 1 or delta.base > end:
            first = place
        told_until = max(told_until, delta.applied_offset)
        end = max(end, delta.base + len(delta.new[0]) // 8)
    return decoded[:first], decoded[first:]
