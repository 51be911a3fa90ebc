"""`statement` tells from stored rows what the ledger did: every figure agrees with the account and with the facts."""

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from stored_worker import fold_and_store

from pipeline.cli import main
from pipeline.cli.statement import Span, find_period
from pipeline.cli.wording import grant_words
from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.facts import FACTS, fact_columns
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.queries import entries_of_tenant
from pipeline.clickhouse.statements import period_starts, period_usage
from pipeline.core.amounts import MICROS, format_credits, parse_credits
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from tests.builders import DAY, HOUR, Log, Worker, instant, plan
from tests.fact_sums import usage_of_facts

ZONE = "America/Denver"
JANUARY, FEBRUARY, MARCH = (instant(f"2026-0{month}-15T07:00") for month in (1, 2, 3))
"""The 15th, when it begins in Denver."""

Ask = Callable[..., Result]


def customer() -> Log:
    """Two months: an allowance of 10, a purchase, more sent than both cover, a refund, a late message."""
    log = Log(JANUARY + DAY)
    log.set_plan(
        plan(
            "10",
            name="small",
            zone=ZONE,
            anchor_day=15,
            currency="USD",
            overage={"policy": "negative", "price": "0.02", "settled_by": "purchases"},
            refunded_statuses=["failed"],
        )
    )
    log.message("a1", body=None, segments=4, category="=1+1", list="news")
    log.now = FEBRUARY + DAY
    log.message(
        "late", occurred_at=FEBRUARY - DAY, to="+4915112345678"
    )  # Within the grace: counts in January.
    log.now = FEBRUARY + 5 * DAY
    log.message("too-late", occurred_at=FEBRUARY - 2 * DAY)  # After it: counts in February.
    log.message("b1", body=None, segments=12, member="ann")
    log.now += HOUR
    log.grant("5", command_id="=p1", cost="2.50", currency="USD", valid_months=1)
    log.message("b2", body=None, segments=3)
    log.message("b2", body=None, segments=3, status="failed", occurred_at=log.now, status_at=log.now)
    log.now += DAY
    log.message("b3", kind="mms", direction="inbound", status="received", body=None, from_="+33612345678")
    return log


@pytest.fixture(scope="module")
def stored(clickhouse: EmbeddedClickHouse) -> Iterator[tuple[str, Worker]]:
    """One database for all of these tests: they ask, and the one that stores changes no answer."""
    server = connect(f"{clickhouse.url}/default")
    server.command("CREATE DATABASE statements")
    client = connect(f"{clickhouse.url}/statements")
    apply_migrations(client)
    yield f"{clickhouse.url}/statements", fold_and_store(client, customer())
    client.close()
    server.command("DROP DATABASE statements")
    server.close()


@pytest.fixture
def ask(stored: tuple[str, Worker]) -> Ask:
    def run(*arguments: str) -> Result:
        environment = {"MSGMETER_CLICKHOUSE": stored[0], "COLUMNS": "100"}
        return CliRunner().invoke(main, ("statement", "acme", *arguments), env=environment)

    return run


def told(answer: Result) -> Any:
    assert answer.exit_code == 0, answer.output
    return orjson.loads(answer.stdout)


