"""What a record is, whether it may be here, and what a stranger's marks are worth."""

from typing import Any

import orjson
import pytest

from pipeline.core.admission import EARLIEST_AT, LATEST_AT, SOURCE_HEADER
from pipeline.core.partitions import partition_of
from pipeline.core.records import MAX_VALUE_BYTES
from pipeline.core.refusals import Refusal
from pipeline.core.signing import ORIGIN_HEADER, PURPOSE_HEADER, SIGNATURE_HEADER, signed_headers
from tests.builders import (
    AT,
    COMMAND_KEY,
    DAY,
    HOUR,
    NOON,
    Log,
    Record,
    Worker,
    instant,
    message,
    plan,
    rules,
    run,
)

HOME = partition_of(b"acme", 32)
AWAY = (HOME + 1) % 32
GRANT = {"type": "grant", "id": "g", "tenant": "acme", "effective_at": NOON, "credits": "5"}


def refused(*records: Record) -> list[str]:
    return run(records).effects.reasons()


def record(fields: dict[str, Any] | None = None, key: bytes | None = b"acme", **more: Any) -> Record:
    value = orjson.dumps(message() if fields is None else fields)
    return Record(0, NOON, key, value)._replace(**more)


def signed(fields: dict[str, Any], secret: bytes = COMMAND_KEY, key: bytes = b"acme") -> Record:
    value = orjson.dumps(fields)
    return Record(0, NOON, key, value, signed_headers(secret, "command", key, value))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (record(value=None), Refusal.NOT_JSON),
        (record(value=b""), Refusal.NOT_JSON),
        (record(value=b" " * (MAX_VALUE_BYTES + 1)), Refusal.OVERSIZE),
        (record(value=b" " * MAX_VALUE_BYTES), Refusal.NOT_JSON),
        (record(value=b" " * (MAX_VALUE_BYTES + 1), key=None), Refusal.OVERSIZE),
        (record(key=None), Refusal.KEY_MISSING),
        (record(key=b""), Refusal.KEY_MISSING),
        (record(key=b"bolt"), Refusal.KEY_MISMATCH),
        (record(key=b"acme "), Refusal.KEY_MISMATCH),
        (record(key=b"\xff"), Refusal.KEY_MISMATCH),
        (record(value=b"\xff{"), Refusal.NOT_UTF8),
        (record(message(status="lost")), Refusal.FIELD_INVALID),
        (record(message(to=None)), Refusal.FIELD_MISSING),
        (record(GRANT), Refusal.SIGNATURE_MISSING),
        (record(headers=[(PURPOSE_HEADER, b"command")]), Refusal.SIGNATURE_MISSING),
        (record(headers=[(PURPOSE_HEADER, b"command"), (SIGNATURE_HEADER, b"")]), Refusal.SIGNATURE_MISSING),
        (record(headers=[(PURPOSE_HEADER, b"nonsense"), (SIGNATURE_HEADER, b"x")]), Refusal.SIGNATURE_WRONG),
        (record(headers=[(PURPOSE_HEADER, b"forwarded")]), Refusal.SIGNATURE_MISSING),
        (record(headers=[(PURPOSE_HEADER, b"forwarded"), (SIGNATURE_HEADER, b"x")]), Refusal.SIGNATURE_WRONG),
        (signed(GRANT, secret=b"a key of somebody else"), Refusal.SIGNATURE_WRONG),
        (signed(GRANT)._replace(value=orjson.dumps(GRANT | {"credits": "6"})), Refusal.SIGNATURE_WRONG),
        (signed(GRANT, key=b"bolt"), Refusal.KEY_MISMATCH),
        (signed(GRANT | {"credits": 5}), Refusal.FIELD_INVALID),
        (signed(GRANT | {"more": 5}), Refusal.FIELD_INVALID),
        (signed(GRANT | {"effective_at": EARLIEST_AT - 1}), Refusal.DATE_TOO_EARLY),
        (signed(GRANT | {"effective_at": LATEST_AT}), Refusal.DATE_IN_FUTURE),
        (signed(message()), Refusal.FIELD_MISSING),
    ],
)
def test_a_record_is_refused_for_its_first_fault(given: Record, reason: Refusal) -> None:
    assert refused(given) == [reason]


