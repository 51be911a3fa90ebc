"""Tells records our own programs wrote from records gateways wrote.

A gateway may write messages and nothing else. A command, and a record that a worker forwarded with its first
arrival time, therefore carries an HMAC-SHA256 in a header, made with a key that only our programs hold.
The signature covers the purpose, the record's key, the origin header and the value, each with its length, so
that no part can be moved into another and a signed message cannot pass for a command.
"""

import hmac
from collections.abc import Iterable
from typing import Literal

Purpose = Literal["command", "forwarded"]

PURPOSE_HEADER = "msgmeter-purpose"
ORIGIN_HEADER = "msgmeter-origin"
"""JSON `{"received_at": ms, "partition": n, "offset": n}` of a forwarded record's first arrival."""
SIGNATURE_HEADER = "msgmeter-signature"


def sign(secret: bytes, purpose: Purpose, key: bytes, value: bytes, origin: bytes = b"") -> bytes:
    """The signature as 64 lower-case hexadecimal characters."""
    parts = (purpose.encode(), key, origin, value)
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(secret, framed, "sha256").hex().encode()


def is_signed(
    secret: bytes, purpose: Purpose, key: bytes, value: bytes, signature: bytes, origin: bytes = b""
) -> bool:
    """Whether the signature fits, compared in constant time."""
    return hmac.compare_digest(sign(secret, purpose, key, value, origin), signature)


def signed_headers(
    secret: bytes, purpose: Purpose, key: bytes, value: bytes, origin: bytes = b""
) -> list[tuple[str, bytes]]:
    """The Kafka headers that mark a record as ours."""
    headers = [(PURPOSE_HEADER, purpose.encode())]
    if origin:
        headers.append((ORIGIN_HEADER, origin))
    return [*headers, (SIGNATURE_HEADER, sign(secret, purpose, key, value, origin))]


def header(headers: Iterable[tuple[str, bytes | None]], name: str) -> bytes:
    """The last value of a header, as Kafka's own readers take it; empty when there is none."""
    found = b""
    for header_name, value in headers:
        if header_name == name:
            found = value or b""
    return found
