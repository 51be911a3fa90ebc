"""What ClickHouse compares within itself: what differs is listed, and what is being stored is no difference."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_rows import NOON, columns_of

from pipeline.clickhouse.client import Table, connect, insert
from pipeline.clickhouse.comparing import (
    STORED_PARTS,
    Days,
    StoredComparison,
    compared_in_store,
    stored_rows,
    stored_tenants,
)
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, ENTRIES, USAGE
from pipeline.core.reconciliation import ACCOUNTS as ACCOUNTS_PART
from pipeline.embedded.clickhouse import EmbeddedClickHouse

CREDIT = 1_000_000
DAY = 86_400_000
WINDOW = {"messages": 2, "segments": 2, "quantity": 2, "credits_micros": 2 * CREDIT, "version": 5}
FACT: dict[str, Any] = {"grant_id": "g1", "grant_micros": CREDIT}
USED = {"entry_id": "usage:g1", "amount_micros": -2 * CREDIT, "version": 5}
GIVEN = {"entry_id": "given:g1", "kind": "allowance", "amount_micros": 10 * CREDIT, "version": 1}
GRANTS = [
    {"id": "g1", "remaining": 8 * CREDIT, "is_expired": False},
    {"id": "g0", "remaining": CREDIT, "is_expired": True},
]
ACCOUNT = {
    "balance_micros": 8 * CREDIT,
    "uncovered_micros": 0,
    "grants": orjson.dumps(GRANTS).decode(),
    "version": 5,
    "zone": "UTC",
}
KEY = ("acme", NOON, "sms", "outbound", "US", "campaign")


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    """A database in which everything agrees: an allowance of ten credits, two messages of one each."""
    connected = connect(f"{clickhouse.url}/{database}")
    apply_migrations(connected)
    facts = [
        {**FACT, "message_id": f"m{offset}", "kafka_offset": offset, "version": offset} for offset in (3, 5)
    ]
    # What was stored a second time, after a crash, is there once.
    add(connected, FACTS, *facts, facts[0])
    add(connected, USAGE, WINDOW)
    add(connected, ENTRIES, USED, GIVEN)
    add(connected, ACCOUNTS, ACCOUNT)
    yield connected
    connected.close()


def add(client: Client, table: Table, *rows: dict[str, Any]) -> None:
    for number, row in enumerate(rows):
        insert(client, table, columns_of(table, row), f"{row}{number}")


def asked(client: Client, name: Any, *days: int) -> StoredComparison:
    return compared_in_store(client, name, ["acme", "nobody"], Days(*days))


def test_what_agrees_is_counted_and_not_listed(client: Client) -> None:
    assert asked(client, "windows_against_facts") == (1, 0, 0, [])
    assert asked(client, "entries_against_facts") == (1, 0, 0, [])
    assert asked(client, "balances_against_entries") == (1, 0, 0, [])


def test_a_fact_more_than_the_window_and_the_entries_have_is_listed_with_both_sums(client: Client) -> None:
    add(client, FACTS, {**FACT, "message_id": "m4", "kafka_offset": 4, "version": 4})
    assert asked(client, "windows_against_facts").rows == [
        (*KEY, 3, 3, 3, 3 * CREDIT, 2, 2, 2, 2 * CREDIT, "UTC")
    ]
    assert asked(client, "entries_against_facts").rows == [
        ("acme", NOON, "g1", 3 * CREDIT, 2 * CREDIT, "UTC")
    ]


def test_a_message_of_two_grants_burned_both(client: Client) -> None:
    add(
        client,
        FACTS,
        {
            "message_id": "m4",
            "credits_micros": 5,
            "grant_id": "g1",
            "grant_micros": 2,
            "further_grants": {"g2": 2, "": 1},
            "kafka_offset": 4,
            "version": 4,
        },
    )
    listed = sorted(asked(client, "entries_against_facts").rows)
    assert [(row[2], row[3] - row[4]) for row in listed] == [("", 1), ("g1", 2), ("g2", 2)]


def test_facts_that_the_account_has_not_seen_are_left_out(client: Client) -> None:
    add(client, FACTS, {**FACT, "message_id": "m6", "kafka_offset": 6, "version": 6})
    assert asked(client, "windows_against_facts") == (1, 0, 0, [])
    assert asked(client, "entries_against_facts") == (1, 0, 0, [])


def test_rows_that_a_checkpoint_has_stored_before_the_account_are_moving(client: Client) -> None:
    add(client, FACTS, {**FACT, "message_id": "m6", "kafka_offset": 6, "version": 6})
    add(client, USAGE, {**WINDOW, "messages": 3, "version": 6})
    add(client, ENTRIES, {**USED, "amount_micros": -3 * CREDIT, "version": 6})
    assert asked(client, "windows_against_facts") == (1, 1, 0, [])
    assert asked(client, "entries_against_facts") == (1, 1, 0, [])
    assert asked(client, "balances_against_entries") == (1, 1, 0, [])


def test_entries_of_one_record_that_the_account_has_not_seen_are_left_out(client: Client) -> None:
    add(client, ENTRIES, {**GIVEN, "entry_id": "given:g2", "version": 6})
    add(client, ENTRIES, {**USED, "entry_id": "late", "kind": "late_usage", "version": 7})
    assert asked(client, "balances_against_entries") == (1, 0, 0, [])
    assert asked(client, "entries_against_facts") == (1, 0, 0, [])


def test_a_late_entry_is_usage_of_its_window(client: Client) -> None:
    add(client, FACTS, {**FACT, "message_id": "m4", "kafka_offset": 4, "version": 4})
    late = {"entry_id": "late", "kind": "late_usage", "amount_micros": -CREDIT, "version": 4}
    add(client, ENTRIES, late)
    assert asked(client, "entries_against_facts") == (1, 0, 0, [])


@pytest.mark.parametrize(
    ("table", "row", "listed"),
    [
        (ACCOUNTS, {**ACCOUNT, "balance_micros": 7 * CREDIT}, (8, 7, 8, 0)),
        (ENTRIES, {**GIVEN, "amount_micros": 9 * CREDIT}, (7, 8, 8, 0)),
        (ACCOUNTS, {**ACCOUNT, "uncovered_micros": CREDIT}, (8, 8, 7, 0)),
        (
            ACCOUNTS,
            {
                **ACCOUNT,
                "grants": '[{"id":"g1","remaining":9000000},{"id":"g2","remaining":-1000000}]',
            },
            (8, 8, 8, -1),
        ),
    ],
)
def test_a_balance_is_the_sum_of_its_entries_and_of_its_grants_none_of_which_is_below_zero(
    client: Client, table: Table, row: dict[str, Any], listed: tuple[int, int, int, int]
) -> None:
    """Sum of the entries, balance, grants less what is uncovered, the least that remains; in credits."""
    add(client, table, row)
    found = asked(client, "balances_against_entries")
    assert found == (1, 0, 1, [("acme", *(micros * CREDIT for micros in listed), "UTC")])


def test_only_windows_around_the_days_asked_for_are_compared(client: Client) -> None:
    add(client, USAGE, {**WINDOW, "window_start": (NOON + 30 * DAY) // 1000})
    assert asked(client, "windows_against_facts").differing == 1
    first = NOON // DAY
    assert asked(client, "windows_against_facts", first, first) == (1, 0, 0, [])


def test_every_tenant_of_any_table_is_known_and_its_rows_are_given(client: Client) -> None:
    add(client, ALERTS, {"tenant": "only-an-alert"})
    assert stored_tenants(client) == ["acme", "only-an-alert"]
    counts = [len(list(stored_rows(client, part, stored_tenants(client), Days()))) for part in STORED_PARTS]
    assert counts == [2, 1, 2, 1, 1]
    (account,) = stored_rows(client, ACCOUNTS_PART, ["acme"], Days())
    values = dict(zip(ACCOUNTS_PART.fields, account.values, strict=True))
    assert (account.key, account.version) == (("acme",), 5)
    assert (values["balance_micros"], values["period_start"]) == (8 * CREDIT, NOON)
    assert values["remaining_micros"] == {"g1": 8 * CREDIT, "g0": CREDIT}
