"""Model A: a bundle of segments, usage by type, and what is beyond it, or without one, billed at the month's end."""

import pytest

from pipeline.core.amounts import format_credits
from pipeline.core.simulation import Report
from tests.golden.models.readings import (
    answer,
    credits_of,
    details,
    entries,
    moment,
    remaining,
    result,
    used_by,
)
from tests.golden.models.scenarios import run

NAME = "bundle_by_type"
BLOCKS = ("leaf-airport", "leaf-downtown", "leaf-harbor")
DOWNTOWN, HARBOR = "leaf-downtown", "leaf-harbor"
APRIL = moment("2025-04-01T00:00-05:00")


@pytest.fixture(scope="module")
def report() -> Report:
    return run(NAME)


@pytest.fixture(scope="module")
def midmonth() -> Report:
    return run(NAME, upto="while 1000 are scheduled")


def test_blocks_belong_to_an_organization(report: Report) -> None:
    assert {tenant: account.organization for tenant, account in report.accounts.items()} == dict.fromkeys(
        BLOCKS, "green-leaf"
    )


def test_a_month_begins_with_a_bundle_of_20_000_segments(report: Report) -> None:
    given = [(each.effective_at, credits_of(each.amount)) for each in entries(report, DOWNTOWN, "allowance")]
    assert given == [(moment("2025-03-01T00:00-06:00"), 20_000), (APRIL, 20_000)]


def test_after_1_500_two_way_segments_18_500_are_left() -> None:
    report = run(NAME, upto="after 1500 two-way segments")
    assert used_by(report, DOWNTOWN, "direction") == {"outbound": 900, "inbound": 600}
    assert remaining(report.accounts[DOWNTOWN], "allowance") == 18_500
    assert result(report, "after 1500 two-way segments")["balance"] == "18500"


def test_segments_a_customer_sends_count_and_are_billed_too(report: Report) -> None:
    assert used_by(report, DOWNTOWN, "direction")["inbound"] == 601
    assert used_by(report, HARBOR, "direction")["inbound"] == 400


def test_usage_is_told_apart_by_type(midmonth: Report) -> None:
    """Received is the direction, scheduled what is reserved, the others the message's category."""
    by_type: dict[str, int] = {}
    for (direction, category), used in used_by(midmonth, DOWNTOWN, "direction", "category").items():
        name = "received" if direction == "inbound" else category
        by_type[name] = by_type.get(name, 0) + used
    by_type["scheduled"] = credits_of(midmonth.accounts[DOWNTOWN].reserved)
    assert by_type == {
        "campaign": 2_022,
        "messaging": 900,
        "received": 601,
        "transactional": 250,
        "scheduled": 1_000,
    }


def test_every_type_and_kind_is_drawn_from_the_bundle(midmonth: Report) -> None:
    used = used_by(midmonth, DOWNTOWN, "kind")
    assert used == {"sms": 3_750, "mms": 2, "rcs": 1, "email": 20}
    assert remaining(midmonth.accounts[DOWNTOWN], "allowance") == 20_000 - sum(used.values())


def test_segments_of_a_campaign_not_yet_sent_are_scheduled(report: Report, midmonth: Report) -> None:
    """Held without leaving the balance, settled by the campaign's messages, let go of at its end."""
    reserved = result(report, "reserve spring")
    assert (reserved["balance"], reserved["details"]["available"]) == ("18500", "15500")
    (held,) = details(midmonth, DOWNTOWN).reservations
    assert (held.campaign, credits_of(held.amount_micros), credits_of(held.held_micros)) == (
        "spring",
        3_000,
        1_000,
    )
    assert report.accounts[DOWNTOWN].reserved == 0
    assert answer(report, "reserve summer")["available"] == "19500"


def test_a_tenant_without_a_bundle_may_send(report: Report) -> None:
    assert answer(report, "may harbor send without a bundle")["decision"] == "allow"


def test_a_tenant_without_a_bundle_is_billed_at_003_a_segment_at_the_months_end(report: Report) -> None:
    """800 sent and 400 received make 36.00; what was sent a moment after midnight waits for April's bill."""
    (bill,) = entries(report, HARBOR, "arrears")
    assert (credits_of(bill.amount), format_credits(bill.money_micros), bill.currency) == (1_200, "36", "USD")
    assert bill.effective_at == APRIL - 1, "in the month it closes"
    assert bill.money_micros == bill.amount * 3 // 100
    assert credits_of(report.accounts[HARBOR].balance) == -1


def test_what_is_left_of_a_bundle_ends_with_its_month_and_costs_nothing(report: Report) -> None:
    assert [credits_of(each.amount) for each in entries(report, DOWNTOWN, "expiry")] == [-16_227]
    assert entries(report, DOWNTOWN, "arrears") == []
