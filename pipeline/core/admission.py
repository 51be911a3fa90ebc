"""The first step of a record: what it is, whether it may be here, and whether it can be read.

Takes records in log order; gives those that go on, decoded, with their identity. Refusals and forwards go to the
outcomes. Everything is decided from the record itself: no state of accounts is looked at.

A record's time of receipt is the broker's append time; a forwarded record keeps its first one, which its signed
origin header names.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, Protocol
from zlib import crc32

import msgspec
from msgspec import Meta, Raw, Struct

from pipeline.core.fields import milliseconds
from pipeline.core.identity import message_key
from pipeline.core.instructions import Command, GrantCredits, SetPlan
from pipeline.core.outcomes import Forward, Outcomes, refusal_document
from pipeline.core.partitions import partition_of
from pipeline.core.records import MAX_VALUE_BYTES, Message, decode_command, decode_message
from pipeline.core.refusals import Refusal
from pipeline.core.repeated import gateway_name, identity_name
from pipeline.core.rules import Rules
from pipeline.core.signing import (
    ORIGIN_HEADER,
    PURPOSE_HEADER,
    SIGNATURE_HEADER,
    header,
    is_signed,
    signed_headers,
)

EARLIEST_AT = 946_684_800_000
"""2000-01-01T00:00:00Z: older instants are faults of a clock or of a unit."""
LATEST_AT = 4_102_444_800_000
"""2100-01-01T00:00:00Z: no instant of a record reaches it, so that columns and calendars hold all of them."""
FUTURE_MILLISECONDS = 86_400_000
"""How far an instant may lie after the receipt; gateways' clocks are set badly at times."""
SOURCE_HEADER = "source"
"""In which a gateway may name itself, so that a refusal can where the value does not."""


Headers = Sequence[tuple[str, bytes | None]]


class LogRecord(Protocol):
    """A record as the log hands it out."""

    @property
    def offset(self) -> int:
        """Its position in the partition."""

    @property
    def timestamp(self) -> int:
        """The broker's append time, epoch milliseconds."""

    @property
    def key(self) -> bytes | None:
        """The tenant, as bytes."""

    @property
    def value(self) -> bytes | None:
        """A message or a command, if it is well."""

    @property
    def headers(self) -> Headers:
        """A name may come several times, and a value may be none."""


class Admitted(NamedTuple):
    """A record that goes on."""

    offset: int
    """Its position: Kafka's offset in era 0 (eras.py)."""
    appended_at: int
    """When it came into this partition: the time of the log."""
    received_at: int
    """When it first arrived: earlier, where it was forwarded."""
    key: bytes
    value: bytes
    content: Any
    """A `Message` where there is an identity, else a command."""
    identity: bytes
    """The message's key; empty for a command."""
    occurred_at: int
    fingerprint: int
    """Of the fields that are the same in every record of a message: 32 bits, to notice contradictions."""


class Origin(Struct, forbid_unknown_fields=True):
    """Where a forwarded record arrived first."""

    received_at: Annotated[int, Meta(ge=EARLIEST_AT, lt=LATEST_AT)]
    partition: int
    offset: int


class _Envelope(NamedTuple):
    """A record without the marks of its way here."""

    received_at: int
    headers: Headers
    is_forwarded: bool


_decode_origin = msgspec.json.Decoder(Origin).decode
_encode_origin = msgspec.json.Encoder().encode
_admitted = Admitted._make


