"""When an account asks for a block of credits, and what the answer does.

Automatic recharging asks by a document, `recharge.v1`, and waits for the command that confirms or declines it: the
meter never talks to a payment provider. Ids are numbered per account, so a request that is published twice is
recognised.

Rules, each a bound of the plan: only below the level, or while something is owed; a delay after that began; one
request in flight; a cool-down from one request to the next; so many requests per local day; after a decline a back-off
that doubles with each further one, up to a day.
"""

from pipeline.core.account import Account, RechargeState
from pipeline.core.amounts import format_credits, money_for
from pipeline.core.plans import PlanTerms, RechargeTerms
from pipeline.core.windows import day_start, local_day

_DAY_MILLISECONDS = 86_400_000


def ask(account: Account, terms: PlanTerms, partition: int, offset: int) -> dict[str, object] | None:
    """The request to publish, if one is wanted now; the account then waits for its answer.

    To be called after whatever changes what is available, and when `next_at` comes.
    """
    recharge, now = terms.recharge, account.clock_at
    if recharge is None or not _is_wanted(account, terms, recharge):
        if account.recharge is not None:
            account.recharge.below_since_at = 0
        return None
    state = account.recharge = account.recharge or RechargeState()
    if state.in_flight or now < state.next_at:
        return None
    if recharge.delay_milliseconds and not state.below_since_at:
        state.below_since_at, state.next_at = now, now + recharge.delay_milliseconds
        return None
    day = local_day(now, terms.zone)
    if state.day != day:
        state.day, state.day_count = day, 0
    if state.day_count >= recharge.daily_cap:
        state.next_at = day_start(day + 1, terms.zone)
        return None
    _begin(account, state, terms, recharge)
    return _document(account, state, partition, offset)


def _is_wanted(account: Account, terms: PlanTerms, recharge: RechargeTerms) -> bool:
    """Whether too little is left, or something is owed that automatic billing is for, whatever has come since."""
    is_owed = terms.overage == "negative" and account.uncovered > 0
    return is_owed or account.available < recharge.level_micros


def decline(account: Account, state: RechargeState, recharge: RechargeTerms | None) -> None:
    """Takes the request in flight back, and waits before the next; without a plan to go by, for a day."""
    state.in_flight = ""
    back_off = _DAY_MILLISECONDS
    if recharge is not None:
        back_off = min(recharge.back_off_milliseconds << min(state.declined_count, 16), _DAY_MILLISECONDS)
    state.declined_count += 1
    state.next_at = max(state.next_at, account.clock_at + back_off)


def confirm(state: RechargeState) -> None:
    """Ends the request in flight: it was paid."""
    state.in_flight = ""
    state.declined_count = 0


def _begin(account: Account, state: RechargeState, terms: PlanTerms, recharge: RechargeTerms) -> None:
    state.asked_count += 1
    state.day_count += 1
    state.in_flight = f"recharge-{state.asked_count}"
    state.credits = recharge.block_micros
    state.due_credits = max(account.uncovered, 0) if terms.overage == "negative" else 0
    state.due_micros = money_for(state.due_credits, terms.money.overage_price_micros)
    state.top_up_micros = recharge.price_micros
    state.currency = terms.money.currency
    state.next_at = account.clock_at + recharge.cool_down_milliseconds
    state.below_since_at = 0


def _document(account: Account, state: RechargeState, partition: int, offset: int) -> dict[str, object]:
    """A `recharge.v1`: what is owed, what the block costs, and what is charged in all."""
    return {
        "id": state.in_flight,
        "tenant": account.tenant,
        "available": format_credits(account.available),
        "credits": format_credits(state.credits),
        "due_credits": format_credits(state.due_credits),
        "currency": state.currency,
        "due": format_credits(state.due_micros),
        "top_up": format_credits(state.top_up_micros),
        "charge": format_credits(state.due_micros + state.top_up_micros),
        "occurred_at": account.clock_at,
        "partition": partition,
        "offset": offset,
    }
