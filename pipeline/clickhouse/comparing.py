"""What is stored of some tenants, row by row as a comparison takes it, streamed in blocks.

Takes a client and tenants; gives rows of `pipeline.core.log_comparison`, whose values are in the order of the part's
fields. Every question reads with FINAL. Never more tenants at once than `TENANTS_PER_QUERY`: the primary keys begin
with the tenant, so such a question reads what it gives and little else. Never writes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.queries import run_query, stream_query
from pipeline.core import reconciliation as parts
from pipeline.core.amounts import format_credits
from pipeline.core.log_comparison import StoredRow
from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.reconciliation import Part

ComparingQuery = Literal["windows_against_facts", "entries_against_facts", "balances_against_entries"]

TENANTS_PER_QUERY = 500
"""ClickHouse takes 128 KiB for one parameter, and a tenant has at most 128 characters."""
DAY_MILLISECONDS = 86_400_000
_LAST_DAY = 65_535
_LAST_AT = 4_294_967_295_000
"""What a Date and a DateTime hold."""
_FURTHEST_DAYS = 2
"""No zone's day begins further from the UTC day of its name."""

_FACT_KEY = tuple(FACT_COLUMNS.index(name) for name in ("tenant", "message_key", "kind", "occurred_at"))


class Days(NamedTuple):
    """Local days since 1970-01-01, both included."""

    first: int = 0
    last: int = _LAST_DAY

    @property
    def instants(self) -> dict[str, int]:
        """A span of instants that holds these days in every zone."""
        return {
            "starts_at": max(self.first - _FURTHEST_DAYS, 0) * DAY_MILLISECONDS,
            "ends_at": min((self.last + _FURTHEST_DAYS) * DAY_MILLISECONDS, _LAST_AT),
        }


def stored_tenants(client: Client) -> list[str]:
    """Return every tenant of whom anything is stored, in order."""
    return [row[0] for row in run_query(client, "stored_tenants", {})]


def stored_rows(client: Client, part: Part, tenants: Sequence[str], days: Days) -> Iterator[StoredRow]:
    """Give the stored rows of one part; of some days where it can, and perhaps of a few around them."""
    name, row_of = _QUERIES[part]
    asked: dict[str, Any] = {"first_day": days.first, "last_day": days.last, **days.instants}
    for start in range(0, len(tenants), TENANTS_PER_QUERY):
        asked |= {"tenants": list(tenants[start : start + TENANTS_PER_QUERY])}
        for row in stream_query(client, name, asked):
            yield row_of(row)


def _fact(row: Sequence[Any]) -> StoredRow:
    values = tuple(row[:-1])
    return StoredRow(tuple(values[at] for at in _FACT_KEY), values, row[-1])


def _window(row: Sequence[Any]) -> StoredRow:
    return StoredRow(tuple(row[:6]), (*row[6:10], row[1]), row[10])


def _entry(row: Sequence[Any]) -> StoredRow:
    return StoredRow(tuple(row[:2]), tuple(row[2:-1]), row[-1])


def _account(row: Sequence[Any]) -> StoredRow:
    remaining = {grant["id"]: grant["remaining"] for grant in orjson.loads(row[-2])}
    return StoredRow((row[0],), (*row[1:-2], remaining), row[-1])


def _alert(row: Sequence[Any]) -> StoredRow:
    used, limit, remaining = map(format_credits, row[6:9])
    return StoredRow(tuple(row[:2]), (*row[2:6], used, limit, remaining, *row[9:11]), row[-1])


_QUERIES: Mapping[Part, tuple[str, Callable[[Sequence[Any]], StoredRow]]] = {
    parts.FACTS: ("stored_facts", _fact),
    parts.WINDOWS: ("stored_windows", _window),
    parts.ENTRIES: ("stored_entries", _entry),
    parts.ACCOUNTS: ("stored_accounts", _account),
    parts.ALERTS: ("stored_alerts", _alert),
}
STORED_PARTS = tuple(_QUERIES)


class StoredComparison(NamedTuple):
    """Rows of one table against those of another, as ClickHouse compared them."""

    compared: int
    moving: int
    """Of these: being stored by a checkpoint at this moment, and not compared."""
    differing: int
    rows: list[tuple[Any, ...]]
    """Those that differ, a thousand at most."""


def compared_in_store(
    client: Client, name: ComparingQuery, tenants: Sequence[str], days: Days
) -> StoredComparison:
    """Return what one of the queries that compare says of at most `TENANTS_PER_QUERY` tenants."""
    rows = run_query(client, name, {"tenants": list(tenants), **days.instants})
    return StoredComparison(*rows[0])
