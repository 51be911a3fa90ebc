"""Model D: contacts, email and SMS in one plan; capped, or billed automatically."""

import pytest

from pipeline.core.amounts import format_credits, money_for, parse_credits
from pipeline.core.simulation import Report
from pipeline.data import load_catalogue, load_plan
from tests.golden.models.readings import (
    answer,
    credits_of,
    details,
    entries,
    facts,
    moment,
    remaining,
    result,
    used_of,
)
from tests.golden.models.scenarios import run

NAME = "contacts_email_sms"
CAPPED, AUTOMATIC = "daily", "daily-automatic"
QUESTION = "to 5000 with 4500 credits"
MARCH = moment("2025-03-01T00:00-07:00")


@pytest.fixture(scope="module")
def report() -> Report:
    return run(NAME)


def contacts(upto: str) -> tuple[int, int, int, int]:
    """Licensed, active, inactive, available."""
    licensed, counts = run(NAME, upto=upto).contacts[CAPPED]
    return licensed, counts.active, counts.inactive, counts.available(licensed)


# Contacts.


def test_available_contacts_are_the_licensed_less_the_active() -> None:
    assert contacts("imported") == (2_000, 4, 0, 1_996)


def test_active_contacts_include_the_inactive_that_still_count() -> None:
    """Of four, two that were messaged and one that was not are marked inactive; the last one has mail as well."""
    licensed, active, inactive, available = contacts("five thousand emails")
    assert (licensed, active, inactive, available) == (2_000, 4, 2, 1_996)


def test_a_messaged_contact_counts_for_60_days_even_if_marked_inactive() -> None:
    assert contacts("sixty days less a second")[1:3] == (4, 2)
    assert contacts("sixty days")[1:3] == (3, 1)


# Prices.


def test_three_prices_live_side_by_side(report: Report) -> None:
    plan = details(run(NAME, upto="below zero"), AUTOMATIC).plan
    assert (format_credits(plan.credit_value_money_micros), plan.currency) == ("0.03", "USD")
    blocks = load_catalogue(plan.catalogue).packages
    assert [(each.credits, each.price) for each in blocks] == [("500", "5"), ("1000", "10")]
    assert format_credits(plan.overage_price_money_micros) == "0.02"


# Email.


def test_email_has_a_total_sent_a_monthly_balance_and_what_is_available() -> None:
    quota = details(run(NAME, upto="five thousand emails"), CAPPED).quotas["email"]
    assert (quota.used, quota.included, quota.left) == (6_000, 10_000, 4_000)


def test_no_more_emails_than_available_are_allowed(report: Report) -> None:
    asked = answer(report, "five thousand emails")
    assert (asked["decision"], asked["reason"], asked["allowed"]) == ("partial", "quota_exhausted", 4_000)


def test_automatic_billing_does_not_open_the_emails(report: Report) -> None:
    """They cost no credits, so nothing would be billed for them."""
    asked = answer(report, "more emails than the plan has")
    assert (asked["reason"], asked["allowed"]) == ("quota_exhausted", 10_000)


def test_emails_begin_anew_with_each_month(report: Report) -> None:
    quota = details(run(NAME, upto="small block"), CAPPED).quotas["email"]
    assert (quota.used, quota.left) == (0, 10_000)


def test_email_costs_no_credits(report: Report) -> None:
    assert {fact["credits_micros"] for fact in facts(report, CAPPED) if fact["kind"] == "email"} == {0}


# SMS.


def test_750_credits_at_003_are_a_monthly_balance_of_22_50() -> None:
    shown = details(run(NAME, upto="imported"), CAPPED)
    assert format_credits(shown.allowance_left_micros) == "750"
    assert format_credits(shown.allowance_left_money_micros) == "22.5"


def test_messages_used_and_total_spent_are_those_of_the_month(report: Report) -> None:
    """What was spent counts the month's own credits and purchased ones: 4 750 at their value make 142.50."""
    march = [
        fact for fact in facts(report, CAPPED) if fact["period_start"] == MARCH and fact["kind"] == "sms"
    ]
    spent = sum(fact["credits_micros"] for fact in march)
    assert (len(march), credits_of(spent)) == (21, 4_750)
    assert format_credits(money_for(spent, parse_credits(load_plan(NAME).credit_value))) == "142.5"
    by_grant = [used_of(report, CAPPED, f"allowance:{MARCH}")]
    by_grant += [used_of(report, CAPPED, f"purchase:block {number}") for number in (1, 2, 3, 4)]
    assert by_grant == [750, 1_000, 1_000, 1_000, 1_000]


def test_available_is_the_monthly_balance_plus_the_purchased_balance() -> None:
    report = run(NAME, upto=QUESTION)
    shown = details(report, CAPPED)
    monthly, purchased = credits_of(shown.allowance_left_micros), credits_of(shown.purchased_left_micros)
    assert (monthly, purchased) == (500, 4_000)
    assert credits_of(report.accounts[CAPPED].available) == monthly + purchased


def test_plan_credits_do_not_roll_over_and_purchased_ones_do(report: Report) -> None:
    before, after = run(NAME, upto="small block").accounts[CAPPED], run(NAME, upto="May").accounts[CAPPED]
    assert [remaining(before, kind) for kind in ("allowance", "purchase")] == [650, 500]
    assert [remaining(after, kind) for kind in ("allowance", "purchase")] == [750, 500]


# Capped, or automatic.


def test_capped_a_send_to_5000_with_4500_credits_sends_4500(report: Report) -> None:
    asked = answer(report, QUESTION, CAPPED)
    assert (asked["requested"], asked["allowed"], asked["decision"]) == (5_000, 4_500, "partial")
    other = answer(report, "to the other 500")
    assert (other["allowed"], other["decision"], other["reason"]) == (0, "refuse", "credits_insufficient")
    sale = [fact["credits_micros"] for fact in facts(report, CAPPED) if fact["campaign"] == "sale"]
    assert credits_of(sum(sale)) == 4_500
    assert result(report, "to the other 500")["balance"] == "0"


def test_automatic_billing_sends_all_5000_and_the_balance_goes_negative(report: Report) -> None:
    asked = answer(report, QUESTION, AUTOMATIC)
    assert (asked["allowed"], asked["decision"], asked["remaining"]) == (5_000, "allow", "-500")
    sale = [fact["credits_micros"] for fact in facts(report, AUTOMATIC) if fact["campaign"] == "sale"]
    assert credits_of(sum(sale)) == 5_000
    assert result(report, "below zero")["balance"] == "-500"


def test_the_due_balance_is_002_times_500_which_is_10() -> None:
    due = details(run(NAME, upto="below zero"), AUTOMATIC).due_money_micros
    assert format_credits(due) == "10"


def test_10_due_and_a_top_up_of_50_are_a_charge_of_60(report: Report) -> None:
    """An hour after the balance fell below zero, so that one charge covers the whole sending."""
    (asked,) = report.recharges
    assert (asked["due"], asked["top_up"], asked["charge"], asked["currency"]) == ("10", "50", "60", "USD")
    assert asked["occurred_at"] == moment("2025-03-23T11:18-06:00")


def test_the_charge_settles_what_is_due_and_tops_the_account_up(report: Report) -> None:
    paid, bought = (
        *entries(report, AUTOMATIC, "payment"),
        *(each for each in entries(report, AUTOMATIC, "purchase") if each.cause == "charged"),
    )
    assert (credits_of(paid.amount), format_credits(paid.money_micros)) == (500, "10")
    assert (credits_of(bought.amount), format_credits(bought.money_micros)) == (2_500, "50")
    assert result(report, "charged")["balance"] == "2500"
