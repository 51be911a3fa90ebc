"""What `balance`, `usage`, `messages` and `contacts` show of the billing models, from a log folded and stored."""

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from clickhouse_rows import columns_of
from stored_worker import fold_and_store

from pipeline.cli import main, spreadsheets
from pipeline.cli.answers import show_table
from pipeline.cli.spreadsheets import Sheet, write_workbook
from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import CONTACTS
from pipeline.core.contacts import contact_hash
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from tests.builders import DAY, HOUR, Log, instant, plan, rules

MAY = instant("2026-05-01T04:00")
"""When May begins in New York."""
ZONE = "America/New_York"
PHONE, MAIL = "+14155550100", "ann@example.com"

Ask = Callable[..., Result]
Store = Callable[[Log], None]


@pytest.fixture
def store(clickhouse: EmbeddedClickHouse, database: str) -> Store:
    client = connect(f"{clickhouse.url}/{database}")
    apply_migrations(client)
    return lambda log: (fold_and_store(client, log), None)[1]


@pytest.fixture
def ask(clickhouse: EmbeddedClickHouse, database: str) -> Ask:
    environment = {"MSGMETER_CLICKHOUSE": f"{clickhouse.url}/{database}", "COLUMNS": "100"}
    return lambda *arguments: CliRunner().invoke(main, arguments, env=environment)


def told(answer: Result) -> Any:
    assert answer.exit_code == 0, answer.output
    return orjson.loads(answer.stdout)


def tenant(name: str, allowance: str = "20", at: int = MAY + DAY, **fields: Any) -> Log:
    log = Log(at, tenant=name)
    log.set_plan(plan(allowance, zone=ZONE, **fields))
    return log


# Balance.


def test_plan_value_block_price_and_automatic_rate_stand_side_by_side(ask: Ask, store: Store) -> None:
    """Model D: 750 credits at 0.03 are 22.50; 500 beyond at 0.02 are 10."""
    log = tenant(
        "d",
        "750",
        currency="USD",
        credit_value="0.03",
        overage={"policy": "negative", "price": "0.02", "settled_by": "purchases"},
        recharge={"level_credits": "0", "block_credits": "2500", "price": "50"},
        catalogue="blocks",
    )
    log.messages(10, body=None, segments=125)
    store(log)
    figures = told(ask("balance", "d", "--output", "json"))
    expected = {
        "balance": "-500",
        "available": "-500",
        "uncovered": "500",
        "allowance": "750",
        "allowance_value": "22.5",
        "allowance_left": "0",
        "due": "10",
        "currency": "USD",
        "credit_value": "0.03",
        "overage_price": "0.02",
        "messages": {"sms": 10},
    }
    assert {name: figures[name] for name in expected} == expected
    assert figures["packages"][0] == {"credits": "500", "price": "5", "currency": "USD"}
    text = ask("balance", "d").stdout
    assert "0 of 750 a period, worth 0.00 of 22.50 USD" in text
    assert "0.03 USD per credit of the plan; 0.02 USD per uncovered credit" in text
    assert "500 for 5.00 USD; 1,000 for 10.00 USD" in text
    assert "negative: authorised all the same, and owed" in text
    assert max(map(len, map(str.rstrip, text.splitlines()))) <= 100
    # It asked at the first message below zero: 125 beyond at 0.02, and the block for 50.
    assert "recharge-1 for 52.50 USD waits for its payment" in text


def test_lists_reservations_and_what_is_unassigned(ask: Ask, store: Store) -> None:
    """Model B: available is what was bought less what is reserved; shares leave the rest unassigned."""
    log = tenant("b", "0", catalogue="standard", currency="EUR", overage={"policy": "hard_stop"})
    log.grant("1000", command_id="p", valid_months=24, is_extended=True, cost="50", currency="EUR")
    log.command("allocate", list="news", credits="300")
    log.command("allocate", list="shop", credits="100")
    log.command("reserve", command_id="r", credits="250", campaign="autumn", expires_at=MAY + 9 * DAY)
    log.message("m1", list="news", body=None, segments=7)
    store(log)
    figures = told(ask("balance", "b", "--output", "json"))
    expected = {"balance": "993", "available": "743", "reserved": "250", "purchased_left": "993"}
    assert {name: figures[name] for name in expected} == expected
    assert figures["lists"] == [
        {"list": "news", "limit": "300", "spent": "7", "left": "293"},
        {"list": "shop", "limit": "100", "spent": "0", "left": "100"},
    ]
    assert figures["unassigned"] == "600"
    (held,) = figures["reservations"]
    assert (held["campaign"], held["held"], held["until"]) == ("autumn", "250", "2026-05-10T04:00:00Z")
    assert figures["next_expiry"] == {"at": "2028-05-02T04:00:00Z", "credits": "993"}
    text = ask("balance", "b").stdout
    for part in (
        "600 in no list's share",
        "250 for what is scheduled",
        "993 at 2028-05-02",
        "autumn",
        "shop",
        "hard stop: nothing more is authorised",
    ):
        assert part in text, part


