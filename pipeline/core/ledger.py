"""What time, grants and usage do to an account, and the entries that explain its balance.

Takes amounts in integer micro-credits and instants in epoch milliseconds; changes an `Account` and gives
`Entry` records. Reads no clock: `account.clock_at` is the time of the log.

Invariants
- The sum of all entries equals the balance, which is what remains of the grants less what is uncovered: nothing
  changes without an entry.
- No grant falls below zero. What is used beyond all grants is metered and booked as uncovered.
- Grants burn in a fixed order: priority, earliest expiry, unpaid before paid, earliest start, creation, id.
- A message burns grants valid when it occurred, also when it arrives after their end, until the grace of its
  period has passed; the expiry that was posted is then corrected. After the grace it burns what is valid at the
  time of the log.
- The newest period's limit less what is used of it is what is left to use in it, whatever expired or came late.
- Which entries come out depends on the log alone, not on how it was cut into chunks.
"""

from collections.abc import Callable

from pipeline.core.account import (
    ALLOWANCE_PRIORITY,
    FOREVER_AT,
    UNCOVERED,
    Account,
    Entry,
    Grant,
    Period,
)
from pipeline.core.amounts import money_for
from pipeline.core.entries import make_entry
from pipeline.core.plans import PlanTerms, RolloverTerms
from pipeline.core.windows import days_after, months_after, period_of

# Periods.

_HALF_DAY_MILLISECONDS = 12 * 3_600_000
_STUB_MILLISECONDS = 15 * 24 * 3_600_000
"""What a new zone or anchor leaves until its own first day, if it is less than half a month, begins the period that
follows: as a period of its own it would give a whole allowance for some hours or days."""


def open_periods(account: Account, until: int, terms: PlanTerms, began_at: int, offset: int) -> list[Entry]:
    """Begins periods up to the one that contains `until`; `began_at` is when the plan came into force.

    Where the log has not reached a period's start, nothing rolls over into it yet: see `begin_those_ahead`.
    """
    entries: list[Entry] = []
    while not account.periods or account.periods[-1].ends_at <= until:
        if account.periods:
            start = account.periods[-1].ends_at
            end = period_of(start, terms.zone, terms.anchor_day)[1]
            if end - start < _STUB_MILLISECONDS:
                end = period_of(end, terms.zone, terms.anchor_day)[1]
            if terms.rollover is not None and start <= account.clock_at:
                entries += _roll_over(account, start, terms, terms.rollover, offset)
        else:
            start, end = period_of(until, terms.zone, terms.anchor_day)
        period = Period(start, end, 0, is_ahead=start > account.clock_at)
        amount, expires_at = _allowance(terms, began_at, start, end)
        period.limit = account.left_in(period) + amount
        account.periods.append(period)
        grant = Grant(
            allowance_id(start), "allowance", amount, amount, start, expires_at, ALLOWANCE_PRIORITY, offset
        )
        entries.append(add_grant(account, grant, cause=""))
    return entries


def begin_those_ahead(account: Account, terms: PlanTerms, offset: int) -> list[Entry]:
    """Rolls over into periods that a message began before the log reached their start."""
    entries: list[Entry] = []
    for period in account.periods:
        if period.is_ahead and period.starts_at <= account.clock_at:
            period.is_ahead = False
            if terms.rollover is not None:
                before = left_from(account, period.starts_at)
                entries += _roll_over(account, period.starts_at, terms, terms.rollover, offset)
                shift_limits_from(account, period.starts_at, before)
    return entries


def left_from(account: Account, start: int) -> list[int]:
    """What is left in each period from `start` on, ascending."""
    return [account.left_in(period) for period in account.periods if period.starts_at >= start]


def shift_limits_from(account: Account, start: int, before: list[int]) -> None:
    """Lets the limits of these periods follow what is left in them more, or less, than `before`."""
    held = [period for period in account.periods if period.starts_at >= start]
    for period, left in zip(held, before, strict=True):
        period.limit += account.left_in(period) - left


def _allowance(terms: PlanTerms, began_at: int, start: int, end: int) -> tuple[int, int]:
    """How much the plan gives for a period [start, end), and until when it is good."""
    if terms.ends_after_days:
        # A trial gives once, for its own span, wherever the months fall.
        ends_at = days_after(began_at, terms.ends_after_days, terms.zone)
        return (terms.allowance_micros if start <= began_at < end else 0), ends_at
    return terms.allowance_micros, end if terms.rollover is None else _rollover_end(
        terms, terms.rollover, start
    )


def _rollover_end(terms: PlanTerms, rollover: RolloverTerms, start: int) -> int:
    if not rollover.valid_months:
        return FOREVER_AT
    # Counted from the noon of its first day: after a change of zone a period may begin on the evening before.
    return months_after(start + _HALF_DAY_MILLISECONDS, rollover.valid_months, terms.zone)