class Admission:
    """Admits the records of one partition."""

    def __init__(self, partition: int, rules: Rules, own_keys: Container[bytes]) -> None:
        """`own_keys` are keys already known to live in this partition."""
        self._partition = partition
        self._rules = rules
        self._own_keys = own_keys
        self._first_position = rules.era.first_position

    def admit(self, records: Iterable[LogRecord], outcomes: Outcomes) -> list[Admitted]:
        """The records that go on, in log order."""
        admitted = []
        count = 0
        for record in records:
            count += 1
            decided = self._admit(record, outcomes)
            if type(decided) is Admitted:
                admitted.append(decided)
            elif isinstance(decided, Refusal):
                outcomes.refusals.append(self._refusal(record, decided))
        outcomes.counts["received"] += count
        return admitted

    def _admit(self, record: LogRecord, outcomes: Outcomes) -> Admitted | Refusal | None:
        """What becomes of a record; none when it was forwarded."""
        key, value, headers = record.key, record.value, record.headers
        if value is None or len(value) > MAX_VALUE_BYTES:
            return Refusal.NOT_JSON if value is None else Refusal.OVERSIZE
        if not key:
            return Refusal.KEY_MISSING
        if headers and (purpose := header(headers, PURPOSE_HEADER)):
            return self._admit_marked(record, key, value, purpose, outcomes)
        if key not in self._own_keys and partition_of(key, self._rules.partitions) != self._partition:
            return self._forward(record, key, value, outcomes)
        return self._admit_message(record, record.timestamp, key, value)

    def _admit_message(
        self, record: LogRecord, received_at: int, key: bytes, value: bytes
    ) -> Admitted | Refusal:
        message = decode_message(value)
        if type(message) is not Message:
            return _unmarked(message, value)  # type: ignore[arg-type]
        tenant = message.tenant
        if key != tenant.encode():
            return Refusal.KEY_MISMATCH
        occurred_at, status_at = message.occurred_at, message.status_at
        if type(occurred_at) is not int:
            occurred_at = milliseconds(occurred_at)
        if type(status_at) is not int:
            status_at = milliseconds(status_at)
        latest = received_at + FUTURE_MILLISECONDS
        if not (EARLIEST_AT <= occurred_at <= latest and EARLIEST_AT <= status_at <= latest < LATEST_AT):
            early = occurred_at < EARLIEST_AT or status_at < EARLIEST_AT
            return Refusal.DATE_TOO_EARLY if early else Refusal.DATE_IN_FUTURE
        fingerprint = crc32(
            f"{message.kind}\0{message.direction}\0{occurred_at}\0{message.to}\0{message.from_}".encode()
        )
        identity = message_key(tenant, message.source, message.id)
        return _admitted(
            (
                self._first_position + record.offset,
                record.timestamp,
                received_at,
                key,
                value,
                message,
                identity,
                occurred_at,
                fingerprint,
            )
        )

    def _admit_marked(
        self, record: LogRecord, key: bytes, value: bytes, purpose: bytes, outcomes: Outcomes
    ) -> Admitted | Refusal | None:
        """A record with our marks: a command, or one forwarded by us, which may be a command inside."""
        headers = record.headers
        envelope = _Envelope(record.timestamp, headers, is_forwarded=False)
        if purpose == b"forwarded":
            opened = self._open(record, key, value)
            if isinstance(opened, Refusal):
                return opened
            envelope = opened
        if key not in self._own_keys and partition_of(key, self._rules.partitions) != self._partition:
            if envelope.is_forwarded:
                return Refusal.STRAY
            return self._forward(record, key, value, outcomes)
        if not header(envelope.headers, PURPOSE_HEADER):
            return self._admit_message(record, envelope.received_at, key, value)
        return self._admit_command(record, envelope, key, value)

    def _open(self, record: LogRecord, key: bytes, value: bytes) -> _Envelope | Refusal:
        """Takes the marks of forwarding off; they are the last three headers."""
        headers = record.headers
        signature, origin = header(headers, SIGNATURE_HEADER), header(headers, ORIGIN_HEADER)
        if not signature:
            return Refusal.SIGNATURE_MISSING
        if not is_signed(self._rules.command_key, "forwarded", key, value, signature, origin):
            return Refusal.SIGNATURE_WRONG
        try:
            received_at = _decode_origin(origin).received_at
        except msgspec.DecodeError:
            return Refusal.SIGNATURE_WRONG  # Signed, but nothing that we sign.
        return _Envelope(received_at, headers[:-3], is_forwarded=True)

    def _admit_command(
        self, record: LogRecord, envelope: _Envelope, key: bytes, value: bytes
    ) -> Admitted | Refusal:
        signature = header(envelope.headers, SIGNATURE_HEADER)
        if not signature:
            return Refusal.SIGNATURE_MISSING
        if not is_signed(self._rules.command_key, "command", key, value, signature):
            return Refusal.SIGNATURE_WRONG
        command = decode_command(value)
        if isinstance(command, Refusal):
            return command
        received_at = envelope.received_at
        fault = _command_fault(command, key, received_at)
        if fault is not None:
            return fault
        effective_at = milliseconds(command.effective_at)
        position = self._first_position + record.offset
        return _admitted((position, record.timestamp, received_at, key, value, command, b"", effective_at, 0))

    def _forward(self, record: LogRecord, key: bytes, value: bytes, outcomes: Outcomes) -> Refusal | None:
        headers = record.headers or ()
        size_bytes = len(key) + len(value) + sum(len(name) + len(text or b"") for name, text in headers)
        if size_bytes > MAX_VALUE_BYTES:
            # Compressed by us, and not as its gateway did, it might be more than the topic takes.
            return Refusal.OVERSIZE
        origin = _encode_origin(Origin(record.timestamp, self._partition, record.offset))
        marks = signed_headers(self._rules.command_key, "forwarded", key, value, origin)
        outcomes.forwards.append(Forward(key, value, [*headers, *marks]))
        return None

    def _refusal(self, record: LogRecord, reason: Refusal) -> dict[str, Any]:
        """A refusal naming tenant, source and id as far as the value, or else a header, says them."""
        value = record.value or b""
        tenant, source, message_id = _names(value) if len(value) <= MAX_VALUE_BYTES else (None, None, None)
        source = gateway_name(source) or _source_in(record.headers or ())
        if tenant is None or tenant.encode() != record.key:
            # One that is the record's key is a tenant, whatever it looks like.
            tenant = identity_name(tenant)
        position = self._first_position + record.offset
        return refusal_document(
            self._partition, position, reason, value, tenant, source, message_id, record.timestamp
        )


