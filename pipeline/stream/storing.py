"""The ClickHouse effects of epochs and checkpoints, as blocking calls for a thread.

Takes outcomes and state changes of the core; gives the facts that cannot be stored. Everything stored follows from
the log alone and replaces itself, so storing it again does no harm. Errors are `Transient` (do the same again) and
`Permanent`.
"""

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import Table, insert_isolating
from pipeline.clickhouse.facts import FACTS, stored_charges, stored_messages
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE, recompute_windows
from pipeline.core.account import FOREVER_AT, Account, Entry, Period
from pipeline.core.account_details import account_details, encode_details
from pipeline.core.amounts import MICROS
from pipeline.core.due import next_due
from pipeline.core.identity_deltas import StoredCharge
from pipeline.core.kept import decode_kept
from pipeline.core.outcomes import FACT_COLUMNS, ContactMark, Document, Fact, refusal_document
from pipeline.core.plans import PlanTerms
from pipeline.core.process import StateChanges
from pipeline.core.refunds import StoredMessage
from pipeline.core.refusals import Refusal
from pipeline.core.usage import Window, usage_entries

SECOND_MILLISECONDS = 1_000
MAX_UNSTORABLE_VALUES = 10_000
"""Far more than of facts: one tenant's window alone is a thousand rows, and is stored anew when it changes."""

_decode_window = msgspec.msgpack.Decoder(Window)
_decode_account = msgspec.msgpack.Decoder(Account)
_encode_grants = msgspec.json.Encoder().encode


class Tokens:
    """Names for inserts: never the same for two batches, also not over restarts."""

    def __init__(self) -> None:
        self._process = uuid.uuid4().hex
        self._numbers = itertools.count()

    def next(self) -> str:
        """A token not used before."""
        return f"{self._process}-{next(self._numbers)}"


def insert_facts(client: Client, columns: Sequence[Sequence[Any]], token: str) -> list[int]:
    """Stores facts; gives the indexes of rows that ClickHouse does not take."""
    return insert_isolating(client, FACTS, columns, token)


def unstorable_refusal(fact: Fact) -> Document:
    """The refusal of a fact ClickHouse does not take; its content is in messages.raw at the position given."""
    of = dict(zip(FACT_COLUMNS, fact, strict=True))
    return refusal_document(
        of["kafka_partition"],
        of["kafka_offset"],
        Refusal.UNSTORABLE,
        b"",
        of["tenant"],
        of["source"],
        of["message_id"],
        of["received_at"],
    )


def insert_rows(
    client: Client, table: Table, columns: Sequence[Sequence[Any]], token: str
) -> Mapping[str, int]:
    """Stores rows of any other table, which all begin with the tenant.

    Gives how many of each tenant ClickHouse does not take: one tenant's row must not keep back all others'.
    """
    if not columns or not columns[0]:
        return {}
    unstorable = insert_isolating(client, table, columns, token, MAX_UNSTORABLE_VALUES)
    return Counter(columns[0][index] for index in unstorable)


def look_up(client: Client, keys: Sequence[tuple[str, bytes]]) -> Mapping[bytes, StoredCharge]:
    """What is stored of identities that are no longer held."""
    return {
        key: StoredCharge(charge.kafka_offset, charge.fingerprint)
        for key, charge in stored_charges(client, keys).items()
    }


def look_up_messages(client: Client, keys: Sequence[tuple[str, bytes]]) -> Mapping[bytes, StoredMessage]:
    """What is stored of messages that may be refunded."""
    return stored_messages(client, keys)


def recompute(client: Client, windows: Mapping[tuple[str, int], int]) -> list[list[Any]]:
    """Windows that are no longer held, summed from the stored facts, as columns of `USAGE`."""
    return recompute_windows(client, windows)


def snapshots(
    changes: Sequence[tuple[int, StateChanges]], plan_at: Callable[[Account], PlanTerms | None]
) -> list[tuple[Table, list[list[Any]]]]:
    """What a checkpoint stores of (partition, changes): absolute rows of windows, usage entries and accounts.

    Made of the values that are kept, not of the live objects behind them: these are of one offset however late the
    rows are made, so a thread makes them while folding goes on. With 10 000 accounts it would stand still for longer
    than a command may wait for its answer.
    """
    windows = [
        (partition, decode_kept(_decode_window, value))
        for partition, each in changes
        for value in each.windows.values()
        if value is not None
    ]
    accounts = (
        (partition, decode_kept(_decode_account, value))
        for partition, each in changes
        for value in each.accounts.values()
        if value is not None
    )
    return [
        (USAGE, usage_columns(window for _, window in windows)),
        (ENTRIES, usage_entry_columns(windows)),
        (
            ACCOUNTS,
            account_columns((partition, account, plan_at(account)) for partition, account in accounts),
        ),
    ]