def _roll_over(
    account: Account, start: int, terms: PlanTerms, rollover: RolloverTerms, offset: int
) -> list[Entry]:
    """Lets what is left of allowances pass into the period that begins at `start`, within cap and floor.

    What rolls over keeps its grant and its end. What is above the cap becomes a grant that ends here, so that a
    late message of the old period burns that first.
    """
    rolled = [
        grant
        for grant in account.grants
        if grant.kind in ("allowance", "rollover") and grant.starts_at < start < grant.expires_at
    ]
    entries = []
    total = sum(grant.remaining for grant in rolled)
    excess = 0 if rollover.cap_micros is None else max(total - rollover.cap_micros, 0)
    for grant in rolled:
        grant.kind = "rollover"
        cut = min(excess, grant.remaining)
        if cut:
            excess -= cut
            entries += _cut_off(account, grant, cut, start, offset)
    missing = rollover.floor_micros - total
    if missing > 0:
        expires_at = _rollover_end(terms, rollover, start)
        floor = Grant(
            f"floor:{start}", "rollover", missing, missing, start, expires_at, ALLOWANCE_PRIORITY, offset
        )
        entries.append(add_grant(account, floor, cause=""))
    return entries


def _cut_off(account: Account, grant: Grant, cut: int, ends_at: int, offset: int) -> list[Entry]:
    """Splits `cut` off a grant, as a grant of the same span that ends at `ends_at`."""
    grant.amount -= cut
    grant.remaining -= cut
    part = Grant(
        f"{grant.id}:until:{ends_at}", grant.kind, cut, cut, grant.starts_at, ends_at, grant.priority, offset
    )
    account.grants.append(part)
    account.grants.sort(key=lambda each: each.burn_order)
    return [
        make_entry(account, f"rollover:{part.id}:{sign}", "rollover", grant_id, amount, ends_at - 1, offset)
        for sign, grant_id, amount in (("from", grant.id, -cut), ("to", part.id, cut))
    ]


def close_periods(
    account: Account, grace: int, terms_at: Callable[[int], PlanTerms | None], offset: int
) -> list[Entry]:
    """Closes periods whose grace has passed, billing what is uncovered, and drops grants nobody can burn."""
    closed_until = account.clock_at - grace
    entries: list[Entry] = []
    account.grants = [
        grant for grant in account.grants if not (grant.is_expired and grant.expires_at <= closed_until)
    ]
    while len(account.periods) > 1 and account.periods[0].ends_at <= closed_until:
        period = account.periods.pop(0)
        # The plan of the period's own end: the next one neither lowers its bill nor raises it.
        terms = terms_at(period.ends_at - 1)
        if terms is not None:
            entries += _bill(account, period, terms, offset)
        # What was bought and used up would stay for ever otherwise; a refund may still come for a period's time.
        account.grants = [
            grant
            for grant in account.grants
            if grant.remaining or not grant.is_spent or grant.kind == "allowance"
        ]
        for grant in account.grants:
            grant.is_spent = not grant.remaining
    return entries


def _bill(account: Account, period: Period, terms: PlanTerms, offset: int) -> list[Entry]:
    """What becomes of a closed period's uncovered usage, by the plan it was used under."""
    uncovered = period.uncovered
    if terms.overage == "arrears":
        kind, money = "arrears", money_for(uncovered, terms.money.overage_price_micros)
    elif terms.is_written_off:
        kind, money = "write_off", 0
    else:
        return []
    if not uncovered:
        return []
    account.uncovered -= uncovered
    entry = make_entry(
        account, f"{kind}:{period.starts_at}", kind, UNCOVERED, uncovered, period.ends_at - 1, offset
    )
    entry.money_micros = money
    entry.currency = terms.money.currency if money else ""
    return [entry]


# Grants.


def add_grant(account: Account, grant: Grant, cause: str) -> Entry:
    """Puts a grant in its place in the burn order."""
    account.grants.append(grant)
    account.grants.sort(key=lambda each: each.burn_order)
    # A command's id may be used again when it is forgotten and its grant is gone.
    entry_id = f"{grant.kind}:{grant.created_offset}:{cause}" if cause else grant.id
    entry = make_entry(
        account, entry_id, grant.kind, grant.id, grant.amount, grant.starts_at, grant.created_offset, cause
    )
    entry.money_micros = grant.cost_micros
    entry.currency = grant.currency
    return entry


