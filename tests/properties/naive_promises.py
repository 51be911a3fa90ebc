"""What the naive ledger promises to lists, to what is scheduled and to itself: shares, reservations, recharges.

Functions over a `NaiveLedger`, whose credits they only move by its own verbs.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.properties.naive_records import DAY, NaiveHold, days_later, local_date

if TYPE_CHECKING:
    from tests.properties.naive_ledger import NaiveLedger


def cut_shares(ledger: NaiveLedger) -> None:
    """Shares give up what is no longer there, each in proportion, what the rounding leaves one by one."""
    lists = {name: left for name, left in ledger.shares.items() if left > 0}
    assigned = sum(lists.values())
    missing = assigned - ledger.good
    if missing <= 0:
        return
    exact = {name: (left * missing // assigned, left * missing % assigned) for name, left in lists.items()}
    rest = missing - sum(whole for whole, _ in exact.values())
    for rank, name in enumerate(sorted(exact, key=lambda name: (-exact[name][1], name))):
        ledger.shares[name] -= exact[name][0] + (rank < rest)


def promised(ledger: NaiveLedger, listed: str | None = None) -> int:
    """What lists have been promised, all but one of them: each its share, or what is held for it if that is more."""
    held: Counter[str] = Counter()
    for hold in ledger.holds:
        held[hold.listed] += hold.left
    return sum(
        max(ledger.shares.get(name, 0), held[name], 0) for name in {*ledger.shares, *held} if name != listed
    )


def allocate(ledger: NaiveLedger, listed: str, share: int | None) -> str:
    if share is None:
        ledger.shares.pop(listed, None)
    elif promised(ledger, listed) + share > ledger.good and share > max(ledger.shares.get(listed, 0), 0):
        return "credits_insufficient"
    else:
        ledger.shares[listed] = share
        ledger.paid[listed] = 0
    ledger.follow()
    return ""


def reserve(ledger: NaiveLedger, name: str, amount: int, end: int, campaign: str, listed: str) -> str:
    is_hard = ledger.plan.policy == "hard_stop"
    if is_hard and amount > ledger.available:
        return "credits_insufficient"
    if listed in ledger.shares:
        held = sum(hold.left for hold in ledger.holds if hold.listed == listed)
        if held + amount > min(ledger.shares[listed], ledger.good):
            return "credits_insufficient"
    elif is_hard and ledger.shares and promised(ledger) + amount > ledger.good:
        return "credits_insufficient"
    ledger.holds.append(NaiveHold(name, amount, end, campaign, listed))
    ledger.follow()
    return ""


def let_go(ledger: NaiveLedger, name: str, amount: int | None, *, is_commit: bool) -> str:
    """Commits or releases what is held; none for all of it."""
    hold = next((each for each in ledger.holds if each.name == name), None)
    if hold is None:
        return "reservation_unknown"
    amount = hold.left if amount is None else amount
    if amount > hold.left:
        return "reservation_exceeded"
    hold.left -= amount
    if is_commit:
        ledger.take("commit", amount)
    ledger.follow()
    return ""


def answer(ledger: NaiveLedger, number: int, *, is_paid: bool, name: str) -> str:
    """The answer to a recharge's request."""
    asked = ledger.recharge
    if not asked.is_open or asked.number != number:
        return "recharge_unknown"
    asked.is_open = False
    if not is_paid:
        wait = min(ledger.plan.back_off * 2**asked.declines, DAY) if ledger.plan.level is not None else DAY
        asked.declines += 1
        asked.not_before = max(asked.not_before, ledger.now + wait)
        return ""
    asked.declines = 0
    paid = min(asked.due, max(ledger.uncovered, 0))
    ledger.pay("payment", paid)
    ledger.give("purchase", name, asked.block + asked.due - paid, ledger.now)
    return ""


def ask(ledger: NaiveLedger) -> None:
    """Asks for a block below the level, or for what is owed, within the bounds."""
    plan, asked = ledger.plan, ledger.recharge
    if plan.level is None:
        return
    is_owed = plan.policy == "negative" and ledger.uncovered > 0
    if ledger.available >= plan.level and not is_owed:
        asked.below_since = 0
    elif not asked.is_open and ledger.now >= asked.not_before:
        today = local_date(ledger.now, plan.zone)
        if asked.day != today:
            asked.day, asked.of_day = today, 0
        if plan.delay and not asked.below_since:
            asked.below_since, asked.not_before = ledger.now, ledger.now + plan.delay
        elif asked.of_day >= plan.daily_cap:
            asked.not_before = days_later(ledger.now, 1, plan.zone)
        else:
            asked.number, asked.of_day, asked.is_open = asked.number + 1, asked.of_day + 1, True
            asked.due = max(ledger.uncovered, 0) if plan.policy == "negative" else 0
            asked.block, asked.not_before = plan.block, ledger.now + plan.cool_down
            asked.below_since = 0
            ledger.requests.append((asked.block, asked.due))


def hold_within_credits(ledger: NaiveLedger) -> None:
    """Lets go of what has ended, and of what nothing covers, newest first."""
    ledger.holds = [hold for hold in ledger.holds if hold.left and hold.end > ledger.now]
    if ledger.plan.policy == "hard_stop":
        too_much = ledger.held - max(ledger.good - ledger.owed, 0)
        for hold in reversed(ledger.holds):
            part = min(hold.left, max(too_much, 0))
            hold.left -= part
            too_much -= part
        ledger.holds = [hold for hold in ledger.holds if hold.left]
