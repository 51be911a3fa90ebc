"""Account commands as they travel in `messages.raw`: one record type each.

Takes and gives shapes only; `commands` carries them out. Every command has a client-made id, under which it has
its effect once, and `effective_at`, the instant it holds from.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from pipeline.core.fields import Address, Amount, Currency, GrantId, Instant, Label, Name
from pipeline.core.plans import Plan
from pipeline.core.rating import Kind


class AccountCommand(Struct, tag_field="type", forbid_unknown_fields=True):
    """What every command says; none is only that."""

    id: Name
    """Made by the client; under it the command has its effect once."""
    tenant: Name
    effective_at: Instant


class SetPlan(AccountCommand, tag="set_plan"):
    """Puts a tenant under a plan from `effective_at` on."""

    plan: Plan


class GrantCredits(AccountCommand, tag="grant"):
    """Adds credits to a tenant's account."""

    credits: Amount
    """Above zero."""
    kind: Literal["purchase", "promotion", "adjustment"] = "purchase"
    expires_at: Instant | None = None
    priority: Annotated[int, Meta(ge=0, le=1000)] = 500
    """Lower burns first; a plan's allowance has 100."""
    valid_months: Annotated[int, Meta(ge=1, le=120)] | None = None
    """Ends at the start of the tenant's local day so many months after it began; not together with `expires_at`."""
    is_extended: bool = False
    """Whether a later grant that ends later, and is extended itself, gives this one its end."""
    cost: Amount = "0"
    """Money paid for it, zero or more."""
    currency: Currency = ""
    package: Label = ""
    """The package of a catalogue that was bought."""


class VoidGrant(AccountCommand, tag="void_grant"):
    """Takes back a grant of which nothing was burned."""

    grant: GrantId


class AdjustCredits(AccountCommand, tag="adjust"):
    """Corrects a balance: adds an adjustment grant, or takes credits in burn order."""

    credits: Amount
    """Signed, not zero."""


class Allocate(AccountCommand, tag="allocate"):
    """Sets what a list may spend from now on."""

    list: Name
    credits: Amount | None = None
    """Its share, zero or more; none for free access to what is not assigned."""


class Reserve(AccountCommand, tag="reserve"):
    """Holds credits for something scheduled; the reservation's id is the command's."""

    credits: Amount
    expires_at: Instant
    """When what is still held is released by itself."""
    campaign: Label = ""
    """Charges of this campaign's messages settle the reservation."""
    list: Label = ""


class CommitReservation(AccountCommand, tag="commit_reservation"):
    """Burns part of what is held, for something that sends no messages through the meter."""

    reservation: Name
    credits: Amount


class ReleaseReservation(AccountCommand, tag="release_reservation"):
    """Gives back what is held, all or part of it."""

    reservation: Name
    credits: Amount | None = None


class ConfirmRecharge(AccountCommand, tag="confirm_recharge"):
    """Says that a recharge was paid: what was due is settled, and the block is granted."""

    recharge: Label


class DeclineRecharge(AccountCommand, tag="decline_recharge"):
    """Says that a recharge was not paid: the next is asked for after a back-off."""

    recharge: Label


class MarkContacts(AccountCommand, tag="mark_contacts"):
    """Says which contacts are active, inactive or gone; who is messaged counts all the same for a time."""

    contacts: Annotated[list[Address], Meta(min_length=1, max_length=1000)]
    state: Literal["active", "inactive", "removed"]


class SetOrganization(AccountCommand, tag="set_organization"):
    """Puts a tenant into an organization, or into none."""

    organization: Label


class Sending(Struct, forbid_unknown_fields=True):
    """Messages of one sort that somebody wants to send."""

    count: Annotated[int, Meta(ge=1, le=10_000_000)]
    kind: Kind = "sms"
    country: Annotated[str, Meta(pattern="^([A-Z]{2})?$")] = ""
    category: Label = ""
    segments: Annotated[int, Meta(ge=1, le=255)] = 1
    """Of each message; where the command has a body, its segments count instead."""


class Authorise(AccountCommand, tag="authorise"):
    """Asks whether messages may be sent, what they would cost, and optionally holds the credits for them."""

    sendings: Annotated[list[Sending], Meta(max_length=1000)] = []
    """In the order in which they would be sent."""
    body: Annotated[str, Meta(max_length=20_000)] | None = None
    recipients: Annotated[list[Address], Meta(max_length=10_000)] = []
    """Numbers, located one by one, after `sendings`; need a body or cost as one segment."""
    kind: Kind = "sms"
    """Of the recipients' messages."""
    category: Label = ""
    list: Label = ""
    campaign: Label = ""
    reserve_until: Instant | None = None
    """Holds the cost of what is allowed until then, under the command's id."""


class Tick(AccountCommand, tag="tick"):
    """Lets time pass for a tenant without a message: renewals and expiries due by `effective_at` happen."""


Command = (
    SetPlan
    | GrantCredits
    | VoidGrant
    | AdjustCredits
    | Allocate
    | Reserve
    | CommitReservation
    | ReleaseReservation
    | ConfirmRecharge
    | DeclineRecharge
    | MarkContacts
    | SetOrganization
    | Authorise
    | Tick
)
