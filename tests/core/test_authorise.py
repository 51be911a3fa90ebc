"""May these be sent: how many, at what cost, what would remain, and why no more."""

from typing import Any

import pytest

from pipeline.core.account import MAX_RESERVATIONS
from pipeline.core.refusals import Refusal
from tests.builders import DAY, HOUR, NOON, Log, Worker, instant, plan, run

RATES = [
    {"kind": "sms", "country": "US", "credits": "1", "per": "segment"},
    {"kind": "sms", "credits": "2", "per": "segment"},
    {"kind": "mms", "credits": "3", "per": "message"},
    {"kind": "email", "credits": "0", "per": "recipient"},
]


def log_of(allowance: str = "100", **fields: Any) -> Log:
    log = Log()
    log.set_plan(plan(allowance, rates=RATES, **fields), effective_at=NOON - DAY)
    return log


def sending(count: int, kind: str = "sms", country: str = "US", **fields: Any) -> dict[str, Any]:
    return {"count": count, "kind": kind, "country": country, **fields}


def answered(log: Log, *sendings: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The details of an authorise's result."""
    record = log.command("authorise", sendings=list(sendings), **fields)
    result = run(log).effects.results[record.offset]
    assert result["outcome"] == "accepted", result
    details: dict[str, Any] = result["details"]
    return details


def said(details: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(details[name] for name in ("decision", "reason", "allowed", "cost"))


def test_an_answer_says_what_is_allowed_what_it_costs_and_what_remains() -> None:
    details = answered(log_of(), sending(10), sending(5, country="DE", segments=2))
    assert details == {
        "decision": "allow",
        "reason": None,
        "requested": 15,
        "allowed": 15,
        "segments": None,
        "cost": "30",
        "cost_requested": "30",
        "remaining": "70",
        "alerts": [],
    }


@pytest.mark.parametrize(
    ("sendings", "expected"),
    [
        ([sending(100)], ("allow", None, 100, "100")),
        ([sending(101)], ("partial", "credits_insufficient", 100, "100")),
        ([sending(60, country="DE")], ("partial", "credits_insufficient", 50, "100")),
        ([sending(40, "mms")], ("partial", "credits_insufficient", 33, "99")),
        # In the order in which they would be sent: what does not fit ends it, also where less would still fit.
        ([sending(90), sending(6, "mms"), sending(5)], ("partial", "credits_insufficient", 93, "99")),
        ([sending(1, segments=101)], ("refuse", "credits_insufficient", 0, "0")),
        ([sending(10_000_000, "email")], ("allow", None, 10_000_000, "0")),
    ],
)
def test_a_hard_stop_allows_as_many_as_there_are_credits_for(
    sendings: list[dict[str, Any]], expected: tuple[Any, ...]
) -> None:
    assert said(answered(log_of(), *sendings)) == expected


@pytest.mark.parametrize("policy", ["negative", "arrears"])
def test_where_something_may_be_owed_all_are_allowed(policy: str) -> None:
    details = answered(log_of(overage={"policy": policy}), sending(150))
    assert said(details) == ("allow", None, 150, "150")
    assert details["remaining"] == "-50"


def test_a_body_is_counted_and_recipients_are_located_one_by_one() -> None:
    details = answered(
        log_of(), body="x" * 161, recipients=["+14155550100", "+4915112345678", "+14155550101"]
    )
    assert details["segments"] == 2
    assert said(details) == ("allow", None, 3, "8"), "two segments: 2 to the US, 4 to Germany, 2 to the US"


def test_the_segments_of_a_body_count_instead_of_those_said() -> None:
    assert answered(log_of(), sending(3, segments=9), body="hello")["cost"] == "3"


LONG_BODY = "☃" * 18_000


def test_the_body_of_an_email_is_no_matter_of_segments() -> None:
    details = answered(
        log_of(), sending(2, "mms"), body=LONG_BODY, kind="email", recipients=["a@example.com"]
    )
    assert said(details) == ("allow", None, 3, "6")
    assert details["segments"] is None


def test_only_an_sms_is_billed_by_the_segments_of_the_body() -> None:
    log = log_of()
    log.set_plan(plan("100", rates=[{"kind": "rcs", "credits": "1", "per": "segment"}]))
    details = answered(log, sending(1, "rcs", segments=2), sending(1), body="x" * 161)
    assert said(details) == ("allow", None, 2, "3")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, Refusal.FIELD_MISSING),
        ({"body": "hello"}, Refusal.FIELD_MISSING),
        ({"body": LONG_BODY, "sendings": [sending(1)]}, Refusal.TOO_MANY_SEGMENTS),
    ],
)
def test_what_cannot_be_answered_is_refused(fields: dict[str, Any], reason: Refusal) -> None:
    log = log_of()
    record = log.command("authorise", **fields)
    assert run(log).effects.results[record.offset]["reason"] == reason


