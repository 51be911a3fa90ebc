"""What a statement is made of, as ClickHouse has it: periods, what grants held, entries, and usage by sort of message.

Takes a client, a tenant and instants in epoch milliseconds; gives the records of `pipeline.core.statement` and of the
ledger. Every question reads with FINAL. Never writes.
"""

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.queries import LedgerEntry, entries_of_tenant, run_query
from pipeline.core.account import Entry
from pipeline.core.statement import UsageSum


def period_starts(client: Client, tenant: str) -> list[int]:
    """Return when the tenant's billing periods began, oldest first; the next one's start ends each but the last."""
    return [row[0] for row in run_query(client, "statement_periods", {"tenant": tenant})]


def opening_by_grant(client: Client, tenant: str, at: int) -> dict[str, int]:
    """Return what the tenant's grants held at an instant, in micro-credits, those left out that held nothing."""
    return dict(run_query(client, "statement_opening", {"tenant": tenant, "at": at}))


def statement_entries(client: Client, tenant: str, starts_at: int, ends_at: int) -> list[Entry]:
    """Return the tenant's entries effective in `[starts_at, ends_at)`.

    Their offset is their place in the answer, which is in the order of the log among those of one instant.
    """
    found = entries_of_tenant(client, tenant, starts_at, ends_at)
    return [_entry(each, place) for place, each in enumerate(found)]


def period_usage(client: Client, tenant: str, starts_at: int, ends_at: int) -> list[UsageSum]:
    """Return what was used by the messages that count in the period `[starts_at, ends_at)`."""
    parameters = {"tenant": tenant, "starts_at": starts_at, "ends_at": ends_at}
    rows = run_query(client, "statement_usage", parameters)
    return [UsageSum(row[0], row[1], row[2], bool(row[3]), *row[4:]) for row in rows]


def _entry(stored: LedgerEntry, place: int) -> Entry:
    return Entry(
        entry_id=stored.entry_id,
        kind=stored.kind,
        grant_id=stored.grant_id,
        amount=stored.amount_micros,
        cause=stored.cause,
        effective_at=stored.effective_at,
        posted_at=stored.posted_at,
        offset=place,
        balance_after=stored.balance_after_micros,
        window_start=stored.window_starts_at,
        money_micros=stored.money_micros,
        currency=stored.currency,
    )
