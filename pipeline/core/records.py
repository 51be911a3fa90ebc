"""What travels in `messages.raw`: messages and account commands, as typed records.

Takes the bytes of one record's value; gives a `Message`, a `Command`, or the `Refusal` that says why not.
Decoding and validation are one pass in msgspec; only what msgspec rejects is looked at again, to name the
reason. Never looks at positions, keys or clocks: `process` does.

`schemas/message.v1.json` and `schemas/command.v1.json` say the same for other languages; a test holds them
equal.
"""

import json
import re
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from pipeline.core.fields import Address, Instant, Label, Name
from pipeline.core.instructions import Command
from pipeline.core.plans import Status
from pipeline.core.rating import Direction, Kind
from pipeline.core.refusals import Refusal

MAX_VALUE_BYTES = 1 << 20
"""Larger values are refused; the topic takes 2 MiB, so the refusal can be recorded."""

STATUS_BITS: dict[str, int] = {status: 1 << position for position, status in enumerate(get_args(Status))}
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
    """The message's own moment: sent or received. Charges belong to it; every record repeats it."""
    to: Address
    from_: Address = msgspec.field(name="from")
    body: Annotated[str, Meta(max_length=MAX_VALUE_BYTES)] | None = None
    """Counted and forgotten."""
    encoding: Literal["GSM-7", "UCS-2", "8-bit"] | None = None
    """The coding the gateway used, where it says so; else the body decides."""
    segments: Annotated[int, Meta(ge=1, le=255)] | None = None
    """The gateway's own count; preferred to ours."""
    country: Annotated[str, Meta(min_length=2, max_length=2, pattern="^[A-Z]{2}$")] | None = None
    """ISO 3166-1 alpha-2 of the counterparty; wins over the number's prefix. `$` alone allows a line end."""
    category: Label = ""
    list: Label = ""
    member: Label = ""
    inbox: Label = ""
    campaign: Label = ""
    recipients: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Email only: how many recipients the record stands for."""


_decode_message = msgspec.json.Decoder(Message).decode
_decode_command = msgspec.json.Decoder(Command).decode

MAX_DEPTH = 64
"""Objects and lists inside each other. The decoders' own limit depends on the caller's stack, so without
this one the same record could be taken by one program and refused by another."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
"""A string, or the rest of the value where it is not closed: so any value is scanned once."""
_BRACKET = re.compile(rb"[\[{\]}]")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""The escape of U+0000 in valid JSON, told apart from an escaped backslash before "u0000"."""

_REQUIRED_OF_MESSAGE = frozenset(
    each.encode_name for each in msgspec.structs.fields(Message) if each.required
)
_REQUIRED_BY_TYPE = {
    struct.__struct_config__.tag: frozenset(
        ("type", *(each.encode_name for each in msgspec.structs.fields(struct) if each.required))
    )
    for struct in get_args(Command)
}


def decode_message(value: bytes) -> Message | Refusal:
    """The message in a record's value, or why there is none."""
    if (b"[" in value or value.find(b"{", 1) > 0) and _is_too_deep(value):
        return Refusal.TOO_DEEP if _is_utf8(value) else Refusal.NOT_UTF8
    try:
        message = _decode_message(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _reason(value, error, _REQUIRED_OF_MESSAGE)
    if b"\\" in value and b"\\u0000" in value and _NUL.search(value):
        return Refusal.NUL_CHARACTER
    # The decoder passes over unknown fields without looking at their bytes.
    if not value.isascii() and not _is_utf8(value):
        return Refusal.NOT_UTF8
    return message


def decode_command(value: bytes) -> Command | Refusal:
    """The command in a record's value, or why there is none; its signature is not looked at here."""
    if _is_too_deep(value):
        return Refusal.TOO_DEEP if _is_utf8(value) else Refusal.NOT_UTF8
    try:
        command: Command = _decode_command(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _reason(value, error, None)
    if b"\\" in value and b"\\u0000" in value and _NUL.search(value):
        return Refusal.NUL_CHARACTER
    return command


def _reason(value: bytes, error: Exception, required: frozenset[str] | None) -> Refusal:
    """Names the first fault of what msgspec rejected; `required` is None for commands.

    Depth was looked at before: whether a value is JSON further in than it is followed, nobody can say.
    """
    if not _is_utf8(value):
        return Refusal.NOT_UTF8
    try:
        # Numbers are only passed over: the longest of them would be refused as no JSON.
        document = json.loads(
            value.decode("utf-8"), parse_constant=_not_a_number, parse_int=len, parse_float=len
        )
    except ValueError:
        return Refusal.NOT_JSON
    if not isinstance(document, dict):
        return Refusal.NOT_JSON
    # The standard library lets half a surrogate pair through; encoding is what finds it.
    if not _is_text(document):
        return Refusal.UNPAIRED_SURROGATE
    if _NUL.search(value):
        return Refusal.NUL_CHARACTER
    if required is None:
        command_type = document.get("type")
        required = _REQUIRED_BY_TYPE.get(
            command_type if isinstance(command_type, str) else "", frozenset({"type"})
        )
    # Inside a plan the decoder's first fault counts. Its words come first: a value's own text may follow.
    is_missing = not required <= document.keys() or str(error).startswith("Object missing required field")
    return Refusal.FIELD_MISSING if is_missing else Refusal.FIELD_INVALID


def _is_too_deep(value: bytes) -> bool:
    """Whether more than `MAX_DEPTH` objects and lists lie in each other, whatever else the value is."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", value)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _not_a_number(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _is_text(document: dict[str, Any]) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
