"""`usage` and `balance` answer from stored rows: exact decimals, the tenant's own days, three forms."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from click.testing import CliRunner, Result
from clickhouse_rows import columns_of

from pipeline.cli import main
from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import ACCOUNTS, USAGE
from pipeline.core.account import FOREVER_AT
from pipeline.core.windows import period_of, window_start
from pipeline.embedded.clickhouse import EmbeddedClickHouse

# Kathmandu is 5:45 ahead: its 10 October 2025 begins at 18:15 UTC of the day before.
MIDNIGHT = int(datetime(2025, 10, 9, 18, 15, tzinfo=UTC).timestamp())
AS_OF = int(datetime(2025, 10, 11, 6, 30, 5, tzinfo=UTC).timestamp()) * 1000

Ask = Callable[..., Result]


@pytest.fixture
def ask(clickhouse: EmbeddedClickHouse, database: str) -> Ask:
    """Run a command against a database with one tenant: 12.75 credits on 9 and 0.000001 on 10 October."""
    url = f"{clickhouse.url}/{database}"
    client = connect(url)
    apply_migrations(client)
    usage = [
        {
            "window_start": MIDNIGHT - 900,
            "messages": 3,
            "segments": 5,
            "quantity": 5,
            "credits_micros": 12_750_000,
        },
        {"window_start": MIDNIGHT, "messages": 1, "segments": 1, "quantity": 1, "credits_micros": 1},
        {
            "window_start": MIDNIGHT,
            "country": "FR",
            "category": "=1+1",
            "messages": 2_000,
            "credits_micros": 0,
        },
    ]
    grants = [
        {"id": "allowance:1", "kind": "allowance", "amount": 100_000_000, "remaining": 87_249_999,
         "starts_at": 1_759_276_800_000, "expires_at": 1_761_955_200_000, "is_expired": False, "cost_micros": 0,
         "currency": ""},
        {"id": "promotion:x", "kind": "promotion", "amount": 7_000_000, "remaining": 5_000_000, "is_expired": True,
         "starts_at": 1_759_276_800_000, "expires_at": 1_759_976_800_000, "cost_micros": 0, "currency": ""},
        {"id": "purchase:p", "kind": "purchase", "amount": 2_500_000, "remaining": 2_500_000,
         "starts_at": 1_759_276_800_000, "expires_at": FOREVER_AT, "is_expired": False, "cost_micros": 1_500_000,
         "currency": "EUR"},
    ]  # fmt: skip
    period = period_of(AS_OF, "Asia/Kathmandu", 1)
    account = {
        "plan": "starter",
        "period_start": period[0],
        "period_end": period[1],
        "limit_micros": 102_500_000,
        "used_micros": 12_750_001,
        "balance_micros": 89_749_999,
        "grants": orjson.dumps(grants).decode(),
        "as_of": AS_OF,
    }
    insert(client, USAGE, columns_of(USAGE, *usage), "usage")
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, account), "accounts")
    client.close()

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env={"MSGMETER_CLICKHOUSE": url}, catch_exceptions=False)

    return run


IN_OCTOBER = ("--from", "2025-10-01", "--to", "2025-10-31")


def test_usage_is_told_by_the_days_of_the_tenants_zone(ask: Ask) -> None:
    answer = orjson.loads(ask("usage", "acme", *IN_OCTOBER, "--output", "json").stdout)
    assert answer == {
        "tenant": "acme",
        "zone": "Asia/Kathmandu",
        "by": "day",
        "from": "2025-10-01",
        "to": "2025-10-31",
        "as_of": "2025-10-11T06:30:05Z",
        "usage": [
            {"day": "2025-10-09", "messages": 3, "segments": 5, "quantity": 5, "credits": "12.75"},
            {"day": "2025-10-10", "messages": 2001, "segments": 2, "quantity": 2, "credits": "0.000001"},
        ],
        "total": {"messages": 2004, "segments": 7, "quantity": 7, "credits": "12.750001"},
    }


@pytest.mark.parametrize(("by", "name"), [("week", "2025-10-06"), ("month", "2025-10")])
def test_weeks_start_on_monday_and_months_are_calendar_months(ask: Ask, by: str, name: str) -> None:
    answer = orjson.loads(ask("usage", "acme", "--by", by, *IN_OCTOBER, "--output", "json").stdout)
    assert [(line[by], line["messages"]) for line in answer["usage"]] == [(name, 2004)]


def test_dates_bound_the_answer_and_both_are_included(ask: Ask) -> None:
    answer = ask("usage", "acme", "--from", "2025-10-10", "--to", "2025-10-10", "--output", "json")
    assert [line["day"] for line in orjson.loads(answer.stdout)["usage"]] == ["2025-10-10"]


def test_thirty_days_up_to_today_are_shown_by_default(ask: Ask, clickhouse, database) -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    day = timedelta(days=1) // timedelta(milliseconds=1)
    starts = [window_start(now - days * day) // 1000 for days in (0, 28, 32)]
    rows = [{"window_start": start, "messages": 10**index} for index, start in enumerate(starts)]
    client = connect(f"{clickhouse.url}/{database}")
    insert(client, USAGE, columns_of(USAGE, *rows), "now")
    client.close()
    assert orjson.loads(ask("usage", "acme", "--output", "json").stdout)["total"]["messages"] == 11


def test_csv_has_one_line_per_period_and_no_formula_of_a_stranger(ask: Ask) -> None:
    answer = ask("usage", "acme", "--group-by", "category,country", *IN_OCTOBER, "--output", "csv")
    assert list(csv.reader(io.StringIO(answer.stdout))) == [
        ["day", "country", "category", "messages", "segments", "quantity", "credits"],
        ["2025-10-09", "US", "campaign", "3", "5", "5", "12.75"],
        ["2025-10-10", "FR", "'=1+1", "2000", "1", "1", "0"],
        ["2025-10-10", "US", "campaign", "1", "1", "1", "0.000001"],
    ]


def test_a_table_shows_amounts_with_the_same_number_of_decimals_and_the_total(ask: Ask) -> None:
    lines = [line.split() for line in ask("usage", "acme", *IN_OCTOBER).stdout.splitlines()]
    assert ["2025-10-09", "3", "5", "5", "12.750000"] in lines
    assert ["2025-10-10", "2,001", "2", "2", "0.000001"] in lines
    assert ["total", "2,004", "7", "7", "12.750001"] in lines


def test_the_balance_names_period_grants_and_when_it_was_true(ask: Ask) -> None:
    answer = orjson.loads(ask("balance", "acme", "--output", "json").stdout)
    expected = {
        "tenant": "acme",
        "plan": "starter",
        "zone": "Asia/Kathmandu",
        "period_from": "2025-10-01",
        "period_to": "2025-10-31",
        "limit": "102.5",
        "used": "12.750001",
        "balance": "89.749999",
        "uncovered": "0",
        "as_of": "2025-10-11T06:30:05Z",
        "grants": [
            {
                "id": "allowance:1",
                "kind": "allowance",
                "amount": "100",
                "remaining": "87.249999",
                "starts": "2025-10-01T00:00:00Z",
                "expires": "2025-11-01T00:00:00Z",
                "is_expired": False,
                "cost": "0",
                "currency": None,
            },
            {
                "id": "purchase:p",
                "kind": "purchase",
                "amount": "2.5",
                "remaining": "2.5",
                "starts": "2025-10-01T00:00:00Z",
                "expires": None,
                "is_expired": False,
                "cost": "1.5",
                "currency": "EUR",
            },
        ],
    }
    assert answer["grants"].pop(1)["is_expired"], "late messages may still burn it"
    assert {name: answer[name] for name in expected} == expected
    assert answer["next_expiry"] == {"at": "2025-11-01T00:00:00Z", "credits": "87.249999"}


def test_a_person_sees_how_much_of_the_period_is_used(ask: Ask) -> None:
    text = ask("balance", "acme").stdout
    assert "12.750001 of 102.5 (12 %)" in text
    assert "never" in text
    assert "1.50 EUR" in text
    assert "promotion" not in text, "which has lapsed"


def test_csv_of_a_balance_is_one_line(ask: Ask) -> None:
    answer = ask("balance", "acme", "--output", "csv")
    names, values = list(csv.reader(io.StringIO(answer.stdout)))
    assert dict(zip(names, values, strict=True))["balance"] == "89.749999"


@pytest.mark.parametrize("command", ["usage", "balance"])
def test_an_unknown_tenant_is_said_and_is_exit_code_1(ask: Ask, command: str) -> None:
    answer = ask(command, "Acme")
    assert answer.exit_code == 1
    assert answer.stdout == ""
    assert "no account of tenant 'Acme'" in answer.stderr


def test_all_time_begins_with_the_first_date_there_is(ask: Ask) -> None:
    early = ask("usage", "acme", "--to", "2000-01-03", "--output", "json")
    assert orjson.loads(early.stdout)["from"] == "2000-01-01"


def test_a_span_without_usage_is_said_to_a_person(ask: Ask) -> None:
    answer = ask("usage", "acme", "--from", "2025-01-01", "--to", "2025-01-31")
    assert answer.exit_code == 0
    assert "no usage between 2025-01-01 and 2025-01-31" in answer.stdout


def test_a_wrong_question_is_exit_code_2(ask: Ask) -> None:
    backwards = ask("usage", "acme", "--from", "2025-02-02", "--to", "2025-02-01")
    unknown = ask("usage", "acme", "--group-by", "kind,colour")
    nowhere = ask("usage", "acme", "--from", "2025-02-30")
    ancient = ask("usage", "acme", "--to", "0001-01-05")
    assert [each.exit_code for each in (backwards, unknown, nowhere, ancient)] == [2, 2, 2, 2]
    assert "0001-01-05 is not from 2000-01-01 to 2999-12-31" in ancient.stderr
    assert "--to 2025-02-01 is before --from 2025-02-02" in backwards.stderr
    assert "there is no date '2025-02-30': write YYYY-MM-DD" in nowhere.stderr
    assert "colour: choose among tenant, kind, direction, country, category, type, list" in unknown.stderr


def test_no_clickhouse_is_exit_code_3() -> None:
    environment = {"MSGMETER_CLICKHOUSE": "http://user:confidential@127.0.0.1:1/default"}
    answer = CliRunner().invoke(main, ["balance", "acme"], env=environment)
    assert answer.exit_code == 3
    assert answer.stderr.startswith("msgmeter: No ClickHouse answers at http://127.0.0.1:1 (")
    assert "confidential" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1, "the driver's own log stays away"
