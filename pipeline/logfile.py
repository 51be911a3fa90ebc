"""The log as a file: JSON Lines of messages and commands, in the order of the log.

Takes a path (`-` for standard input or output, `.gz` for gzip); gives `LogRecord`s one at a time, the way a
consumer of `messages.raw` would see them. Never judges a record: bad input in a file is bad input in the log.

A line has one of two forms:

- plain: a `message.v1` or `command.v1` object itself, told apart by the command's `type`. The key is its
  `tenant`. A `received_at` beside the other fields is the broker's time. A plain command is trusted: whoever
  can write the file is asked to sign it (`sign_plain`) or runs it offline.
- wrapper: `{"key": text|null, "received_at": ms|RFC 3339, "headers": {name: text}, "value": {...}}`, where
  `value_base64`, `key_base64` and `headers_base64` (a list of [name, base64] pairs) hold bytes that JSON
  cannot. The value is taken byte for byte. A command in a wrapper is signed by its headers or not at all.

Any other line is a record with that line as its value and without a key. Lines of white space are skipped.

`received_at` where a line says none: the latest of the previous line's and the record's own `occurred_at`,
`status_at` and `effective_at`, so that a file written by hand needs no second clock. One far instant thus
moves all that follows; whoever wants to test instants in the future states `received_at`.

Invariant: `read_log` of what `write_log` wrote gives equal records, for every record that states its
`received_at`.
"""

import gzip
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO, cast, get_args

import msgspec
import orjson
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from pipeline.core.fields import milliseconds
from pipeline.core.instructions import Command
from pipeline.core.signing import signed_headers

_Instant = Annotated[datetime, Meta(tz=True)] | Annotated[int, Meta(ge=0, lt=1 << 53)]

COMMAND_TYPES = frozenset(command.__struct_config__.tag for command in get_args(Command))


