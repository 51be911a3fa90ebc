"""A tenant's account: grants, periods, burning, and the entries that explain the balance.

Takes amounts in integer micro-credits and instants in epoch milliseconds; changes an `Account` and gives
`Entry` records. Reads no clock: `advance` is told the time of the log.

Invariants
- The balance is the sum of what remains of the grants, and the sum of all entries equals
  balance - uncovered: nothing changes without an entry.
- No grant falls below zero. What is used beyond all grants is metered and booked as uncovered.
- Grants burn in a fixed order: priority, earliest expiry, unpaid before paid, earliest start, creation, id.
- A message burns grants valid when it occurred, also when it arrives later, until the grace of its period
  has passed; after that it burns what is valid at the time of the log.
- Which entries come out depends on the log alone, not on how it was cut into chunks.
"""

from msgspec import Struct

from pipeline.core.plans import PlanTerms
from pipeline.core.windows import period_of

FOREVER_AT = 1 << 53
"""The end of a grant that does not expire."""
ALLOWANCE_PRIORITY = 100
UNCOVERED = ""
"""The grant id under which usage beyond all grants is booked."""
MAX_PLANS = 64
MAX_ANSWERS = 32


class Grant(Struct, gc=False, array_like=True):
    """A block of credits, valid in [starts_at, expires_at)."""

    id: str
    kind: str
    """allowance, purchase, promotion or adjustment."""
    amount: int
    remaining: int
    starts_at: int
    expires_at: int
    priority: int
    created_offset: int

    @property
    def burn_order(self) -> tuple[int, int, bool, int, int, str]:
        """Grants burn, and expire, in ascending order of this."""
        return (
            self.priority,
            self.expires_at,
            self.kind == "purchase",
            self.starts_at,
            self.created_offset,
            self.id,
        )


class Period(Struct, gc=False, array_like=True):
    """One billing period [starts_at, ends_at) that still takes charges."""

    starts_at: int
    ends_at: int
    limit: int
    """What is usable in it: the allowance, what was carried into it and what was added during it."""
    used: int = 0
    fired: tuple[int, ...] = ()
    """Alert levels fired and not armed again, ascending."""
    arming: int = 1


class PlanInForce(Struct, gc=False, array_like=True):
    """A plan document and the instant from which it holds."""

    effective_at: int
    document: bytes


class Answer(Struct, gc=False, array_like=True):
    """What a command was answered, kept so that its repetition gets the same."""

    command_id: str
    digest: bytes
    reason: str
    """The refusal, or empty when the command was accepted."""
    balance: int


class Entry(Struct, gc=False):
    """One immutable line of the ledger, except usage, which is absolute per window and grant."""

    entry_id: str
    kind: str
    """allowance, purchase, promotion, adjustment, plan_change, expiry, usage or late_usage."""
    grant_id: str
    amount: int
    """Signed micro-credits: grants are positive, usage and expiry negative."""
    cause: str
    """The command's id, or empty when time or a message caused it."""
    effective_at: int
    posted_at: int
    offset: int
    balance_after: int | None = None
    window_start: int = 0


class Account(Struct, array_like=True):
    """All that the meter knows of one tenant besides identities and windows."""

    tenant: str
    applied_offset: int = -1
    clock_at: int = 0
    """The latest time of the log this account has seen."""
    plans: list[PlanInForce] = []
    """Ascending by `effective_at`."""
    grants: list[Grant] = []
    """In burn order."""
    periods: list[Period] = []
    """The open one last but for those already begun ahead of the log's time; closed ones are dropped."""
    uncovered: int = 0
    answers: list[Answer] = []

    @property
    def balance(self) -> int:
        """What remains of all grants, in micro-credits."""
        return sum(grant.remaining for grant in self.grants)

    def period_at(self, at: int) -> Period:
        """The period that contains `at`; the first or last held where none does."""
        for period in self.periods:
            if at < period.ends_at:
                return period
        return self.periods[-1]


