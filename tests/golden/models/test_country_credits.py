"""Model B: prepaid credits that depend on country and length, shared out to lists, with an end."""

from typing import get_args

import pytest

from pipeline.core.amounts import format_credits, parse_credits
from pipeline.core.instructions import Command
from pipeline.core.packages import reach
from pipeline.core.rating import Tariff
from pipeline.core.refusals import Refusal
from pipeline.core.simulation import Report
from pipeline.data import load_catalogue, load_plan
from tests.builders import CARDS
from tests.golden.models.readings import (
    answer,
    credits_of,
    details,
    entries,
    facts,
    moment,
    remaining,
    result,
)
from tests.golden.models.scenarios import run

NAME = "country_credits"
TRATTORIA, OSTERIA = "trattoria", "osteria"


@pytest.fixture(scope="module")
def report() -> Report:
    return run(NAME)


def test_credits_are_bought_in_packages_before_they_are_used(report: Report) -> None:
    bought = entries(report, TRATTORIA, "purchase")
    assert [(credits_of(each.amount), format_credits(each.money_micros)) for each in bought] == [
        (10_000, "400"),
        (2_000, "90"),
    ]
    packages = {each.id: each for each in load_catalogue(load_plan(NAME).catalogue).packages}
    assert [(packages[name].credits, packages[name].price) for name in ("credits-10000", "credits-2000")] == [
        ("10000", "400"),
        ("2000", "90"),
    ]


def test_a_package_is_valid_for_two_years(report: Report) -> None:
    assert answer(report, "first package")["expires_at"] == moment("2023-03-01T00:00+01:00")


def test_buying_another_package_extends_the_validity(report: Report) -> None:
    (extension,) = entries(report, TRATTORIA, "extension")
    assert (extension.grant_id, extension.cause) == ("purchase:first package", "second package")
    assert result(report, "past the first end")["balance"] == "10270"
    ends = [entry.effective_at + 1 for entry in entries(report, TRATTORIA, "expiry")]
    assert ends == [moment("2024-05-02T00:00+02:00")] * 2


def test_credits_depend_on_country_and_segments(report: Report) -> None:
    each = [
        (fact["country"], fact["segments"], fact["credits_micros"] / 1e6)
        for fact in facts(report, TRATTORIA)[:11]
    ]
    assert each == [
        *[("US", 1, 1)] * 3,
        *[("FR", 1, 2.5)] * 4,
        *[("DE", 1, 3)] * 3,
        ("DE", 2, 6),
    ]


def test_ten_recipients_can_cost_more_than_ten_credits(report: Report) -> None:
    asked = answer(report, "what do ten recipients cost")
    assert (asked["requested"], asked["cost"]) == (10, "22")
    assert sum(fact["credits_micros"] for fact in facts(report, TRATTORIA)[:10]) == 22_000_000


def test_available_is_purchased_less_reserved_for_scheduled_sends(report: Report) -> None:
    reserved = result(report, "reserve natale")
    assert (reserved["balance"], reserved["details"]["available"]) == ("9270", "8270")
    account = run(NAME, upto="reserve natale").accounts[TRATTORIA]
    assert account.available == account.balance - account.reserved


def test_a_scheduled_campaigns_messages_settle_what_was_reserved_for_it() -> None:
    account = run(NAME, upto="more than there is").accounts[TRATTORIA]
    assert (credits_of(account.balance), account.reserved) == (8_270, 0)


def test_a_list_draws_freely_or_has_a_spending_limit(report: Report) -> None:
    lists = details(run(NAME, upto="vip asks for ten"), TRATTORIA).lists
    assert {name: credits_of(each.left_micros) for name, each in lists.items()} == {
        "newsletter": 3_000,
        "vip": 2,
    }
    walked_in = [fact for fact in facts(report, TRATTORIA) if fact["list"] == "walk-in"]
    assert [credits_of(fact["credits_micros"]) for fact in walked_in] == [200]


