"""What usage takes from an account's grants, what comes back, and how what is uncovered is paid off.

Takes amounts in integer micro-credits; changes an `Account`. Only what a command takes becomes an entry here: usage
is summed by window and grant (see `usage`).

Invariants: no grant falls below zero; what is taken sums to what was asked for, the rest being uncovered; the newest
period's limit less what is used of it stays what is left to use in it, less what is uncovered in it.
"""

from pipeline.core.account import UNCOVERED, Account, Entry, Grant, Period, RechargeState
from pipeline.core.entries import make_entry
from pipeline.core.plans import PlanTerms

Taken = list[tuple[str, int]]
"""(grant id, micro-credits taken), in burn order; "" is uncovered."""


def burn(account: Account, amount: int, at: int, period: Period) -> tuple[Taken, Taken]:
    """Takes `amount` from the grants valid at `at`, in burn order; the rest is uncovered.

    Gives what was taken, which sums to `amount`, and the part of it that an expiry had been posted for.
    """
    taken: Taken = []
    lapsed: Taken = []
    for grant in account.grants:
        if amount == 0:
            break
        if grant.remaining and grant.starts_at <= at < grant.expires_at:
            part = min(amount, grant.remaining)
            grant.remaining -= part
            amount -= part
            taken.append((grant.id, part))
            if grant.is_expired:
                lapsed.append((grant.id, part))
            _shift_limits(account, grant, part, period)
    if amount:
        account.uncovered += amount
        period.uncovered += amount
        taken.append((UNCOVERED, amount))
    return taken, lapsed


def give_back(account: Account, burned: Taken, period: Period, terms: PlanTerms | None) -> Taken:
    """Gives a refund to the grants that were burned; returns the part of it that lapses at once.

    `period` is the one the refund counts in. To a grant that has ended, or is gone, nothing comes back: the
    refund and its lapsing cancel out.
    """
    lapsed: Taken = []
    held = {grant.id: grant for grant in account.grants}
    for grant_id, amount in burned:
        if grant_id == UNCOVERED:
            lapsed += _owe_less(account, amount, period, terms)
            continue
        grant = held.get(grant_id)
        if grant is None or grant.is_expired:
            lapsed.append((grant_id, amount))
        if grant is not None:
            grant.remaining += amount
            grant.is_spent = False
    return lapsed


def _owe_less(account: Account, amount: int, period: Period, terms: PlanTerms | None) -> Taken:
    """Takes a refund off what is uncovered, which in arrears is the bill of the period; returns what lapses.

    What is uncovered no more was settled, so the account is owed it, or it was written off, and lapses.
    """
    if terms is not None and terms.overage == "arrears":
        account.uncovered -= amount
        period.uncovered -= amount
        return []
    given = min(amount, max(account.uncovered, 0))
    period.uncovered -= min(given, max(period.uncovered, 0))
    if terms is None or terms.is_written_off:
        account.uncovered -= given
        return [(UNCOVERED, amount - given)] if amount > given else []
    account.uncovered -= amount
    return []


def _shift_limits(account: Account, grant: Grant, taken: int, period: Period) -> None:
    """Keeps limits less usage equal to what is left, when `taken` was burned of a grant in `period`.

    Later periods were begun with what the grant had then. A grant that ended inside the period has had what
    remained of it taken off the limit.
    """
    if grant.is_expired:
        if period.starts_at < grant.expires_at < period.ends_at:
            period.limit += taken
        return
    for later in account.periods:
        if later.starts_at >= period.ends_at and grant.expires_at > later.starts_at:
            later.limit -= taken


def taken_entries(account: Account, taken: Taken, kind: str, cause: str, offset: int) -> list[Entry]:
    """One entry per grant for what a command took."""
    return [
        make_entry(
            account, f"taken:{offset}:{grant_id}", kind, grant_id, -amount, account.clock_at, offset, cause
        )
        for grant_id, amount in taken
    ]


def settle(account: Account, grant: Grant, given: Entry) -> list[Entry]:
    """Pays off what is uncovered with a grant of which `given` tells; two entries that sum to nothing.

    They are named after that entry: one grant pays off more than once where an allowance is raised again.
    """
    paid = min(account.uncovered, grant.remaining)
    if paid <= 0:
        return []
    grant.remaining -= paid
    settle_uncovered(account, paid, grant)
    return [
        make_entry(
            account,
            f"settlement:{given.entry_id}:{side}",
            "settlement",
            grant_id,
            amount,
            account.clock_at,
            given.offset,
            given.cause,
        )
        for side, grant_id, amount in (("from", grant.id, -paid), ("to", UNCOVERED, paid))
    ]


def settle_with(account: Account, given: list[Entry], terms: PlanTerms) -> list[Entry]:
    """Pays off what is uncovered with allowances just given, where the plan lets any grant do so."""
    if terms.settled_by != "any_grant":
        return []
    # What a renewal has cut off ends as it begins: it was given long ago, and pays nothing.
    held = {grant.id: grant for grant in account.grants if grant.expires_at > account.clock_at}
    return [
        entry
        for each in given
        if each.amount > 0 and each.grant_id in held
        for entry in settle(account, held[each.grant_id], each)
    ]


def settle_uncovered(account: Account, paid: int, by: Grant | None) -> None:
    """Takes off what is uncovered, the oldest first, paid with a grant or (none) with money.

    Usage that a period has counted beyond its limit was paid for: by money, or a grant of another time, that is
    added to the limit; by a grant of its own time, which has raised the limit, nothing is. What such a grant pays
    for an earlier period is not left for the usage of this one.
    """
    held = sum(max(period.uncovered, 0) for period in account.periods)
    settled = min(paid, max(account.uncovered - held, 0))
    account.uncovered -= paid
    for period in account.periods:
        part = min(paid - settled, max(period.uncovered, 0))
        settled += part
        period.uncovered -= part
        period.limit += part
        if by is not None and by.starts_at < period.ends_at and by.expires_at > period.starts_at:
            period.limit -= settled


def payment(account: Account, state: RechargeState, cause: str, offset: int) -> Entry:
    """Takes off what is uncovered what a recharge has paid for: what was due when it was asked for."""
    paid = min(state.due_credits, max(account.uncovered, 0))
    settle_uncovered(account, paid, by=None)
    entry = make_entry(
        account, f"payment:{offset}", "payment", UNCOVERED, paid, account.clock_at, offset, cause
    )
    entry.money_micros = state.due_micros
    entry.currency = state.currency
    return entry
