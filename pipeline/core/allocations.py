"""What lists may spend: shares of a tenant's credits, laid over its grants.

A list without a share draws freely on what is promised to nobody: neither assigned nor reserved. A share is a
promise, not a place: messages burn the account's grants in burn order whatever list they belong to, and the share
says how much of that the list may be.

Invariants
- What is assigned never exceeds the credits by an expiry: expired credits are taken from the unassigned ones
  first, and what is missing from the shares in proportion to what is left of each.
- No credits are promised twice by command: neither a share nor, where nothing may be owed, a reservation takes what
  another has been promised.
- The remainder rule: each share gives the whole micro-credits of its proportion, rounded down, and what is then
  still missing is taken one micro-credit each from the shares with the largest fractions, ties by the list's name.
  So the parts sum to what is missing, exactly, and no share gives more than it has.
"""

from collections import Counter

from pipeline.core.account import UNCOVERED, Account
from pipeline.core.burning import Taken


def spend(account: Account, listed: str, amount: int) -> None:
    """Takes a message's credits off its list's share, which falls below zero by what was sent beyond it."""
    allocation = account.allocations.get(listed)
    if allocation is not None:
        allocation.left -= amount
        allocation.spent += amount


def unspend(account: Account, listed: str, burned: Taken, lapsed: Taken) -> None:
    """Gives a list's share what a refund of `burned` brings back: all that has not lapsed, as far as the share paid.

    What is no credits again, because nothing had covered it, only makes up for what was sent beyond the share: no
    refund assigns what there is not.
    """
    allocation = account.allocations.get(listed)
    if allocation is not None:
        back = _total(burned) - _total(lapsed)
        uncovered = _total(burned, UNCOVERED) - _total(lapsed, UNCOVERED)
        part = min(back, allocation.spent, back - uncovered + max(-allocation.left, 0))
        allocation.left += part
        allocation.spent -= part


def _total(parts: Taken, grant_id: str | None = None) -> int:
    return sum(micros for each, micros in parts if grant_id in (None, each))


def spendable(account: Account, listed: str, campaign: str = "") -> int:
    """What a list may spend: its share less what is reserved for it, or what is promised to nobody.

    Never more than the credits there are. What is held for the campaign that asks is for it to spend.
    """
    allocation = account.allocations.get(listed)
    if allocation is None:
        return max(_unpromised(account, campaign=campaign), 0)
    share = min(allocation.left, account.credits_at(account.clock_at))
    return max(share - _held_by_list(account, campaign)[listed], 0)


def bound(account: Account, listed: str, campaign: str = "", *, may_owe: bool) -> int | None:
    """What shares let a list send or reserve; none where they bound nothing.

    Who draws freely is bound by what is promised to others as long as nothing `may_owe`.
    """
    if listed in account.allocations or (account.allocations and not may_owe):
        return spendable(account, listed, campaign)
    return None


def assignable(account: Account, listed: str) -> int:
    """The credits that a list's share may be: those promised to nobody else; below zero where promises are short."""
    return _unpromised(account, besides=listed)


def _unpromised(account: Account, *, besides: str | None = None, campaign: str = "") -> int:
    """The credits there are less all that is promised to lists, but for one list.

    A list is promised its share or what is reserved for it, whichever is more: the one is spent on the other.
    """
    held, shares = _held_by_list(account, campaign), account.allocations
    promised = sum(
        max(shares[name].left if name in shares else 0, held[name])
        for name in shares.keys() | held.keys()
        if name != besides
    )
    return account.credits_at(account.clock_at) - promised


def _held_by_list(account: Account, campaign: str) -> Counter[str]:
    """What is reserved by list, "" for none, but for one campaign."""
    held: Counter[str] = Counter()
    for reservation in account.reservations.values():
        if not campaign or reservation.campaign != campaign:
            held[reservation.list] += reservation.left
    return held


def cut_shares(account: Account) -> None:
    """Brings what is assigned down to the credits there are, in proportion."""
    lists = {name: share for name, share in sorted(account.allocations.items()) if share.left > 0}
    assigned = sum(share.left for share in lists.values())
    missing = assigned - max(account.credits_at(account.clock_at), 0)
    if missing <= 0:
        return
    parts = {name: divmod(share.left * missing, assigned) for name, share in lists.items()}
    left_over = missing - sum(whole for whole, _ in parts.values())
    by_fraction = sorted(parts, key=lambda name: (-parts[name][1], name))
    for name, share in lists.items():
        share.left -= parts[name][0]
    for name in by_fraction[:left_over]:
        lists[name].left -= 1
