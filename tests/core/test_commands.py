"""What commands do, once, and what they are answered, every time."""

from typing import Any

import orjson
import pytest

from pipeline.core.account import MAX_ANSWERS, MAX_PLANS
from pipeline.core.refusals import Refusal
from pipeline.core.signing import signed_headers
from tests.builders import COMMAND_KEY, DAY, HOUR, NOON, Log, Worker, instant, plan, rules, run


def answers(log: Log) -> list[tuple[str, str | None, str]]:
    """(outcome, reason, balance) of all results."""
    results = run(log).effects.results.values()
    return [(result["outcome"], result["reason"], result["balance"]) for result in results]


ACCEPTED = ("accepted", None)


def test_a_result_says_what_was_asked_and_what_came_of_it() -> None:
    log = Log()
    log.grant("2.5", command_id="g", effective_at="2026-02-10T12:00:00Z")
    (result,) = run(log).effects.results.values()
    assert result == {
        "command_id": "g",
        "tenant": "acme",
        "type": "grant",
        "outcome": "accepted",
        "reason": None,
        "balance": "2.5",
        "effective_at": NOON,
        "partition": 0,
        "offset": 0,
        "details": {"grant": "purchase:g", "expires_at": None},
    }


def test_the_same_command_has_one_effect_and_one_answer() -> None:
    log = Log()
    log.set_plan()
    first = log.grant("5", command_id="g", effective_at=NOON)
    log.message()
    log.now += HOUR
    log.append(first.key, first.value, first.headers)
    assert answers(log)[1:] == [(*ACCEPTED, "1005"), (*ACCEPTED, "1005")]
    assert run(log).account().balance == 1_004_000_000


def test_the_same_id_with_another_content_is_refused_and_changes_nothing() -> None:
    log = Log()
    log.grant("5", command_id="g")
    log.grant("6", command_id="g")
    log.set_plan(command_id="g")
    conflict = ("refused", Refusal.COMMAND_CONFLICT, "5")
    assert answers(log) == [(*ACCEPTED, "5"), conflict, conflict]


def test_a_refused_command_is_refused_again() -> None:
    log = Log()
    first = log.grant("0", command_id="g")
    log.grant("5")
    log.append(first.key, first.value, first.headers)
    refused = ("refused", Refusal.AMOUNT_INVALID)
    assert answers(log) == [(*refused, "0"), (*ACCEPTED, "5"), (*refused, "0")]


def test_ids_are_the_tenants_own() -> None:
    log = Log()
    log.grant("5", command_id="g")
    log.grant("6", command_id="g", tenant="bolt")
    assert answers(log) == [(*ACCEPTED, "5"), (*ACCEPTED, "6")]


def test_a_grant_is_not_doubled_when_its_answer_is_forgotten() -> None:
    log = Log()
    first = log.grant("5", command_id="g")
    for number in range(MAX_ANSWERS):
        log.grant("0", command_id=f"refused-{number}")
    log.append(first.key, first.value, first.headers)
    assert answers(log)[-1] == ("refused", Refusal.COMMAND_CONFLICT, "5")
    assert len(run(log).account().answers) == MAX_ANSWERS


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"credits": "0"}, Refusal.AMOUNT_INVALID),
        ({"credits": "-5"}, Refusal.AMOUNT_INVALID),
        ({"credits": "1e3"}, Refusal.AMOUNT_INVALID),
        ({"credits": "0.0000001"}, Refusal.AMOUNT_INVALID),
        ({"credits": "1000000000000"}, Refusal.AMOUNT_INVALID),
        ({"credits": "five"}, Refusal.AMOUNT_INVALID),
        ({"expires_at": NOON}, Refusal.EXPIRY_INVALID),
        ({"expires_at": NOON - DAY, "effective_at": NOON - 2 * DAY}, Refusal.EXPIRY_INVALID),
        ({"expires_at": NOON + DAY, "effective_at": NOON + DAY}, Refusal.EXPIRY_INVALID),
        ({"expires_at": "2100-01-01T00:00:00Z"}, Refusal.EXPIRY_INVALID),
        ({"expires_at": 2**70}, Refusal.EXPIRY_INVALID),
        ({"expires_at": -(2**70)}, Refusal.EXPIRY_INVALID),
    ],
)
def test_a_grant_that_cannot_be_is_refused(fields: dict[str, Any], reason: Refusal) -> None:
    log = Log()
    document = {"type": "grant", "id": "g", "tenant": "acme", "effective_at": NOON, "credits": "5"} | fields
    value = "".join(_json(document)).encode()
    log.append(b"acme", value, signed_headers(COMMAND_KEY, "command", b"acme", value))
    assert answers(log) == [("refused", reason, "0")]
    assert run(log).account().grants == []


def _json(document: dict[str, Any]) -> list[str]:
    """JSON with integers of any size, which orjson does not write."""
    parts = [
        f'"{name}":{value if isinstance(value, int) else orjson.dumps(value).decode()}'
        for name, value in document.items()
    ]
    return ["{", ",".join(parts), "}"]


def test_a_balance_stays_within_what_columns_hold() -> None:
    log = Log()
    log.grant("999999999999")
    log.grant("1")
    log.grant("0.000001")
    assert [outcome for outcome, _, _ in answers(log)] == ["accepted", "accepted", "refused"]


