"""The tables of absolute values: windows, accounts, entries, contacts, alerts; and windows summed from facts.

Takes windows to sum anew; gives the columns that replace them. The tables are filled with
`client.insert(client, USAGE, columns, token)` and so on. A row replaces the stored row of its key unless its
version is lower, so storing one again, or an older one late, changes nothing. Never adds to what is stored.

Units of the columns: DateTime64 takes epoch milliseconds, DateTime (`window_start`) epoch seconds.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import Table
from pipeline.clickhouse.queries import run_query_whole

WINDOWS_PER_QUERY = 200
"""ClickHouse takes 128 KiB for one parameter, and a tenant has at most 128 characters."""

_LABEL = "LowCardinality(String)"
_INSTANT = "DateTime64(3, 'UTC')"
_PERHAPS_INSTANT = f"Nullable({_INSTANT})"

USAGE = Table(
    "usage_15m",
    (
        ("tenant", "String"),
        ("window_start", "DateTime('UTC')"),
        ("kind", _LABEL),
        ("direction", _LABEL),
        ("country", _LABEL),
        ("category", _LABEL),
        ("messages", "Int64"),
        ("segments", "Int64"),
        ("quantity", "Int64"),
        ("credits_micros", "Int64"),
        ("version", "UInt64"),
    ),
)

ACCOUNTS = Table(
    "account_snapshots",
    (
        ("tenant", "String"),
        ("organization", "String"),
        ("plan", _LABEL),
        ("zone", _LABEL),
        ("period_start", _INSTANT),
        ("period_end", _INSTANT),
        ("limit_micros", "Int64"),
        ("used_micros", "Int64"),
        ("balance_micros", "Int64"),
        ("uncovered_micros", "Int64"),
        ("available_micros", "Int64"),
        ("reserved_micros", "Int64"),
        ("unassigned_micros", "Int64"),
        ("grants", "String"),
        ("due_at", _PERHAPS_INSTANT),
        ("details", "String"),
        ("as_of", _INSTANT),
        ("kafka_partition", "UInt16"),
        ("version", "UInt64"),
    ),
)

ENTRIES = Table(
    "ledger_entries",
    (
        ("tenant", "String"),
        ("entry_id", "String"),
        ("kind", _LABEL),
        ("grant_id", "String"),
        ("window_start", "DateTime('UTC')"),
        ("amount_micros", "Int64"),
        ("balance_after_micros", "Nullable(Int64)"),
        ("money_micros", "Int64"),
        ("currency", _LABEL),
        ("cause", "String"),
        ("effective_at", _INSTANT),
        ("posted_at", _INSTANT),
        ("kafka_partition", "UInt16"),
        ("version", "UInt64"),
    ),
)

CONTACTS = Table(
    "contact_marks",
    (
        ("tenant", "String"),
        ("contact_hash", "UInt64"),
        ("state", _LABEL),
        ("effective_at", _INSTANT),
        ("kafka_partition", "UInt16"),
        ("version", "UInt64"),
    ),
)

ALERTS = Table(
    "alerts",
    (
        ("tenant", "String"),
        ("alert_id", "String"),
        ("period_start", _INSTANT),
        ("period_end", _INSTANT),
        ("level", "UInt8"),
        ("arming", "UInt32"),
        ("used_micros", "Int64"),
        ("limit_micros", "Int64"),
        ("remaining_micros", "Int64"),
        ("run_out_at", _PERHAPS_INSTANT),
        ("occurred_at", _INSTANT),
        ("kafka_partition", "UInt16"),
        ("kafka_offset", "Int64"),
        ("version", "UInt64"),
    ),
)


def recompute_windows(client: Client, versions: Mapping[tuple[str, int], int]) -> list[list[Any]]:
    """Return the columns of `USAGE` that hold these windows as the stored facts have them.

    `versions` maps (tenant, window start in epoch milliseconds) to the version the window's rows get, which
    must not be below the stored one. A combination of dimensions no fact supports comes out as zeros. Empty
    columns if there is nothing to say.
    """
    columns: list[list[Any]] = [[] for _ in USAGE.columns]
    windows = iter(versions)
    while piece := list(islice(windows, WINDOWS_PER_QUERY)):
        starts = [start // 1000 for _, start in piece]
        parameters = {"tenants": [tenant for tenant, _ in piece], "starts": starts}
        for row in run_query_whole(client, "windows_from_facts", parameters):
            for column, value in zip(columns, row, strict=False):
                column.append(value)
            columns[-1].append(versions[row[0], row[1] * 1000])
    return columns
