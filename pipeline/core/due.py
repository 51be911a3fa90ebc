"""When something happens to an account by itself, so that a scheduler knows whom to wake.

Takes an account; gives an instant. What happens then is `accounts.LiveAccount.advance`'s affair. Changes nothing.
"""

from pipeline.core.account import FOREVER_AT, Account


def next_due(account: Account, grace: int) -> int:
    """The first instant after the account's time at which it changes without a message or a command.

    A plan comes into force, a period renews or closes (`grace` milliseconds after its end), a grant begins, ends or
    is dropped, a reservation ends, or a recharge may be asked for again; `FOREVER_AT` where nothing ever does.
    """
    instants = [plan.effective_at for plan in account.plans]
    for period in account.periods:
        instants += (period.ends_at, period.ends_at + grace)
    for grant in account.grants:
        instants += (grant.starts_at, grant.expires_at, grant.expires_at + grace)
    instants += [reservation.expires_at for reservation in account.reservations.values()]
    if account.recharge is not None and not account.recharge.in_flight:
        instants.append(account.recharge.next_at)
    return min((at for at in instants if account.clock_at < at < FOREVER_AT), default=FOREVER_AT)