@pytest.mark.parametrize("name", ["occurred_at", "status_at"])
@pytest.mark.parametrize(
    ("at", "reasons"),
    [
        (EARLIEST_AT - 1, [Refusal.DATE_TOO_EARLY]),
        (EARLIEST_AT, []),
        ("1999-12-31T23:59:59.999Z", [Refusal.DATE_TOO_EARLY]),
        ("0001-01-01T00:00:00+23:59", [Refusal.DATE_TOO_EARLY]),
        (-(2**63), [Refusal.DATE_TOO_EARLY]),
        (NOON + DAY, []),
        (NOON + DAY + 1, [Refusal.DATE_IN_FUTURE]),
        ("2026-02-11T13:00:00.001+01:00", [Refusal.DATE_IN_FUTURE]),
        ("9999-12-31T23:59:59-23:59", [Refusal.DATE_IN_FUTURE]),
        (2**63 - 1, [Refusal.DATE_IN_FUTURE]),
        (2**64 - 1, [Refusal.DATE_IN_FUTURE]),
    ],
)
def test_instants_lie_between_2000_and_a_day_after_the_receipt(
    name: str, at: int | str, reasons: list[Refusal]
) -> None:
    given = record(message(status_at=NOON) | {name: at})
    log = Log()
    log.set_plan(effective_at=EARLIEST_AT)
    assert refused(*log.records, given._replace(offset=1)) == reasons


@pytest.mark.parametrize(("received_at", "is_taken"), [(LATEST_AT - DAY - 1, True), (LATEST_AT - DAY, False)])
def test_time_ends_in_2100(received_at: int, is_taken: bool) -> None:
    log = Log()
    log.set_plan()
    log.now = received_at
    log.message()
    assert bool(run(log).effects.facts) is is_taken


def test_a_tick_lies_a_day_ahead_at_most() -> None:
    """It says what time it is; a plan or a grant may begin when it likes."""
    log = Log()
    log.command("tick", effective_at=NOON + DAY)
    log.command("tick", effective_at=NOON + DAY + 1)
    log.grant("5", effective_at=NOON + 400 * DAY)
    assert sorted(run(log).effects.refusals) == [(1, Refusal.DATE_IN_FUTURE)]


def test_a_refusal_says_where_and_why_and_never_what() -> None:
    value = orjson.dumps(message(status="lost", body="a secret"))
    ((_, refusal),) = run([Record(0, NOON, b"acme", value)]).effects.refusals.items()
    digest = refusal.pop("digest")
    assert len(digest) == 32
    assert refusal == {
        "partition": 0,
        "offset": 0,
        "reason": "field_invalid",
        "retryable": False,
        "size_bytes": len(value),
        "tenant": "acme",
        "source": "gateway",
        "id": "m1",
        "received_at": NOON,
    }


def test_names_in_a_refusal_are_cut_and_left_out_where_they_cannot_be_read() -> None:
    long = record(message("x" * 500))
    worker = run([long, record(value=b'{"tenant": 5, "id": "m1"}')._replace(offset=1)])
    assert [(each["tenant"], each["id"]) for each in worker.effects.refusals.values()] == [
        ("acme", "x" * 128),
        (None, None),
    ]


def sources(*given: Record) -> list[str | None]:
    """The gateways that the records' refusals name, in log order."""
    placed = [each._replace(offset=offset) for offset, each in enumerate(given)]
    refusals = run(placed).effects.refusals
    return [refusals[key]["source"] for key in sorted(refusals)]


def named(value: bytes | None, *sources: bytes | None) -> Record:
    return Record(0, NOON, b"acme", value, [(SOURCE_HEADER, each) for each in sources])