def alert_columns(alerts: Iterable[Document]) -> list[list[Any]]:
    """Alerts as columns."""
    return _columns(
        ALERTS,
        (
            (
                alert["tenant"], alert["id"], alert["period_start"], alert["period_end"], alert["level"],
                alert["arming"], _micros(alert["used"]), _micros(alert["limit"]),
                _micros(alert["remaining"]), alert["run_out_at"], alert["occurred_at"], alert["partition"],
                alert["offset"], alert["offset"],
            )
            for alert in alerts
        ),
    )  # fmt: skip


def entry_columns(entries: Iterable[tuple[int, str, Entry]]) -> list[list[Any]]:
    """(partition, tenant, entry) as columns."""
    return _columns(
        ENTRIES,
        (
            (
                tenant, entry.entry_id, entry.kind, entry.grant_id, entry.window_start // SECOND_MILLISECONDS,
                entry.amount, entry.balance_after, entry.money_micros, entry.currency, entry.cause, entry.effective_at,
                entry.posted_at, partition, entry.offset,
            )
            for partition, tenant, entry in entries
        ),
    )  # fmt: skip


def usage_columns(windows: Iterable[Window]) -> list[list[Any]]:
    """Windows as columns: one row per dimensions, absolute."""
    return _columns(
        USAGE,
        (
            (window.tenant, window.start // SECOND_MILLISECONDS, *dimensions, *cell, window.applied_offset)
            for window in windows
            for dimensions, cell in window.cells.items()
        ),
    )


def usage_entry_columns(windows: Iterable[tuple[int, Window]]) -> list[list[Any]]:
    """The ledger's lines of (partition, window) as columns."""
    return entry_columns(
        (partition, window.tenant, entry) for partition, window in windows for entry in usage_entries(window)
    )


def contact_columns(marks: Iterable[ContactMark]) -> list[list[Any]]:
    """Marks of contacts as columns."""
    return _columns(CONTACTS, marks)


def account_columns(accounts: Iterable[tuple[int, Account, PlanTerms | None]]) -> list[list[Any]]:
    """(partition, account, its plan now) as columns; who has neither plan nor credits has no account yet."""
    return _columns(
        ACCOUNTS,
        (
            _account_row(partition, account, plan)
            for partition, account, plan in accounts
            if account.periods or account.plans or account.grants
        ),
    )


def _account_row(partition: int, account: Account, plan: PlanTerms | None) -> tuple[Any, ...]:
    now = account.clock_at
    # Before a plan comes into force there is a period in which nothing happens.
    period = account.period_at(now) if account.periods else Period(now, now, limit=0)
    due_at = next_due(account, plan.late_grace_milliseconds if plan else 0)
    grants = [
        {
            "id": grant.id, "kind": grant.kind, "amount": grant.amount, "remaining": grant.remaining,
            "starts_at": grant.starts_at, "expires_at": grant.expires_at, "is_expired": grant.is_expired,
            "cost_micros": grant.cost_micros, "currency": grant.currency, "is_extended": grant.is_extended,
        }
        for grant in account.grants
    ]  # fmt: skip
    return (
        account.tenant, account.organization, plan.name if plan else "", plan.zone if plan else "UTC",
        period.starts_at, period.ends_at, period.limit, period.used, account.balance, account.uncovered,
        account.available, account.reserved, account.unassigned, _encode_grants(grants).decode(),
        None if due_at == FOREVER_AT else due_at, encode_details(account_details(account, plan)), now, partition,
        account.applied_offset,
    )  # fmt: skip


def _columns(table: Table, rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in table.columns]


def _micros(credits_text: str) -> int:
    """The micro-credits in one of our own documents: exact, and without the bound on what people may write."""
    return int(Decimal(credits_text) * MICROS)
