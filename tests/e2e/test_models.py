"""The five billing models through broker, worker and ClickHouse: every row and document is `simulate`'s.

And what the command line shows of them, in the numbers of the models' texts.
"""

import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.clickhouse.facts import FACTS, fact_columns
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, ENTRIES
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.settings import Settings
from pipeline.stream.storing import account_columns, alert_columns, entry_columns
from pipeline.topics import ACCOUNT_RECHARGES, ACCOUNT_RESULTS, MESSAGES_REFUSED, USAGE_ALERTS
from tests.e2e.agreement import read_documents
from tests.e2e.metered_models import (
    Metered,
    documents,
    expected,
    meter_scenarios,
    stored,
    stored_contacts,
    stored_usage,
)
from tests.e2e.system import System, delete_topics

SMALL = {
    "partitions": 8,
    "epoch_milliseconds": 200,
    "checkpoint_milliseconds": 1_000,
    "command_key": "signs commands of tests",
    "counterparty_key": "hashes counterparties of tests",
}


@pytest.fixture(scope="module")
def metered(
    broker: EmbeddedBroker, clickhouse: EmbeddedClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Metered]:
    """One deployment for the module: the scenarios are sent once, and only read afterwards."""
    name = f"models_{uuid.uuid4().hex[:10]}"
    settings = Settings(
        kafka=broker.bootstrap_servers,
        clickhouse=f"{clickhouse.url}/{name}",
        application=name,
        **SMALL,
    )
    delete_topics(settings)
    system = System(settings, tmp_path_factory.mktemp("models"))
    system.migrate()
    yield meter_scenarios(system)
    system.close()
    delete_topics(settings)


@pytest.mark.timeout(300)
def test_every_row_of_the_running_system_is_the_simulations(metered: Metered) -> None:
    system, report = metered.system, metered.report
    place = {account.tenant: partition for partition, account, _ in metered.accounts}
    entries = [(place[tenant], tenant, entry) for tenant, entry in report.entries]
    assert stored(system, FACTS) == expected(FACTS, fact_columns(report.facts))
    assert stored(system, ENTRIES) == expected(ENTRIES, entry_columns(entries))
    assert stored(system, ACCOUNTS) == expected(ACCOUNTS, account_columns(metered.accounts))
    assert stored(system, ALERTS) == expected(ALERTS, alert_columns(report.alerts))
    assert stored_usage(system) == {key: tuple(cell) for key, cell in report.windows.items()}
    assert stored_contacts(metered) == {
        tenant: found.counts._asdict() for tenant, found in report.contacts.items()
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("topic", "told"),
    [
        (ACCOUNT_RESULTS, "results"),
        (ACCOUNT_RECHARGES, "recharges"),
        (USAGE_ALERTS, "alerts"),
        (MESSAGES_REFUSED, "refusals"),
    ],
)
def test_every_document_of_the_running_system_is_the_simulations(
    metered: Metered, topic: str, told: str
) -> None:
    published = read_documents(metered.system.settings.kafka, topic)
    assert documents(published) == documents(getattr(metered.report, told))


# What people are shown of it: sentences of the models that are about reports.