def test_a_refusal_names_the_gateway_by_the_value_and_else_by_the_header() -> None:
    readable = orjson.dumps(message(status="lost"))
    assert sources(
        named(readable, b"gateway-tr"),
        named(readable[:40], b"gateway-tr"),
        named(b"\xff", b"other", b"gateway-tr"),
        named(None, b"gateway-tr"),
        named(b"x" * (MAX_VALUE_BYTES + 1), b"gateway-tr"),
        named(readable[:40]),
    ) == ["gateway", *["gateway-tr"] * 4, None]


NO_GATEWAYS = [
    "", "+14155550100", "+14155550100 your PIN is 4711", "A14155550100", "sms-415-555-0100", "Your code is 1", "x" * 65,
    "caf\xe9", "a\x1b[1m", "7bit", "a\n", "sk-live-51H8abcSECRETKEY", "a..b", "gateway-",
]  # fmt: skip


@pytest.mark.parametrize("source", [7, None, ["gateway-us"], *NO_GATEWAYS])
def test_a_source_that_is_no_name_hides_neither_the_others_nor_the_header(source: Any) -> None:
    value = orjson.dumps(message(source=source, status="lost"))
    refusals = run([named(value, b"gateway-tr")]).effects.refusals
    assert [(each["tenant"], each["source"], each["id"]) for each in refusals.values()] == [
        ("acme", "gateway-tr", "m1")
    ]


@pytest.mark.parametrize("header", [None, b"caf\xe9", *(each.encode() for each in NO_GATEWAYS)])
def test_a_header_that_is_not_one_plain_word_is_not_repeated(header: bytes | None) -> None:
    assert sources(named(b"{", header)) == [None]


@pytest.mark.parametrize(
    "name", ["g", "gateway-eu", "eu.smsc_02a", "us1east", "x509-proxy", "a" * 64, "gw-123456"]
)
def test_a_gateways_name_is_repeated(name: str) -> None:
    status_lost = orjson.dumps(message(status="lost", source=name))
    assert sources(named(b"{", name.encode()), named(status_lost)) == [name, name]


@pytest.mark.parametrize("text", ["+14155550100", "your PIN is 4711", "a\nb", "a\x1b[1m", "a\u2028b", ""])
def test_a_tenant_or_id_that_looks_like_none_is_not_repeated(text: str) -> None:
    value = orjson.dumps(message(text, tenant=text, status="lost"))
    ((_, refusal),) = run([named(value)]).effects.refusals.items()
    assert (refusal["tenant"], refusal["id"]) == (None, None)


def test_the_tenant_that_is_the_key_is_named_as_it_is() -> None:
    name = "Acme & Sons"
    given = record(message("20024711", tenant=name, status="lost"), key=name.encode())
    ((_, refusal),) = run([given]).effects.refusals.items()
    assert (refusal["tenant"], refusal["id"]) == (name, "20024711")


def test_what_a_readable_message_says_of_itself_is_repeated_no_more_than_of_others() -> None:
    log = Log()
    log.append(b"acme", orjson.dumps(message("your PIN is 4711", source="+14155550100")))
    ((_, refusal),) = run(log).effects.refusals.items()
    assert refusal["reason"] == Refusal.PLAN_MISSING
    assert (refusal["tenant"], refusal["source"], refusal["id"]) == ("acme", None, None)


def test_the_source_of_an_accepted_message_may_be_any_text() -> None:
    log = Log()
    log.set_plan()
    log.append(b"acme", orjson.dumps(message("any id", source="+14155550100")))
    [fact] = run(log).effects.facts.values()
    assert "+14155550100" in fact


def test_a_readable_message_without_a_plan_is_refused_in_its_gateways_name() -> None:
    log = Log()
    log.append(b"acme", orjson.dumps(message(source="gateway-us")), [(SOURCE_HEADER, b"gateway-tr")])
    ((_, refusal),) = run(log).effects.refusals.items()
    assert (refusal["reason"], refusal["source"]) == (Refusal.PLAN_MISSING, "gateway-us")


@pytest.mark.parametrize(
    "headers", [None, (), [("other", b"x")], [("other", None)], [(PURPOSE_HEADER, None)]]
)
def test_headers_of_others_do_not_matter(headers: Any) -> None:
    log = Log()
    log.set_plan()
    log.append(b"acme", orjson.dumps(message()), headers)
    assert len(run(log).effects.facts) == 1