class LogRecord(Struct, frozen=True, gc=False):
    """One record of `messages.raw`, as bytes."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]] = []
    received_at: int | None = None
    """Milliseconds since 1970-01-01T00:00:00Z; None where neither the file nor the record says."""
    is_plain_command: bool = False
    """Whether it stood in a file as a bare command, which `sign_plain` may sign."""


class _Line(Struct, gc=False):
    """What of a line decides its form; instants stay raw, because most lines state `received_at`."""

    tenant: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    received_at: Raw | UnsetType = UNSET
    occurred_at: Raw | UnsetType = UNSET
    status_at: Raw | UnsetType = UNSET
    effective_at: Raw | UnsetType = UNSET
    value: Raw | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    key: str | None = None
    key_base64: str | None = None
    headers: dict[str, str] | UnsetType = UNSET
    headers_base64: list[tuple[str, str]] = []


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_instant = msgspec.json.Decoder(_Instant).decode


def read_log(path: str | Path) -> Iterator[LogRecord]:
    """The records of a file, one at a time; raises OSError where it cannot be read."""
    previous_at: int | None = None
    with _opened(path, "rb") as lines:
        for line in lines:
            text = line.strip()
            if not text:
                continue
            record = _read_line(text, previous_at)
            if record.received_at is not None:
                previous_at = max(previous_at or 0, record.received_at)
            yield record


def write_log(path: str | Path, records: Iterable[LogRecord]) -> int:
    """Writes the records as lines, replacing the file; gives their number."""
    count = 0
    with _opened(path, "wb") as lines:
        for record in records:
            lines.write(encode_line(record))
            count += 1
    return count


def sign_plain(record: LogRecord, secret: bytes) -> LogRecord:
    """The record with our headers where it is a plain command, else the record itself."""
    if not record.is_plain_command:
        return record
    headers = signed_headers(secret, "command", record.key or b"", record.value)
    return LogRecord(record.key, record.value, headers, record.received_at)


def encode_line(record: LogRecord) -> bytes:
    """The record as one line with its end: a wrapper, or a plain command."""
    value = record.value
    at = b"" if record.received_at is None else b',"received_at":%d' % record.received_at
    if record.is_plain_command:
        return value[: value.rindex(b"}")] + at + b"}\n"
    parts = [b"{", _encode_key(record.key), at]
    if record.headers:
        parts += (b",", _encode_headers(record.headers))
    if _is_json_line(value):
        parts += (b',"value":', value, b"}\n")
    else:
        parts += (b',"value_base64":"', b64encode(value), b'"}\n')
    return b"".join(parts)


def _read_line(text: bytes, previous_at: int | None) -> LogRecord:
    try:
        line = _decode_line(text)
        if line.tenant is not UNSET:
            return _read_plain(text, line, line.tenant, previous_at)
        if line.value is not UNSET or line.value_base64 is not UNSET:
            return _read_wrapper(line, previous_at)
    except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError):
        # Neither form: the line itself is what arrived.
        pass
    return LogRecord(None, text, [], previous_at)


def _read_plain(text: bytes, line: _Line, tenant: str, previous_at: int | None) -> LogRecord:
    stated_at = _instant(line.received_at)
    received_at = _latest(previous_at, line) if stated_at is None else stated_at
    if line.type not in COMMAND_TYPES:
        return LogRecord(tenant.encode(), text, [], received_at)
    if line.received_at is not UNSET:
        # Commands take no unknown fields; messages do, so theirs stay as they came.
        fields = msgspec.json.decode(text, type=dict[str, Raw])
        del fields["received_at"]
        text = msgspec.json.encode(fields)
    return LogRecord(tenant.encode(), text, [], received_at, is_plain_command=True)


def _read_wrapper(line: _Line, previous_at: int | None) -> LogRecord:
    key = line.key.encode() if line.key is not None else None
    if line.key_base64 is not None:
        key = b64decode(line.key_base64, validate=True)
    if isinstance(line.value_base64, str):
        value = b64decode(line.value_base64, validate=True)
    else:
        value = b"" if line.value is UNSET else bytes(line.value)
    headers = [(name, b64decode(text, validate=True)) for name, text in line.headers_base64]
    if line.headers is not UNSET:
        headers += [(name, text.encode()) for name, text in line.headers.items()]
    if line.received_at is not UNSET:
        return LogRecord(key, value, headers, milliseconds(_decode_instant(line.received_at)))
    try:
        received_at = _latest(previous_at, _decode_line(value))
    except msgspec.DecodeError:
        received_at = previous_at
    return LogRecord(key, value, headers, received_at)


def _latest(previous_at: int | None, line: _Line) -> int | None:
    own = (_instant(line.occurred_at), _instant(line.status_at), _instant(line.effective_at))
    return max((at for at in (previous_at, *own) if at is not None), default=None)


def _instant(raw: Raw | UnsetType) -> int | None:
    """Milliseconds, or None where there is no instant in it."""
    if raw is UNSET:
        return None
    try:
        return milliseconds(_decode_instant(raw))
    except msgspec.DecodeError:
        return None


def _encode_key(key: bytes | None) -> bytes:
    if key is None:
        return b'"key":null'
    try:
        return b'"key":' + orjson.dumps(key.decode())
    except UnicodeDecodeError:
        return b'"key_base64":"' + b64encode(key) + b'"'


def _encode_headers(headers: list[tuple[str, bytes]]) -> bytes:
    try:
        named = {name: value.decode() for name, value in headers}
    except UnicodeDecodeError:
        named = {}
    if len(named) == len(headers):
        return b'"headers":' + orjson.dumps(named)
    return b'"headers_base64":' + orjson.dumps([[name, b64encode(value).decode()] for name, value in headers])


def _is_json_line(value: bytes) -> bool:
    """Whether the bytes can stand in a line as they are, and any reader of JSON would take it."""
    if b"\n" in value or not value.startswith(b"{") or not value.endswith(b"}"):
        return False
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


@contextmanager
def _opened(path: str | Path, mode: str) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer if mode == "rb" else sys.stdout.buffer
        return
    if not str(path).endswith(".gz"):
        with Path(path).open(mode) as plain:
            yield cast("BinaryIO", plain)
        return
    # Without a modification time equal logs give equal files.
    with (
        Path(path).open(mode) as packed,
        gzip.GzipFile(fileobj=packed, filename="", mode=mode, mtime=0) as unpacked,
    ):
        yield cast("BinaryIO", unpacked)
