"""Model E: credits by kind of message, rolled over for twelve months, four alerts, plans that change at once."""

import pytest

from pipeline.core.simulation import Report
from tests.golden.models.readings import (
    answer,
    credits_of,
    entries,
    facts,
    levels,
    moment,
    remaining,
    result,
    used_of,
)
from tests.golden.models.scenarios import run

NAME = "kind_credits"
AGENT, EARLY, LATE, DOWN = "agent", "early-upgrade", "late-upgrade", "downgrade"
JANUARY, FEBRUARY, MARCH = (moment(f"2023-0{month}-01T00:00-05:00") for month in (1, 2, 3))


@pytest.fixture(scope="module")
def report() -> Report:
    return run(NAME)


# Prices.


@pytest.mark.parametrize("direction", ["outbound", "inbound"])
def test_us_and_canada_cost_1_international_2_mms_3_sent_or_received(report: Report, direction: str) -> None:
    rates = {
        (fact["kind"], fact["country"] in ("US", "CA")): credits_of(fact["rate_micros"])
        for fact in facts(report, AGENT)
        if fact["direction"] == direction
    }
    assert rates == {("sms", True): 1, ("sms", False): 2, ("mms", True): 3}


def test_canada_costs_as_much_as_the_us(report: Report) -> None:
    canada = [fact for fact in facts(report, AGENT) if fact["country"] == "CA"]
    assert [(fact["segments"], credits_of(fact["credits_micros"])) for fact in canada] == [(100, 100)]


def test_an_sms_costs_by_segment_and_an_mms_by_message(report: Report) -> None:
    for fact in facts(report, AGENT):
        assert fact["quantity"] == (fact["segments"] if fact["kind"] == "sms" else 1)


def test_an_sms_of_300_characters_costs_2(report: Report) -> None:
    long = [fact for fact in facts(report, AGENT) if fact["encoding"]]
    assert [(fact["direction"], credits_of(fact["credits_micros"])) for fact in long] == [
        ("outbound", 2),
        ("inbound", 2),
    ]


# Rollover.


def test_unused_credits_roll_over(report: Report) -> None:
    assert result(report, "February")["balance"] == "1600", "600 of January's 1 000, and February's"
    account = run(NAME, upto="the last moment of the first year").accounts[AGENT]
    assert [remaining(account, kind) for kind in ("rollover", "allowance")] == [9_900, 1_000]
    assert credits_of(account.periods[-1].limit) == 10_900


def test_the_oldest_credits_are_used_first() -> None:
    report = run(NAME, upto="the last moment of the first year")
    assert used_of(report, AGENT, f"allowance:{JANUARY}") == 1_000
    assert used_of(report, AGENT, f"allowance:{FEBRUARY}") == 100


def test_each_credit_expires_twelve_months_after_it_was_first_added(report: Report) -> None:
    """Rolling over eleven times has not moved the end; January's were all used, so none of them ends."""
    lapsed = [
        (each.grant_id, credits_of(each.amount), each.effective_at + 1)
        for each in entries(report, AGENT, "expiry")
    ]
    assert lapsed == [
        (f"allowance:{FEBRUARY}", -900, moment("2024-02-01T00:00-05:00")),
        (f"allowance:{MARCH}", -1_000, moment("2024-03-01T00:00-05:00")),
    ]
    names = (
        "the last moment of the first year",
        "twelve months after January",
        "twelve months after February",
    )
    assert [result(report, name)["balance"] for name in names] == ["10900", "11900", "12000"]


# Plan changes.


def test_an_upgrades_credits_are_there_at_once_before_the_limit_is_reached(report: Report) -> None:
    """500 of 1 000 were used; with 2 000 there are 1 500."""
    assert answer(report, "what is there now")["allowed"] == 1_500
    (change,) = entries(report, EARLY, "plan_change")
    assert (credits_of(change.amount), change.cause) == (1_000, "upgrade")
    assert change.effective_at == moment("2024-05-15T12:00-04:00")


def test_an_upgrades_credits_are_there_at_once_after_the_limit_was_reached(report: Report) -> None:
    assert answer(report, "after the limit")["decision"] == "refuse"
    assert answer(report, "after the upgrade")["allowed"] == 1_000
    assert credits_of(report.accounts[LATE].balance) == 400


def test_a_downgrades_lower_limit_holds_at_once(report: Report) -> None:
    """420 of 1 000 were used; with 500 there are 80."""
    assert answer(report, "under the lower limit")["allowed"] == 80
    (change,) = entries(report, DOWN, "plan_change")
    assert credits_of(change.amount) == -500
    assert result(report, "June")["balance"] == "580", "which roll over beside June's 500"


# Alerts.


def test_alerts_come_at_80_85_90_and_95_percent_of_the_months_usage(report: Report) -> None:
    """Not at 799 but at 800, not at 849 but at 850; the last message goes past two levels at once."""
    alerts = [each for each in report.alerts if each["tenant"] == LATE]
    told = [(each["level"], each["used"]) for each in alerts if each["arming"] == 1]
    assert told == [(80, "800"), (85, "850"), (90, "1000"), (95, "1000")]


def test_an_upgrade_arms_the_alerts_again(report: Report) -> None:
    assert levels(report, LATE)[4:] == [(2, 80)], "1 600 of 2 000"


def test_a_downgrade_fires_what_the_lower_limit_reaches(report: Report) -> None:
    assert levels(report, DOWN) == [(1, 80)], "420 of 500 are 84 per cent"


# While a message is written.


@pytest.mark.parametrize(
    ("question", "segments", "cost"),
    [
        ("160 characters", 1, "1"),
        ("161 characters", 2, "2"),
        ("300 characters", 2, "2"),
        ("300 characters to Italy", 2, "4"),
        ("a picture", None, "3"),
    ],
)
def test_the_cost_is_shown_while_a_message_is_written(
    report: Report, question: str, segments: int | None, cost: str
) -> None:
    told = answer(report, question)
    assert (told["segments"], told["cost"]) == (segments, cost)
    assert result(report, question)["balance"] == "1000", "a question costs nothing"
