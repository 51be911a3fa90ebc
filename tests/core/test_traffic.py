"""Generated traffic is repeatable, mixed as asked, and bad exactly where it says so."""

from collections import Counter
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from random import Random

import orjson
import pytest

from pipeline.core.fields import milliseconds
from pipeline.core.numbering import country_of
from pipeline.core.records import Message, decode_command, decode_message
from pipeline.core.refusals import Refusal
from pipeline.core.rules import Rules
from pipeline.core.simulation import Report, simulate
from pipeline.data import load_rate_cards
from pipeline.logfile import LogRecord, sign_plain
from pipeline.malformed import _LARGE, MALFORMED, make_malformed
from pipeline.traffic import Traffic, TrafficGenerator

START_AT = 1_770_113_700_000
SECRET = b"sixteen characters"
SMALL = Traffic(start_at=START_AT, messages=4_000, tenants=40, records_per_second=20)
CLEAN = replace(SMALL, duplicates=0, late=0, malformed=0, purchases=0)


def records_of(traffic: Traffic) -> list[LogRecord]:
    return list(TrafficGenerator(traffic))


def messages_of(traffic: Traffic) -> list[Message]:
    decoded = [decode_message(record.value) for record in records_of(replace(traffic, plans=False))]
    assert all(isinstance(each, Message) for each in decoded)
    return decoded  # type: ignore[return-value]


def simulated(traffic: Traffic) -> Report:
    rules = Rules(cards=load_rate_cards(), command_key=SECRET, counterparty_key=SECRET)
    return simulate((sign_plain(record, SECRET) for record in TrafficGenerator(traffic)), rules)


def test_same_description_gives_same_bytes() -> None:
    assert records_of(SMALL) == records_of(SMALL)


@pytest.mark.parametrize("other", [{"seed": 2}, {"start_at": START_AT + 1}])
def test_other_seed_or_start_gives_other_identities(other: dict[str, int]) -> None:
    # Traffic started again must not look like contradictions of the first.
    first, second = (
        {(message.source, message.id) for message in messages_of(traffic)}
        for traffic in (CLEAN, replace(CLEAN, **other))
    )
    assert not first & second


def test_longer_log_begins_like_the_shorter() -> None:
    # But for allowances and purchases, which are made for the length.
    short = replace(SMALL, messages=1_000, plans=False, purchases=0)
    long = replace(short, messages=2_000)
    assert records_of(long)[:1_000] == records_of(short)


def test_log_without_end_goes_on() -> None:
    endless = TrafficGenerator(replace(CLEAN, messages=None, plans=False))
    assert len(list(islice(endless, 10_000))) == 10_000


def test_counts_say_what_was_given() -> None:
    generator = TrafficGenerator(SMALL)
    records = list(generator)
    counts = generator.counts
    assert counts["plans"] == SMALL.tenants
    assert sum(record.is_plain_command for record in records) == counts["plans"] + counts["purchases"]
    assert len(records) == sum(counts.values()) - counts["late"]
    opening = [record for record in records[: SMALL.tenants * 2] if record.is_plain_command]
    assert len(records) - len(opening) == SMALL.messages


def test_receipt_times_go_up_at_the_rate() -> None:
    received = [record.received_at for record in records_of(SMALL)]
    assert received == sorted(received)
    assert (received[0], received[-1]) == (START_AT, START_AT + (SMALL.messages or 0) * 50 - 50)


def test_every_kind_direction_status_and_script_occurs() -> None:
    messages = messages_of(replace(CLEAN, messages=20_000))
    assert {message.kind for message in messages} == {"sms", "mms", "rcs", "email"}
    assert {message.direction for message in messages} == {"outbound", "inbound"}
    assert len({message.status for message in messages}) == 10
    assert {message.category for message in messages} == {"", "campaign", "messaging", "transactional"}
    text = "".join(message.body or "" for message in messages)
    for script in "ñığλшعخ您👍":
        assert script in text
    assert any(message.segments for message in messages)
    assert {type(message.occurred_at) for message in messages} >= {int}
    assert len({message.tenant for message in messages}) == SMALL.tenants


def test_first_tenants_have_most_of_the_traffic() -> None:
    counts = Counter(message.tenant for message in messages_of(replace(CLEAN, tenants=1_000)))
    assert counts["tenant-00001"] > 4 * counts["tenant-00100"] > 0


def test_statuses_of_a_message_agree_on_everything_else() -> None:
    by_id: dict[str, list[Message]] = {}
    for message in messages_of(CLEAN):
        by_id.setdefault(message.id, []).append(message)
    for chain in by_id.values():
        assert len({(each.tenant, each.to, each.from_, each.occurred_at, each.kind) for each in chain}) == 1
        assert len({each.status for each in chain}) == len(chain)
        assert sum(each.body is not None or each.segments is not None for each in chain) <= 1
    assert Counter(len(chain) for chain in by_id.values())[3] > 100
    # Some receipts overtake the message.
    assert any(chain[0].status == "delivered" and len(chain) == 3 for chain in by_id.values())


@pytest.mark.parametrize(
    ("field", "count"), [("duplicates", "duplicates"), ("malformed", "malformed"), ("late", "late")]
)
def test_shares_are_what_was_asked(field: str, count: str) -> None:
    generator = TrafficGenerator(replace(CLEAN, messages=20_000, **{field: 0.1}))
    assert list(generator)
    of = generator.counts["messages"] if field == "late" else 20_000
    assert 0.09 < generator.counts[count] / of < 0.11
    assert all(
        generator.counts[other] == 0 for other in ("duplicates", "malformed", "late") if other != count
    )


