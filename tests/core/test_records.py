"""What a record's value must be to be a message or a command, and which refusal says what it is not."""

import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest

from pipeline.core.fields import milliseconds
from pipeline.core.instructions import GrantCredits, SetPlan, Tick
from pipeline.core.records import MAX_DEPTH, STATUS_BITS, Message, decode_command, decode_message
from pipeline.core.refusals import Refusal

MESSAGE: dict[str, Any] = {
    "id": "SM-1",
    "tenant": "tenant-00001",
    "source": "gateway-eu",
    "kind": "sms",
    "direction": "outbound",
    "status": "sent",
    "status_at": 1_770_113_700_000,
    "occurred_at": "2026-02-03T10:15:00Z",
    "to": "+14155550100",
    "from": "Acme",
}
PLAN: dict[str, Any] = {
    "name": "starter",
    "zone": "UTC",
    "anchor_day": 1,
    "allowance_credits": "1000",
    "rate_card": "standard",
}
SET_PLAN = {"type": "set_plan", "id": "c-1", "tenant": "t", "effective_at": 0, "plan": PLAN}
GRANT = {"type": "grant", "id": "c-2", "tenant": "t", "effective_at": 0, "credits": "5"}
TICK = {"type": "tick", "id": "c-3", "tenant": "t", "effective_at": 0}

UTF8, JSON, DEEP = Refusal.NOT_UTF8, Refusal.NOT_JSON, Refusal.TOO_DEEP
HALF, NUL = Refusal.UNPAIRED_SURROGATE, Refusal.NUL_CHARACTER
MISSING, INVALID = Refusal.FIELD_MISSING, Refusal.FIELD_INVALID


def with_end(document: dict[str, Any], end: bytes) -> bytes:
    """The document with more JSON, or what pretends to be JSON, before its closing brace."""
    return orjson.dumps(document)[:-1] + b"," + end + b"}"


def message(**fields: Any) -> bytes:
    return orjson.dumps(MESSAGE | {name.rstrip("_"): value for name, value in fields.items()})


def without(document: dict[str, Any], *names: str) -> bytes:
    return orjson.dumps({name: value for name, value in document.items() if name not in names})


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + b"0" + closing * levels


# Faults of bytes and text, which messages and commands share. They stand in an unknown field, so that what a
# decoder passes over is looked at as well.
TEXT_FAULTS = [
    (UTF8, b'"extra":"caf\xe9"'),
    (UTF8, b'"caf\xe9":1'),
    (UTF8, b'"extra":"\xed\xa0\xbd"'),
    (UTF8, b'"extra":"\xe9","category":"\\\\u0000"'),
    (UTF8, b'"extra":"\xe9' + nested(9_000) + b'"'),
    (JSON, b'"extra":"a\x01b"'),
    (JSON, b'"extra":"a\x00b"'),
    (JSON, b'"extra":"\\q"'),
    (JSON, b'"extra":NaN'),
    (JSON, b'"extra":-Infinity'),
    (JSON, b'"extra":01'),
    (JSON, b'"extra":'),
    (JSON, b'"extra":[1,]'),
    (JSON, b'"extra":"open'),
    (DEEP, b'"extra":' + nested(MAX_DEPTH)),
    (DEEP, b'"extra":' + nested(MAX_DEPTH, b'{"a":', b"}")),
    (DEEP, b'"extra":' + nested(900)),
    (DEEP, b'"extra":' + nested(100_000)),
    (DEEP, b'"extra":' + b"[" * 100_000),
    (HALF, b'"extra":"\\ud83d"'),
    (HALF, b'"extra":"\\ude00\\ud83d"'),
    (HALF, b'"\\ud83d":1'),
    (HALF, b'"extra":["\\ud83dx\\u0000"]'),
    (NUL, b'"extra":"\\u0000"'),
    (NUL, b'"\\u0000":1'),
    (NUL, b'"extra":{"a":["\\\\\\u0000"]}'),
]


@pytest.mark.parametrize(("reason", "end"), TEXT_FAULTS)
def test_faulty_text_is_refused_in_a_message(reason: Refusal, end: bytes) -> None:
    assert decode_message(with_end(MESSAGE, end)) is reason