def _command_fault(command: Command, key: bytes, received_at: int) -> Refusal | None:
    """What is wrong with a rightly signed command for this key, received at that time."""
    if key != command.tenant.encode():
        return Refusal.KEY_MISMATCH
    effective_at = milliseconds(command.effective_at)
    if effective_at < EARLIEST_AT:
        return Refusal.DATE_TOO_EARLY
    # A plan or a grant may begin when it likes; a tick says what time it is, and everything else is now.
    tomorrow = received_at + FUTURE_MILLISECONDS
    latest = LATEST_AT - 1 if isinstance(command, SetPlan | GrantCredits) else tomorrow
    return Refusal.DATE_IN_FUTURE if effective_at > latest or tomorrow >= LATEST_AT else None


class _Names(Struct):
    tenant: str | None = None
    id: str | None = None
    source: Raw = Raw(b"null")
    """Apart from the others, so that one that is no text does not hide them."""


_decode_names = msgspec.json.Decoder(_Names).decode
_decode_text = msgspec.json.Decoder(str | None).decode


def _names(value: bytes) -> tuple[str | None, str | None, str | None]:
    """Tenant, source and id of a value, where it is JSON enough to tell, whatever they say."""
    try:
        names = _decode_names(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None, None, None
    try:
        source = _decode_text(names.source)
    except (msgspec.DecodeError, UnicodeDecodeError):
        source = None
    return names.tenant, source, names.id


def _source_in(headers: Headers) -> str | None:
    """The gateway as a header names it; none where that is no such name."""
    return gateway_name(header(headers, SOURCE_HEADER).decode("ascii", "replace"))


def _unmarked(reason: Refusal, value: bytes) -> Refusal:
    """The reason for a value that is no message: a command without a signature is named as what it is."""
    if reason in (Refusal.FIELD_MISSING, Refusal.FIELD_INVALID) and not isinstance(
        decode_command(value), Refusal
    ):
        return Refusal.SIGNATURE_MISSING
    return reason
