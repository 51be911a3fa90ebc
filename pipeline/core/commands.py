"""What account commands are answered: each is carried out once, and its answer is remembered.

Takes a decoded, rightly signed command and the account it is for; changes the account and gives a `result.v1`.
What each type does is in `plan_commands`, `grant_commands`, `share_commands` and `authorise`: functions that take a
`Call` and give a refusal, or what else the result says.

The account remembers its answers for 48 hours, and the last 32 for ever: the same id with the same content gets the
same answer and has no effect, with another content it is refused. A refused command changes nothing.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from pipeline.core.account import ANSWER_MILLISECONDS, ANSWERS_KEPT, INQUIRIES_KEPT, MAX_ANSWERS, Answer
from pipeline.core.accounts import LiveAccount
from pipeline.core.amounts import format_credits
from pipeline.core.authorise import authorise
from pipeline.core.calls import Call, Details
from pipeline.core.fields import milliseconds
from pipeline.core.grant_commands import adjust, grant, void
from pipeline.core.instructions import (
    AdjustCredits,
    Allocate,
    Authorise,
    Command,
    CommitReservation,
    ConfirmRecharge,
    DeclineRecharge,
    GrantCredits,
    MarkContacts,
    ReleaseReservation,
    Reserve,
    SetOrganization,
    SetPlan,
    Tick,
    VoidGrant,
)
from pipeline.core.outcomes import Document, Outcomes
from pipeline.core.plan_commands import (
    confirm_recharge,
    decline_recharge,
    mark_contacts,
    set_organization,
    set_plan,
)
from pipeline.core.refusals import Refusal
from pipeline.core.rules import Rules
from pipeline.core.share_commands import allocate, commit_reservation, release_reservation, reserve

_EFFECTS: Mapping[type, Callable[[Any, Call], Refusal | Details]] = {
    SetPlan: set_plan,
    GrantCredits: grant,
    VoidGrant: void,
    AdjustCredits: adjust,
    Allocate: allocate,
    Reserve: reserve,
    CommitReservation: commit_reservation,
    ReleaseReservation: release_reservation,
    ConfirmRecharge: confirm_recharge,
    DeclineRecharge: decline_recharge,
    MarkContacts: mark_contacts,
    SetOrganization: set_organization,
    Authorise: authorise,
}
_NEED_NO_PLAN = (SetPlan, GrantCredits, SetOrganization, Tick)
"""What may come before a tenant's plan: who signs up pays first, perhaps."""

_encode = msgspec.json.Encoder().encode


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
        said = _carry_out(command, Call(command.id, live, rules, partition, offset, outcomes))
        if isinstance(said, Refusal):
            answer = Answer(command.id, digest, said.value, account.balance)
        else:
            answer = Answer(command.id, digest, "", account.balance, _encode(said) if said else b"")
        if not isinstance(command, Tick):
            # A tick repeated has nothing left to do, and schedulers send enough of them to push others out.
            answer.answered_at = account.clock_at
            answer.is_inquiry = isinstance(command, Authorise) and command.reserve_until is None
            account.answers = _remembered([*account.answers, answer], account.clock_at)
    elif answer.digest != digest:
        answer = Answer(command.id, digest, Refusal.COMMAND_CONFLICT.value, account.balance)
    # Whatever it is answered, the account has seen it, and time has passed: equal offsets mean equal content.
    account.applied_offset = offset
    live.is_dirty = True
    outcomes.results.append(_result(command, answer, partition, offset))


def _remembered(answers: list[Answer], now: int) -> list[Answer]:
    """The answers to go on remembering, oldest first."""
    inquiries = [each for each in answers if each.is_inquiry][-INQUIRIES_KEPT:]
    effects = [each for each in answers if not each.is_inquiry][-MAX_ANSWERS:]
    old = [each for each in effects[:-ANSWERS_KEPT] if each.answered_at + ANSWER_MILLISECONDS > now]
    return [*inquiries, *old, *effects[-ANSWERS_KEPT:]]


def _carry_out(command: Command, call: Call) -> Refusal | Details:
    if not isinstance(command, _NEED_NO_PLAN) and call.live.terms_at(call.at) is None:
        return Refusal.TENANT_UNKNOWN
    if isinstance(command, Tick):
        return {}  # `advance` has let time pass before any command is carried out.
    return _EFFECTS[type(command)](command, call)


def _result(command: Command, answer: Answer, partition: int, offset: int) -> Document:
    result: Document = {
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
    if answer.details:
        result["details"] = msgspec.json.decode(answer.details)
    return result