def test_a_correction_leaves_no_more_uncovered_than_a_trillion_credits() -> None:
    log = Log()
    log.set_plan(plan("7", overage={"policy": "negative"}))
    for amount in ("-7", "-999999999999", "-1.000001", "-1", "-0.000001"):
        log.command("adjust", credits=amount)
    assert [reason for _, reason, _ in answers(log)[1:]] == [
        None,
        None,
        Refusal.AMOUNT_INVALID,
        None,
        Refusal.AMOUNT_INVALID,
    ]
    assert run(log).account().uncovered == 10**18


def test_grants_that_have_ended_count_while_late_messages_burn_them() -> None:
    log = Log()
    log.set_plan(plan("0"))
    log.grant("999999999999", expires_at=log.now + 1)
    log.now += 1
    log.grant("1")
    log.grant("0.000001")
    assert [reason for _, reason, _ in answers(log)] == [None, None, None, Refusal.AMOUNT_INVALID]


@pytest.mark.parametrize("kind", ["purchase", "promotion", "adjustment"])
def test_a_grant_has_its_kind_and_its_order(kind: str) -> None:
    log = Log()
    log.grant("5", command_id="g", kind=kind, priority=7, expires_at="2027-01-01T00:00:00Z")
    (grant,) = run(log).account().grants
    assert (grant.id, grant.kind, grant.priority) == (f"{kind}:g", kind, 7)
    assert grant.expires_at == instant("2027-01-01")


@pytest.mark.parametrize(
    "fields",
    [
        {"rate_card": "none"},
        {"zone": "Mars/Olympus"},
        {"anchor_day": 32},
        {"allowance_credits": "-1"},
        {"alert_levels": [90, 80]},
        {"rates": [{"kind": "mms", "credits": "1", "per": "segment"}]},
    ],
)
def test_a_faulty_plan_is_refused_and_the_old_one_holds(fields: dict[str, Any]) -> None:
    log = Log()
    log.set_plan(plan("7"))
    log.set_plan(plan("9") | fields)
    assert answers(log) == [(*ACCEPTED, "7"), ("refused", Refusal.PLAN_INVALID, "7")]


def test_a_plan_for_the_same_instant_replaces_the_one_before() -> None:
    log = Log()
    log.set_plan(plan("7"))
    log.set_plan(plan("9"))
    worker = run(log)
    assert len(worker.account().plans) == 1
    assert answers(log) == [(*ACCEPTED, "7"), (*ACCEPTED, "9")]


def test_plans_of_the_past_are_forgotten_and_too_many_of_the_future_refused() -> None:
    log = Log()
    for number in range(MAX_PLANS + 5):
        log.now += 1
        log.set_plan(plan(str(number)))
    assert len(run(log).account().plans) == MAX_PLANS
    for number in range(MAX_PLANS):
        log.set_plan(plan("1"), effective_at=log.now + 1 + number)
    outcomes = [outcome for outcome, _, _ in answers(log)]
    assert outcomes.count("refused") == 1
    assert run(log).account().balance == (MAX_PLANS + 4) * 1_000_000, "the plan in force is never forgotten"


def test_a_tick_lets_time_pass_and_tells_the_balance() -> None:
    log = Log()
    log.set_plan(plan("7", late_grace_hours=0))
    log.message()
    log.tick(instant("2026-03-01T00:00"))
    assert answers(log)[-1] == (*ACCEPTED, "7")


def test_a_tick_of_a_scheduler_whose_clock_is_ahead_counts() -> None:
    """What is due by it would wait for the next record otherwise."""
    log = Log(instant("2026-02-28T23:59:59"))
    log.set_plan(plan("7", late_grace_hours=0))
    log.message()
    log.command("tick", effective_at=instant("2026-03-01T00:00"))
    assert answers(log)[-1] == (*ACCEPTED, "7")


def test_a_tick_sets_no_clock_back() -> None:
    log = Log()
    log.set_plan()
    log.command("tick", effective_at=NOON - DAY)
    assert run(log).account().clock_at == NOON


def test_a_command_for_a_stranger_opens_an_account() -> None:
    log = Log()
    log.grant("5")
    log.set_plan(plan("7"))
    worker = run(log)
    assert worker.account().balance == 12_000_000
    assert worker.account().periods[0].limit == 12_000_000


def test_a_command_after_a_crash_is_answered_as_before() -> None:
    log = Log()
    log.set_plan()
    log.message()
    log.grant("5")
    worker = Worker(rules())
    worker.take(log.records)
    worker.close_epoch()
    before = dict(worker.effects.results)
    again = Worker(worker.rules, worker.tables, worker.effects)
    again.take(log.records)
    again.keep()
    assert again.effects.results == before
    assert again.account().balance == 1_004_000_000


def test_an_account_of_the_largest_plans_still_fits_into_one_record() -> None:
    """2 000 own rates make a plan of some 60 kB; sixty of them would not fit."""
    log = Log()
    rates = [
        {"kind": "sms", "country": "US", "category": f"{'c' * 20}{number}", "credits": "1", "per": "segment"}
        for number in range(500)
    ]
    for number in range(40):
        log.set_plan(plan(rates=rates), effective_at=NOON - number * DAY)
    worker = run(log)
    assert {result["outcome"] for result in worker.effects.results.values()} == {"accepted"}
    assert sum(len(each.document) for each in worker.account().plans) <= 1 << 20