def open_periods(account: Account, until: int, terms: PlanTerms, offset: int) -> list[Entry]:
    """Begins periods up to the one that contains `until`, with their allowances."""
    entries: list[Entry] = []
    while not account.periods or account.periods[-1].ends_at <= until:
        if account.periods:
            start = account.periods[-1].ends_at
            end = period_of(start, terms.zone, terms.anchor_day)[1]
        else:
            start, end = period_of(until, terms.zone, terms.anchor_day)
        carried = sum(
            grant.remaining for grant in account.grants if grant.starts_at < end and grant.expires_at > start
        )
        account.periods.append(Period(start, end, carried + terms.allowance_micros))
        entries.append(
            add_grant(
                account,
                Grant(
                    id=allowance_id(start),
                    kind="allowance",
                    amount=terms.allowance_micros,
                    remaining=terms.allowance_micros,
                    starts_at=start,
                    expires_at=end,
                    priority=ALLOWANCE_PRIORITY,
                    created_offset=offset,
                ),
                cause="",
            )
        )
    return entries


def add_grant(account: Account, grant: Grant, cause: str) -> Entry:
    """Puts a grant in its place in the burn order."""
    account.grants.append(grant)
    account.grants.sort(key=lambda each: each.burn_order)
    return Entry(
        entry_id=f"{grant.kind}:{cause}" if cause else grant.id,
        kind=grant.kind,
        grant_id=grant.id,
        amount=grant.amount,
        cause=cause,
        effective_at=grant.starts_at,
        posted_at=account.clock_at,
        offset=grant.created_offset,
        balance_after=account.balance,
    )


def close_periods(account: Account, grace: int, offset: int) -> list[Entry]:
    """Drops periods and grants whose end and grace have passed; what remained of a grant is expired."""
    closed_until = account.clock_at - grace
    entries = []
    for grant in [each for each in account.grants if each.expires_at <= closed_until]:
        account.grants.remove(grant)
        if grant.remaining:
            entries.append(
                Entry(
                    entry_id=f"expiry:{grant.id}",
                    kind="expiry",
                    grant_id=grant.id,
                    amount=-grant.remaining,
                    cause="",
                    effective_at=grant.expires_at,
                    posted_at=account.clock_at,
                    offset=offset,
                    balance_after=account.balance,
                )
            )
    while len(account.periods) > 1 and account.periods[0].ends_at <= closed_until:
        del account.periods[0]
        # What was bought and used up would stay for ever otherwise, if it does not expire.
        account.grants = [each for each in account.grants if each.remaining or each.kind == "allowance"]
    return entries


def burn(account: Account, amount: int, at: int) -> tuple[tuple[str, int], ...]:
    """Takes `amount` from the grants valid at `at`, in burn order; the rest is uncovered.

    Gives (grant id, micro-credits taken) pairs in burn order; they sum to `amount`.
    """
    split = []
    for grant in account.grants:
        if amount == 0:
            break
        if grant.remaining and grant.starts_at <= at < grant.expires_at:
            taken = min(amount, grant.remaining)
            grant.remaining -= taken
            amount -= taken
            split.append((grant.id, taken))
    if amount:
        account.uncovered += amount
        split.append((UNCOVERED, amount))
    return tuple(split)


def change_allowance(
    account: Account, terms: PlanTerms, cause: str, effective_at: int, offset: int
) -> Entry | None:
    """Brings the allowance of the period the log is in to the plan's; what was burned stays burned.

    An upgrade adds the difference at once; a downgrade takes it, but no more than is left. The grant's amount
    and the period's limit follow what was really added or taken, so that limit less used is what is left.
    """
    period = account.period_at(account.clock_at)
    grant = next((each for each in account.grants if each.id == allowance_id(period.starts_at)), None)
    if grant is None:
        return None
    burned = grant.amount - grant.remaining
    difference = max(terms.allowance_micros - burned, 0) - grant.remaining
    if not difference:
        return None
    grant.amount += difference
    grant.remaining += difference
    period.limit += difference
    return Entry(
        entry_id=f"plan_change:{period.starts_at}:{cause or effective_at}:{offset}",
        kind="plan_change",
        grant_id=grant.id,
        amount=difference,
        cause=cause,
        effective_at=account.clock_at,
        posted_at=account.clock_at,
        offset=offset,
        balance_after=account.balance,
    )


def allowance_id(period_start: int) -> str:
    """The id of the grant that is a period's allowance."""
    return f"allowance:{period_start}"
