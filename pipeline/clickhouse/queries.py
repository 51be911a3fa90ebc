"""The questions asked of ClickHouse, each a named file in `sql/queries/` with a function that runs it.

Takes a client, tenants and instants in epoch milliseconds; gives typed rows, instants in milliseconds too.
Values travel as parameters, never inside the SQL. Every question reads with FINAL, so an answer is the same
before and after ClickHouse has merged what was stored twice. Never writes, never formats for people.

Periods are `[start, end)`; their bounds are computed by the caller from the tenant's zone.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import driver_errors
from pipeline.clickhouse.migrate import SQL_DIRECTORY
from pipeline.core.windows import WINDOW_MILLISECONDS

Dimension = Literal["kind", "direction", "country", "category"]


class PeriodUsage(NamedTuple):
    """What a tenant used in one period, for one combination of the dimensions that were told apart."""

    starts_at: int
    kind: str
    """This and the three below are empty where they were not told apart, or not known."""
    direction: str
    country: str
    category: str
    messages: int
    segments: int
    quantity: int
    """Billed units."""
    credits_micros: int


class AccountSnapshot(NamedTuple):
    """An account as it stood at the last checkpoint."""

    plan: str
    zone: str
    period_starts_at: int
    period_ends_at: int
    limit_micros: int
    used_micros: int
    balance_micros: int
    uncovered_micros: int
    grants: str
    """The open grants as JSON."""
    as_of_at: int


class StoredAlert(NamedTuple):
    """A level of usage a tenant reached."""

    alert_id: str
    period_starts_at: int
    period_ends_at: int
    level: int
    """Per cent."""
    arming: int
    used_micros: int
    limit_micros: int
    remaining_micros: int
    run_out_at: int | None
    occurred_at: int


class LedgerEntry(NamedTuple):
    """One change of a tenant's credits."""

    entry_id: str
    kind: str
    grant_id: str
    window_starts_at: int
    """Of usage; otherwise 0."""
    amount_micros: int
    """Above zero adds credits, below zero takes them."""
    balance_after_micros: int | None
    cause: str
    effective_at: int
    posted_at: int


class TenantUsage(NamedTuple):
    """What one tenant used in a span of time."""

    tenant: str
    messages: int
    segments: int
    quantity: int
    credits_micros: int


def usage_by_period(
    client: Client, tenant: str, bounds: Sequence[int], by: Collection[Dimension] = ()
) -> list[PeriodUsage]:
    """Return usage per period `[bounds[i], bounds[i + 1])`, oldest first, told apart by the dimensions `by`.

    `bounds` holds at least two ascending instants, each a multiple of 15 minutes: every UTC offset is one, so
    days, weeks and months of any zone are. A period without usage has no row.
    """
    assert len(bounds) >= 2, "one period has two bounds"
    assert all(bound % WINDOW_MILLISECONDS == 0 for bound in bounds), "windows cannot be cut"
    parameters = {"tenant": tenant, "bounds": [bound // 1000 for bound in bounds], "by": list(by)}
    rows = run_query(client, "usage_by_period", parameters)
    return [PeriodUsage(row[0] * 1000, *row[1:]) for row in rows]


def account_of_tenant(client: Client, tenant: str) -> AccountSnapshot | None:
    """Return the tenant's account as of the last checkpoint, or None if it has none yet."""
    rows = run_query(client, "account_of_tenant", {"tenant": tenant})
    return AccountSnapshot(*rows[0]) if rows else None


def alerts_of_tenant(client: Client, tenant: str, starts_at: int, ends_at: int) -> list[StoredAlert]:
    """Return the tenant's alerts that occurred in `[starts_at, ends_at)`, oldest first."""
    parameters = {"tenant": tenant, "starts_at": starts_at, "ends_at": ends_at}
    return [StoredAlert(*row) for row in run_query(client, "alerts_of_tenant", parameters)]


def entries_of_tenant(client: Client, tenant: str, starts_at: int, ends_at: int) -> list[LedgerEntry]:
    """Return the tenant's ledger entries effective in `[starts_at, ends_at)`, in the order of a statement."""
    parameters = {"tenant": tenant, "starts_at": starts_at, "ends_at": ends_at}
    return [LedgerEntry(*row) for row in run_query(client, "entries_of_tenant", parameters)]


def top_tenants(client: Client, starts_at: int, ends_at: int, limit: int = 10) -> list[TenantUsage]:
    """Return the tenants with most credits used in `[starts_at, ends_at)`, highest first, at most `limit`."""
    assert starts_at % WINDOW_MILLISECONDS == ends_at % WINDOW_MILLISECONDS == 0, "windows cannot be cut"
    parameters = {"starts_at": starts_at // 1000, "ends_at": ends_at // 1000, "limit": limit}
    return [TenantUsage(*row) for row in run_query(client, "top_tenants", parameters)]


def run_query(client: Client, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run `sql/queries/<name>.sql`; return its rows, columns in the query's order.

    Raises `Transient` and `Permanent` as `pipeline.clickhouse.client` says.
    """
    with driver_errors():
        return list(client.query(_statement(name), parameters=dict(parameters)).result_rows)


@cache
def _statement(name: str) -> str:
    return (SQL_DIRECTORY / "queries" / f"{name}.sql").read_text("utf-8")
