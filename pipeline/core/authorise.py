"""May I send these, and what would it cost: the pre-flight of a campaign, and the cost while a message is written.

Takes messages by number, country and kind, or a body and recipients; gives how many of them are allowed, in the order
in which they would be sent, what those cost, what would remain, and which alerts would fire. Burns nothing; on
request it holds the cost until an instant: what the campaign holds already then ends no earlier. The answer is about
the account as the log has it; what is sent afterwards without asking is metered all the same.

What limits a sending: a list's share and the plan's quotas, always; under a hard stop also the credits that are
available, the campaign's own reservations included; and a trial that has ended allows nothing. Quotas hold under
every plan, because what they count may cost no credits: nothing else would bound it, and nothing would bill it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.core.account import Account
from pipeline.core.allocations import bound
from pipeline.core.amounts import format_credits
from pipeline.core.calls import Call, Details
from pipeline.core.fields import milliseconds
from pipeline.core.instructions import Authorise
from pipeline.core.numbering import locate
from pipeline.core.rating import quantity
from pipeline.core.refusals import Refusal
from pipeline.core.reservations import held_for
from pipeline.core.segments import MAX_SEGMENTS, measure
from pipeline.core.share_commands import hold_for_campaign
from pipeline.core.terms import Terms
from pipeline.core.thresholds import crossed
from pipeline.core.windows import days_after

NO_LIMIT = 1 << 62


class _Sort(NamedTuple):
    """Messages that cost the same."""

    number: int
    kind: str
    units: int
    """Billed units of each."""
    cost: int
    """Of each, in micro-credits."""


class _Allowed(NamedTuple):
    """How many messages may be sent, what they cost, and what stopped the next one (empty: nothing)."""

    number: int
    cost: int
    reason: str


def authorise(command: Authorise, call: Call) -> Refusal | Details:
    """Answers allow, partial or refuse; refused as a command only where nothing can be answered."""
    terms = call.live.terms_at(call.at)
    assert terms is not None, "commands that need a plan come here only with one"
    segments = _segments(command, terms)
    if segments > MAX_SEGMENTS:
        return Refusal.TOO_MANY_SEGMENTS
    sorts = list(_sorts(command, call.at, terms, segments))
    requested = sum(sort.number for sort in sorts)
    if not requested:
        return Refusal.FIELD_MISSING
    allowed = _allowed(sorts, command, call.account, terms)
    held = held_for(call.account, command.campaign)
    details: Details = {
        "decision": "allow" if allowed.number == requested else "partial" if allowed.number else "refuse",
        "reason": allowed.reason or None,
        "requested": requested,
        "allowed": allowed.number,
        "segments": segments or None,
        "cost": format_credits(allowed.cost),
        "cost_requested": format_credits(sum(sort.number * sort.cost for sort in sorts)),
        "remaining": format_credits(call.account.available + min(held, allowed.cost) - allowed.cost),
        "alerts": _alerts(call.account, terms, allowed.cost),
    }
    if command.reserve_until is None:
        return details
    until = milliseconds(command.reserve_until)
    made = hold_for_campaign(allowed.cost, until, command.campaign, command.list, call)
    return made if isinstance(made, Refusal) else details | made


def _segments(command: Authorise, terms: Terms) -> int:
    """Those of the body, where there is one and something that is sent is an SMS; else 0."""
    is_sms = any(sending.kind == "sms" for sending in command.sendings)
    is_sms = is_sms or (command.kind == "sms" and bool(command.recipients))
    return measure(command.body, terms.plan.profile)[1] if command.body is not None and is_sms else 0


def _sorts(command: Authorise, now: int, terms: Terms, segments: int) -> Iterator[_Sort]:
    """The messages asked for, in order, told apart by what one costs."""
    rate_at = terms.plan.tariff.rate
    for sending in command.sendings:
        rate = rate_at(sending.kind, "outbound", sending.country, sending.category, now)
        units = quantity(rate.per, (segments or sending.segments) if sending.kind == "sms" else 0, 1)
        yield _Sort(sending.count, sending.kind, units, units * rate.micros)
    for address in command.recipients:
        country = "" if command.kind == "email" else locate("outbound", address, "", None)[0]
        rate = rate_at(command.kind, "outbound", country, command.category, now)
        units = quantity(rate.per, segments if command.kind == "sms" else 0, 1)
        yield _Sort(1, command.kind, units, units * rate.micros)


def _allowed(sorts: list[_Sort], command: Authorise, account: Account, terms: Terms) -> _Allowed:
    if _has_ended(terms, account.clock_at):
        return _Allowed(0, 0, "plan_ended")
    is_hard = terms.plan.overage == "hard_stop"
    funds, short = NO_LIMIT, "credits_insufficient"
    if is_hard:
        funds = account.available + held_for(account, command.campaign)
    share = bound(account, command.list, command.campaign, may_owe=not is_hard)
    if share is not None and share < funds:
        funds, short = share, "list_exhausted"
    units = account.period_at(account.clock_at).units if account.periods else {}
    left = {kind: quota - units.get(kind, 0) for kind, quota in terms.plan.quotas.items()}
    count = cost = 0
    for sort in sorts:
        number, reason = sort.number, ""
        if sort.cost and sort.cost * number > funds - cost:
            number, reason = max(funds - cost, 0) // sort.cost, short
        if sort.kind in left and sort.units * number > left[sort.kind]:
            number, reason = max(left[sort.kind], 0) // sort.units, "quota_exhausted"
        if sort.kind in left:
            left[sort.kind] -= sort.units * number
        count += number
        cost += number * sort.cost
        if reason:
            return _Allowed(count, cost, reason)
    return _Allowed(count, cost, "")


def _has_ended(terms: Terms, now: int) -> bool:
    days = terms.plan.ends_after_days
    return bool(days) and now >= days_after(terms.effective_at, days, terms.plan.zone)


def _alerts(account: Account, terms: Terms, cost: int) -> list[int]:
    """The levels that would fire if the cost were burned now."""
    if not account.periods or not cost:
        return []
    period = account.period_at(account.clock_at)
    return crossed(period.used + cost, period.limit, terms.plan.alert_levels, period.fired)