def test_reserved_credits_are_not_for_others() -> None:
    log = log_of()
    log.command("reserve", credits="30", expires_at=NOON + DAY, campaign="spring")
    assert said(answered(log, sending(100))) == ("partial", "credits_insufficient", 70, "70")


def test_a_campaigns_own_reservation_is_for_it() -> None:
    log = log_of()
    log.command("reserve", credits="30", expires_at=NOON + DAY, campaign="spring")
    assert said(answered(log, sending(100), campaign="spring")) == ("allow", None, 100, "100")


@pytest.mark.parametrize(("count", "remaining"), [(90, "10"), (80, "20"), (50, "20")])
def test_what_a_campaign_holds_pays_for_it_before_anything_else_does(count: int, remaining: str) -> None:
    log = log_of()
    log.command("reserve", credits="80", expires_at=NOON + DAY, campaign="spring")
    assert answered(log, sending(count), campaign="spring")["remaining"] == remaining
    assert answered(log, sending(10))["remaining"] == "10"


@pytest.mark.parametrize(("listed", "most"), [("north", 20), ("", 80)])
def test_what_a_campaign_holds_is_for_it_also_within_shares(listed: str, most: int) -> None:
    log = log_of()
    log.command("allocate", list="north", credits="20")
    log.command("reserve", credits="15", expires_at=NOON + DAY, campaign="spring", list=listed)
    assert answered(log, sending(100), list=listed, campaign="spring")["allowed"] == most
    assert answered(log, sending(100), list=listed, campaign="summer")["allowed"] == most - 15


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("north", ("partial", "list_exhausted", 20, "20")),
        ("south", ("partial", "list_exhausted", 80, "80")),
        ("", ("partial", "list_exhausted", 80, "80")),
    ],
)
def test_a_list_may_spend_its_share_and_others_what_is_not_assigned(
    listed: str, expected: tuple[Any, ...]
) -> None:
    log = log_of()
    log.command("allocate", list="north", credits="20")
    assert said(answered(log, sending(100), list=listed)) == expected


def test_a_lists_share_holds_also_where_something_may_be_owed() -> None:
    log = log_of(overage={"policy": "negative"})
    log.command("allocate", list="north", credits="20")
    assert said(answered(log, sending(25), list="north")) == ("partial", "list_exhausted", 20, "20")
    assert answered(log, sending(200), list="south")["decision"] == "allow"


def test_a_list_that_spent_its_share_is_refused() -> None:
    log = log_of()
    log.command("allocate", list="north", credits="2")
    log.message(body=None, segments=3, list="north", country="US")
    assert said(answered(log, sending(1), list="north")) == ("refuse", "list_exhausted", 0, "0")


def test_a_quota_limits_what_costs_nothing() -> None:
    log = log_of(quotas={"email": 5})
    log.message("m1", kind="email", to="a@example.com", recipients=2, body=None)
    details = answered(log, sending(4, "email"), sending(2))
    assert said(details) == ("partial", "quota_exhausted", 3, "0")


def test_a_quota_counts_units_as_the_meter_does() -> None:
    """Three segments are three units: of ten, three messages have room."""
    log = log_of(quotas={"sms": 10})
    assert said(answered(log, sending(10, segments=3))) == ("partial", "quota_exhausted", 3, "9")
    log.message(body=None, segments=9, country="US")
    assert answered(log, sending(1, segments=1))["decision"] == "allow"
    assert said(answered(log, sending(1, segments=2))) == ("refuse", "quota_exhausted", 0, "0")


def test_several_sendings_share_one_quota() -> None:
    log = log_of(quotas={"email": 5})
    details = answered(log, sending(4, "email"), sending(4, "email"))
    assert said(details) == ("partial", "quota_exhausted", 5, "0")


def test_a_trial_that_has_ended_allows_nothing() -> None:
    """It began on 9 February and has 14 local days: its first and those up to the 22nd."""
    log = log_of(ends_after_days=14)
    log.now = instant("2026-02-23T00:00") - 1
    assert answered(log, sending(1))["decision"] == "allow"
    log.now += 1
    assert said(answered(log, sending(1))) == ("refuse", "plan_ended", 0, "0")


def test_the_alerts_that_would_fire_are_those_not_fired_yet() -> None:
    log = log_of()
    log.message(body=None, segments=80, country="US")
    assert answered(log, sending(10))["alerts"] == [85, 90]
    assert answered(log, sending(4))["alerts"] == []


