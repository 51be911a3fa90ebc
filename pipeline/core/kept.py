"""The form of every value that is kept in a table: its applied offset + 1, its state version, then MessagePack.

    8 bytes, big-endian      1 byte             the rest
    applied offset + 1       state version      the state, as MessagePack

Recovery compares the first 8 bytes and takes the higher value without decoding; 0 stands for nothing applied. The
version says how to read the rest, and is looked at before anything of a partition is used.

State versions, of which this program writes the last and reads all:
1. without the byte: MessagePack follows at once. It begins above 0x7f, as the states are arrays, so it is told apart.
2. with the byte; the same shapes.
3. drafts say where they belong: fields at the end.
4. deltas say until when those before them occurred: a field at the end; they are numbered by where they begin.

A change of shape raises `STATE_VERSION`. Where fields were added at the end with defaults, the present decoder reads
the older values; any other change brings the older struct's decoder and its conversion here, chosen by the version.
A version that no release has written yet may still change: deltas of 4 had one more field, which is passed over.
Values written are always of the present version.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

STATE_VERSION = 4
APPLIED_BYTES = 8
_HEAD_BYTES = APPLIED_BYTES + 1
_FIRST_ARRAY = 0x90
"""The least byte an array of MessagePack begins with; a state version stays below."""

_TABLES = {
    "Account": "accounts, under its tenant",
    "Window": "windows, under its start and tenant",
    "IdentityDelta": "ids, under its partition and number",
}
"""By the struct's name: the table a value is kept in, and what its key is."""

_State = TypeVar("_State")

_encode = msgspec.msgpack.Encoder().encode


class KeptValueError(ValueError):
    """A kept value cannot be read; its text is for the operator and holds nothing of the value."""


class StateVersionError(KeptValueError):
    """State was written by a newer program: this one must not touch anything."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"the state is of version {version}, written by a newer msgmeter; this one reads versions 1 to"
            f" {STATE_VERSION} and has changed no topic and no row. Run the newer msgmeter, or go back to what was"
            " saved before it ran (README, Upgrading)"
        )
        self.version = version


def encode_kept(applied_offset: int, state: Any) -> bytes:  # noqa: ANN401 - any struct of msgspec
    """The kept value of a state that has applied the log up to `applied_offset`; -1 for none of it."""
    return ((applied_offset + 1) << 8 | STATE_VERSION).to_bytes(_HEAD_BYTES, "big") + _encode(state)


def decode_kept(decoder: msgspec.msgpack.Decoder[_State], value: bytes) -> _State:
    """The state in a kept value of any version; raises KeptValueError where that cannot be."""
    version = value[APPLIED_BYTES]
    if STATE_VERSION < version < _FIRST_ARRAY:
        raise StateVersionError(version)
    try:
        return decoder.decode(memoryview(value)[_HEAD_BYTES if version < _FIRST_ARRAY else APPLIED_BYTES :])
    except msgspec.DecodeError:
        # What msgspec says may quote the value.
        raise KeptValueError(f"a value of table {_TABLES[decoder.type.__name__]}, is damaged") from None


def check_versions(values: Iterable[bytes | None]) -> None:
    """Raises StateVersionError where one of the values is of a newer version; deletions (none) are passed over."""
    try:
        versions = {value[APPLIED_BYTES] for value in values if value is not None}
    except IndexError:
        raise KeptValueError(
            f"a kept value is shorter than {_HEAD_BYTES} bytes: no msgmeter wrote it"
        ) from None
    newest = max((version for version in versions if version < _FIRST_ARRAY), default=0)
    if newest > STATE_VERSION:
        raise StateVersionError(newest)
