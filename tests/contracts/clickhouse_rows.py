"""Builders of facts and windows for the ClickHouse contracts: what a test does not name is harmless."""

from hashlib import blake2b
from typing import Any

from pipeline.clickhouse.client import Table
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE

NOON = 1_760_011_200_000
"""2025-10-09T12:00:00Z, in milliseconds."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    FACTS.name: {
        "tenant": "acme", "message_key": b"", "message_id": "", "source": "gateway", "kind": "sms",
        "direction": "outbound", "status": "sent", "country": "US", "category": "campaign", "list": "",
        "member": "", "inbox": "", "campaign": "", "encoding": "GSM-7", "occurred_at": NOON, "received_at": NOON,
        "local_date": 20_370, "period_start": NOON, "messages": 1, "segments": 1, "quantity": 1,
        "rate_micros": 1_000_000, "credits_micros": 1_000_000,
        "rate_version": "card-1", "counterparty_hash": 7, "grant_id": "g1", "grant_micros": 1_000_000,
        "further_grants": {}, "fingerprint": 9, "kafka_partition": 3, "kafka_offset": 0, "version": 0,
    },
    USAGE.name: {
        "tenant": "acme", "window_start": NOON // 1000, "kind": "sms", "direction": "outbound",
        "country": "US", "category": "campaign", "messages": 1, "segments": 1, "quantity": 1,
        "credits_micros": 1_000_000, "version": 0,
    },
    ACCOUNTS.name: {
        "tenant": "acme", "organization": "", "plan": "standard", "zone": "Asia/Kathmandu", "period_start": NOON,
        "period_end": NOON + 1, "limit_micros": 5, "used_micros": 3, "balance_micros": 2,
        "uncovered_micros": 0, "available_micros": 2, "reserved_micros": 0, "unassigned_micros": 2,
        "grants": "[]", "due_at": NOON + 1, "details": "", "as_of": NOON, "kafka_partition": 3, "version": 0,
    },
    ENTRIES.name: {
        "tenant": "acme", "entry_id": "e1", "kind": "usage", "grant_id": "g1", "window_start": NOON // 1000,
        "amount_micros": -5, "balance_after_micros": None, "money_micros": 0, "currency": "",
        "cause": "", "effective_at": NOON, "posted_at": NOON, "kafka_partition": 3, "version": 0,
    },
    CONTACTS.name: {
        "tenant": "acme", "contact_hash": 7, "state": "active", "effective_at": NOON, "kafka_partition": 3,
        "version": 0,
    },
    ALERTS.name: {
        "tenant": "acme", "alert_id": "a1", "period_start": NOON, "period_end": NOON + 1, "level": 80,
        "arming": 1, "used_micros": 80, "limit_micros": 100, "remaining_micros": 20, "run_out_at": None,
        "occurred_at": NOON, "kafka_partition": 3, "kafka_offset": 0, "version": 0,
    },
}  # fmt: skip


def key_of(name: str) -> bytes:
    """A message key of 16 bytes."""
    return blake2b(name.encode(), digest_size=16).digest()


def columns_of(table: Table, *rows: dict[str, Any]) -> list[list[Any]]:
    """The rows as columns of `table`; a fact without a key gets one made of its message_id."""
    full = [{**_DEFAULTS[table.name], **row} for row in rows]
    for row in full:
        if row.get("message_key") == b"":
            row["message_key"] = key_of(row["message_id"])
    return [[row[name] for row in full] for name in table.column_names]


def facts(count: int, **same: Any) -> list[list[Any]]:
    """The columns of `count` different facts that have `same` in common."""
    rows = [{"message_id": f"m{i}", "kafka_offset": i, "version": i, **same} for i in range(count)]
    return columns_of(FACTS, *rows)