def table(document: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    """Some columns of an answer's usage, credits as numbers."""
    return [
        tuple(float(row[name]) if name == "credits" else row[name] for name in names)
        for row in document["usage"]
    ]


MARCH_2025 = ("--from", "2025-03-01", "--to", "2025-03-31")


def test_usage_by_type_is_shown_for_a_block_and_for_its_organization(metered: Metered) -> None:
    """Model A. The organization's figures are the sums of its tenants'."""
    blocks = ("leaf-airport", "leaf-downtown", "leaf-harbor")
    asked = ("--by", "month", *MARCH_2025, "--group-by", "type")
    one_by_one = [table(metered.ask("usage", block, *asked), "type", "credits") for block in blocks]
    assert one_by_one[1] == [
        ("campaign", 2_022),
        ("messaging", 900),
        ("received", 601),
        ("transactional", 250),
    ]
    sums: Counter[str] = Counter()
    for rows in one_by_one:
        sums.update(dict(rows))
    together = metered.ask("usage", "--organization", "green-leaf", *asked)
    assert dict(table(together, "type", "credits")) == sums


def test_what_is_scheduled_is_shown_beside_usage(metered: Metered) -> None:
    """Model A. Reserved for a campaign not yet sent."""
    assert metered.ask("usage", "leaf-airport", "--group-by", "type")["scheduled"] == "500"


def test_an_organizations_balance_is_the_sum_of_its_tenants(metered: Metered) -> None:
    """Model A."""
    names = ("limit", "used", "balance", "available", "reserved", "uncovered")
    answer = metered.ask("balance", "--organization", "green-leaf")
    for name in names:
        assert int(answer[name]) == sum(int(tenant[name]) for tenant in answer["tenants"]), name
    assert answer["balance"] == "39999"


def test_a_bill_of_003_a_segment_is_in_the_months_statement(metered: Metered) -> None:
    """Model A, a tenant without a bundle."""
    statement = metered.ask("statement", "leaf-harbor", "--period", "2025-03")
    assert statement["money"] == [{"kind": "arrears", "currency": "USD", "amount": "36"}]
    assert [row["segments"] for row in statement["usage"]] == [400, 800]


def test_usage_is_reported_over_time_by_list(metered: Metered) -> None:
    """Model B."""
    asked = ("--by", "month", "--from", "2021-03-01", "--to", "2021-12-31", "--group-by", "list")
    rows = table(metered.ask("usage", "trattoria", *asked), "month", "list", "credits")
    assert rows == [
        ("2021-03", "newsletter", 28),
        ("2021-03", "vip", 502),
        ("2021-03", "walk-in", 200),
        ("2021-12", "", 1_000),
    ]


def test_a_lists_figure_can_be_followed_down_to_its_messages(metered: Metered) -> None:
    """Model B."""
    asked = ("--from", "2021-03-01", "--to", "2021-03-31", "--list", "newsletter")
    messages = metered.ask("messages", "trattoria", *asked)["messages"]
    assert (len(messages), sum(float(each["credits"]) for each in messages)) == (11, 28)


@pytest.mark.parametrize(
    "asked",
    [
        ("usage", "trattoria", "--by", "month", "--from", "2021-03-01", "--group-by", "list"),
        ("messages", "trattoria", "--from", "2021-03-01", "--list", "newsletter"),
        ("usage", "paws", "--by", "day", "--from", "2025-01-01"),
        ("statement", "paws", "--period", "2025-03"),
    ],
    ids=" ".join,
)
def test_reports_are_exported_to_excel(metered: Metered, asked: tuple[str, ...], tmp_path: Path) -> None:
    """Models B and C: any report into a workbook."""
    path = tmp_path / "report.xlsx"
    metered.run(*asked, "--output", "xlsx", "--file", str(path))
    with zipfile.ZipFile(path) as workbook:
        assert "xl/workbook.xml" in workbook.namelist()


def test_packages_are_offered_with_credits_price_and_validity(metered: Metered) -> None:
    """Model B, and the blocks of model D: 500 to 1 000 for 5 to 10."""
    offered = {
        tenant: [(each["credits"], each["price"]) for each in metered.ask("balance", tenant)["packages"]]
        for tenant in ("trattoria", "daily")
    }
    assert offered["trattoria"][:2] == [("500", "25"), ("2000", "90")]
    assert offered["daily"] == [("500", "5"), ("1000", "10")]
    assert "24 months from the latest" in metered.run("packages", "list").output


def test_it_is_shown_how_many_sms_a_package_buys_by_country(metered: Metered) -> None:
    """Model B."""
    lines = metered.run("packages", "reach", "credits-500", "--plan", "country_credits").output.splitlines()
    shown = {line.split()[0]: line.split()[-1] for line in lines if line}
    assert {country: shown[country] for country in ("US", "DE", "FR", "others")} == {
        "US": "500",
        "DE": "178",
        "FR": "200",
        "others": "250",
    }


def test_credits_of_no_list_and_of_each_list_are_shown(metered: Metered) -> None:
    """Model B, after an expiry that took from all."""
    balance = metered.ask("balance", "osteria")
    assert balance["unassigned"] == "0"
    assert {each["list"]: each["left"] for each in balance["lists"]} == {
        "newsletter": "6666.666667",
        "vip": "3333.333333",
    }


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        ("day", [("2025-01-16", 150), ("2025-01-17", 20), ("2025-01-22", 30), ("2025-02-21", 700)]),
        ("week", [("2025-01-13", 170), ("2025-01-20", 30), ("2025-02-17", 700)]),
        ("month", [("2025-01", 200), ("2025-02", 700)]),
    ],
)
def test_usage_is_shown_by_day_week_and_month_of_any_range(
    metered: Metered, by: str, rows: list[tuple[str, int]]
) -> None:
    """Model C."""
    answer = metered.ask("usage", "paws", "--by", by, "--from", "2025-01-10", "--to", "2025-02-28")
    assert table(answer, by, "segments") == rows