def test_a_list_beyond_its_limit_is_stopped_and_what_it_sent_all_the_same_is_told(report: Report) -> None:
    asked = answer(report, "vip asks for ten")
    assert (asked["decision"], asked["reason"], asked["allowed"]) == ("partial", "list_exhausted", 1)
    again = answer(report, "vip asks for one more")
    assert (again["decision"], again["reason"]) == ("refuse", "list_exhausted")
    vip = details(run(NAME, upto="vip asks for one more"), TRATTORIA).lists["vip"]
    assert (credits_of(vip.spent_micros), credits_of(vip.left_micros)) == (502, -2)


def test_no_more_than_there_is_can_be_assigned(report: Report) -> None:
    refused = result(report, "no more than there is")
    assert (refused["outcome"], refused["reason"]) == ("refused", Refusal.CREDITS_INSUFFICIENT)


def test_credits_assigned_to_no_list_are_shown(report: Report) -> None:
    shown = [
        answer(report, name)["unassigned"]
        for name in ("newsletter has a limit", "vip has a limit", "walk-in draws freely")
    ]
    assert shown == ["6972", "6472", "6472"]


def shares(report: Report) -> dict[str, str]:
    account = report.accounts[OSTERIA]
    lists = {name: format_credits(each.left) for name, each in account.allocations.items()}
    return lists | {"unassigned": format_credits(account.unassigned)}


def test_on_the_day_of_expiry_credits_are_taken_from_the_unassigned_ones_first() -> None:
    before, after = (
        shares(run(NAME, upto=name)) for name in ("three thousand unassigned", "the unassigned ones suffice")
    )
    assert before == {"newsletter": "8000", "vip": "4000", "unassigned": "3000"}
    assert after == {"newsletter": "8000", "vip": "4000", "unassigned": "2000"}


def test_what_is_missing_is_deducted_from_the_assigned_ones_in_proportion(report: Report) -> None:
    """4 000 expire and 2 000 are unassigned: 2 000 are missing of 8 000 and 4 000 assigned."""
    assert result(report, "the unassigned ones do not suffice")["balance"] == "10000"
    assert shares(report) == {"newsletter": "6666.666667", "vip": "3333.333333", "unassigned": "0"}


def test_credits_expire_on_the_day_and_not_before(report: Report) -> None:
    balances = [result(report, name)["balance"] for name in ("the day before the last", "the day of expiry")]
    assert balances == ["10270", "0"]


def test_nothing_is_sent_on_credit(report: Report) -> None:
    asked = answer(report, "more than there is")
    assert (asked["decision"], asked["allowed"]) == ("partial", 5_270)
    left = answer(report, "nothing is left")
    assert (left["decision"], left["reason"]) == ("refuse", "credits_insufficient")
    assert credits_of(report.accounts[TRATTORIA].uncovered) == 1, "what was sent all the same is told"
    assert remaining(report.accounts[TRATTORIA], "purchase") == 0


def test_a_package_says_how_many_sms_it_buys_by_country() -> None:
    plan = load_plan(NAME)
    tariff = Tariff(CARDS[plan.rate_card], plan.rates)
    at = moment("2025-01-01T00:00+01:00")
    (smallest, *_) = load_catalogue(plan.catalogue).packages
    rows = reach(parse_credits(smallest.credits), tariff, ["US", "FR", "DE"], at)
    assert {each.country: each.messages for each in rows} == {
        "US": 500,
        "FR": 200,
        "DE": 166,  # At 3 each the last two credits buy none.
        "": 250,
    }


def test_credits_are_neither_transferred_nor_paid_back(report: Report) -> None:
    """No command moves credits to another tenant or into money, and a package that was used stays."""
    types = {command.__struct_config__.tag for command in get_args(Command)}
    assert not {word for word in types if "transfer" in word or "refund" in word}
    refused = result(report, "the first package cannot be returned")
    assert (refused["outcome"], refused["reason"]) == ("refused", Refusal.GRANT_BURNED)
