"""Who a tenant's contacts are, and how many of them count towards its plan.

A contact is known by a keyed hash of its address, never by the address. Its number or mail address is the other
party's of a message: `to` of an outbound one, `from` of an inbound. One person is one contact however the address is
written: a leading "+" and the case of letters do not count.

A contact counts (is *active*) when it is marked so, or when it was messaged within the plan's days, whatever it is
marked as: inactive, removed or not at all. Messaged means that a message was sent to it; who only writes in counts
once it is marked. `count_contacts` says so of records in memory; the query `contacts_of_tenant` says the same of
stored facts and marks, exactly, and a test holds them equal.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

_DAY_MILLISECONDS = 86_400_000


class ContactCounts(NamedTuple):
    """How many contacts count at an instant; the second and third are part of the first."""

    active: int
    """Counting towards the plan's limit."""
    inactive: int
    """Marked inactive, but counting, because they were messaged not long ago."""
    removed: int
    """The same of those marked removed."""

    def available(self, licensed: int) -> int:
        """How many more may become active under a plan; below zero by what is beyond the plan."""
        return licensed - self.active


def messaged_since(at: int, active_days: int) -> int:
    """The instant after which a message lets its contact count at `at`.

    A message at t lets it count in [t, t + days), so at `at` those of (at - days, at] do.
    """
    return at - active_days * _DAY_MILLISECONDS


def count_contacts(
    last_messaged: Mapping[int, int], states: Mapping[int, str], at: int, active_days: int
) -> ContactCounts:
    """Count contacts at an instant; both mappings are by contact hash.

    `last_messaged` holds the instant of the last message sent to a contact, none of them after `at`; `states` its
    latest mark: active, inactive or removed.
    """
    since = messaged_since(at, active_days)
    messaged = {contact for contact, sent_at in last_messaged.items() if sent_at > since}
    by_state = {
        state: {each for each, its in states.items() if its == state} for state in set(states.values())
    }
    return ContactCounts(
        active=len(messaged | by_state.get("active", set())),
        inactive=len(messaged & by_state.get("inactive", set())),
        removed=len(messaged & by_state.get("removed", set())),
    )


def contact_hash(key: bytes, address: str) -> int:
    """The 64-bit keyed hash under which facts and marks know a contact."""
    return hashed(blake2b(digest_size=8, key=key[:64]), address)


def hashed(hasher: blake2b, address: str) -> int:
    """The same with a fresh copy of a keyed hasher: for the hot path."""
    hasher.update(address.lstrip("+").lower().encode())
    return int.from_bytes(hasher.digest(), "little")