# Strays.


def stray(given: Record, at: int = NOON + HOUR) -> tuple[Worker, Record]:
    """The worker of another partition, and the record it wrote to the right one an hour later."""
    worker = run([given], rules(partitions=32), partition=AWAY)
    (forward,) = worker.effects.forwards
    return worker, Record(1, at, forward.key, forward.value, forward.headers)


def home(*records: Record) -> Worker:
    log = Log()
    log.set_plan(plan("10"), effective_at=NOON - 40 * DAY)
    return run([*log.records, *records], rules(partitions=32), partition=HOME)


def test_a_stray_is_forwarded_once_and_keeps_its_first_time() -> None:
    there, forwarded = stray(record())
    assert not there.effects.facts
    assert not there.effects.refusals
    (fact,) = home(forwarded).effects.facts.values()
    assert (fact[AT["received_at"]], fact[AT["kafka_partition"]]) == (NOON, HOME)


def test_how_late_a_forwarded_record_is_counts_from_its_first_arrival() -> None:
    _, forwarded = stray(record(message(occurred_at=NOON + DAY + 1, status_at=NOON)), at=NOON + 2 * DAY)
    assert home(forwarded).effects.reasons() == [Refusal.DATE_IN_FUTURE]


def test_time_goes_on_although_a_forwarded_record_is_old() -> None:
    """The order that counts is that of the destination."""
    _, forwarded = stray(record(), at=instant("2026-03-02T00:00"))
    assert home(forwarded).account().clock_at == instant("2026-03-02T00:00")


def test_a_stray_that_is_still_one_is_refused() -> None:
    _, forwarded = stray(record())
    worker = run([forwarded], rules(partitions=32), partition=AWAY)
    assert worker.effects.reasons() == [Refusal.STRAY]
    assert not worker.effects.forwards


def test_a_forwarded_command_works() -> None:
    _, forwarded = stray(signed(GRANT))
    worker = home(forwarded)
    assert [result["outcome"] for result in worker.effects.results.values()] == ["accepted", "accepted"]
    assert worker.account().balance == 15_000_000


def test_forwarding_gives_no_rights_to_an_unsigned_command() -> None:
    _, forwarded = stray(record(GRANT, headers=[(PURPOSE_HEADER, b"command")]))
    assert home(forwarded).effects.reasons() == [Refusal.SIGNATURE_MISSING]


def test_a_forwarded_record_that_was_changed_is_refused() -> None:
    _, forwarded = stray(record())
    origin = orjson.dumps({"received_at": NOON - 9 * DAY, "partition": AWAY, "offset": 0})
    headers = [(name, origin if name == ORIGIN_HEADER else value) for name, value in forwarded.headers]
    assert home(forwarded._replace(headers=headers)).effects.reasons() == [Refusal.SIGNATURE_WRONG]
    changed = forwarded._replace(value=orjson.dumps(message("m2")))
    assert home(changed).effects.reasons() == [Refusal.SIGNATURE_WRONG]


def test_a_forwarded_message_cannot_pass_for_a_command() -> None:
    """The purpose is signed too."""
    _, forwarded = stray(record(GRANT))
    headers = [
        (PURPOSE_HEADER, b"command"),
        *(each for each in forwarded.headers if each[0] != PURPOSE_HEADER),
    ]
    assert home(forwarded._replace(headers=headers)).effects.reasons() == [Refusal.SIGNATURE_WRONG]


def test_a_stray_and_its_repetition_after_a_crash_are_charged_once() -> None:
    _, first = stray(record())
    _, again = stray(record(), at=NOON + 2 * HOUR)
    assert len(home(first, again._replace(offset=2)).effects.facts) == 1


def test_headers_of_the_gateway_go_with_a_stray() -> None:
    _, forwarded = stray(record(headers=[("trace", b"1"), ("empty", None)]))
    assert list(forwarded.headers)[:2] == [("trace", b"1"), ("empty", None)]