def test_quota_contacts_trial_and_recharge_are_said_where_they_apply(ask: Ask, store: Store) -> None:
    recharge = {"level_credits": "5", "block_credits": "100", "price": "4", "cool_down_minutes": 60}
    log = tenant(
        "t",
        "20",
        ends_after_days=14,
        quotas={"email": 10},
        licensed_contacts=3,
        recharge=recharge,
        currency="USD",
    )
    log.message("e1", kind="email", to=MAIL, body=None, recipients=4)
    log.command("set_organization", organization="north")
    store(log)
    figures = told(ask("balance", "t", "--output", "json"))
    assert figures["quotas"] == {"email": {"included": 10, "used": 4, "left": 6}}
    assert (figures["organization"], figures["trial_ends"]) == ("north", "2026-05-16T04:00:00Z")
    assert figures["contacts"]["licensed"] == 3
    text = ask("balance", "t").stdout
    for part in (
        "4 of 10 used in the period, 6 available",
        "of 3 licensed",
        "100 for 4.00 USD, when less than 5 is available",
        "2026-05-16T04:00:00Z",
        "north",
    ):
        assert part in text, part
    names, values = list(csv.reader(io.StringIO(ask("balance", "t", "--output", "csv").stdout)))
    assert dict(zip(names, values, strict=True))["organization"] == "north"


def test_a_recharge_that_waits_says_until_when(ask: Ask, store: Store) -> None:
    """Below the level at the first message: asked for after the delay."""
    recharge = {"level_credits": "50", "block_credits": "100", "price": "4", "delay_minutes": 30}
    log = tenant("w", "20", recharge=recharge, currency="USD")
    log.message("m", body=None, segments=1)
    store(log)
    assert "50 is available, not before 2026-05-02T04:30:00Z" in " ".join(ask("balance", "w").stdout.split())


def test_a_plan_that_licenses_no_contacts_has_no_room_to_lack(ask: Ask, store: Store) -> None:
    log = tenant("n")
    log.message("m")
    store(log)
    text = ask("contacts", "n", "--at", "2026-05-03T00:00:00Z").stdout
    assert "this plan licenses no contacts" in text
    assert "available" not in text
    figures = told(ask("contacts", "n", "--at", "2026-05-03T00:00:00Z", "--output", "json"))
    assert (figures["active"], figures["available"]) == (1, None)


def test_a_grant_that_has_yet_to_start_says_when(ask: Ask, store: Store) -> None:
    for name, starts_at in (("now", MAY + DAY), ("then", MAY + 3 * DAY)):
        log = tenant(name)
        log.grant("5", effective_at=starts_at)
        store(log)
    assert "2026-05-04T04:00:00Z" in ask("balance", "then").stdout
    assert "starts" not in ask("balance", "now").stdout


def test_what_a_plan_has_nothing_of_has_no_line(ask: Ask, store: Store) -> None:
    store(tenant("plain"))
    text = ask("balance", "plain").stdout
    assert not [
        word for word in ("recharge", "contacts", "due", "trial", "prices", "reserved") if word in text
    ]
    figures = told(ask("balance", "plain", "--output", "json"))
    assert [figures[name] for name in ("recharge", "contacts", "due", "trial_ends")] == [None] * 4