@pytest.mark.parametrize(("reason", "end"), TEXT_FAULTS)
def test_faulty_text_is_refused_in_a_command(reason: Refusal, end: bytes) -> None:
    assert decode_command(with_end(GRANT, end)) is reason


@pytest.mark.parametrize(("reason", "end"), TEXT_FAULTS)
def test_faulty_text_comes_before_missing_and_wrong_fields(reason: Refusal, end: bytes) -> None:
    assert decode_message(b'{"kind":5,' + end + b"}") is reason
    assert decode_command(b'{"type":5,' + end + b"}") is reason


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"hello",
        b"{",
        b"}",
        b"[]",
        b"[{}]",
        b"null",
        b"5",
        b'"text"',
        b"{} {}",
        b"\x00",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16-le"),
    ],
)
def test_what_is_not_one_json_object_is_refused(value: bytes) -> None:
    assert decode_message(value) is JSON
    assert decode_command(value) is JSON


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        *((MISSING, without(MESSAGE, name)) for name in MESSAGE),
        (MISSING, b"{}"),
        # What is missing comes first, wherever the wrong field stands.
        (MISSING, without(MESSAGE | {"id": 5}, "from")),
        (MISSING, without(MESSAGE | {"from": 5}, "id")),
        *((INVALID, message(**{name: None})) for name in MESSAGE),
        *((INVALID, message(**{name: ["a"]})) for name in MESSAGE),
        (INVALID, message(id="")),
        (INVALID, message(id="x" * 129)),
        (INVALID, message(tenant="")),
        (INVALID, message(source="x" * 129)),
        (INVALID, message(to="")),
        (INVALID, message(to="x" * 321)),
        (INVALID, message(from_=5)),
        (INVALID, message(kind="fax")),
        (INVALID, message(direction="sideways")),
        (INVALID, message(status="lost")),
        # A value's own text never decides the reason.
        (INVALID, message(status="Object missing required field `id`")),
        (INVALID, message(status_at=True)),
        (INVALID, message(status_at="2026-02-03T10:15:00")),
        (INVALID, message(status_at="2026-02-30T10:15:00Z")),
        (INVALID, message(occurred_at="yesterday")),
        (INVALID, message(occurred_at=1_770_113_700_000.5)),
        (INVALID, message(body=5)),
        (INVALID, message(encoding="UTF-8")),
        (INVALID, message(segments=0)),
        (INVALID, message(segments=256)),
        (INVALID, message(segments="2")),
        (INVALID, with_end(MESSAGE, b'"segments":' + b"9" * 5_000)),
        (INVALID, with_end(MESSAGE, b'"segments":1e400')),
        (INVALID, message(country="us")),
        (INVALID, message(country="USA")),
        (INVALID, message(country="US\n")),
        (INVALID, message(category=None)),
        (INVALID, message(list="x" * 129)),
        (INVALID, message(recipients=0)),
        (INVALID, message(recipients=1_000_001)),
    ],
)
def test_faulty_message_is_refused_for_its_first_fault(reason: Refusal, value: bytes) -> None:
    assert decode_message(value) is reason


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        *((MISSING, without(SET_PLAN, name)) for name in SET_PLAN),
        *((MISSING, without(GRANT, name)) for name in GRANT),
        *((MISSING, without(TICK, name)) for name in TICK),
        *((MISSING, orjson.dumps(SET_PLAN | {"plan": without_name})) for without_name in (
            {name: value for name, value in PLAN.items() if name != left_out} for left_out in PLAN
        )),
        (MISSING, without(GRANT | {"id": 5}, "credits")),
        (INVALID, orjson.dumps(GRANT | {"type": "gift"})),
        (INVALID, orjson.dumps(GRANT | {"type": 5})),
        (INVALID, orjson.dumps(GRANT | {"type": None})),
        (INVALID, orjson.dumps(GRANT | {"credits": 5})),
        (INVALID, orjson.dumps(GRANT | {"credits": "1" * 33})),
        (INVALID, orjson.dumps(GRANT | {"kind": "gift"})),
        (INVALID, orjson.dumps(GRANT | {"priority": 1001})),
        (INVALID, orjson.dumps(GRANT | {"priority": -1})),
        (INVALID, orjson.dumps(GRANT | {"expires_at": "never"})),
        (INVALID, orjson.dumps(GRANT | {"effective_at": "2026-02-03T10:15:00"})),
        (INVALID, orjson.dumps(TICK | {"tenant": ""})),
        (INVALID, orjson.dumps(TICK | {"unknown": 1})),
        (INVALID, orjson.dumps(SET_PLAN | {"plan": None})),
        (INVALID, orjson.dumps(SET_PLAN | {"plan": PLAN | {"unknown": 1}})),
        (INVALID, orjson.dumps(SET_PLAN | {"plan": PLAN | {"overage": "forgive"}})),
        (INVALID, orjson.dumps(MESSAGE | {"type": "message"})),
    ],
)  # fmt: skip
def test_faulty_command_is_refused_for_its_first_fault(reason: Refusal, value: bytes) -> None:
    assert decode_command(value) is reason