def extend_grants(account: Account, by: Grant, cause: str) -> list[Entry]:
    """Gives older extended grants the end of a new one, where that is later; an entry of amount 0 for each."""
    extended = [
        grant
        for grant in account.grants
        if grant.is_extended and not grant.is_expired and grant is not by and grant.expires_at < by.expires_at
    ]
    before = left_from(account, account.clock_at)
    for grant in extended:
        grant.former_end_at, grant.extended_offset = grant.expires_at, by.created_offset
        grant.expires_at = by.expires_at
    shift_limits_from(account, account.clock_at, before)
    account.grants.sort(key=lambda each: each.burn_order)
    return [
        make_entry(
            account,
            f"extension:{by.created_offset}:{grant.id}",
            "extension",
            grant.id,
            0,
            account.clock_at,
            by.created_offset,
            cause,
        )
        for grant in extended
        if grant.remaining
    ]


def void_grant(account: Account, grant: Grant, cause: str, offset: int) -> Entry:
    """Takes back a grant of which nothing was burned, and the longer life it has given to others."""
    account.grants.remove(grant)
    before = left_from(account, account.clock_at)
    for each in account.grants:
        if each.extended_offset == grant.created_offset and not each.is_expired:
            each.expires_at = each.former_end_at
    shift_limits_from(account, account.clock_at, before)
    account.grants.sort(key=lambda each: each.burn_order)
    for period in account.periods:
        if grant.starts_at < period.ends_at and grant.expires_at > period.starts_at:
            period.limit -= grant.amount
    entry = make_entry(
        account, f"void:{offset}", "void", grant.id, -grant.amount, account.clock_at, offset, cause
    )
    entry.money_micros = -grant.cost_micros
    entry.currency = grant.currency
    return entry


def expire(account: Account, offset: int) -> list[Entry]:
    """Posts the expiry of grants whose end has come; late messages may burn what remained until it is dropped."""
    entries = []
    for grant in account.grants:
        if grant.expires_at > account.clock_at or grant.is_expired:
            continue
        grant.is_expired = True
        if not grant.remaining:
            continue
        for period in account.periods:
            if period.starts_at < grant.expires_at < period.ends_at:
                period.limit -= grant.remaining
        # It lapses at the end of its last moment, which belongs to the period, and the statement, that it ends.
        entries.append(
            make_entry(
                account,
                f"expiry:{grant.expires_at}:{grant.id}",
                "expiry",
                grant.id,
                -grant.remaining,
                grant.expires_at - 1,
                offset,
            )
        )
    return entries


def change_allowance(
    account: Account, terms: PlanTerms, cause: str, began_at: int, offset: int
) -> Entry | None:
    """Brings the allowance of the period the log is in to the plan's; what was burned stays burned.

    An upgrade adds the difference at once; a downgrade takes it, but no more than is left. The grant's amount
    and the period's limit follow what was really added or taken, so that limit less used is what is left.
    Where the allowance has lapsed, as a trial's does before its period, the next plan gives one of its own.
    """
    period = account.period_at(account.clock_at)
    allowance, expires_at = _allowance(terms, began_at, period.starts_at, period.ends_at)
    if expires_at <= account.clock_at:
        allowance = 0  # A trial that is over, perhaps before it was set.
    grant = _allowance_of(account, period)
    if grant is None:
        return _begin_anew(account, period, allowance, began_at, expires_at, cause, offset)
    before = left_from(account, period.starts_at)
    if expires_at > account.clock_at and grant.expires_at != expires_at:
        grant.expires_at = expires_at
        account.grants.sort(key=lambda each: each.burn_order)
    burned = grant.amount - grant.remaining
    difference = max(allowance - burned, 0) - grant.remaining
    grant.amount += difference
    grant.remaining += difference
    shift_limits_from(account, period.starts_at, before)
    if not difference:
        return None
    entry_id = f"plan_change:{account.clock_at}:{offset}:{cause}"
    return make_entry(account, entry_id, "plan_change", grant.id, difference, account.clock_at, offset, cause)


def _allowance_of(account: Account, period: Period) -> Grant | None:
    """The allowance of a period that has not lapsed."""
    for grant in account.grants:
        is_of_period = period.starts_at <= grant.starts_at < period.ends_at
        if grant.kind == "allowance" and is_of_period and not grant.is_expired:
            return grant
    return None


def _begin_anew(
    account: Account, period: Period, amount: int, began_at: int, expires_at: int, cause: str, offset: int
) -> Entry | None:
    """Gives a period whose allowance has lapsed that of a plan which came after."""
    if not amount:
        return None
    starts_at = max(period.starts_at, began_at)
    grant = Grant(
        f"{allowance_id(period.starts_at)}:{account.clock_at}",
        "allowance",
        amount,
        amount,
        starts_at,
        expires_at,
        ALLOWANCE_PRIORITY,
        offset,
    )
    before = left_from(account, period.starts_at)
    entry = add_grant(account, grant, cause="")
    entry.cause = cause
    shift_limits_from(account, period.starts_at, before)
    return entry


def allowance_id(period_start: int) -> str:
    """The id of the grant that is a period's allowance."""
    return f"allowance:{period_start}"
