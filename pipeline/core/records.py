"""What travels in `messages.raw`: messages and account commands, as typed records.

Takes the bytes of one record's value; gives a `Message`, a `Command`, or the `Refusal` that says why not.
Decoding and validation are one pass in msgspec; only what msgspec rejects is looked at again, to name the
reason. Never looks at positions, keys or clocks: `process` does.

`schemas/message.v1.json` and `schemas/command.v1.json` say the same for other languages; a test holds them equal.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from pipeline.core.plans import Plan
from pipeline.core.refusals import Refusal

MAX_VALUE_BYTES = 1 << 20
"""Larger values are refused; the topic takes 2 MiB, so the refusal can be recorded."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Label = Annotated[str, Meta(max_length=128)]
Address = Annotated[str, Meta(min_length=1, max_length=320)]
"""A phone number, short code, alphanumeric sender or email address; 320 is the longest email address (RFC 3696)."""
Instant = Annotated[datetime, Meta(tz=True)] | int
"""RFC 3339 with an offset, or milliseconds since 1970-01-01T00:00:00Z."""

Kind = Literal["sms", "mms", "rcs", "email"]
Direction = Literal["outbound", "inbound"]
Status = Literal[
    "accepted", "queued", "sending", "sent", "received", "delivered", "undelivered", "failed", "unknown", "read"
]

STATUS_BITS: dict[str, int] = {
    status: 1 << position
    for position, status in enumerate(
        ("accepted", "queued", "sending", "sent", "received", "delivered", "undelivered", "failed", "unknown", "read")
    )
}
"""One bit a status, so that the set of statuses seen of a message is an integer below 1024."""


class Message(Struct, gc=False):
    """One message, or one later status of it; identity is (tenant, source, id)."""

    id: Name
    tenant: Name
    source: Name
    """The gateway or provider account whose id it is."""
    kind: Kind
    direction: Direction
    status: Status
    status_at: Instant
    """When the status was reached."""
    occurred_at: Instant
    """The message's own moment: sent or received. Charges belong to it. The same in every record of a message."""
    to: Address
    from_: Address = msgspec.field(name="from")
    body: Annotated[str, Meta(max_length=MAX_VALUE_BYTES)] | None = None
    """Counted and forgotten."""
    encoding: Literal["GSM-7", "UCS-2", "8-bit"] | None = None
    """The coding the gateway used, where it says so; else the body decides."""
    segments: Annotated[int, Meta(ge=1, le=255)] | None = None
    """The gateway's own count; preferred to ours."""
    country: Annotated[str, Meta(pattern="^[A-Z]{2}$")] | None = None
    """ISO 3166-1 alpha-2 of the counterparty; wins over the number's prefix."""
    category: Label = ""
    list: Label = ""
    member: Label = ""
    inbox: Label = ""
    campaign: Label = ""
    recipients: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Email only: how many recipients the record stands for."""


class SetPlan(Struct, tag_field="type", tag="set_plan", forbid_unknown_fields=True):
    """Puts a tenant under a plan from `effective_at` on."""

    id: Name
    tenant: Name
    effective_at: Instant
    plan: Plan


class GrantCredits(Struct, tag_field="type", tag="grant", forbid_unknown_fields=True):
    """Adds credits to a tenant's account."""

    id: Name
    tenant: Name
    effective_at: Instant
    credits: Annotated[str, Meta(max_length=32)]
    """A decimal string with at most six decimals, above zero."""
    kind: Literal["purchase", "promotion", "adjustment"] = "purchase"
    expires_at: Instant | None = None
    priority: Annotated[int, Meta(ge=0, le=1000)] = 500
    """Lower burns first; a plan's allowance has 100."""


class Tick(Struct, tag_field="type", tag="tick", forbid_unknown_fields=True):
    """Lets time pass for a tenant without a message: renewals and expiries due by `effective_at` happen."""

    id: Name
    tenant: Name
    effective_at: Instant


Command = SetPlan | GrantCredits | Tick

_decode_message = msgspec.json.Decoder(Message).decode
_decode_command = msgspec.json.Decoder(Command).decode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(instant: datetime | int) -> int:
    """The instant as whole milliseconds since 1970-01-01T00:00:00Z, rounded down."""
    return instant if type(instant) is int else (instant - _EPOCH) // _MILLISECOND  # type: ignore[operator]


def decode_message(value: bytes) -> Message | Refusal:
    """The message in a record's value, or why there is none."""
    try:
        message = _decode_message(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return _reason(value, error)
    if b"\\u0000" in value and _holds_nul(msgspec.json.decode(value)):
        return Refusal.NUL_CHARACTER
    return message


def decode_command(value: bytes) -> SetPlan | GrantCredits | Tick | Refusal:
    """The command in a record's value, or why there is none; its signature is not looked at here."""
    try:
        command: SetPlan | GrantCredits | Tick = _decode_command(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return _reason(value, error)
    if b"\\u0000" in value and _holds_nul(msgspec.json.decode(value)):
        return Refusal.NUL_CHARACTER
    return command


def _reason(value: bytes, error: Exception) -> Refusal:
    """Names what msgspec rejected, in the order of `Refusal`."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return Refusal.NOT_UTF8
    if isinstance(error, RecursionError):
        return Refusal.TOO_DEEP
    try:
        document = json.loads(text, parse_constant=_not_a_number)
    except RecursionError:
        return Refusal.TOO_DEEP
    except ValueError:
        return Refusal.NOT_JSON
    if not isinstance(document, dict):
        return Refusal.NOT_JSON
    # The standard library lets half a surrogate pair through; encoding is what finds it.
    if not _is_text(document):
        return Refusal.UNPAIRED_SURROGATE
    if _holds_nul(document):
        return Refusal.NUL_CHARACTER
    return Refusal.FIELD_MISSING if "missing required field" in str(error) else Refusal.FIELD_INVALID


def _not_a_number(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _is_text(document: dict[str, Any]) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _holds_nul(node: object) -> bool:
    """Whether any string in a decoded document, a name or a value, holds U+0000."""
    if isinstance(node, str):
        return "\0" in node
    if isinstance(node, dict):
        return any(_holds_nul(name) or _holds_nul(value) for name, value in node.items())
    if isinstance(node, list):
        return any(_holds_nul(item) for item in node)
    return False
