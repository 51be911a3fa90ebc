"""What commands do to an account's grants: give, take back, correct.

Each function takes its command and a `Call`, and gives a refusal, which changes nothing, or the result's details.
"""

from pipeline.core.account import FOREVER_AT, MAX_GRANTS, Grant
from pipeline.core.admission import LATEST_AT
from pipeline.core.allocations import cut_shares
from pipeline.core.amounts import MAX_MONEY_MICROS, parse_credits
from pipeline.core.bounds import debt_room, grant_room
from pipeline.core.calls import Call, Details, amount_above_zero
from pipeline.core.fields import milliseconds
from pipeline.core.instructions import AdjustCredits, GrantCredits, VoidGrant
from pipeline.core.ledger import void_grant
from pipeline.core.refusals import Refusal
from pipeline.core.windows import months_after


def grant(command: GrantCredits, call: Call) -> Refusal | Details:
    """Adds a grant; grants that are extended by purchases get its end where that is later."""
    amount, cost = amount_above_zero(command.credits), _cost(command)
    if not 0 < amount <= grant_room(call.account) or cost is None:
        return Refusal.AMOUNT_INVALID
    expires_at = _expires_at(command, call)
    if expires_at is None:
        return Refusal.EXPIRY_INVALID
    grant_id = f"{command.kind}:{command.id}"
    # Answers are forgotten in time; a repetition must not double the grant even then.
    if any(held.id == grant_id for held in call.account.grants):
        return Refusal.COMMAND_CONFLICT
    if len(call.account.grants) >= MAX_GRANTS:
        return Refusal.ACCOUNT_FULL
    given = Grant(
        id=grant_id,
        kind=command.kind,
        amount=amount,
        remaining=amount,
        starts_at=milliseconds(command.effective_at),
        expires_at=expires_at,
        priority=command.priority,
        created_offset=call.offset,
        cost_micros=cost,
        currency=command.currency,
        is_extended=command.is_extended,
    )
    call.live.add(given, call.id, call.offset, call.outcomes)
    return {"grant": grant_id, "expires_at": None if expires_at == FOREVER_AT else expires_at}


def _cost(command: GrantCredits) -> int | None:
    """What was paid, in micro-units of money; none where that is no amount, or of no currency."""
    try:
        cost = parse_credits(command.cost)
    except ValueError:
        return None
    return cost if 0 <= cost <= MAX_MONEY_MICROS and (command.currency or not cost) else None


def _expires_at(command: GrantCredits, call: Call) -> int | None:
    """When the grant ends; none where the command says nothing that a grant can have."""
    starts_at = milliseconds(command.effective_at)
    if command.valid_months is not None:
        if command.expires_at is not None:
            return None
        terms = call.live.terms_at(starts_at)
        expires_at = months_after(starts_at, command.valid_months, terms.plan.zone if terms else "UTC")
    elif command.expires_at is not None:
        expires_at = milliseconds(command.expires_at)
    else:
        return FOREVER_AT
    return expires_at if max(starts_at, call.at) < expires_at < LATEST_AT else None


def void(command: VoidGrant, call: Call) -> Refusal | Details:
    """Takes back a grant that a command gave and nothing was burned of."""
    held = next((each for each in call.account.grants if each.id == command.grant), None)
    if held is None or held.kind in ("allowance", "rollover"):
        return Refusal.GRANT_UNKNOWN
    if held.remaining < held.amount or held.is_expired:
        return Refusal.GRANT_BURNED
    entry = void_grant(call.account, held, call.id, call.offset)
    call.outcomes.entries.append((call.account.tenant, entry))
    cut_shares(call.account)
    call.live.changed()
    call.live.reconsider(call.offset, call.outcomes)
    return {}


def adjust(command: AdjustCredits, call: Call) -> Refusal | Details:
    """Adds credits without end, or takes credits in burn order, no more than there are unless the plan allows."""
    try:
        amount = parse_credits(command.credits)
    except ValueError:
        return Refusal.AMOUNT_INVALID
    if amount > 0:
        given = GrantCredits(
            id=command.id,
            tenant=command.tenant,
            effective_at=command.effective_at,
            credits=command.credits,
            kind="adjustment",
        )
        return grant(given, call)
    if amount == 0 or -amount > debt_room(call.account):
        return Refusal.AMOUNT_INVALID
    terms = call.live.terms_at(call.at)
    may_owe = terms is not None and terms.plan.overage != "hard_stop"
    if -amount > call.account.credits_at(call.at) and not may_owe:
        return Refusal.CREDITS_INSUFFICIENT
    call.live.take(-amount, "adjustment", call.id, call.offset, call.outcomes)
    return {}
