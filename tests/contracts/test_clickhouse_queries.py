"""Each named query answers on stored rows, the same before and after they are merged."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_rows import NOON, columns_of

from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.migrate import SQL_DIRECTORY, apply_migrations
from pipeline.clickhouse.queries import (
    AccountSnapshot,
    LedgerEntry,
    PeriodUsage,
    StoredAlert,
    TenantUsage,
    account_of_tenant,
    alerts_of_tenant,
    entries_of_tenant,
    top_tenants,
    usage_by_period,
)
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, ENTRIES, USAGE
from pipeline.embedded.clickhouse import EmbeddedClickHouse

HOUR = 3_600_000
QUARTER = 900_000


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    connected = connect(f"{clickhouse.url}/{database}")
    apply_migrations(connected)
    yield connected
    connected.close()


@pytest.fixture(params=["unmerged", "merged"])
def settle(request: pytest.FixtureRequest, client: Client) -> object:
    """Merge the stored rows of a table in one run of the test, leave them as inserted in the other."""

    def merge(table: str) -> None:
        client.command(f"OPTIMIZE TABLE {table} FINAL")

    def keep(table: str) -> None:
        assert client.command(f"SELECT count() FROM {table}") > client.command(
            f"SELECT count() FROM {table} FINAL"
        )

    if request.param == "unmerged":
        for table in (USAGE, ACCOUNTS, ENTRIES, ALERTS):
            client.command(f"SYSTEM STOP MERGES {table.name}")
    return merge if request.param == "merged" else keep


def store_usage(client: Client, *rows: dict[str, object]) -> None:
    """The rows, and before each an older version of it that must not count."""
    older = [{**row, "messages": 77, "credits_micros": 77, "version": 1} for row in rows]
    insert(client, USAGE, columns_of(USAGE, *older), "older")
    insert(client, USAGE, columns_of(USAGE, *({**row, "version": 2} for row in rows)), "newer")


def local_days(zone: str, first: datetime, count: int) -> list[int]:
    """The bounds of `count` days from `first` in a zone, in milliseconds."""
    midnights = [(first + timedelta(days=day)).replace(tzinfo=ZoneInfo(zone)) for day in range(count + 1)]
    return [int(midnight.timestamp() * 1000) for midnight in midnights]


# Usage.


def test_usage_is_summed_between_bounds(client: Client, settle) -> None:
    store_usage(
        client,
        {"window_start": NOON // 1000 - 900, "messages": 1000},
        {"window_start": NOON // 1000, "messages": 1, "segments": 2, "quantity": 3, "credits_micros": 4},
        {
            "window_start": NOON // 1000 + 2700,
            "messages": 10,
            "segments": 20,
            "quantity": 30,
            "credits_micros": 40,
        },
        {
            "window_start": NOON // 1000 + 3600,
            "messages": 100,
            "segments": 1,
            "quantity": 1,
            "credits_micros": 1,
        },
        {"window_start": NOON // 1000 + 3 * 3600, "messages": 1000},
        {"window_start": NOON // 1000, "tenant": "other", "messages": 1000},
    )
    settle("usage_15m")
    hours = [NOON, NOON + HOUR, NOON + 2 * HOUR, NOON + 3 * HOUR]
    assert usage_by_period(client, "acme", hours) == [
        PeriodUsage(NOON, "", "", "", "", 11, 22, 33, 44),
        PeriodUsage(NOON + HOUR, "", "", "", "", 100, 1, 1, 1),
    ]


def test_usage_is_told_apart_by_what_is_asked(client: Client, settle) -> None:
    store_usage(
        client,
        {"kind": "sms", "country": "US", "direction": "inbound", "category": "a", "messages": 1},
        {"kind": "sms", "country": "FR", "direction": "outbound", "category": "a", "messages": 2},
        {"kind": "mms", "country": "US", "direction": "outbound", "category": "b", "messages": 4},
    )
    settle("usage_15m")
    bounds = [NOON, NOON + QUARTER]

    def messages(*by: str) -> dict[tuple[str, ...], int]:
        rows = usage_by_period(client, "acme", bounds, by)  # type: ignore[arg-type]
        return {tuple(filter(None, row[1:5])): row.messages for row in rows}

    assert messages("kind") == {("sms",): 3, ("mms",): 4}
    assert messages("direction") == {("inbound",): 1, ("outbound",): 6}
    assert messages("country") == {("US",): 5, ("FR",): 2}
    assert messages("category") == {("a",): 3, ("b",): 4}
    assert messages("country", "kind") == {("sms", "US"): 1, ("sms", "FR"): 2, ("mms", "US"): 4}


@pytest.mark.parametrize(
    ("zone", "first", "quarters"),
    [
        ("America/New_York", datetime(2025, 3, 8), [96, 92, 96]),  # noqa: DTZ001 - put in the zone later
        ("America/New_York", datetime(2025, 11, 1), [96, 100, 96]),  # noqa: DTZ001
        ("Asia/Kathmandu", datetime(2025, 10, 9), [96, 96, 96]),  # noqa: DTZ001
        ("Australia/Lord_Howe", datetime(2025, 4, 5), [96, 98, 96]),  # noqa: DTZ001
    ],
)
def test_local_days_hold_their_own_quarters(
    client: Client, zone: str, first: datetime, quarters: list[int]
) -> None:
    """A day has as many windows as its zone's clock gives it, and no window is lost between two days."""
    bounds = local_days(zone, first, 3)
    starts = range(bounds[0] - QUARTER, bounds[-1] + QUARTER, QUARTER)
    insert(client, USAGE, columns_of(USAGE, *({"window_start": at // 1000} for at in starts)), "token")
    days = usage_by_period(client, "acme", bounds)
    assert [day.starts_at for day in days] == bounds[:-1]
    assert [day.messages for day in days] == quarters


def test_a_year_of_days_is_one_query(client: Client) -> None:
    bounds = local_days("Europe/Berlin", datetime(2025, 1, 1), 365)  # noqa: DTZ001
    insert(client, USAGE, columns_of(USAGE, *({"window_start": at // 1000} for at in bounds)), "token")
    assert [day.starts_at for day in usage_by_period(client, "acme", bounds)] == bounds[:-1]


@pytest.mark.parametrize("bounds", [[], [NOON], [NOON, NOON + 1]])
def test_bounds_that_cut_a_window_are_a_bug(client: Client, bounds: list[int]) -> None:
    with pytest.raises(AssertionError):
        usage_by_period(client, "acme", bounds)


@pytest.mark.parametrize("tenant", ["o'hara", "a\\b", "tab\there", "{by:String}", "名前", "x' OR 1=1 --"])
def test_tenant_is_a_value_whatever_it_is_called(client: Client, tenant: str) -> None:
    insert(client, USAGE, columns_of(USAGE, {"tenant": tenant}, {"tenant": "acme"}), "token")
    assert [row.messages for row in usage_by_period(client, tenant, [NOON, NOON + QUARTER])] == [1]


# Tenants.


def test_top_tenants_are_ordered_by_credits(client: Client, settle) -> None:
    store_usage(
        client,
        *({"tenant": f"t{i}", "credits_micros": micros} for i, micros in enumerate([5, 9, 9, 1])),
        {
            "tenant": "t0",
            "window_start": NOON // 1000 + 900,
            "credits_micros": 2,
            "segments": 3,
            "quantity": 4,
        },
        {"tenant": "t3", "window_start": NOON // 1000 + 1800, "credits_micros": 100},
    )
    settle("usage_15m")
    assert top_tenants(client, NOON, NOON + 2 * QUARTER, limit=3) == [
        TenantUsage("t1", 1, 1, 1, 9),
        TenantUsage("t2", 1, 1, 1, 9),
        TenantUsage("t0", 2, 4, 5, 7),
    ]


def test_account_is_the_latest_snapshot(client: Client, settle) -> None:
    for version in (4, 9, 7):
        row = {"balance_micros": version, "version": version, "as_of": NOON + version}
        insert(client, ACCOUNTS, columns_of(ACCOUNTS, row, {**row, "tenant": "other"}), f"token {version}")
    settle("account_snapshots")
    assert account_of_tenant(client, "acme") == AccountSnapshot(
        "standard",
        "Asia/Kathmandu",
        NOON,
        NOON + 1,
        5,
        3,
        9,
        0,
        "[]",
        NOON + 9,
        "acme",
        "",
        2,
        0,
        2,
        NOON + 1,
        "",
    )
    assert account_of_tenant(client, "nobody") is None


def test_alerts_are_told_once_in_order(client: Client, settle) -> None:
    rows = [
        {"alert_id": "early", "occurred_at": NOON - 1},
        {"alert_id": "a90", "level": 90, "occurred_at": NOON + 5, "run_out_at": NOON + 500},
        {"alert_id": "a85", "level": 85, "occurred_at": NOON + 5},
        {"alert_id": "a80", "level": 80, "occurred_at": NOON},
        {"alert_id": "late", "occurred_at": NOON + 10},
        {"alert_id": "theirs", "tenant": "other", "occurred_at": NOON},
    ]
    for token in ("token", "after a crash"):
        insert(client, ALERTS, columns_of(ALERTS, *rows), token)
    settle("alerts")
    assert alerts_of_tenant(client, "acme", NOON, NOON + 10) == [
        StoredAlert("a80", NOON, NOON + 1, 80, 1, 80, 100, 20, None, NOON),
        StoredAlert("a85", NOON, NOON + 1, 85, 1, 80, 100, 20, None, NOON + 5),
        StoredAlert("a90", NOON, NOON + 1, 90, 1, 80, 100, 20, NOON + 500, NOON + 5),
    ]


def test_statement_lists_each_entry_once_with_its_last_amount(client: Client, settle) -> None:
    usage = {"entry_id": "u1", "effective_at": NOON + 1}
    insert(client, ENTRIES, columns_of(ENTRIES, {**usage, "amount_micros": -3, "version": 1}), "1")
    insert(client, ENTRIES, columns_of(ENTRIES, {**usage, "amount_micros": -8, "version": 2}), "2")
    others = [
        {"entry_id": "early", "effective_at": NOON - 1},
        {"entry_id": "late", "effective_at": NOON + 9},
        {"entry_id": "theirs", "tenant": "other"},
        {
            "entry_id": "g", "kind": "grant", "window_start": 0, "amount_micros": 50,
            "balance_after_micros": 50, "cause": "command-1", "posted_at": NOON + 2, "money_micros": 9,
            "currency": "USD",
        },
    ]  # fmt: skip
    insert(client, ENTRIES, columns_of(ENTRIES, *others), "3")
    settle("ledger_entries")
    assert entries_of_tenant(client, "acme", NOON, NOON + 9) == [
        LedgerEntry("g", "grant", "g1", 0, 50, 50, "command-1", NOON, NOON + 2, 9, "USD"),
        LedgerEntry("u1", "usage", "g1", NOON, -8, None, "", NOON + 1, NOON, 0, ""),
    ]


def test_every_named_query_is_explained_and_free_of_values() -> None:
    for file in (SQL_DIRECTORY / "queries").glob("*.sql"):
        text = file.read_text()
        assert text.startswith("-- "), f"{file.name} does not say what it answers"
        assert "Parameters:" in text, f"{file.name} does not say what it takes"
        watched = "not to bill" in text
        assert watched or "FINAL" in text, f"{file.name} would count rows that are not merged yet"