def test_an_organization_is_the_sum_of_its_tenants(ask: Ask, store: Store) -> None:
    for name, allowance, segments in (("one", "100", 10), ("two", "50", 60), ("other", "1", 1)):
        overage = {"policy": "negative", "price": "0.02"}
        log = tenant(name, allowance, overage=overage, currency="EUR")
        log.message("m", body=None, segments=segments, category="campaign")
        log.message(
            "r", body=None, segments=1, direction="inbound", status="received", from_=PHONE, to="Acme"
        )
        log.command("set_organization", organization="" if name == "other" else "north")
        store(log)
    answer = told(ask("balance", "--organization", "north", "--output", "json"))
    assert [each["tenant"] for each in answer["tenants"]] == ["one", "two"]
    expected = {"limit": "150", "used": "72", "balance": "78", "uncovered": "11", "available": "78"}
    assert {name: answer[name] for name in expected} == expected
    assert answer["due"] == {"EUR": "0.22"}
    assert "due: 0.22 EUR" in ask("balance", "--organization", "north").stdout
    dates = ("--from", "2026-05-01", "--to", "2026-05-31")
    used = told(ask("usage", "--organization", "north", "--by", "month", *dates, "--output", "json"))
    assert (used["total"]["credits"], used["zone"]) == ("72", ZONE)
    apart = told(
        ask("usage", "--organization", "north", *dates, "--group-by", "type,tenant", "--output", "json")
    )
    assert [(row["tenant"], row["type"], row["credits"]) for row in apart["usage"]] == [
        ("one", "campaign", "10"),
        ("one", "received", "1"),
        ("two", "campaign", "60"),
        ("two", "received", "1"),
    ]


def test_an_organization_without_tenants_and_no_name_at_all(ask: Ask, store: Store) -> None:
    store(tenant("one"))
    for command in ("balance", "usage"):
        nobody = ask(command, "--organization", "nobody")
        assert (nobody.exit_code, nobody.stdout) == (1, "")
        assert "no tenant belongs to an organization 'nobody'" in nobody.stderr
        assert ask(command).exit_code == ask(command, "one", "--organization", "north").exit_code == 2


# Usage.


def sender() -> Log:
    """A message of each type, labelled; and a reservation."""
    log = tenant("a", "20000")
    labels = {"list": "news", "campaign": "may", "member": "ann", "inbox": "desk"}
    for number, category in enumerate(("campaign", "messaging", "transactional", "=cmd()", "")):
        given = labels if category == "campaign" else {}
        log.message(f"m{number}", body=None, segments=10, category=category, **given)
    log.now += DAY
    log.message("in", body=None, segments=2, direction="inbound", status="received", from_=PHONE, to="Acme")
    log.command("reserve", credits="1500", expires_at=MAY + 9 * DAY, campaign="june")
    return log


IN_MAY = ("--from", "2026-05-01", "--to", "2026-05-31")


def test_types_are_categories_and_what_came_in_and_what_is_scheduled_stands_beside(
    ask: Ask, store: Store
) -> None:
    """Model A's chart."""
    store(sender())
    answer = told(ask("usage", "a", "--by", "all", *IN_MAY, "--group-by", "type", "--output", "json"))
    assert {row["type"]: (row["messages"], row["segments"]) for row in answer["usage"]} == {
        "campaign": (1, 10),
        "messaging": (1, 10),
        "transactional": (1, 10),
        "received": (1, 2),
        "other": (2, 20),
    }
    assert {row["range"] for row in answer["usage"]} == {"2026-05-01 to 2026-05-31"}
    assert (answer["scheduled"], answer["total"]["segments"]) == ("1500", 52)
    assert "scheduled: 1,500 credits are reserved" in ask("usage", "a", *IN_MAY, "--group-by", "type").stdout


def test_all_time_is_one_row(ask: Ask, store: Store) -> None:
    store(sender())
    answer = told(ask("usage", "a", "--by", "all", "--output", "json"))
    assert [(row["range"], row["messages"]) for row in answer["usage"]] == [("all time", 6)]
    assert answer["from"] is None
    assert (
        told(ask("usage", "a", "--by", "all", "--to", "2026-05-02", "--output", "json"))["total"]["messages"]
        == 5
    )


