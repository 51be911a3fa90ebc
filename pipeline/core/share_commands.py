"""What commands do to shares of lists and to reservations; no credit moves but by a commit.

Each function takes its command and a `Call`, and gives a refusal, which changes nothing, or the result's details.
"""

from pipeline.core.account import MAX_LISTS, MAX_RESERVATIONS, Allocation, Reservation
from pipeline.core.admission import LATEST_AT
from pipeline.core.allocations import assignable, bound
from pipeline.core.amounts import format_credits, parse_credits
from pipeline.core.bounds import reservation_room, usage_room
from pipeline.core.calls import Call, Details, amount_above_zero
from pipeline.core.fields import milliseconds
from pipeline.core.instructions import Allocate, CommitReservation, ReleaseReservation, Reserve
from pipeline.core.refusals import Refusal
from pipeline.core.reservations import extend_reservations, held_for, release


def allocate(command: Allocate, call: Call) -> Refusal | Details:
    """Sets a list's share, out of what is promised to nobody else, or gives the list free access.

    A share may always be made smaller.
    """
    account = call.account
    if command.credits is None:
        account.allocations.pop(command.list, None)
    else:
        try:
            share = parse_credits(command.credits)
        except ValueError:
            return Refusal.AMOUNT_INVALID
        if share < 0:
            return Refusal.AMOUNT_INVALID
        held = account.allocations.get(command.list)
        if share > max(assignable(account, command.list), held.left if held else 0, 0):
            return Refusal.CREDITS_INSUFFICIENT
        if held is None and len(account.allocations) >= MAX_LISTS:
            return Refusal.ACCOUNT_FULL
        account.allocations[command.list] = Allocation(share)
    call.live.changed()
    call.live.reconsider(call.offset, call.outcomes)
    return {"unassigned": format_credits(account.unassigned)}


def reserve(command: Reserve, call: Call) -> Refusal | Details:
    """Holds credits for something scheduled, no more than are available unless the plan lets a balance go below."""
    amount = amount_above_zero(command.credits)
    if not amount:
        return Refusal.AMOUNT_INVALID
    return hold(amount, milliseconds(command.expires_at), command.campaign, command.list, call)


def hold(amount: int, expires_at: int, campaign: str, listed: str, call: Call) -> Refusal | Details:
    """Makes the reservation that has the command's id."""
    account = call.account
    if not call.at < expires_at < LATEST_AT:
        return Refusal.EXPIRY_INVALID
    if amount > reservation_room(account):
        return Refusal.AMOUNT_INVALID
    terms = call.live.terms_at(call.at)
    may_owe = terms is not None and terms.plan.overage != "hard_stop"
    share = bound(account, listed, may_owe=may_owe)
    is_short = amount > account.available and not may_owe
    if is_short or (share is not None and amount > share):
        return Refusal.CREDITS_INSUFFICIENT
    if call.id in account.reservations:
        return Refusal.COMMAND_CONFLICT  # The answer was forgotten, the reservation was not.
    if len(account.reservations) >= MAX_RESERVATIONS:
        return Refusal.ACCOUNT_FULL
    account.reservations[call.id] = Reservation(amount, amount, expires_at, campaign, listed, call.offset)
    call.live.changed()
    call.live.reconsider(call.offset, call.outcomes)
    return {"reservation": call.id, "available": format_credits(account.available)}


def hold_for_campaign(cost: int, until: int, campaign: str, listed: str, call: Call) -> Refusal | Details:
    """Holds a cost until an instant: what the campaign holds already as long as that, and the rest anew."""
    if not call.at < until < LATEST_AT:
        return Refusal.EXPIRY_INVALID
    missing = cost - held_for(call.account, campaign)
    made = hold(missing, until, campaign, listed, call) if missing > 0 else {}
    if isinstance(made, Refusal):
        return made
    extended = extend_reservations(call.account, campaign, cost, until)
    if not extended:
        return made
    call.live.changed()
    return made | {"extended": extended}


def commit_reservation(command: CommitReservation, call: Call) -> Refusal | Details:
    """Burns part of what a reservation holds."""
    held = call.account.reservations.get(command.reservation)
    if held is None:
        return Refusal.RESERVATION_UNKNOWN
    amount = amount_above_zero(command.credits)
    if not amount:
        return Refusal.AMOUNT_INVALID
    if amount > held.left:
        return Refusal.RESERVATION_EXCEEDED
    if amount > usage_room(call.account):
        return Refusal.AMOUNT_INVALID
    left = held.left - amount
    release(call.account, command.reservation, amount)
    call.live.take(amount, "commit", call.id, call.offset, call.outcomes)
    return {"held": format_credits(left), "available": format_credits(call.account.available)}


def release_reservation(command: ReleaseReservation, call: Call) -> Refusal | Details:
    """Gives back part of what a reservation holds, all of it by default."""
    held = call.account.reservations.get(command.reservation)
    if held is None:
        return Refusal.RESERVATION_UNKNOWN
    amount = held.left if command.credits is None else amount_above_zero(command.credits)
    if not amount:
        return Refusal.AMOUNT_INVALID
    if amount > held.left:
        return Refusal.RESERVATION_EXCEEDED
    left = held.left - amount
    release(call.account, command.reservation, amount)
    call.live.changed()
    call.live.reconsider(call.offset, call.outcomes)
    return {"held": format_credits(left), "available": format_credits(call.account.available)}
