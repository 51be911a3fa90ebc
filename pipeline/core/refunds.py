"""The refund of a message that was charged and finally failed: whether one is due, and its fact.

Takes records of charged messages that say a failure, and what is stored of them; gives the charge to take back, and
the fact that does it. What the account does with it is decided in `burning`.

Invariants
- A message has at most one refund. Its key follows from the message's alone, and only its fact, recent or stored,
  says that it was: what is held of an identity may have been dropped, and come back with an older checkpoint.
- A fact that is not recent is stored. Recent are those of the open epoch and of the one before, which may not be
  stored yet. Whether it is found here or there changes nothing.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from pipeline.core.admission import Admitted
from pipeline.core.identity import KEY_BYTES, IdentityIndex
from pipeline.core.instructions import SetPlan
from pipeline.core.outcomes import FACT_COLUMNS, Fact
from pipeline.core.refusals import Refusal
from pipeline.core.rules import Rules
from pipeline.core.state import PartitionState

FINAL_FAILURES = ("undelivered", "failed")
"""The statuses that a plan may refund."""
_FINAL_FAILURES = frozenset(FINAL_FAILURES)
NO_OFFSET = -1
_MESSAGE_KEY = FACT_COLUMNS.index("message_key")
_STATUS = FACT_COLUMNS.index("status")


class StoredMessage(NamedTuple):
    """What the stored rows say of a message that may be refunded."""

    charge: Fact
    refund_offset: int = NO_OFFSET
    """Of the record that refunded it, in the message's partition; -1 where none has."""


def refund_key(message_key: bytes) -> bytes:
    """The key of a message's refund among the facts."""
    return blake2b(message_key + b"refund", digest_size=KEY_BYTES).digest()


def with_status(charge: Fact, status: str) -> Fact:
    """The charge with the status that its refund is to have: all that a replay needs besides the record."""
    return (*charge[:_STATUS], status, *charge[_STATUS + 1 :])


def refund_fact(charge: Fact, received_at: int, period_start: int, partition: int, offset: int) -> Fact:
    """The fact that takes back a charge `with_status` of the failure: its sums negated, no message, no segments.

    `received_at`, `partition` and `offset` are the failing record's, `period_start` is that of the period the refund
    counts in.
    """
    fields = dict(zip(FACT_COLUMNS, charge, strict=True))
    fields |= {
        "message_key": refund_key(fields["message_key"]),
        "received_at": received_at,
        "period_start": period_start,
        "messages": 0,
        "segments": 0,
        "quantity": -fields["quantity"],
        "credits_micros": -fields["credits_micros"],
        "grant_micros": -fields["grant_micros"],
        "further_grants": {grant: -micros for grant, micros in fields["further_grants"].items()},
        "kafka_partition": partition,
        "kafka_offset": offset,
    }
    return tuple(fields.values())


class RecentFacts:
    """The facts of the open epoch and of the one before, found by key when one is asked for.

    They are the lists that the outcomes hold: nothing is added to the way of a message that is not refunded. One
    epoch's facts live longer by one epoch.
    """

    def __init__(self) -> None:
        self._open: list[Fact] = []
        self._open_by_key: dict[bytes, Fact] = {}
        self._before: list[Fact] = []
        self._before_by_key: dict[bytes, Fact] = {}

    def begin(self, facts: list[Fact]) -> None:
        """Follows a new list of facts from here on; forgets the last but one."""
        self._before, self._before_by_key = self._open, self._open_by_key
        self._open, self._open_by_key = facts, {}

    def find(self, key: bytes) -> Fact | None:
        """The fact of this key, if it is recent."""
        return _find(self._open, self._open_by_key, key) or _find(self._before, self._before_by_key, key)


def _find(facts: list[Fact], by_key: dict[bytes, Fact], key: bytes) -> Fact | None:
    """Looks among facts whose index may be behind: it covers at least as many of them as it has keys."""
    for at in range(len(by_key), len(facts)):
        by_key[facts[at][_MESSAGE_KEY]] = facts[at]
    return by_key.get(key)


class Refunds:
    """Which messages of one partition are to be refunded."""

    def __init__(
        self, rules: Rules, identities: IdentityIndex, state: PartitionState, recent: RecentFacts
    ) -> None:
        self._rules = rules
        self._identities = identities
        self._state = state
        self._recent = recent

    def look_ups(self, admitted: Sequence[Admitted]) -> list[tuple[str, bytes]]:
        """The (tenant, identity) pairs whose stored rows `due` may ask for; some more where plans change meanwhile.

        Replays are left out, since the identities remember what they refunded; so is what was never charged, or is
        charged only by these records.
        """
        failed = [each for each in admitted if each[6] and each[5].status in _FINAL_FAILURES]
        if not failed:
            return []
        identities = self._identities
        new_plans = {each.key for each in admitted if isinstance(each.content, SetPlan)}
        return [
            (each.content.tenant, each.identity)
            for each in failed
            if each.offset > identities.applied_offset
            and (identities.find(each.identity) >= 0 or each.occurred_at <= identities.horizon_at)
            and (each.key in new_plans or self._may_refund(each))
            and self._recent.find(each.identity) is None
        ]

    def due(self, each: Admitted, stored: Mapping[bytes, StoredMessage]) -> Fact | Refusal | None:
        """The charge that this record of a failed message takes back; none where an earlier record did."""
        if self._recent.find(refund_key(each.identity)) is not None:
            return None
        charge = self._recent.find(each.identity)
        if charge is not None:
            return charge
        known = stored.get(each.identity)
        if known is None:
            # ClickHouse did not take the charge's fact, and it was refused: nobody knows any more what it burned.
            return Refusal.UNSTORABLE
        # A refund stored by this very record is our own, before a crash: this is its replay.
        is_refunded = NO_OFFSET < known.refund_offset < each.offset
        return None if is_refunded else known.charge

    def _may_refund(self, each: Admitted) -> bool:
        """Whether any plan of the tenant's, the default one included, refunds the record's status."""
        account = self._state.account(each.key, each.content.tenant).account
        plans = [self._rules.terms(plan.document) for plan in account.plans]
        default = self._rules.default_terms()
        if default is not None:
            plans.append(default.plan)
        return any(each.content.status in plan.refunded_statuses for plan in plans)
