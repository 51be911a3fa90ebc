"""What account commands do to an account, and what they are answered.

Takes a decoded, rightly signed command and the account it is for; changes the account and gives a `result.v1`.
The account remembers its last answers: the same id with the same content gets the same answer and has no
effect, with another content it is refused. A refused command changes nothing.
"""

from hashlib import blake2b

from pipeline.core.accounts import LiveAccount
from pipeline.core.admission import LATEST_AT
from pipeline.core.amounts import format_credits, parse_credits
from pipeline.core.ledger import FOREVER_AT, MAX_ANSWERS, MAX_PLANS, Answer, Grant, PlanInForce
from pipeline.core.outcomes import Document, Outcomes
from pipeline.core.plans import encode_plan
from pipeline.core.records import Command, GrantCredits, SetPlan, Tick, milliseconds
from pipeline.core.refusals import Refusal
from pipeline.core.rules import Rules

MAX_BALANCE_MICROS = 10**18
"""What no grant may bring a balance above, so that sums of it stay within 64 bits."""

MAX_PLAN_BYTES = 1 << 16
"""An account holds its last plans, and has to fit into one record of its changelog."""


def apply_command(
    command: Command,
    value: bytes,
    live: LiveAccount,
    rules: Rules,
    partition: int,
    offset: int,
    outcomes: Outcomes,
) -> None:
    """Carries out a command once and appends its result."""
    account = live.account
    digest = blake2b(value, digest_size=8).digest()
    answer = next((each for each in account.answers if each.command_id == command.id), None)
    if answer is None:
        refusal = _carry_out(command, live, rules, offset, outcomes)
        answer = Answer(command.id, digest, refusal.value if refusal else "", account.balance)
        if not isinstance(command, Tick):
            # A tick repeated has nothing left to do, and schedulers send enough of them to push others out.
            account.answers.append(answer)
            del account.answers[:-MAX_ANSWERS]
    elif answer.digest != digest:
        answer = Answer(command.id, digest, Refusal.COMMAND_CONFLICT.value, account.balance)
    # Whatever it is answered, the account has seen it, and time has passed: equal offsets mean equal content.
    account.applied_offset = offset
    live.is_dirty = True
    outcomes.results.append(_result(command, answer, partition, offset))


def _carry_out(
    command: Command, live: LiveAccount, rules: Rules, offset: int, outcomes: Outcomes
) -> Refusal | None:
    if isinstance(command, SetPlan):
        return _set_plan(command, live, rules, offset, outcomes)
    if isinstance(command, GrantCredits):
        return _grant(command, live, offset, outcomes)
    return None  # A tick: `advance` has let time pass before any command is carried out.


def _set_plan(
    command: SetPlan, live: LiveAccount, rules: Rules, offset: int, outcomes: Outcomes
) -> Refusal | None:
    document = encode_plan(command.plan)
    if len(document) > MAX_PLAN_BYTES:
        return Refusal.PLAN_INVALID
    try:
        rules.terms(document)
    except ValueError:
        return Refusal.PLAN_INVALID
    account = live.account
    effective_at = milliseconds(command.effective_at)
    plans = [plan for plan in account.plans if plan.effective_at != effective_at]
    plans.append(PlanInForce(effective_at, document))
    plans.sort(key=lambda plan: plan.effective_at)
    while len(plans) > MAX_PLANS and plans[1].effective_at <= account.clock_at:
        del plans[0]
    if len(plans) > MAX_PLANS:
        return Refusal.PLAN_INVALID
    account.plans = plans
    live.plans_changed()
    live.advance(account.clock_at, offset, outcomes, command.id)
    return None


def _grant(command: GrantCredits, live: LiveAccount, offset: int, outcomes: Outcomes) -> Refusal | None:
    try:
        amount = parse_credits(command.credits)
    except ValueError:
        return Refusal.AMOUNT_INVALID
    if not 0 < amount <= MAX_BALANCE_MICROS - live.account.balance:
        return Refusal.AMOUNT_INVALID
    starts_at = milliseconds(command.effective_at)
    expires_at = FOREVER_AT if command.expires_at is None else milliseconds(command.expires_at)
    ends = expires_at < LATEST_AT or command.expires_at is None
    if not ends or expires_at <= max(starts_at, live.account.clock_at):
        return Refusal.EXPIRY_INVALID
    grant_id = f"{command.kind}:{command.id}"
    # Answers are forgotten in time; a repetition must not double the grant even then.
    if any(held.id == grant_id for held in live.account.grants):
        return Refusal.COMMAND_CONFLICT
    grant = Grant(
        id=grant_id,
        kind=command.kind,
        amount=amount,
        remaining=amount,
        starts_at=starts_at,
        expires_at=expires_at,
        priority=command.priority,
        created_offset=offset,
    )
    live.add(grant, command.id, offset, outcomes)
    return None


def _result(command: Command, answer: Answer, partition: int, offset: int) -> Document:
    return {
        "command_id": command.id,
        "tenant": command.tenant,
        "type": command.__struct_config__.tag,
        "outcome": "refused" if answer.reason else "accepted",
        "reason": answer.reason or None,
        "balance": format_credits(answer.balance),
        "effective_at": milliseconds(command.effective_at),
        "partition": partition,
        "offset": offset,
    }
