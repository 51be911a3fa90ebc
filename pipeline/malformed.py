"""Every kind of bad input a gateway can send, made out of a good record.

Takes a good record's key and value and a seeded generator; gives a record together with the refusal it must
meet. Used by the traffic generator and, as a table, by the tests of decoding. Never makes a record that could
be billed. `make_malformed` also names the gateway in a header, as gateways may.
"""

from collections.abc import Callable
from random import Random

import orjson

from pipeline.core.admission import SOURCE_HEADER
from pipeline.core.records import MAX_VALUE_BYTES
from pipeline.core.refusals import Refusal
from pipeline.core.signing import PURPOSE_HEADER, SIGNATURE_HEADER
from pipeline.logfile import LogRecord

Maker = Callable[[Random, bytes, bytes], LogRecord]

_REQUIRED = ("id", "source", "kind", "direction", "status", "status_at", "occurred_at", "to", "from")
_WRONG_FIELDS: tuple[tuple[str, object], ...] = (
    ("kind", "fax"),
    ("direction", "sideways"),
    ("status", "lost"),
    ("segments", "2"),
    ("segments", 0),
    ("segments", 256),
    ("recipients", -1),
    ("country", "usa"),
    ("to", 14155550100),
    ("to", ""),
    ("from", None),
    ("occurred_at", "yesterday"),
    ("occurred_at", "2026-02-30T10:00:00Z"),
    ("occurred_at", "2026-02-03T10:00:00"),
    ("status_at", True),
    ("body", ["text"]),
    ("id", "x" * 129),
)
_YEAR_1999_AT = 915_148_800_000
_YEAR_2100_AT = 4_102_444_800_000


def make_malformed(generator: Random, key: bytes, value: bytes) -> tuple[Refusal, LogRecord]:
    """One bad record and its refusal; large ones are rare, because each is as large as 5 000 others."""
    if generator.random() < 0.002:
        reason, maker = generator.choice(_LARGE)
    else:
        reason, maker = generator.choice(MALFORMED)
    made = maker(generator, key, value)
    # Only here, because good records say it themselves: a header on each would cost a worker half a microsecond.
    gateway = (SOURCE_HEADER, orjson.loads(value)["source"].encode())
    return reason, LogRecord(made.key, made.value, [gateway, *made.headers])


def _with(value: bytes, **fields: object) -> bytes:
    return orjson.dumps(orjson.loads(value) | fields)


def _cut(generator: Random, key: bytes, value: bytes) -> LogRecord:
    # Between characters, or it would not be UTF-8 either.
    text = value.decode()
    return LogRecord(key, text[: generator.randrange(1, len(text))].encode())


def _not_an_object(generator: Random, key: bytes, _: bytes) -> LogRecord:
    return LogRecord(
        key, generator.choice((b"", b"hello", b"[1,2]", b"null", b'"text"', b"\x00\x00\x00\x01"))
    )


def _not_a_number(_: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, value[:-1] + b',"recipients":NaN}')


def _field_left_out(generator: Random, key: bytes, value: bytes) -> LogRecord:
    fields = orjson.loads(value)
    del fields[generator.choice(_REQUIRED)]
    return LogRecord(key, orjson.dumps(fields))


def _field_wrong(generator: Random, key: bytes, value: bytes) -> LogRecord:
    name, wrong = generator.choice(_WRONG_FIELDS)
    return LogRecord(key, _with(value, **{name: wrong}))


def _too_early(generator: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, _with(value, **{generator.choice(("occurred_at", "status_at")): _YEAR_1999_AT}))


def _in_future(generator: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, _with(value, **{generator.choice(("occurred_at", "status_at")): _YEAR_2100_AT}))


def _with_nul(_: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, _with(value, body="before\0after"))


def _with_half_a_pair(generator: Random, key: bytes, value: bytes) -> LogRecord:
    half = generator.choice((rb"\ud83d", rb"\ude00", rb"\ud83dx"))
    return LogRecord(key, value[:-1] + b',"body":"' + half + b'"}')


def _nested(_: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, value[:-1] + b',"extra":' + b"[" * 5_000 + b"]" * 5_000 + b"}")


def _latin_1(_: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, value[:-1] + b',"body":"caf\xe9"}')


def _without_key(generator: Random, _: bytes, value: bytes) -> LogRecord:
    return LogRecord(generator.choice((None, b"")), value)


def _other_key(_: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key + b"-other", value)


def _oversize(_: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, _with(value, body="x" * MAX_VALUE_BYTES))


def _too_many_segments(_: Random, key: bytes, value: bytes) -> LogRecord:
    fields: dict[str, object] = {"kind": "sms", "body": "x" * (153 * 255 + 1)}
    record = orjson.loads(value) | fields | {"id": orjson.loads(value)["id"] + "-long"}
    record.pop("segments", None)
    return LogRecord(key, orjson.dumps(record))


def _other_content(_: Random, key: bytes, value: bytes) -> LogRecord:
    return LogRecord(key, _with(value, to="+15005550006"))


def _grant(key: bytes) -> bytes:
    return orjson.dumps(
        {
            "type": "grant",
            "id": "free",
            "tenant": key.decode(),
            "effective_at": "2026-01-01T00:00:00Z",
            "credits": "1000",
        }
    )


def _unsigned_command(_: Random, key: bytes, __: bytes) -> LogRecord:
    return LogRecord(key, _grant(key), [(PURPOSE_HEADER, b"command")])


def _wrongly_signed_command(_: Random, key: bytes, __: bytes) -> LogRecord:
    return LogRecord(key, _grant(key), [(PURPOSE_HEADER, b"command"), (SIGNATURE_HEADER, b"0" * 64)])


MALFORMED: tuple[tuple[Refusal, Maker], ...] = (
    (Refusal.NOT_JSON, _cut),
    (Refusal.NOT_JSON, _not_an_object),
    (Refusal.NOT_JSON, _not_a_number),
    (Refusal.FIELD_MISSING, _field_left_out),
    (Refusal.FIELD_INVALID, _field_wrong),
    (Refusal.DATE_TOO_EARLY, _too_early),
    (Refusal.DATE_IN_FUTURE, _in_future),
    (Refusal.NUL_CHARACTER, _with_nul),
    (Refusal.UNPAIRED_SURROGATE, _with_half_a_pair),
    (Refusal.TOO_DEEP, _nested),
    (Refusal.NOT_UTF8, _latin_1),
    (Refusal.KEY_MISSING, _without_key),
    (Refusal.KEY_MISMATCH, _other_key),
    (Refusal.IDENTITY_CONFLICT, _other_content),
    (Refusal.SIGNATURE_MISSING, _unsigned_command),
    (Refusal.SIGNATURE_WRONG, _wrongly_signed_command),
)
_LARGE: tuple[tuple[Refusal, Maker], ...] = (
    (Refusal.OVERSIZE, _oversize),
    (Refusal.TOO_MANY_SEGMENTS, _too_many_segments),
)
