"""Model C: an allowance that lapses each month, credits that never do, a block bought when there is little left."""

import pytest

from pipeline.core.account import FOREVER_AT
from pipeline.core.refusals import Refusal
from pipeline.core.simulation import Report
from pipeline.data import load_plan
from tests.golden.models.readings import (
    answer,
    credits_of,
    details,
    entries,
    facts,
    moment,
    remaining,
    result,
    used_by,
    used_of,
)
from tests.golden.models.scenarios import run

NAME = "allowance_plus_purchased"
PAWS, NEWCOMER = "paws", "newcomer"


@pytest.fixture(scope="module")
def report() -> Report:
    return run(NAME)


# The trial.


def test_a_trial_of_14_days_is_a_plan_with_an_end(report: Report) -> None:
    assert load_plan("trial").ends_after_days == 14
    (lapsed,) = [each for each in entries(report, NEWCOMER, "expiry") if credits_of(each.amount) == -70]
    assert lapsed.effective_at + 1 == moment("2025-01-20T00:00-05:00"), "it began on the 6th"
    assert answer(report, "on its last day")["decision"] == "allow"
    ended = answer(report, "when it has ended")
    assert (ended["decision"], ended["reason"]) == ("refuse", "plan_ended")


def test_who_subscribes_after_the_trial_has_the_allowance_at_once() -> None:
    report = run(NAME, upto="subscribes")
    assert details(report, NEWCOMER).plan.ends_at is None
    assert credits_of(report.accounts[NEWCOMER].available) == 500


# Segments and the allowance.


def test_each_segment_costs_a_credit_inbound_and_outbound(report: Report) -> None:
    assert {(fact["direction"], fact["rate_micros"]) for fact in facts(report, PAWS)} == {
        ("inbound", 1_000_000),
        ("outbound", 1_000_000),
    }
    assert all(fact["credits_micros"] == fact["segments"] * 1_000_000 for fact in facts(report, PAWS))


def test_a_text_beyond_160_characters_costs_more_than_one(report: Report) -> None:
    lou = [fact for fact in facts(report, PAWS) if fact["occurred_at"] == moment("2025-01-22T10:05-05:00")]
    assert [(fact["segments"], credits_of(fact["credits_micros"])) for fact in lou] == [(2, 2)]


def test_the_allowance_resets_every_month_of_the_subscription_and_does_not_roll_over(report: Report) -> None:
    """It began on the 15th, and so does each month; 200 of 500 were used."""
    assert result(report, "the last second of the first month")["balance"] == "300"
    assert result(report, "a new month")["balance"] == "500"
    lapsed = entries(report, PAWS, "expiry")[0]
    assert (credits_of(lapsed.amount), lapsed.effective_at + 1) == (-300, moment("2025-02-15T00:00-05:00"))


# Purchased credits.


def test_the_allowance_is_used_before_purchased_credits() -> None:
    report = run(NAME, upto="a third month")
    february = moment("2025-02-15T00:00-05:00")
    assert used_of(report, PAWS, f"allowance:{february}") == 500
    assert used_of(report, PAWS, "purchase:extra credits") == 200


def test_purchased_credits_never_expire_and_roll_over_until_they_are_used(report: Report) -> None:
    assert answer(report, "extra credits")["expires_at"] is None
    assert result(report, "a third month")["balance"] == "1300", "500 new, and 800 of what was bought"
    assert used_of(report, PAWS, "purchase:extra credits") == 1_000
    account = report.accounts[PAWS]
    assert remaining(account, "purchase") == 594, "after three months without a message"
    assert {each.expires_at for each in account.grants if each.kind == "purchase"} == {FOREVER_AT}
    assert not [each for each in entries(report, PAWS, "expiry") if each.grant_id.startswith("purchase")]


# Auto-recharge.


def test_auto_recharge_asks_for_a_block_when_the_balance_falls_below_a_level(report: Report) -> None:
    at_level = run(NAME, upto="at the level")
    assert (credits_of(at_level.accounts[PAWS].available), at_level.recharges) == (100, [])
    first = report.recharges[0]
    assert (first["available"], first["credits"], first["charge"], first["currency"]) == (
        "99",
        "500",
        "20",
        "USD",
    )


def test_auto_recharge_asks_once_until_it_is_answered(report: Report) -> None:
    asked = [each["occurred_at"] for each in report.recharges]
    assert asked == [
        moment("2025-03-16T11:30-04:00"),
        moment("2025-03-17T10:04-04:00"),
        moment("2025-03-17T11:05-04:00"),  # An hour after the one before was declined.
    ]


def test_a_confirmed_recharge_adds_the_block_and_a_declined_one_nothing(report: Report) -> None:
    balances = [result(report, name)["balance"] for name in ("paid", "declined", "paid this time")]
    assert balances == ["595", "95", "594"]
    refused = result(report, "nothing asked for")
    assert (refused["outcome"], refused["reason"]) == ("refused", Refusal.RECHARGE_UNKNOWN)


# What is looked at.


def test_usage_is_known_by_total_sent_received_member_and_inbox() -> None:
    january = run(NAME, upto="the last second of the first month")
    assert used_by(january, PAWS, "direction") == {"outbound": 152, "inbound": 48}
    assert used_by(january, PAWS, "member") == {"kim": 170, "lou": 30}
    assert used_by(january, PAWS, "inbox") == {"front desk": 170, "grooming": 30}


def test_usage_is_known_by_day(report: Report) -> None:
    days = {
        row["local_date"]: row["segments"]
        for row in report.document()["usage"]["days"]
        if row["tenant"] == PAWS and row["direction"] == "outbound"
    }
    assert days == {
        "2025-01-16": 150,
        "2025-01-22": 2,
        "2025-02-21": 700,
        "2025-03-16": 1_205,
        "2025-03-17": 501,
    }
