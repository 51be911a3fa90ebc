"""Credits held for what is scheduled: taken from what is available, not from the balance.

A reservation is made by a command, settled by the charges of its campaign's messages, committed or released by
commands, lasts longer where the campaign asks for that, and ends by itself. Nothing of it is an entry: no credit
moves before a message burns it.

Invariants: what is held never falls below zero, and where the plan does not let the balance go below zero, all
that is held is never more than the credits there are, less what is owed, and with what is owed to the account: it is
let go of by what it is made by, `Account.available`. What is missing is let go of from the newest reservation on,
because those who reserved first were promised first.
"""

from pipeline.core.account import Account, Reservation


def settle_campaign(account: Account, campaign: str, amount: int) -> None:
    """Lets go of what a message of the campaign has cost, from its reservations, the oldest first."""
    spent = []
    for reservation_id, reservation in account.reservations.items():
        if amount <= 0:
            break
        if reservation.campaign == campaign:
            part = min(amount, reservation.left)
            reservation.left -= part
            amount -= part
            if not reservation.left:
                spent.append(reservation_id)
    for reservation_id in spent:
        del account.reservations[reservation_id]


def held_for(account: Account, campaign: str) -> int:
    """What reservations hold for a campaign."""
    return sum(reservation.left for reservation in _of(account, campaign))


def extend_reservations(account: Account, campaign: str, amount: int, until: int) -> int:
    """Lets `amount` of what a campaign holds end no earlier than `until`; returns how many reservations it changed.

    Those are as many as it takes besides the ones that last as long already, the oldest first, because messages
    settle those first.
    """
    lasting = sum(each.left for each in _of(account, campaign) if each.expires_at >= until)
    count = 0
    for reservation in _of(account, campaign):
        if lasting >= amount:
            break
        if reservation.expires_at < until:
            reservation.expires_at = until
            lasting += reservation.left
            count += 1
    return count


def _of(account: Account, campaign: str) -> list[Reservation]:
    """A campaign's reservations, the oldest first; none where there is no campaign."""
    return [each for each in account.reservations.values() if each.campaign == campaign != ""]


def expire_reservations(account: Account) -> None:
    """Lets go of reservations whose end has come."""
    account.reservations = {
        reservation_id: reservation
        for reservation_id, reservation in account.reservations.items()
        if reservation.expires_at > account.clock_at
    }


def hold_within_credits(account: Account) -> None:
    """Lets go of what is held beyond the credits there are, newest reservation first."""
    excess = -unheld(account)
    for reservation_id in reversed(list(account.reservations)):
        if excess <= 0:
            return
        excess -= release(account, reservation_id, min(excess, account.reservations[reservation_id].left))


def unheld(account: Account) -> int:
    """What is available besides what is held; below zero by what of that is no longer covered."""
    return max(account.available + account.reserved, 0) - account.reserved


def release(account: Account, reservation_id: str, amount: int) -> int:
    """Lets go of part of a reservation, which is gone when nothing is held any more; returns `amount`."""
    reservation: Reservation = account.reservations[reservation_id]
    assert 0 <= amount <= reservation.left, "no more is released than is held"
    reservation.left -= amount
    if not reservation.left:
        del account.reservations[reservation_id]
    return amount