@pytest.mark.parametrize(
    ("label", "name"), [("list", "news"), ("campaign", "may"), ("member", "ann"), ("inbox", "desk")]
)
def test_labels_are_told_apart_one_at_a_time(ask: Ask, store: Store, label: str, name: str) -> None:
    store(sender())
    answer = told(ask("usage", "a", "--by", "month", *IN_MAY, "--group-by", label, "--output", "json"))
    assert {row[label]: row["segments"] for row in answer["usage"]} == {"": 42, name: 10}
    refused = ask("usage", "a", "--group-by", f"{label},kind")
    assert refused.exit_code == 2
    assert "stand alone" in refused.stderr
    assert ask("usage", "--organization", "north", "--group-by", label).exit_code == 2


def test_tenants_are_told_apart_in_an_organization_only(ask: Ask, store: Store) -> None:
    store(sender())
    assert ask("usage", "a", "--group-by", "tenant").exit_code == 2


# Messages.


def test_messages_are_shown_without_numbers_newest_first(ask: Ask, store: Store) -> None:
    store(sender())
    answer = ask("messages", "a", *IN_MAY, "--output", "json")
    rows = told(answer)["messages"]
    assert [row["message"] for row in rows] == ["in", *(row["message"] for row in rows[1:])]
    assert [row["occurred_at"] for row in rows] == sorted((row["occurred_at"] for row in rows), reverse=True)
    assert "4155550100" not in answer.stdout
    hashed = f"{contact_hash(b'hashes', PHONE):016x}"[:8]
    assert {row["contact"] for row in rows} == {hashed}, "of both directions, as it is the same contact"
    first = rows[0]
    assert (first["direction"], first["segments"], first["credits"], first["grants"]) == (
        "inbound",
        2,
        "2",
        f"allowance:{MAY}=2",
    )


def test_messages_can_be_kept_to_a_list_a_campaign_or_a_category(ask: Ask, store: Store) -> None:
    store(sender())

    def ids(*options: str) -> set[str]:
        rows = told(ask("messages", "a", *IN_MAY, *options, "--output", "json"))["messages"]
        return {row["message"] for row in rows}

    assert ids("--list", "news") == ids("--campaign", "may") == ids("--category", "campaign") == {"m0"}
    assert ids("--category", "") == {"m4", "in"}
    assert ids("--list", "", "--category", "messaging") == {"m1"}
    assert ids("--limit", "1") == {"in"}
    assert ids("--from", "2026-05-02", "--to", "2026-05-02") == {f"m{number}" for number in range(5)}


def test_a_message_is_asked_for_by_its_id_whenever_it_was(ask: Ask, store: Store) -> None:
    store(sender())
    for form in ("json", "csv"):
        answer = ask("messages", "a", "--id", "m1", "--to", "2030-01-01", "--output", form)
        assert answer.stdout.count("m1") == 1
        assert "m2" not in answer.stdout
    assert "no messages" in ask("messages", "a", "--id", "m1", "--from", "2026-05-03").stdout
    assert ask("messages", "a", "--id", "none").stdout == "no message none of a is stored\n"


def test_a_row_says_what_made_its_credits(ask: Ask, store: Store) -> None:
    """25 recipients at a rate of the plan's own; a number of no country is none of a country we left out."""
    log = tenant("a")
    log.message("mail-1", kind="email", to=MAIL, body=None, recipients=25)
    log.message("call-1", to="+999123456")
    store(log)
    lines = [line.split() for line in ask("messages", "a", *IN_MAY).stdout.splitlines()]
    assert ["email", "sent", "sent", "25", "x", "0.1", "2.5", "allowance", "2026-05-01", "mail-1"] in [
        line[2:] for line in lines
    ]
    assert any(line[2:5] == ["sms", "to", "?"] and line[-1] == "call-1" for line in lines)
    rows = told(ask("messages", "a", *IN_MAY, "--output", "json"))["messages"]
    assert {row["rate_version"] for row in rows} == {"standard@2026-01-01+tenant"}


def test_a_long_id_is_whole_in_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("id", "note"), [("i" * 190, "n" * 30)], amounts=frozenset(), folded=frozenset({"id"}))
    text = capsys.readouterr().out
    assert (text.count("i"), "n" * 30 in text) == (191, True)