def test_asking_burns_nothing_and_fires_nothing() -> None:
    log = log_of()
    answered(log, sending(95))
    worker = run(log)
    assert worker.account().available == 100_000_000
    assert worker.effects.alerts == {}


def test_the_cost_of_what_is_allowed_is_held_on_request() -> None:
    log = log_of()
    details = answered(log, sending(130), reserve_until=NOON + DAY, campaign="spring")
    assert (details["allowed"], details["available"]) == (100, "0")
    account = run(log).account()
    assert [(each.left, each.campaign) for each in account.reservations.values()] == [(100_000_000, "spring")]
    log.message(body=None, segments=40, country="US", campaign="spring")
    assert held(run(log)) == [60]


def held(worker: Worker) -> list[int]:
    return [each.left // 1_000_000 for each in worker.account().reservations.values()]


def test_a_campaign_that_holds_some_already_may_hold_no_more_than_there_is() -> None:
    log = log_of()
    log.command("reserve", credits="30", expires_at=NOON + DAY, campaign="spring")
    answered(log, sending(100), campaign="spring", reserve_until=NOON + DAY)
    assert sum(held(run(log))) == 100


def ends(worker: Worker) -> dict[str, int]:
    """In hours from noon, when each reservation ends."""
    return {name: (each.expires_at - NOON) // HOUR for name, each in worker.account().reservations.items()}


def holding(*holds: tuple[str, str, int]) -> Log:
    """A campaign with reservations: id, credits and the hours they last."""
    log = log_of()
    for name, amount, hours in holds:
        log.command("reserve", name, credits=amount, expires_at=NOON + hours * HOUR, campaign="spring")
    log.command("reserve", "other", credits="5", expires_at=NOON + 30 * DAY, campaign="summer")
    return log


@pytest.mark.parametrize(
    ("holds", "count", "extended", "expected"),
    [
        ([("a", "80", 1)], 70, 1, {"a": 48}),
        ([("a", "80", 1)], 90, 1, {"a": 48, "ask": 48}),
        # As many as it takes, the oldest first, because those are settled first.
        ([("a", "40", 1), ("b", "40", 2)], 30, 1, {"a": 48, "b": 2}),
        ([("a", "40", 1), ("b", "40", 2)], 41, 2, {"a": 48, "b": 48}),
        # What is held as long as that already is not held twice as long.
        ([("a", "40", 1), ("b", "40", 48)], 40, None, {"a": 1, "b": 48}),
        ([("a", "40", 1), ("b", "40", 72)], 41, 1, {"a": 48, "b": 72}),
        ([("a", "40", 72), ("b", "40", 1)], 41, 1, {"a": 72, "b": 48}),
    ],
)
def test_what_is_held_already_is_held_as_long_as_asked(
    holds: list[tuple[str, str, int]], count: int, extended: int | None, expected: dict[str, int]
) -> None:
    log = holding(*holds)
    record = log.command(
        "authorise", "ask", sendings=[sending(count)], campaign="spring", reserve_until=NOON + 2 * DAY
    )
    worker = run(log)
    assert worker.effects.results[record.offset]["details"].get("extended") == extended
    assert ends(worker) == {**expected, "other": 30 * 24}
    log.tick(NOON + 47 * HOUR)
    assert sum(held(run(log))) >= count


@pytest.mark.parametrize(
    ("reserve_until", "count"), [(NOON, 10), (NOON, 95), ("2100-01-01T00:00:00Z", 10), (NOON, 0)]
)
def test_nothing_is_held_until_an_instant_that_is_past_or_too_far(reserve_until: Any, count: int) -> None:
    log = holding(("a", "20", 1))
    what = sending(count) if count else sending(1, "email")
    record = log.command("authorise", sendings=[what], campaign="spring", reserve_until=reserve_until)
    worker = run(log)
    assert worker.effects.results[record.offset]["reason"] == Refusal.EXPIRY_INVALID
    assert ends(worker) == {"a": 1, "other": 30 * 24}


def test_an_extension_is_refused_with_what_it_would_go_with() -> None:
    log = holding(("a", "20", 1))
    for number in range(MAX_RESERVATIONS - 2):
        log.command("reserve", f"r{number}", credits="0.01", expires_at=NOON + 30 * DAY)
    record = log.command("authorise", sendings=[sending(30)], campaign="spring", reserve_until=NOON + 2 * DAY)
    worker = run(log)
    assert worker.effects.results[record.offset]["reason"] == Refusal.ACCOUNT_FULL
    assert ends(worker)["a"] == 1
