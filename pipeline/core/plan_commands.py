"""What commands do to a tenant's plan, recharging, organization and contacts.

Each function takes its command and a `Call`, and gives a refusal, which changes nothing, or the result's details.
"""

from pipeline.core.account import FOREVER_AT, MAX_GRANTS, MAX_PLANS, Grant, PlanInForce
from pipeline.core.burning import payment
from pipeline.core.calls import Call, Details
from pipeline.core.contacts import contact_hash
from pipeline.core.fields import milliseconds
from pipeline.core.instructions import (
    ConfirmRecharge,
    DeclineRecharge,
    MarkContacts,
    SetOrganization,
    SetPlan,
)
from pipeline.core.outcomes import ContactMark
from pipeline.core.plans import encode_plan
from pipeline.core.recharge import confirm, decline
from pipeline.core.refusals import Refusal

MAX_PLAN_BYTES = 1 << 16
MAX_PLANS_BYTES = 1 << 20
"""Of all plans an account holds, the past ones being dropped first: it has to fit into one record of its changelog."""


def set_plan(command: SetPlan, call: Call) -> Refusal | Details:
    """Puts the tenant under a plan from an instant on; the open period's allowance follows at once."""
    document = encode_plan(command.plan)
    if len(document) > MAX_PLAN_BYTES:
        return Refusal.PLAN_INVALID
    try:
        call.rules.terms(document)
    except ValueError:
        return Refusal.PLAN_INVALID
    account = call.account
    effective_at = milliseconds(command.effective_at)
    plans = [plan for plan in account.plans if plan.effective_at != effective_at]
    plans.append(PlanInForce(effective_at, document))
    plans.sort(key=lambda plan: plan.effective_at)
    while _are_too_many(plans) and plans[1].effective_at <= account.clock_at:
        del plans[0]
    if _are_too_many(plans):
        return Refusal.PLAN_INVALID
    account.plans = plans
    call.live.changed()
    call.live.advance(account.clock_at, call.offset, call.outcomes, command.id)
    return {}


def _are_too_many(plans: list[PlanInForce]) -> bool:
    return len(plans) > MAX_PLANS or sum(len(plan.document) for plan in plans) > MAX_PLANS_BYTES


def confirm_recharge(command: ConfirmRecharge, call: Call) -> Refusal | Details:
    """Settles what was due when the recharge was asked for, and grants its block."""
    account = call.account
    state = account.recharge
    if state is None or not state.in_flight or state.in_flight != command.recharge:
        return Refusal.RECHARGE_UNKNOWN
    if len(account.grants) >= MAX_GRANTS:
        return Refusal.ACCOUNT_FULL
    confirm(state)
    # What was due may have been settled since by a grant: it was paid for, so it comes as credits.
    credits_paid = state.credits + state.due_credits
    if state.due_credits:
        paid = payment(account, state, call.id, call.offset)
        call.outcomes.entries.append((account.tenant, paid))
        credits_paid -= paid.amount
    block = Grant(
        id=f"purchase:{call.id}",
        kind="purchase",
        amount=credits_paid,
        remaining=credits_paid,
        starts_at=call.at,
        expires_at=FOREVER_AT,
        priority=500,
        created_offset=call.offset,
        cost_micros=state.top_up_micros,
        currency=state.currency,
    )
    call.live.add(block, call.id, call.offset, call.outcomes)
    return {"grant": block.id}


def decline_recharge(command: DeclineRecharge, call: Call) -> Refusal | Details:
    """Ends the recharge in flight without credits; the next is asked for after the plan's back-off."""
    state = call.account.recharge
    if state is None or not state.in_flight or state.in_flight != command.recharge:
        return Refusal.RECHARGE_UNKNOWN
    terms = call.live.terms_at(call.at)
    decline(call.account, state, terms.plan.recharge if terms else None)
    call.live.changed()
    return {"next_at": state.next_at}


def set_organization(command: SetOrganization, call: Call) -> Refusal | Details:
    """Puts the tenant into an organization, or into none; whose figures are the sums of its tenants'."""
    call.account.organization = command.organization
    return {}


def mark_contacts(command: MarkContacts, call: Call) -> Refusal | Details:
    """Says which contacts are active, inactive or gone; they are known by the same keyed hash as in facts."""
    call.outcomes.contacts += [
        ContactMark(
            command.tenant,
            contact_hash(call.rules.counterparty_key, address),
            command.state,
            milliseconds(command.effective_at),
            call.partition,
            call.offset,
        )
        for address in command.contacts
    ]
    return {"contacts": len(command.contacts)}