def test_a_limit_holds_over_days_and_a_table_says_that_there_is_more(ask: Ask, store: Store) -> None:
    store(sender())
    text = ask("messages", "a", *IN_MAY, "--limit", "3").stdout
    assert len([line for line in text.splitlines() if line.startswith("2026-05")]) == 3
    assert "the newest 3; --limit shows more" in text
    assert "the newest" not in ask("messages", "a", *IN_MAY).stdout
    assert "no messages between 2026-01-01 and 2026-01-02" in (
        ask("messages", "a", "--from", "2026-01-01", "--to", "2026-01-02").stdout
    )


def test_messages_go_to_csv_and_to_a_workbook_without_formulas(
    ask: Ask, store: Store, tmp_path: Path
) -> None:
    store(sender())
    rows = list(csv.DictReader(io.StringIO(ask("messages", "a", *IN_MAY, "--output", "csv").stdout)))
    assert len(rows) == 6
    assert "'=cmd()" in {row["category"] for row in rows}
    path = tmp_path / "messages.xlsx"
    assert ask("messages", "a", *IN_MAY, "--output", "xlsx", "--file", str(path)).exit_code == 0
    sheet = zipfile.ZipFile(path).read("xl/worksheets/sheet1.xml").decode()
    assert "<t>=cmd()</t>" in sheet
    assert "<f>" not in sheet
    assert sheet.count("<row ") == 7


def test_a_refund_is_a_row_of_its_own(ask: Ask, store: Store) -> None:
    log = tenant("a", refunded_statuses=["failed"])
    log.message("m", body=None, segments=2)
    log.now += HOUR
    log.message("m", body=None, segments=2, status="failed", occurred_at=MAY + DAY)
    store(log)
    rows = told(ask("messages", "a", *IN_MAY, "--output", "json"))["messages"]
    assert sorted((row["messages"], row["credits"]) for row in rows) == [(0, "-2"), (1, "2")]
    assert "refund" in ask("messages", "a", *IN_MAY).stdout


def test_a_sheet_that_is_full_goes_on_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheets, "MAX_ROWS", 2)
    path = tmp_path / "long.xlsx"
    rows = [(number, f"{number}.5", "999999999999.999999") for number in range(5)]
    write_workbook(str(path), [Sheet("rows", ("n", "amount", "long"), rows, frozenset({"amount", "long"}))])
    with zipfile.ZipFile(path) as book:
        sheets = [book.read(f"xl/worksheets/sheet{number}.xml").decode() for number in (1, 2, 3)]
        assert 'name="rows 3"' in book.read("xl/workbook.xml").decode()
    assert [sheet.count("<row ") for sheet in sheets] == [3, 3, 2]
    assert "<v>4.5</v>" in sheets[2]
    assert "<t>999999999999.999999</t>" in sheets[2], "as a number it would lose its last digits"


# Contacts.


def test_contacts_are_counted_as_the_plan_says(ask: Ask, store: Store, clickhouse, database) -> None:
    """Messaged 59 days before is active though marked inactive, 61 days before is not; who is marked active counts."""
    log = tenant("c", at=MAY, licensed_contacts=5, contact_active_days=60)
    for days, number in ((0, "+14155550101"), (2, "+14155550102"), (3, "+14155550103")):
        log.now = MAY + days * DAY
        log.message(f"m{days}", to=number)
    store(log)
    marks = [("+14155550101", "inactive"), ("+14155550102", "inactive"), ("+14155550199", "active")]
    rows = [
        {"tenant": "c", "contact_hash": contact_hash(rules().counterparty_key, number), "state": state}
        for number, state in marks
    ]
    insert(connect(f"{clickhouse.url}/{database}"), CONTACTS, columns_of(CONTACTS, *rows), "marks")
    at = ("--at", "2026-07-01T04:00:00Z")  # 61, 59 and 58 days after.
    assert told(ask("contacts", "c", *at, "--output", "json")) == {
        "tenant": "c",
        "licensed": 5,
        "active": 3,
        "inactive": 1,
        "removed": 0,
        "available": 2,
        "active_days": 60,
        "at": "2026-07-01T04:00:00Z",
    }
    text = ask("contacts", "c", *at).stdout
    assert "3 count, for 60 days after the last message" in text
    assert "1 of them are marked inactive" in text
    assert ask("contacts", "nobody").exit_code == 1
