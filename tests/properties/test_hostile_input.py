"""Whatever bytes a gateway writes: no exception, and nothing that a column of ClickHouse cannot hold."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, get_args

import msgspec
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, ENTRIES, USAGE
from pipeline.core.admission import EARLIEST_AT, LATEST_AT
from pipeline.core.instructions import Command
from pipeline.core.kept import decode_kept
from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.refusals import Refusal
from pipeline.core.signing import ORIGIN_HEADER, PURPOSE_HEADER, SIGNATURE_HEADER, signed_headers
from pipeline.core.usage import Window
from pipeline.stream.storing import account_columns, alert_columns, entry_columns, usage_columns
from tests.builders import AT, COMMAND_KEY, DAY, NOON, Log, Record, Worker, message, plan, rules, run

EXAMPLES = 500
HOSTILE: tuple[Any, ...] = (
    2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, -1, 0, -(2**63), -(10**400), 1e308, 0.5,
    NOON, NOON + 86_400_000, NOON + 86_400_001, EARLIEST_AT, EARLIEST_AT - 1, LATEST_AT, LATEST_AT - 1,
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59-23:59",
    "2026-02-10T12:00:00Z", "2026-02-10T12:00:60Z", "2026-02-10", "", "\0", "x" * 129, "\ud83d", "\u2028", "US\n",
    "0", "1", "-1", "1e9", "999999999999.999999", "0.0000001", "🙂" * 40, True, None, [], {}, [[]],
    [{"a": [{}]}] * 3, {"type": "grant"}, "UTC", "../UTC", "Europe/Berlin\n", 31, 256,
)  # fmt: skip
RANGE_BY_COLUMN = {
    "occurred_at": range(EARLIEST_AT, LATEST_AT),
    "received_at": range(EARLIEST_AT, LATEST_AT),
    "local_date": range(2**16),
    "period_start": range(EARLIEST_AT - 31 * DAY, LATEST_AT + 31 * DAY),
    "messages": range(2),
    "segments": range(2**31),
    "quantity": range(-(2**31), 2**31),
    "rate_micros": range(2**63),
    "credits_micros": range(-(2**63), 2**63),
    "counterparty_hash": range(2**64),
    "grant_micros": range(-(2**63), 2**63),
    "fingerprint": range(2**32),
    "kafka_partition": range(2**16),
    "kafka_offset": range(2**63),
}
"""The numbers that the columns of `rated_messages` hold."""
RANGE_BY_TYPE = {
    "Int64": range(-(2**63), 2**63),
    "Nullable(Int64)": range(-(2**63), 2**63),
    "UInt64": range(2**64),
    "UInt32": range(2**32),
    "UInt16": range(2**16),
    "UInt8": range(2**8),
}
"""The same by type, for the other tables."""


def document(value: Any) -> bytes:
    """JSON of any size of integer, with surrogates and all."""
    return json.dumps(value).encode()


def fold(records: list[Record]) -> Worker:
    """Folds records after a plan, in two checkpoints and a restart between them."""
    log = Log()
    log.set_plan(plan("5"))
    log.grant("5", command_id="grant-before")
    worker = Worker(rules())
    worker.take(log.records)
    worker.take([record._replace(offset=2 + at) for at, record in enumerate(records)])
    worker.keep()
    worker = Worker(worker.rules, worker.tables, worker.effects)
    log.tick()
    worker.take([log.records[-1]._replace(offset=2 + len(records))])
    worker.keep()
    return worker


def assert_storable(worker: Worker) -> None:
    effects = worker.effects
    for fact in effects.facts.values():
        for name, held in RANGE_BY_COLUMN.items():
            assert type(fact[AT[name]]) is int
            assert fact[AT[name]] in held, name
        for name in set(FACT_COLUMNS) - RANGE_BY_COLUMN.keys() - {"message_key", "further_grants"}:
            fact[AT[name]].encode()
    for entry in effects.entries.values():
        assert -(2**63) <= entry.amount < 2**63
        assert entry.balance_after is None or -(2**63) <= entry.balance_after < 2**63
        for at in (entry.effective_at, entry.posted_at):
            assert EARLIEST_AT <= at < LATEST_AT + 31 * DAY, "a period may end behind the last instant"
    for alert in effects.alerts.values():
        assert alert["run_out_at"] is None or EARLIEST_AT <= alert["run_out_at"] < 2**53
    for told in (effects.alerts, effects.results, effects.refusals):
        for each in told.values():
            orjson.dumps(each)
    assert_values_storable(worker)


def assert_values_storable(worker: Worker) -> None:
    """That every number a checkpoint stores of windows, accounts and their ledgers is within its column."""
    read_window = msgspec.msgpack.Decoder(Window)
    accounts = [worker.account(key.decode()) for key in worker.tables.accounts]
    stored = (
        (USAGE, usage_columns(decode_kept(read_window, value) for value in worker.tables.windows.values())),
        (ENTRIES, entry_columns((0, tenant, entry) for (tenant, _), entry in worker.effects.entries.items())),
        (ALERTS, alert_columns(worker.effects.alerts.values())),
        (ACCOUNTS, account_columns((0, each, worker.rules.plan_at(each)) for each in accounts)),
    )
    for table, columns in stored:
        for (name, column_type), values in zip(table.columns, columns, strict=True):
            held = RANGE_BY_TYPE.get(column_type)
            assert held is None or all(value is None or value in held for value in values), name
            if name in ("grants", "details"):
                assert all(each in RANGE_BY_TYPE["Int64"] for value in values for each in integers(value)), (
                    name
                )


def integers(text: str) -> Iterator[int]:
    """All integers in a JSON text, at any depth."""
    found: list[int] = []
    json.loads(text, parse_int=lambda digits: found.append(int(digits)))
    yield from found


def mutated(chance: Random, fields: dict[str, Any]) -> dict[str, Any]:
    """A document with a few fields exchanged, left out or added, at any depth."""
    fields = dict(fields)
    for _ in range(chance.randrange(1, 4)):
        name = chance.choice([*fields, "extra"])
        what = chance.random()
        if what < 0.1:
            fields.pop(name, None)
        elif what < 0.4 and isinstance(fields.get(name), dict):
            fields[name] = mutated(chance, fields[name])
        else:
            fields[name] = chance.choice(HOSTILE)
    return fields


def spoiled(chance: Random, value: bytes) -> bytes:
    """Bytes with a few of them exchanged, left out or repeated."""
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(value) + 1)
        middle = chance.choice(
            (b"", bytes([chance.randrange(256)]), b"\\u0000", b'"', b"[" * 99, b"\xed\xa0\x80")
        )
        value = value[:at] + middle + value[at + chance.choice((0, 1, 1, 9)) :]
    return value


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from((b"acme", b"", None, b"\xff", b"acme\0")), st.integers(0, 2**53)
)
@example(b"", b"acme", NOON)
@example(b"{}", b"acme", NOON)
@example(b"[" * 5000, b"acme", NOON)
def test_random_bytes_are_refused(value: bytes, key: bytes | None, received_at: int) -> None:
    worker = fold([Record(0, received_at, key, value), Record(0, received_at, key, None)])
    assert len(worker.effects.refusals) == 2


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.randoms(use_true_random=False))
def test_spoiled_messages_are_refused_or_storable(chance: Random) -> None:
    records = []
    for number in range(8):
        kind = chance.choice(("sms", "mms", "email", "rcs"))
        status = chance.choice(("sent", "accepted", "delivered"))
        fields = message(f"m{number % 3}", kind=kind, status=status)
        value = (
            document(mutated(chance, fields)) if chance.random() < 0.7 else spoiled(chance, document(fields))
        )
        records.append(Record(0, NOON, chance.choice((b"acme",) * 9 + (b"bolt",)), value))
    assert_storable(fold(records))


_RICH_PLAN = plan(
    "3",
    rollover={"valid_months": 12, "cap_credits": "5", "floor_credits": "1"},
    overage={"policy": "negative", "price": "0.02", "settled_by": "purchases"},
    recharge={"level_credits": "1", "block_credits": "5", "price": "9", "delay_minutes": 5, "daily_cap": 2},
    refunded_statuses=["failed"],
    quotas={"email": 5},
    licensed_contacts=5,
    contact_active_days=60,
    ends_after_days=14,
    currency="EUR",
    credit_value="0.03",
    catalogue="standard",
)
_ALL_OF_A_GRANT = {"valid_months": 24, "is_extended": True, "cost": "9", "currency": "EUR", "package": "p"}
COMMANDS: tuple[dict[str, Any], ...] = tuple(
    {"tenant": "acme", "effective_at": NOON, "id": name, "type": name} | fields
    for name, fields in (
        ("grant", {"credits": "5", "expires_at": None, "kind": "purchase", "priority": 1} | _ALL_OF_A_GRANT),
        ("set_plan", {"plan": _RICH_PLAN}),
        ("tick", {}),
        ("void_grant", {"grant": "purchase:grant"}),
        ("adjust", {"credits": "-2"}),
        ("allocate", {"list": "north", "credits": "2"}),
        ("reserve", {"credits": "2", "expires_at": NOON + DAY, "campaign": "c", "list": "north"}),
        ("commit_reservation", {"reservation": "reserve", "credits": "1"}),
        ("release_reservation", {"reservation": "reserve", "credits": None}),
        ("confirm_recharge", {"recharge": "recharge-1"}),
        ("decline_recharge", {"recharge": "recharge-1"}),
        ("mark_contacts", {"contacts": ["+14155550100"], "state": "active"}),
        ("set_organization", {"organization": "group"}),
        (
            "authorise",
            {
                "sendings": [{"count": 5, "kind": "sms", "country": "US", "category": "", "segments": 2}],
                "body": "hello",
                "recipients": ["+14155550100"],
                "list": "north",
                "campaign": "c",
                "reserve_until": NOON + DAY,
            },
        ),
    )
)
_BY_TYPE = {command["type"]: command for command in COMMANDS}


def test_every_command_is_among_the_hostile_ones() -> None:
    assert {command.__struct_config__.tag for command in get_args(Command)} == set(_BY_TYPE)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.randoms(use_true_random=False))
def test_spoiled_commands_of_our_own_are_refused_or_storable(chance: Random) -> None:
    records = []
    for number in range(8):
        fields = mutated(chance, chance.choice(COMMANDS) | {"id": f"c{number}"})
        value = document(fields) if chance.random() < 0.8 else spoiled(chance, document(fields))
        headers = signed_headers(COMMAND_KEY, "command", b"acme", value)
        records.append(Record(0, NOON, b"acme", value, headers))
        records.append(Record(0, NOON, b"acme", document(message(f"m{number}"))))
    assert_storable(fold(records))


@pytest.mark.parametrize(
    "fields",
    [message(), message(kind="email"), *COMMANDS],
    ids=lambda each: each.get("type", each.get("kind")),
)
def test_each_field_with_each_hostile_value_is_refused_or_storable(fields: dict[str, Any]) -> None:
    spoiled_fields = [
        fields | {name: hostile} for name in (*fields, "segments", "recipients") for hostile in HOSTILE
    ]
    if "plan" in fields:
        own = fields["plan"]
        spoiled_fields += [fields | {"plan": own | {name: hostile}} for name in own for hostile in HOSTILE]
        spoiled_fields += [
            fields | {"plan": own | {name: inner | {part: hostile}}}
            for name, inner in own.items()
            if isinstance(inner, dict)
            for part in inner
            for hostile in HOSTILE
        ]
    for each in spoiled_fields:
        value = document(each)
        headers = signed_headers(COMMAND_KEY, "command", b"acme", value) if "type" in fields else ()
        assert_storable(fold([Record(0, NOON, b"acme", value, headers)]))


# Sums: each of these drives one to its edge by what is valid by itself.

MOST = "999999999999"
OWING = {"policy": "negative", "price": MOST}
DEAREST = [{"kind": kind, "credits": "1000000", "per": "message"} for kind in ("sms", "mms", "rcs")]
DEAREST_EMAIL = {"kind": "email", "credits": "1000000", "per": "recipient"}
EXTREMES: dict[str, Callable[[Log], None]] = {}
TIMES = 25
"""So often an Int64, and what MessagePack holds, would be left by a trillion credits."""


def extreme(drive: Callable[[Log], None]) -> Callable[[Log], None]:
    EXTREMES[drive.__name__] = drive
    return drive


@extreme
def reservations(log: Log) -> None:
    log.set_plan(plan(overage=OWING, currency="EUR"))
    for _ in range(TIMES):
        log.command("reserve", credits=MOST, expires_at=log.now + DAY)


@extreme
def pre_flights(log: Log) -> None:
    log.set_plan(plan(overage=OWING, currency="EUR"))
    sendings = [{"count": 10_000_000, "segments": 255, "country": "US"}] * 300  # 0.77 trillion credits.
    for _ in range(TIMES):
        log.command("authorise", sendings=sendings, reserve_until=log.now + DAY)


@extreme
def corrections(log: Log) -> None:
    log.set_plan(plan(overage=OWING, currency="EUR"))
    for _ in range(TIMES):
        log.command("adjust", credits=f"-{MOST}")


@extreme
def commits(log: Log) -> None:
    log.set_plan(plan("0"))
    for number in range(TIMES):
        log.grant(MOST)
        log.command("reserve", f"r{number}", credits=MOST, expires_at=log.now + DAY)
        log.command("commit_reservation", reservation=f"r{number}", credits=MOST)


@extreme
def grants_of_a_second(log: Log) -> None:
    log.set_plan(plan("0", late_grace_hours=744), effective_at=log.now - 20 * DAY)
    for _ in range(TIMES):
        log.grant(MOST, effective_at=log.now - 20 * DAY, expires_at=log.now + 1_000)
        log.now += 1_000


@extreme
def messages(log: Log) -> None:
    log.set_plan(
        plan(rates=[*DEAREST, DEAREST_EMAIL], overage=OWING, currency="EUR", refunded_statuses=["failed"])
    )
    for number in range(TIMES):
        log.message(f"m{number}", kind="email", recipients=1_000_000)
    log.command("adjust", credits=f"-{MOST}")


@pytest.mark.parametrize("drive", EXTREMES.values(), ids=EXTREMES)
def test_what_would_bring_a_sum_beyond_its_bound_is_refused(drive: Callable[[Log], None]) -> None:
    log = Log()
    drive(log)
    worker = run(log)
    said = [result["reason"] for result in worker.effects.results.values()] + worker.effects.reasons()
    assert None in said[1:] or worker.effects.facts, "the first is within the bound"
    assert said.count(Refusal.AMOUNT_INVALID) >= TIMES - 2
    assert_storable(worker)


@pytest.mark.parametrize("policy", ["negative", "arrears"])
def test_what_is_owed_at_the_highest_price_is_storable(policy: str) -> None:
    log = Log()
    log.set_plan(
        plan(
            "0",
            currency="EUR",
            overage={"policy": policy, "price": MOST},
            recharge={"level_credits": "1", "block_credits": "5", "price": MOST},
        )
    )
    log.messages(TIMES)
    log.command("adjust", credits=f"-{MOST}")
    for _ in range(3):
        log.tick(log.now + 31 * DAY)
    worker = run(log)
    assert worker.account().recharge is not None
    billed = [entry.money_micros for entry in worker.effects.entries.values() if entry.kind == "arrears"]
    assert billed[:1] == ([10**18] if policy == "arrears" else [])
    assert_storable(worker)


def test_the_largest_allowance_rolls_over_until_time_ends() -> None:
    log = Log(EARLIEST_AT + DAY)
    log.set_plan(plan("1000000000", rollover={"floor_credits": "1000000000"}))
    log.tick(LATEST_AT - DAY - 1)
    worker = run(log)
    assert worker.account().balance == 100 * 12 * 10**15
    assert_storable(worker)


header_values = st.none() | st.binary(max_size=70) | st.sampled_from((b"command", b"forwarded"))
header_names = st.sampled_from((PURPOSE_HEADER, ORIGIN_HEADER, SIGNATURE_HEADER, "other", ""))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.tuples(header_names, header_values), max_size=6), st.sampled_from((1, 32)))
def test_headers_of_strangers_give_no_rights(
    headers: list[tuple[str, bytes | None]], partitions: int
) -> None:
    values = [document(COMMANDS[0]), document(message()), b"{"]
    worker = Worker(rules(partitions=partitions))
    worker.take([Record(at, NOON, b"acme", value, headers) for at, value in enumerate(values)])
    worker.keep()
    assert not worker.effects.results
    assert len(worker.effects.refusals) + len(worker.effects.forwards) == 3


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(HOSTILE), st.sampled_from(("received_at", "partition", "offset", "more")))
@example(b"", "")
@example(b"[]", "")
def test_a_signed_origin_that_we_would_not_write_is_refused(hostile: Any, field: str) -> None:
    origin = {"received_at": NOON, "partition": 0, "offset": 0}
    written = document(origin | {field: hostile}) if field else hostile
    value = document(message())
    headers = signed_headers(COMMAND_KEY, "forwarded", b"acme", value, written)
    worker = fold([Record(0, NOON, b"acme", value, headers)])
    assert_storable(worker) if worker.effects.facts else None
    assert set(worker.effects.reasons()) <= {
        Refusal.SIGNATURE_WRONG,
        Refusal.DATE_IN_FUTURE,
        Refusal.SIGNATURE_MISSING,
    }


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(-(2**63), 2**63), st.integers(-(2**63), 2**63))
@example(LATEST_AT, LATEST_AT)
@example(LATEST_AT - 86_400_000, LATEST_AT - 1)
@example(LATEST_AT - 86_400_001, LATEST_AT - 1)
@example(EARLIEST_AT, EARLIEST_AT)
@example(-1, -1)
def test_any_time_of_receipt_is_survived(received_at: int, occurred_at: int) -> None:
    values = [
        document(message(occurred_at=occurred_at)),
        document(_BY_TYPE["tick"] | {"effective_at": occurred_at}),
    ]
    signed = signed_headers(COMMAND_KEY, "command", b"acme", values[1])
    records = [Record(0, received_at, b"acme", values[0]), Record(0, received_at, b"acme", values[1], signed)]
    assert_storable(fold(records))
