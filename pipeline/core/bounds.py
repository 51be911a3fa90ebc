"""How large the sums of an account may become, so that each of them fits 64 bits wherever it is kept or stored.

Takes an account; gives the room that is left in micro-credits, at or below zero where there is none. Decides nothing:
commands and messages that need more are refused as `amount_invalid` by whoever carries them out. All bounds are a
trillion credits, far from any business and an eighth of what an Int64 holds, since sums of a few of them are made:

- credits: what remains of all grants, those that have ended but may still be burned included, passes the bound by no
  grant of a command. Plans give up to `MAX_PLAN_MICROS` a period: in a century of months, which no log outlasts, 1.2
  times the bound.
- what reservations hold, what is uncovered, and what is used in a period pass it by no command, and by no message that
  costs more than `CHEAP_MICROS`. Cheaper ones are not looked at, as that would cost each of them: they would need to
  be 8 * 10**10 in one period to leave the Int64.
- a balance, what is available, and a period's limit, which is what was used and what is left, are sums of these.
- money saturates: see `amounts.money_for`.

What remains: refunds of many months may come back at once, and a share's `spent` grows for as long as it stands; each
passes the Int64 only after eight periods in which one account has used a trillion credits.
"""

from pipeline.core.account import Account
from pipeline.core.amounts import MICROS

MAX_BALANCE_MICROS = 10**12 * MICROS
MAX_PLAN_MICROS = 10**9 * MICROS
"""Of any amount of credits in a plan."""
CHEAP_MICROS = 100 * MICROS


def grant_room(account: Account) -> int:
    """What a grant may still add."""
    return MAX_BALANCE_MICROS - sum(grant.remaining for grant in account.grants)


def reservation_room(account: Account) -> int:
    """What a reservation may still hold."""
    return MAX_BALANCE_MICROS - account.reserved


def usage_room(account: Account) -> int:
    """What may still be used, whether or not it is covered, in any period that takes charges."""
    return MAX_BALANCE_MICROS - max(account.uncovered, *(period.used for period in account.periods), 0)


def debt_room(account: Account) -> int:
    """What a correction may still take: the credits that are valid now, and then what is uncovered."""
    return account.credits_at(account.clock_at) + MAX_BALANCE_MICROS - max(account.uncovered, 0)
