"""Where kept state goes when the log gets more partitions: a new era (eras.py).

Takes kept keys and values of a partition of the era before; gives keys and values of the partitions its tenants move
to. Their number is a multiple of the one before, so a partition's tenants spread over those that leave it as a
remainder, its heirs, and come from no other. Never reads or writes anything.

Invariants
- What moves is what it was: accounts and windows to the byte, with the positions of the era before, which every one
  of the new era follows.
- Charged identities are known by a hash that does not tell the tenant, so each heir gets all of them; it is never
  asked for those of other tenants, and lets go of them as of its own.
- A draft goes to one heir alone, because a message that is given up is told of.
"""

from collections.abc import Iterable

import msgspec

from pipeline.core.identity_deltas import Draft, decode_delta, encode_delta
from pipeline.core.partitions import partition_of

_PARTITION_BYTES = 2
"""The key of an identity delta begins with its partition."""
_START_BYTES = 8
"""A window's key begins with its start; the tenant follows."""


def heirs(partition: int, partitions_before: int, partitions: int) -> range:
    """The partitions that the tenants of `partition` move to, itself included."""
    assert partitions % partitions_before == 0, f"{partitions} is no multiple of {partitions_before}"
    return range(partition, partitions, partitions_before)


def heir_of_account(key: bytes, partitions: int) -> int:
    """The partition of an account's kept value."""
    return partition_of(key, partitions)


def heir_of_window(key: bytes, partitions: int) -> int:
    """The partition of a window's kept value."""
    return partition_of(key[_START_BYTES:], partitions)


def moved_delta(key: bytes, value: bytes, heir: int, partitions: int) -> tuple[bytes, bytes]:
    """Key and value of an identity delta as the partition `heir` gets it.

    Without what only a replay needs: an era begins where everything before it is folded and committed.
    """
    delta = decode_delta(value)
    pending = {
        identity: draft
        for identity, draft in delta.pending.items()
        if draft is None or draft.tenant_hash % partitions == heir
    }
    moved = msgspec.structs.replace(delta, pending=pending, charged_drafts={}, refunded={})
    return heir.to_bytes(_PARTITION_BYTES, "big") + key[_PARTITION_BYTES:], encode_delta(moved)


def drafts_without_tenant(deltas: Iterable[bytes]) -> list[Draft]:
    """The drafts among all deltas of a partition of which nobody knows where they belong.

    They were kept by a version that did not note it yet.
    """
    pending: dict[bytes, Draft | None] = {}
    # The same order in which an index takes them up.
    for delta in sorted(map(decode_delta, deltas), key=lambda delta: delta.applied_offset):
        pending |= delta.pending
    return [draft for draft in pending.values() if draft is not None and draft.tenant_hash < 0]