def test_the_open_period_ends_with_the_balance_of_the_account(ask: Ask, stored: tuple[str, Worker]) -> None:
    statement = told(ask("--output", "json"))
    account = stored[1].account()
    assert statement["closing"] == format_credits(account.balance)
    remaining = {grant.id: format_credits(grant.remaining) for grant in account.grants if grant.remaining}
    if account.uncovered:
        remaining[""] = format_credits(-account.uncovered)
    assert {
        each["grant"]: each["closing"] for each in statement["grants"] if each["closing"] != "0"
    } == remaining
    assert (statement["is_open"], statement["from"], statement["to"]) == (True, "2026-02-15", "2026-03-14")
    assert statement["due"] == (format_credits(account.uncovered * 2 // 100) if account.uncovered else None)


def test_one_statement_begins_where_the_one_before_ends(ask: Ask, stored: tuple[str, Worker]) -> None:
    before, now = (told(ask("--period", name, "--output", "json")) for name in ("previous", "current"))
    client = connect(stored[0])
    opening, closing = (
        sum(entry.amount_micros for entry in entries_of_tenant(client, "acme", 0, at))
        for at in (JANUARY, FEBRUARY)
    )
    assert parse_credits(before["opening"]) == opening == 0
    assert parse_credits(before["closing"]) == closing
    assert before["closing"] == now["opening"]
    assert (before["is_open"], before["due"]) == (False, None)


@pytest.mark.parametrize("period", ["previous", "current"])
@pytest.mark.parametrize("extra", [(), ("--entries",)])
def test_the_lines_sum_to_what_is_between_opening_and_closing(
    ask: Ask, period: str, extra: tuple[str, ...]
) -> None:
    statement = told(ask("--period", period, "--output", "json", *extra))
    balance = parse_credits(statement["opening"])
    for line in statement["lines"]:
        balance += parse_credits(line["credits"])
        assert parse_credits(line["balance"]) == balance
    assert balance == parse_credits(statement["closing"])
    assert balance == parse_credits(statement["opening"]) + sum(
        parse_credits(amount) for amount in statement["sections"].values()
    )


@pytest.mark.parametrize(
    ("period", "bounds"), [("previous", (JANUARY, FEBRUARY)), ("current", (FEBRUARY, MARCH))]
)
def test_facts_and_ledger_say_the_same_usage(
    ask: Ask, stored: tuple[str, Worker], period: str, bounds: tuple[int, int]
) -> None:
    """Late messages and refunds included; and the query says what a sum in memory does."""
    statement = told(ask("--period", period, "--output", "json"))
    net = sum(parse_credits(row["credits"]) - parse_credits(row["refunded"]) for row in statement["usage"])
    sections = statement["sections"]
    assert net == -parse_credits(sections["used"]) - parse_credits(sections["refunded"])
    found = period_usage(connect(stored[0]), "acme", *bounds)
    assert found == usage_of_facts(stored[1].effects.facts.values(), "acme", bounds[0])


def test_what_came_after_the_grace_is_late_and_counts_in_the_next_period(ask: Ask) -> None:
    before, now = (told(ask("--period", name, "--output", "json")) for name in ("previous", "current"))
    assert [row["country"] for row in before["usage"]] == ["DE", "US"]
    assert not any(row["is_late"] for row in before["usage"])
    assert [(row["kind"], row["messages"]) for row in now["usage"] if row["is_late"]] == [("sms", 1)]
    assert [line["credits"] for line in now["lines"] if line["is_late"]] == ["-1"]


def test_what_was_refunded_is_said(ask: Ask) -> None:
    usage = told(ask("--output", "json"))["usage"]
    assert sum(parse_credits(row["refunded"]) for row in usage) == 3 * MICROS
    assert "after 3 refunded" in ask().stdout
    assert "refunded" not in ask("--period", "previous").stdout


def test_facts_the_account_has_not_seen_yet_are_left_out(ask: Ask, stored: tuple[str, Worker]) -> None:
    """They are stored some seconds before the entries they are booked in."""
    before = told(ask("--output", "json"))["usage"]
    (newest,) = [fact for fact in stored[1].effects.facts.values() if "b3" in fact]
    ahead = (newest[0], b"k" * 16, "ahead", *newest[3:-1], newest[-1] + 1)
    insert(connect(stored[0]), FACTS, fact_columns([ahead]), "ahead")
    assert told(ask("--output", "json"))["usage"] == before


def test_csv_has_the_lines_between_opening_and_closing_and_no_formula(ask: Ask) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("--output", "csv").stdout)))
    assert [rows[0]["kind"], rows[-1]["kind"]] == ["opening", "closing"]
    between = sum(parse_credits(row["credits"]) for row in rows[1:-1])
    assert parse_credits(rows[0]["balance"]) + between == parse_credits(rows[-1]["balance"])
    (bought,) = (row for row in rows if row["kind"] == "purchase")
    assert (bought["money"], bought["currency"], bought["cause"]) == ("2.5", "USD", "'=p1")