def test_usage_is_shown_of_all_time(metered: Metered) -> None:
    """Model C."""
    assert table(metered.ask("usage", "paws", "--by", "all"), "range", "segments") == [("all time", 2_606)]


@pytest.mark.parametrize(
    ("view", "segments"),
    [
        ("direction", {"outbound": 2_558, "inbound": 48}),
        ("member", {"kim": 870, "lou": 1_736}),
        ("inbox", {"front desk": 870, "grooming": 1_736}),
    ],
)
def test_usage_is_shown_by_total_sent_received_member_and_shared_inbox(
    metered: Metered, view: str, segments: dict[str, int]
) -> None:
    """Model C. Each view sums to the total."""
    answer = metered.ask("usage", "paws", "--by", "all", "--group-by", view)
    assert dict(table(answer, view, "segments")) == segments
    assert answer["total"]["segments"] == sum(segments.values())


def test_contacts_are_shown_as_licensed_active_inactive_and_available(metered: Metered) -> None:
    """Model D, a second before and at the end of the sixty days."""
    at = ("2025-05-01T10:59:59-06:00", "2025-05-01T11:00:00-06:00")
    answers = [metered.ask("contacts", "daily", "--at", each) for each in at]
    names = ("licensed", "active", "inactive", "available")
    assert [tuple(answer[name] for name in names) for answer in answers] == [
        (2_000, 4, 2, 1_996),
        (2_000, 3, 1, 1_997),
    ]


def test_email_is_shown_as_sent_this_month_monthly_balance_and_available(metered: Metered) -> None:
    """Model D."""
    assert metered.ask("balance", "daily")["quotas"]["email"] == {
        "included": 10_000,
        "used": 1_200,
        "left": 8_800,
    }


def test_sms_is_shown_as_used_spent_monthly_and_purchased_balance_and_available(metered: Metered) -> None:
    """Model D. 100 of 750 credits are spent; 750 at 0.03 are worth 22.50."""
    balance = metered.ask("balance", "daily")
    assert balance["messages"]["sms"] == 3
    assert (balance["used"], balance["allowance_left"], balance["purchased_left"]) == ("100", "650", "500")
    assert (balance["allowance_value"], balance["allowance_left_value"]) == ("22.5", "19.5")
    assert balance["available"] == "1150"


def test_three_prices_are_shown_side_by_side(metered: Metered) -> None:
    """Model D: a plan credit's value, blocks, and automatic billing."""
    balance = metered.ask("balance", "daily-automatic")
    assert (balance["credit_value"], balance["overage_price"]) == ("0.03", "0.02")
    assert [(each["credits"], each["price"]) for each in balance["packages"]] == [
        ("500", "5"),
        ("1000", "10"),
    ]


def test_a_charge_of_60_is_in_the_statement_as_10_due_and_50_topped_up(metered: Metered) -> None:
    """Model D. The other purchases of the month are four blocks of 10."""
    lines = metered.ask("statement", "daily-automatic", "--period", "2025-03")["lines"]
    paid = [(each["kind"], each["credits"], each["money"]) for each in lines if each["cause"] == "charged"]
    assert paid == [("payment", "500", "10"), ("purchase", "2500", "50")]


def test_rolled_over_credits_are_in_the_statement(metered: Metered) -> None:
    """Model E: the oldest burned first, both months' remainders told apart."""
    statement = metered.ask("statement", "agent", "--period", "2023-02")
    assert (statement["opening"], statement["rolled_over"], statement["closing"]) == ("600", "600", "900")
    assert [(each["opening"], each["used"]) for each in statement["grants"]] == [
        ("600", "-600"),
        ("0", "-100"),
    ]
