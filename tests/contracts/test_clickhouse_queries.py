"""Each named query answers on stored rows, the same before and after they are merged."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from time import perf_counter
from zoneinfo import ZoneInfo

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_rows import NOON, columns_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.migrate import SQL_DIRECTORY, apply_migrations
from pipeline.clickhouse.queries import (
    AccountSnapshot,
    LabelUsage,
    LedgerEntry,
    OrganizationUsage,
    PeriodUsage,
    StoredAlert,
    TenantUsage,
    account_of_tenant,
    accounts_due,
    alerts_of_tenant,
    contacts_of_tenant,
    entries_of_tenant,
    messages_of_tenant,
    organization_accounts,
    organization_usage,
    top_tenants,
    usage_by_label,
    usage_by_period,
)
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.contacts import ContactCounts, count_contacts
from pipeline.embedded.clickhouse import EmbeddedClickHouse

HOUR = 3_600_000
DAY = 24 * HOUR
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
        for table in (FACTS, USAGE, ACCOUNTS, ENTRIES, CONTACTS, ALERTS):
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


# Organizations and what is due.


def test_an_organization_has_the_tenants_that_belong_to_it_now(client: Client, settle) -> None:
    rows = [
        {"tenant": "b", "organization": "ward", "version": 2, "due_at": None},
        {"tenant": "a", "organization": "ward", "version": 2},
        {"tenant": "left", "organization": "ward", "version": 1},
        {"tenant": "theirs", "organization": "other", "version": 2},
        {"tenant": "nobody's", "version": 2},
    ]
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, *rows), "1")
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, {"tenant": "left", "version": 2}), "2")
    settle("account_snapshots")
    accounts = organization_accounts(client, "ward")
    assert [(each.tenant, each.organization, each.due_at) for each in accounts] == [
        ("a", "ward", NOON + 1),
        ("b", "ward", None),
    ]
    assert accounts[0] == account_of_tenant(client, "a")


def test_usage_of_an_organization_is_the_sum_of_its_tenants(client: Client, settle) -> None:
    accounts = [{"tenant": name, "organization": "ward"} for name in ("a", "b")] + [{"tenant": "c"}]
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, *accounts), "accounts")
    store_usage(
        client,
        *({"tenant": name, "messages": 10**i} for i, name in enumerate("abc")),
        {"tenant": "a", "kind": "mms", "window_start": NOON // 1000 + 900, "messages": 1000},
    )
    settle("usage_15m")
    bounds = [NOON, NOON + QUARTER, NOON + 2 * QUARTER]
    of_all = organization_usage(client, "ward", bounds)
    assert [(row.starts_at, row.messages) for row in of_all] == [(NOON, 11), (NOON + QUARTER, 1000)]
    assert organization_usage(client, "ward", bounds, ["tenant", "kind"]) == [
        OrganizationUsage(NOON, "a", "sms", "", "", "", 1, 1, 1, 1_000_000),
        OrganizationUsage(NOON, "b", "sms", "", "", "", 10, 1, 1, 1_000_000),
        OrganizationUsage(NOON + QUARTER, "a", "mms", "", "", "", 1000, 1, 1, 1_000_000),
    ]
    singly = [usage_by_period(client, tenant, bounds, ["kind"]) for tenant in ("a", "b")]
    together = organization_usage(client, "ward", bounds, ["kind"])
    assert sum(row.messages for rows in singly for row in rows) == sum(row.messages for row in together)
    assert organization_usage(client, "", bounds)[0].messages == 100


def test_accounts_due_are_those_whose_last_snapshot_says_so(client: Client, settle) -> None:
    rows = [
        {"tenant": "late", "due_at": NOON - 5},
        {"tenant": "now", "due_at": NOON},
        {"tenant": "soon", "due_at": NOON + 1},
        {"tenant": "never", "due_at": None},
        {"tenant": "was", "due_at": NOON - 9},
    ]
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, *rows), "1")
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, {"tenant": "was", "due_at": NOON + 9, "version": 1}), "2")
    settle("account_snapshots")
    assert accounts_due(client, NOON, 10) == [("late", NOON - 5), ("now", NOON)]
    assert accounts_due(client, NOON, 1) == [("late", NOON - 5)]


# Facts.


def test_messages_are_told_newest_first_and_only_those_asked_for(client: Client, settle) -> None:
    rows = [
        {"message_id": "early", "occurred_at": NOON - 1},
        {"message_id": "m1", "list": "north", "campaign": "spring", "category": "campaign"},
        {"message_id": "m2", "occurred_at": NOON + 1, "list": "north", "category": "messaging"},
        {"message_id": "m3", "occurred_at": NOON + 2, "member": "ann", "inbox": "desk", "category": ""},
        {"message_id": "late", "occurred_at": NOON + 3},
        {"message_id": "theirs", "tenant": "other"},
    ]
    for token in ("token", "after a crash"):
        insert(client, FACTS, columns_of(FACTS, *rows), token)
    settle("rated_messages")

    def ids(limit: int = 10, **kept: str) -> list[str]:
        return [each.message_id for each in messages_of_tenant(client, "acme", NOON, NOON + 3, limit, **kept)]

    assert ids() == ["m3", "m2", "m1"]
    assert ids(2) == ["m3", "m2"]
    assert ids(list_name="north") == ["m2", "m1"]
    assert ids(list_name="") == ["m3"]
    assert ids(campaign="spring") == ["m1"]
    assert ids(list_name="north", category="messaging") == ["m2"]
    (newest,) = messages_of_tenant(client, "acme", NOON + 2, NOON + 3, 1)
    assert (newest.member, newest.inbox, newest.occurred_at, newest.messages) == ("ann", "desk", NOON + 2, 1)
    assert newest.grants == {"g1": 1_000_000}


def test_usage_by_label_sums_facts_and_refunds(client: Client, settle) -> None:
    rows = [
        {"message_id": "m1", "list": "north", "member": "ann", "campaign": "spring", "inbox": "desk"},
        {"message_id": "m2", "list": "north", "member": "bob", "segments": 2, "quantity": 2},
        {"message_id": "m3", "list": "south", "occurred_at": NOON + DAY},
        {
            "message_id": "refund of m1", "list": "north", "member": "ann", "campaign": "spring", "messages": 0,
            "inbox": "desk", "segments": 0, "quantity": -1, "credits_micros": -1_000_000,
        },
        {"message_id": "m4"},
        {"message_id": "early", "occurred_at": NOON - 1},
        {"message_id": "theirs", "tenant": "other"},
    ]  # fmt: skip
    for token in ("token", "after a crash"):
        insert(client, FACTS, columns_of(FACTS, *rows), token)
    settle("rated_messages")
    bounds = [NOON, NOON + DAY, NOON + 2 * DAY]
    assert usage_by_label(client, "acme", bounds, "list") == [
        LabelUsage(NOON, "", 1, 1, 1, 1_000_000),
        LabelUsage(NOON, "north", 2, 3, 2, 1_000_000),
        LabelUsage(NOON + DAY, "south", 1, 1, 1, 1_000_000),
    ]

    def messages(label: str) -> dict[str, int]:
        rows = usage_by_label(client, "acme", bounds[:2], label)  # type: ignore[arg-type]
        return {row.label: row.messages for row in rows}

    assert messages("member") == {"": 1, "ann": 1, "bob": 1}
    assert messages("campaign") == {"": 2, "spring": 1}
    assert messages("inbox") == {"": 2, "desk": 1}


# Contacts.


@pytest.mark.parametrize(
    ("state", "last", "counts"),
    [
        #        marked      messaged                          active, inactive, removed
        pytest.param(None, None, (0, 0, 0), id="unknown"),
        pytest.param("active", None, (1, 0, 0), id="marked active"),
        pytest.param("inactive", None, (0, 0, 0), id="marked inactive"),
        pytest.param("removed", None, (0, 0, 0), id="removed"),
        pytest.param(None, NOON, (1, 0, 0), id="messaged now"),
        pytest.param(None, NOON + 1, (0, 0, 0), id="messaged afterwards"),
        pytest.param(None, NOON - 60 * DAY + 1, (1, 0, 0), id="messaged in the last of 60 days"),
        pytest.param(None, NOON - 60 * DAY, (0, 0, 0), id="messaged 60 days ago"),
        pytest.param("inactive", NOON, (1, 1, 0), id="inactive but messaged"),
        pytest.param("removed", NOON, (1, 0, 1), id="removed but messaged"),
        pytest.param("inactive", NOON - 60 * DAY, (0, 0, 0), id="inactive and not messaged for 60 days"),
    ],
)
def test_a_contact_counts_while_it_is_active_or_was_messaged(
    client: Client, state: str | None, last: int | None, counts: tuple[int, int, int]
) -> None:
    other = {"tenant": "other", "contact_hash": 1, "state": "active"}
    marks = [other] if state is None else [other, {"contact_hash": 7, "state": state}]
    insert(client, CONTACTS, columns_of(CONTACTS, *marks), "marks")
    rows = [{"message_id": "theirs", "tenant": "other"}]
    if last is not None:
        rows.append({"message_id": "m1", "occurred_at": last, "counterparty_hash": 7})
    insert(client, FACTS, columns_of(FACTS, *rows), "facts")
    assert contacts_of_tenant(client, "acme", NOON, 60) == ContactCounts(*counts)


def test_the_last_mark_of_a_contact_holds_and_a_message_counts_once(client: Client, settle) -> None:
    for version, state in ((2, "inactive"), (1, "active"), (3, "removed")):
        row = {"contact_hash": 7, "state": state, "version": version}
        insert(client, CONTACTS, columns_of(CONTACTS, row), str(version))
    rows = [{"message_id": f"m{i}", "counterparty_hash": 7} for i in range(3)]
    insert(client, FACTS, columns_of(FACTS, *rows), "facts")
    settle("contact_marks")
    assert contacts_of_tenant(client, "acme", NOON, 60) == ContactCounts(active=1, inactive=0, removed=1)


def test_neither_a_refund_nor_who_writes_in_is_messaged(client: Client) -> None:
    rows = [
        {"message_id": "refund", "messages": 0, "quantity": -1},
        {"message_id": "in", "direction": "inbound"},
    ]
    insert(client, FACTS, columns_of(FACTS, *rows), "facts")
    assert contacts_of_tenant(client, "acme", NOON, 60) == ContactCounts(0, 0, 0)


_contacts = st.integers(1, 12)
_instants = st.integers(NOON - 4 * DAY, NOON)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(st.tuples(_contacts, _instants), max_size=30),
    marks=st.lists(st.tuples(_contacts, st.sampled_from(["active", "inactive", "removed"])), max_size=20),
    days=st.integers(1, 4),
)
def test_the_query_counts_contacts_as_the_core_does(
    client: Client, messages: list[tuple[int, int]], marks: list[tuple[int, str]], days: int
) -> None:
    for table in (FACTS, CONTACTS):
        client.command(f"TRUNCATE TABLE {table.name}")
    insert(
        client,
        FACTS,
        columns_of(
            FACTS,
            *(
                {"message_id": f"m{i}", "counterparty_hash": contact, "occurred_at": at}
                for i, (contact, at) in enumerate(messages)
            ),
        ),
        str(messages),
    )
    insert(
        client,
        CONTACTS,
        columns_of(
            CONTACTS,
            *(
                {"contact_hash": contact, "state": state, "version": offset}
                for offset, (contact, state) in enumerate(marks)
            ),
        ),
        str(marks),
    )
    last = {contact: max(at for each, at in messages if each == contact) for contact, _ in messages}
    expected = count_contacts(last, dict(marks), NOON, days)
    assert contacts_of_tenant(client, "acme", NOON, days) == expected


def test_a_million_contacts_are_counted_exactly(client: Client) -> None:
    """One message to each of a million, one each ten seconds back from noon, and a mark for every third."""
    count, odd = 1_000_000, 0x9E3779B97F4A7C15
    values = "number, toUInt64(number) * 11400714819323198485 AS hash"
    client.command(f"""
        INSERT INTO rated_messages
            (tenant, message_key, kind, direction, occurred_at, counterparty_hash, quantity, version)
        SELECT 'acme', reinterpretAsFixedString(toUInt128(number)), 'sms', 'outbound',
            fromUnixTimestamp64Milli(toInt64({NOON} - number * 10000), 'UTC'), hash, 1, number
        FROM (SELECT {values} FROM numbers({count}))
        SETTINGS optimize_on_insert = 0
    """)
    client.command(f"""
        INSERT INTO contact_marks (tenant, contact_hash, state, version)
        SELECT 'acme', hash, ['active', 'inactive', 'removed'][intDiv(number % 9, 3) + 1], number
        FROM (SELECT {values} FROM numbers({count})) WHERE number % 3 = 0
    """)
    states = ["active", "inactive", "removed"]
    last = {number * odd % 2**64: NOON - number * 10_000 for number in range(count)}
    marks = {number * odd % 2**64: states[number % 9 // 3] for number in range(0, count, 3)}
    started = perf_counter()
    counted = contacts_of_tenant(client, "acme", NOON, 60)
    print(f"counted in {perf_counter() - started:.3f} s")  # noqa: T201 - for whoever runs it with -s
    assert counted == count_contacts(last, marks, NOON, 60)
    assert counted.active > 500_000


def test_every_named_query_is_explained_and_free_of_values() -> None:
    for file in (SQL_DIRECTORY / "queries").glob("*.sql"):
        text = file.read_text()
        assert text.startswith("-- "), f"{file.name} does not say what it answers"
        assert "Parameters:" in text, f"{file.name} does not say what it takes"
        watched = "not to bill" in text
        # A list without repetitions is the same whether rows are merged or not.
        listed = text.count("SELECT DISTINCT tenant") > 1
        assert watched or listed or "FINAL" in text, f"{file.name} would count rows that are not merged yet"
