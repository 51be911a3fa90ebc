"""A signature fits the record it was made for, and no other."""

import pytest

from pipeline.core.signing import (
    ORIGIN_HEADER,
    PURPOSE_HEADER,
    SIGNATURE_HEADER,
    header,
    is_signed,
    sign,
    signed_headers,
)

SECRET = b"a secret of 16 bytes or more"
KEY, VALUE, ORIGIN = b"tenant-00001", b'{"id":"1"}', b'{"offset":3}'


def test_signature_is_hmac_sha256_over_framed_parts() -> None:
    # Computed with `openssl dgst -sha256 -hmac` over the parts, each after its length in four bytes.
    assert sign(b"0123456789abcdef", "command", b"tenant-00001", b'{"id":"1"}') == (
        b"041f34618a76da3799fe8ef2a4a46a1d071d217e3742c22ec21da085f7fc15c2"
    )


def test_signature_fits_what_was_signed() -> None:
    assert is_signed(SECRET, "command", KEY, VALUE, sign(SECRET, "command", KEY, VALUE))
    assert is_signed(SECRET, "forwarded", KEY, VALUE, sign(SECRET, "forwarded", KEY, VALUE, ORIGIN), ORIGIN)


@pytest.mark.parametrize(
    ("secret", "purpose", "key", "value", "origin"),
    [
        (b"another secret of 16", "forwarded", KEY, VALUE, ORIGIN),
        (SECRET, "command", KEY, VALUE, ORIGIN),
        (SECRET, "forwarded", b"tenant-00002", VALUE, ORIGIN),
        (SECRET, "forwarded", KEY, b'{"id":"2"}', ORIGIN),
        (SECRET, "forwarded", KEY, VALUE, b'{"offset":4}'),
        (SECRET, "forwarded", KEY, VALUE, b""),
        # The same bytes in a row, cut elsewhere.
        (SECRET, "forwarded", KEY[:-1], KEY[-1:] + VALUE, ORIGIN),
        (SECRET, "forwarded", KEY, ORIGIN + VALUE, b""),
    ],
)
def test_signature_fits_nothing_else(
    secret: bytes, purpose: str, key: bytes, value: bytes, origin: bytes
) -> None:
    assert not is_signed(secret, purpose, key, value, sign(SECRET, "forwarded", KEY, VALUE, ORIGIN), origin)


@pytest.mark.parametrize("signature", [b"", b"0" * 64, b"\xff" * 64, b"short"])
def test_forged_signature_is_no_error(signature: bytes) -> None:
    assert not is_signed(SECRET, "command", KEY, VALUE, signature)


def test_headers_carry_purpose_origin_and_signature() -> None:
    signature = sign(SECRET, "forwarded", KEY, VALUE, ORIGIN)
    assert signed_headers(SECRET, "forwarded", KEY, VALUE, ORIGIN) == [
        (PURPOSE_HEADER, b"forwarded"),
        (ORIGIN_HEADER, ORIGIN),
        (SIGNATURE_HEADER, signature),
    ]


def test_headers_without_origin_leave_it_out() -> None:
    names = [name for name, _ in signed_headers(SECRET, "command", KEY, VALUE)]
    assert names == [PURPOSE_HEADER, SIGNATURE_HEADER]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], b""),
        ([("b", b"1")], b""),
        ([("a", b"1"), ("b", b"2"), ("a", b"3")], b"3"),
        ([("a", None)], b""),
    ],
)
def test_last_header_of_a_name_counts(headers: list[tuple[str, bytes]], found: bytes) -> None:
    assert header(headers, "a") == found
