"""The questions asked of ClickHouse, each a named file in `sql/queries/` with a function that runs it.

Takes a client, tenants and instants in epoch milliseconds; gives typed rows, instants in milliseconds too.
Values travel as parameters, never inside the SQL. Every question reads with FINAL, so an answer is the same
before and after ClickHouse has merged what was stored twice. Never writes, never formats for people.

Periods are `[start, end)`; their bounds are computed by the caller from the tenant's zone.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import ask, ask_whole, driver_errors
from pipeline.clickhouse.migrate import SQL_DIRECTORY
from pipeline.core.contacts import ContactCounts, messaged_since
from pipeline.core.windows import WINDOW_MILLISECONDS

Dimension = Literal["kind", "direction", "country", "category"]
Label = Literal["list", "campaign", "member", "inbox"]
"""What windows do not tell apart, but facts do."""


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
    tenant: str
    organization: str
    available_micros: int
    """Can be spent now: credits valid now, less what is reserved or uncovered."""
    reserved_micros: int
    unassigned_micros: int
    """Belong to no list's share."""
    due_at: int | None
    """When the account changes by itself next; None: never."""
    details: str
    """JSON for `pipeline.core.account_details.decode_details`; empty in rows of older versions."""


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
    money_micros: int
    """Paid or owed for it, in micro-units of `currency`."""
    currency: str


class StoredMessage(NamedTuple):
    """A message that was charged, or a refund of one."""

    message_id: str
    source: str
    kind: str
    direction: str
    status: str
    """The billable status that charged it; of a refund, the failure."""
    country: str
    category: str
    list: str
    member: str
    inbox: str
    campaign: str
    encoding: str
    occurred_at: int
    period_starts_at: int
    """Of the period it counts in; later than `occurred_at` where it came too late for its own."""
    messages: int
    """1; 0 for a refund, whose quantities are negative."""
    segments: int
    quantity: int
    rate_micros: int
    rate_version: str
    """The rate card and version it was rated by, with "+tenant" where a rate of the plan's own decided."""
    credits_micros: int
    grants: Mapping[str, int]
    """Micro-credits by the grant that was burned; under "" what no grant covered."""
    contact_hash: int
    """The keyed hash of the other party's address."""


class LabelUsage(NamedTuple):
    """What a tenant used in one period under one list, campaign, member or inbox."""

    starts_at: int
    label: str
    """Empty for messages without one."""
    messages: int
    segments: int
    quantity: int
    credits_micros: int


class OrganizationUsage(NamedTuple):
    """What an organization's tenants used in one period, for one combination of what was told apart."""

    starts_at: int
    tenant: str
    """This and the four below are empty where they were not told apart, or not known."""
    kind: str
    direction: str
    country: str
    category: str
    messages: int
    segments: int
    quantity: int
    credits_micros: int


class FleetAccounts(NamedTuple):
    """How all accounts stand together, as of their last checkpoints."""

    accounts: int
    count_by_level: Mapping[int, int]
    """Accounts that have used at least so many per cent of what is usable in the open period: 80, 85, 90 and 95."""
    recharge_count: int
    """Accounts that wait for the answer to a request to recharge."""
    recharge_asked_at: int
    """When the oldest of those requests was made; 0 without one."""


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
    rows = run_query(client, "usage_by_period", {"tenant": tenant, **_periods(bounds, by)})
    return [PeriodUsage(row[0] * 1000, *row[1:]) for row in rows]


def account_of_tenant(client: Client, tenant: str) -> AccountSnapshot | None:
    """Return the tenant's account as of the last checkpoint, or None if it has none yet."""
    rows = run_query(client, "account_of_tenant", {"tenant": tenant})
    return AccountSnapshot(*rows[0]) if rows else None


def organization_accounts(client: Client, organization: str) -> list[AccountSnapshot]:
    """Return the accounts of the tenants that belong to an organization, by tenant."""
    rows = run_query(client, "organization_accounts", {"organization": organization})
    return [AccountSnapshot(*row) for row in rows]


def accounts_due(client: Client, at: int, limit: int) -> list[tuple[str, int]]:
    """Return (tenant, due instant) of accounts due at `at` or before, the longest due first, at most `limit`."""
    return [(row[0], row[1]) for row in run_query(client, "accounts_due", {"at": at, "limit": limit})]


def fleet_accounts(client: Client, at: int) -> FleetAccounts:
    """Return how all accounts stand at `at`; takes some 0.3 s for a million of them."""
    [row] = run_query_whole(client, "fleet_accounts", {"at": at})
    return FleetAccounts(row[0], dict(zip((80, 85, 90, 95), row[1:5], strict=True)), row[5], row[6])


def tenants_unalerted(client: Client, at: int) -> int:
    """Return how many tenants stand at 95 per cent or more at `at`, have that level, and no alert of it is stored.

    One that is being stored while this is asked may be among them; takes some 1 s for a million accounts.
    """
    [row] = run_query_whole(client, "tenants_unalerted", {"at": at})
    return int(row[0])


