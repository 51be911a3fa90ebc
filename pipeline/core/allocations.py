"""What lists may spend: shares of a tenant's credits, laid over its grants.

A list without a share draws freely on what is assigned to nobody. A share is a promise, not a place: messages burn
the account's grants in burn order whatever list they belong to, and the share says how much of that the list may be.

Invariants
- What is assigned never exceeds the credits by an expiry: expired credits are taken from the unassigned ones
  first, and what is missing from the shares in proportion to what is left of each.
- The remainder rule: each share gives the whole micro-credits of its proportion, rounded down, and what is then
  still missing is taken one micro-credit each from the shares with the largest fractions, ties by the list's name.
  So the parts sum to what is missing, exactly, and no share gives more than it has.
"""

from pipeline.core.account import Account


def spend(account: Account, listed: str, amount: int) -> None:
    """Takes a message's credits off its list's share, which falls below zero by what was sent beyond it.

    A negative `amount` is a refund.
    """
    allocation = account.allocations.get(listed)
    if allocation is not None:
        allocation.left -= amount
        allocation.spent += amount


def spendable(account: Account, listed: str, campaign: str = "") -> int:
    """What a list may spend: its share, or what is assigned to nobody; never more than the credits there are.

    Less what is reserved for the list, or for all that draw freely, but not for the campaign that asks.
    """
    allocation = account.allocations.get(listed)
    held = sum(
        reservation.left
        for reservation in account.reservations.values()
        if not (campaign and reservation.campaign == campaign)
        and (reservation.list == listed if allocation else reservation.list not in account.allocations)
    )
    share = account.unassigned if allocation is None else allocation.left
    return max(min(share, account.credits_at(account.clock_at)) - held, 0)


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