def test_a_workbook_has_texts_and_numbers_and_no_formula(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "statement.xlsx"
    answer = ask("--output", "xlsx", "--file", str(path))
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert f"rows written to {path}" in answer.stderr
    with zipfile.ZipFile(path) as book:
        sheets = {name: book.read(name).decode() for name in book.namelist() if "/worksheets/" in name}
        names = book.read("xl/workbook.xml").decode()
    assert [name in names for name in ('name="lines"', 'name="grants"', 'name="usage"')] == [True, True, True]
    assert not any("<f>" in text for text in sheets.values())
    lines = sheets["xl/worksheets/sheet2.xml"]
    assert "<t>=p1</t>" in lines, "a text, whatever it begins with"
    assert "<v>2.5</v>" in lines, "an amount, to be summed"


def test_a_person_reads_sums_grants_and_lines_within_a_terminal(ask: Ask) -> None:
    text = ask().stdout
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for part in (
        "Statement of acme, plan small",
        "2026-02-15 to 2026-03-14, open",
        "opening balance",
        "2.50 USD",
        "closing balance",
        "beyond all grants:",
        "used, late",
        "allowance 2026-02-15",
        "purchase =p1",
        "paid off with credits",
    ):
        assert part in text, part


def test_lines_of_entries_have_the_time_of_day_in_the_tenants_zone(ask: Ask) -> None:
    """Of a window its last minute: 07:00 UTC is midnight in Denver."""
    text = ask("--entries").stdout
    assert "2026-02-20 01:00   purchase" in text
    assert "2026-02-20 00:14   used" in text
    assert "2026-02-20 00:" not in ask().stdout


def test_periods_are_those_there_were(ask: Ask, stored: tuple[str, Worker]) -> None:
    assert period_starts(connect(stored[0]), "acme") == [JANUARY, FEBRUARY]
    for name, first in (
        ("2026-01", "2026-01-15"),
        ("2026-02", "2026-02-15"),
        ("2026-02-14", "2026-01-15"),
        ("2026-02-15", "2026-02-15"),
        ("2026-03-14", "2026-02-15"),
    ):
        assert told(ask("--period", name, "--output", "json"))["from"] == first, name


def test_an_allowance_within_a_period_begins_no_period(clickhouse: EmbeddedClickHouse, database: str) -> None:
    """A trial ends, and a plan comes some days later: it gives its allowance at once."""
    client = connect(f"{clickhouse.url}/{database}")
    apply_migrations(client)
    log = Log(JANUARY)
    log.set_plan(plan("10", zone=ZONE, anchor_day=15, ends_after_days=14))
    log.now += 20 * DAY
    log.set_plan(plan("20", zone=ZONE, anchor_day=15))
    worker = fold_and_store(client, log)
    given = sorted(each.effective_at for each in worker.effects.entries.values() if each.kind == "allowance")
    assert given == [JANUARY, JANUARY + 20 * DAY]
    assert period_starts(client, "acme") == [JANUARY]


@pytest.mark.parametrize(
    ("grant_id", "words"),
    [
        ("", "no grant"),
        (f"allowance:{JANUARY}", "allowance 2026-01-15"),
        (f"allowance:{JANUARY}:{FEBRUARY}", "allowance 2026-02-15"),
        (f"allowance:{JANUARY}:until:{FEBRUARY}", "allowance 2026-01-15 (cut)"),
        (f"floor:{JANUARY}", "rollover 2026-01-15"),
        ("purchase:99c08499-70e3-423e-923b-bb83556f6974", "purchase 99c08499"),
        ("promotion:spring", "promotion spring"),
        (f"adjustment:{'x' * 30}", f"adjustment {'x' * 23}…"),
    ],
)
def test_grants_have_names(grant_id: str, words: str) -> None:
    assert grant_words(grant_id, ZONE) == words


def test_a_period_there_was_not_is_exit_code_1_and_a_wrong_word_2(ask: Ask) -> None:
    for period in ("2025-12", "2026-03", "2026-03-15"):
        answer = ask("--period", period)
        assert (answer.exit_code, answer.stdout) == (1, "")
        assert f"acme has no period {period}; its first began on 2026-01-15" in answer.stderr
    assert ask("--period", "last").exit_code == 2
    assert ask("--output", "xlsx").exit_code == 2
    assert ask("--file", "x.xlsx").exit_code == 2


def test_a_file_that_cannot_be_written_is_exit_code_2(ask: Ask, tmp_path: Path) -> None:
    answer = ask("--output", "xlsx", "--file", str(tmp_path / "nowhere" / "x.xlsx"))
    assert answer.exit_code == 2
    assert "cannot be written" in answer.stderr


def test_a_month_in_which_two_periods_begin_is_asked_back() -> None:
    """After a change of anchor one is short."""
    spans = [Span(instant(first), instant(last)) for first, last in (
        ("2026-02-01", "2026-02-15"), ("2026-02-15", "2026-03-15"),
    )]  # fmt: skip
    assert find_period("2026-02-20", spans, "UTC") == spans[1]
    assert find_period("previous", spans[:1], "UTC") is None
    with pytest.raises(Exception, match="begin in 2026-02, on 2026-02-01 and 2026-02-15"):
        find_period("2026-02", spans, "UTC")
