"""The form of every value that is kept in a table: its applied offset + 1, 8 bytes big-endian, then MessagePack.

Recovery compares the first 8 bytes and takes the higher value without decoding; 0 stands for nothing applied.
"""

from typing import Any, TypeVar

import msgspec

APPLIED_BYTES = 8
_State = TypeVar("_State")

_encode = msgspec.msgpack.Encoder().encode


def encode_kept(applied_offset: int, state: Any) -> bytes:  # noqa: ANN401 - any struct of msgspec
    """The kept value of a state that has applied the log up to `applied_offset`; -1 for none of it."""
    return (applied_offset + 1).to_bytes(APPLIED_BYTES, "big") + _encode(state)


def decode_kept(decoder: msgspec.msgpack.Decoder[_State], value: bytes) -> _State:
    """The state in a kept value; a change of its shape belongs into the application's name."""
    return decoder.decode(memoryview(value)[APPLIED_BYTES:])