def alerts_of_tenant(client: Client, tenant: str, starts_at: int, ends_at: int) -> list[StoredAlert]:
    """Return the tenant's alerts that occurred in `[starts_at, ends_at)`, oldest first."""
    parameters = {"tenant": tenant, "starts_at": starts_at, "ends_at": ends_at}
    return [StoredAlert(*row) for row in run_query(client, "alerts_of_tenant", parameters)]


def entries_of_tenant(client: Client, tenant: str, starts_at: int, ends_at: int) -> list[LedgerEntry]:
    """Return the tenant's ledger entries effective in `[starts_at, ends_at)`, in the order of a statement."""
    parameters = {"tenant": tenant, "starts_at": starts_at, "ends_at": ends_at}
    return [LedgerEntry(*row) for row in run_query(client, "entries_of_tenant", parameters)]


def entries_of_command(client: Client, tenant: str, command_id: str) -> list[LedgerEntry]:
    """Return the entries that one command caused, in the order of the log."""
    rows = run_query(client, "entries_of_command", {"tenant": tenant, "cause": command_id})
    return [LedgerEntry(*row) for row in rows]


def contacts_of_tenant(client: Client, tenant: str, at: int, active_days: int) -> ContactCounts:
    """Return how many contacts of the tenant count at `at`, exactly; the plan says for how many days."""
    parameters = {"tenant": tenant, "since": messaged_since(at, active_days), "at": at}
    return ContactCounts(*run_query(client, "contacts_of_tenant", parameters)[0])


def messages_of_tenant(
    client: Client,
    tenant: str,
    starts_at: int,
    ends_at: int,
    limit: int,
    *,
    list_name: str | None = None,
    campaign: str | None = None,
    category: str | None = None,
    message_id: str | None = None,
) -> list[StoredMessage]:
    """Return messages that occurred in `[starts_at, ends_at)`, newest first, at most `limit`.

    Only those of the list, campaign and category given; "" means those without one, None means all. A message's
    id finds its refund too, and the messages of other sources that have the same.
    """
    parameters = {
        "tenant": tenant,
        "starts_at": starts_at,
        "ends_at": ends_at,
        "limit": limit,
        "list": [] if list_name is None else [list_name],
        "campaign": [] if campaign is None else [campaign],
        "category": [] if category is None else [category],
        "message_id": [] if message_id is None else [message_id],
    }
    return [StoredMessage(*row) for row in run_query(client, "messages_of_tenant", parameters)]


def usage_by_label(client: Client, tenant: str, bounds: Sequence[int], label: Label) -> list[LabelUsage]:
    """Return usage per period `[bounds[i], bounds[i + 1])` and list, campaign, member or inbox, oldest first.

    Summed from the facts, so it takes longer than `usage_by_period`: some 10 ms per million messages.
    """
    assert len(bounds) >= 2, "one period has two bounds"
    parameters = {"tenant": tenant, "bounds": list(bounds), "label": label}
    return [LabelUsage(*row) for row in run_query(client, "usage_by_label", parameters)]


def organization_usage(
    client: Client,
    organization: str,
    bounds: Sequence[int],
    by: Collection[Dimension | Literal["tenant"]] = (),
) -> list[OrganizationUsage]:
    """Return the sum of `usage_by_period` over the tenants that belong to an organization now."""
    rows = run_query(client, "organization_usage", {"organization": organization, **_periods(bounds, by)})
    return [OrganizationUsage(row[0] * 1000, *row[1:]) for row in rows]


def top_tenants(client: Client, starts_at: int, ends_at: int, limit: int = 10) -> list[TenantUsage]:
    """Return the tenants with most credits used in `[starts_at, ends_at)`, highest first, at most `limit`."""
    assert starts_at % WINDOW_MILLISECONDS == ends_at % WINDOW_MILLISECONDS == 0, "windows cannot be cut"
    parameters = {"starts_at": starts_at // 1000, "ends_at": ends_at // 1000, "limit": limit}
    return [TenantUsage(*row) for row in run_query(client, "top_tenants", parameters)]


def _periods(bounds: Sequence[int], by: Collection[str]) -> dict[str, list[int] | list[str]]:
    assert len(bounds) >= 2, "one period has two bounds"
    assert all(bound % WINDOW_MILLISECONDS == 0 for bound in bounds), "windows cannot be cut"
    return {"bounds": [bound // 1000 for bound in bounds], "by": list(by)}


def run_query(client: Client, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run `sql/queries/<name>.sql`; return its rows, columns in the query's order.

    Raises `Transient` and `Permanent` as `pipeline.clickhouse.client` says.
    """
    return ask(client, _statement(name), parameters=parameters)


def run_query_whole(client: Client, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Do what `run_query` does, in any order, where "none" must be certain: see `ask_whole`."""
    return ask_whole(client, _statement(name), parameters=parameters)


def stream_query(client: Client, name: str, parameters: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    """Give the rows of `sql/queries/<name>.sql` while they come, a block at a time in memory; else as `run_query`."""
    with driver_errors(), client.query_rows_stream(_statement(name), parameters=dict(parameters)) as rows:
        yield from rows


@cache
def _statement(name: str) -> str:
    return (SQL_DIRECTORY / "queries" / f"{name}.sql").read_text("utf-8")