def test_duplicates_are_records_that_were_there_before() -> None:
    seen: set[bytes] = set()
    repeated = 0
    for record in records_of(replace(CLEAN, duplicates=0.1)):
        repeated += record.value in seen
        seen.add(record.value)
    generator = TrafficGenerator(replace(CLEAN, duplicates=0.1))
    assert list(generator)
    assert repeated == generator.counts["duplicates"]


@pytest.mark.parametrize("hours", [(1, 2), (30, 40)])
def test_late_messages_lie_in_the_span_asked(hours: tuple[int, int]) -> None:
    late = replace(CLEAN, late=1.0, late_hours=hours, plans=False, receipts=0)
    for record in records_of(late):
        message = decode_message(record.value)
        assert isinstance(message, Message)
        delay = (record.received_at or 0) - milliseconds(message.occurred_at)
        assert hours[0] * 3_600_000 <= delay <= hours[1] * 3_600_000


def test_late_span_must_lie_before_the_plans_take_effect() -> None:
    with pytest.raises(ValueError, match="late_hours"):
        replace(CLEAN, late_hours=(1, 168))


def test_plans_are_in_force_before_the_earliest_late_message() -> None:
    plans = [decode_command(r.value) for r in records_of(replace(CLEAN, messages=0)) if r.is_plain_command]
    assert len(plans) == CLEAN.tenants
    for plan in plans:
        assert not isinstance(plan, Refusal)
        assert milliseconds(plan.effective_at) <= START_AT - 168 * 3_600_000


@pytest.mark.parametrize(("reason", "maker"), [*MALFORMED, *_LARGE])
def test_malformed_record_is_refused_for_its_reason(reason: Refusal, maker: object) -> None:
    generator = Random(7)
    good = [record for record in records_of(replace(CLEAN, messages=200)) if not record.is_plain_command]
    plans = [record for record in records_of(replace(CLEAN, messages=0)) if record.is_plain_command]
    rules = Rules(cards=load_rate_cards(), command_key=SECRET, counterparty_key=SECRET)
    bad = [
        LogRecord(made.key, made.value, made.headers, START_AT + 60_000)
        for record in good[:: 40 if len(good[0].value) > 10_000 else 5]
        for made in (maker(generator, record.key, record.value),)  # type: ignore[operator]
    ]
    report = simulate([*(sign_plain(plan, SECRET) for plan in plans), *good, *bad], rules)
    assert Counter(refusal["reason"] for refusal in report.refusals) == {reason.value: len(bad)}


def test_every_refusal_of_generated_traffic_names_its_gateway_but_where_only_its_content_is_missing() -> None:
    report = simulated(replace(SMALL, malformed=0.1))
    gateways = {"gateway-eu", "gateway-us", "gateway-tr", "carrier-direct"}
    assert {refusal["reason"] for refusal in report.refusals} > {"not_json", "not_utf8", "too_deep"}
    assert {each["source"] for each in report.refusals if each["reason"] != "content_missing"} == gateways


def test_every_reason_a_gateway_can_cause_is_generated() -> None:
    # Not: what only commands, missing plans, forwarding, waiting or storing can cause.
    elsewhere = {
        Refusal.STRAY,
        Refusal.COMMAND_CONFLICT,
        Refusal.PLAN_INVALID,
        Refusal.AMOUNT_INVALID,
        Refusal.EXPIRY_INVALID,
        Refusal.TENANT_UNKNOWN,
        Refusal.GRANT_UNKNOWN,
        Refusal.GRANT_BURNED,
        Refusal.CREDITS_INSUFFICIENT,
        Refusal.RESERVATION_UNKNOWN,
        Refusal.RESERVATION_EXCEEDED,
        Refusal.RECHARGE_UNKNOWN,
        Refusal.ACCOUNT_FULL,
        Refusal.PLAN_MISSING,
        Refusal.CONTENT_MISSING,
        Refusal.UNSTORABLE,
    }
    assert {reason for reason, _ in (*MALFORMED, *_LARGE)} == set(Refusal) - elsewhere
    record = records_of(replace(CLEAN, messages=1, plans=False))[0]
    generator = Random(1)
    made = {make_malformed(generator, record.key or b"", record.value)[0] for _ in range(500)}
    assert made >= {reason for reason, _ in MALFORMED}


def test_what_is_refused_is_what_is_malformed_and_nothing_else() -> None:
    traffic = replace(SMALL, malformed=0.05)
    generator = TrafficGenerator(traffic)
    assert list(generator)
    report = simulated(traffic)
    assert len(report.refusals) == generator.counts["malformed"]
    assert all(result["outcome"] == "accepted" for result in report.results)


def test_most_tenants_come_past_an_alert_level_and_some_do_not() -> None:
    traffic = Traffic(start_at=START_AT, messages=20_000, tenants=60, records_per_second=20, purchases=0.004)
    report = simulated(traffic)
    alerted = {alert["tenant"] for alert in report.alerts}
    assert 24 <= len(alerted) <= 54
    assert {alert["level"] for alert in report.alerts} == {80, 85, 90, 95}
    # A purchase arms levels again.
    assert max(alert["arming"] for alert in report.alerts) > 1


def test_generated_numbers_are_found_in_their_countries() -> None:
    samples = orjson.loads((files("pipeline.data") / "sample_traffic.json").read_bytes())
    for country in samples["countries"]:
        for prefix in country["prefixes"]:
            assert country_of(prefix + "5" * country["digits"]) == country["country"]