def test_message_is_decoded_with_its_defaults() -> None:
    decoded = decode_message(message())
    assert isinstance(decoded, Message)
    assert (decoded.tenant, decoded.to, decoded.from_) == ("tenant-00001", "+14155550100", "Acme")
    assert (decoded.body, decoded.segments, decoded.country, decoded.encoding) == (None, None, None, None)
    assert (decoded.category, decoded.list, decoded.recipients) == ("", "", 1)


@pytest.mark.parametrize(
    "end",
    [
        b'"body":""',
        b'"body":null,"segments":null,"country":null,"encoding":null',
        b'"body":"\\ud83d\\udc4d"',
        '"body":"👍 ş"'.encode(),
        # Six characters that only look like an escape.
        b'"body":"\\\\u0000"',
        b'"body":"\\\\\\\\u0000"',
        # Brackets in text are no nesting.
        b'"body":"' + b"[{" * 500 + b'\\"["',
        b'"extra":' + nested(MAX_DEPTH - 1),
        b'"extra":[' + b"[]," * 500 + b"0]",
        b'"extra":1e400',
        b'"media":["a.png"],"price":{"amount":1}',
    ],
)
def test_what_is_allowed_is_not_refused(end: bytes) -> None:
    assert isinstance(decode_message(with_end(MESSAGE, end)), Message)


def test_depth_allowed_does_not_depend_on_the_callers_stack() -> None:
    def from_below(levels: int) -> tuple[object, object]:
        if levels:
            return from_below(levels - 1)
        deepest = with_end(MESSAGE, b'"extra":' + nested(MAX_DEPTH - 1))
        return type(decode_message(deepest)), decode_message(
            with_end(MESSAGE, b'"extra":' + nested(MAX_DEPTH))
        )

    room = sys.getrecursionlimit() - 300
    for levels in (0, room // 2):
        assert from_below(levels) == (Message, DEEP)


@pytest.mark.parametrize(
    ("document", "struct"),
    [(SET_PLAN, SetPlan), (GRANT, GrantCredits), (TICK, Tick)],
    ids=["plan", "grant", "tick"],
)
def test_type_decides_the_command(document: dict[str, Any], struct: type) -> None:
    assert type(decode_command(orjson.dumps(document))) is struct


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        (0, 0),
        (-1, -1),
        (1_770_113_700_123, 1_770_113_700_123),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2026, 2, 3, 10, 15, tzinfo=UTC), 1_770_113_700_000),
        (datetime(2026, 2, 3, 16, 0, tzinfo=timezone(timedelta(hours=5, minutes=45))), 1_770_113_700_000),
        (datetime(2026, 2, 3, 10, 15, 0, 999_999, tzinfo=UTC), 1_770_113_700_999),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23, minutes=59))), -62_135_683_140_000),
    ],
)
def test_instants_are_whole_milliseconds_rounded_down(instant: datetime | int, expected: int) -> None:
    assert milliseconds(instant) == expected


def test_statuses_have_a_bit_each() -> None:
    assert sorted(STATUS_BITS.values()) == [1 << position for position in range(10)]
