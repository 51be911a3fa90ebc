"""The facts table from Python: its columns, how to fill them fast, and what an old message was charged.

Takes keys of messages; gives the charges stored for them, in brief to know a repetition, whole to refund it.
`client.insert(client, FACTS, columns, token)` stores facts. Never decides what is charged. Invariant: answers do
not depend on whether duplicate rows have been merged.

How to fill the columns (clickhouse-connect 1.12, 50 000 rows of 10 000 tenants, ns per row in the inserting
process; 1.4 us in all for 28 columns, and the engine's own 2 us at insert and 4 us in merges):
- numbers and instants: lists or tuples of Python ints, 6-28. `array.array` and numpy are slower: the driver
  packs Python ints, so their values would be boxed first. Instants are epoch milliseconds, dates are days.
- message_key: bytes of length 16, 35.
- LowCardinality columns: the same str object for the same value, 30-35; a new object per row costs its hash.
- String columns: 50 with new values; 40-90 with values shared between rows, for reaching them in memory.
- the split over grants: a str, an int and, in nearly every row, one shared empty mapping: 90 together;
  two arrays cost 300, a map per row 160 and as much again to build.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import Table, ask_whole
from pipeline.core.outcomes import FACT_COLUMNS, Fact
from pipeline.core.refunds import NO_OFFSET, StoredMessage, refund_key

_LABEL = "LowCardinality(String)"
_INSTANT = "DateTime64(3, 'UTC')"

FACTS = Table(
    "rated_messages",
    (
        ("tenant", "String"),
        ("message_key", "FixedString(16)"),
        ("message_id", "String"),
        ("source", _LABEL),
        ("kind", _LABEL),
        ("direction", _LABEL),
        ("status", _LABEL),
        ("country", _LABEL),
        ("category", _LABEL),
        ("list", "String"),
        ("member", "String"),
        ("inbox", "String"),
        ("campaign", "String"),
        ("encoding", _LABEL),
        ("occurred_at", _INSTANT),
        ("received_at", _INSTANT),
        ("local_date", "Date"),
        ("period_start", _INSTANT),
        ("messages", "Int8"),
        ("segments", "Int32"),
        ("quantity", "Int32"),
        ("rate_micros", "Int64"),
        ("credits_micros", "Int64"),
        ("rate_version", _LABEL),
        ("counterparty_hash", "UInt64"),
        ("grant_id", "String"),
        ("grant_micros", "Int64"),
        ("further_grants", "Map(String, Int64)"),
        ("fingerprint", "UInt32"),
        ("kafka_partition", "UInt16"),
        ("kafka_offset", "Int64"),
        ("version", "UInt64"),
    ),
)
"""`rated_messages`, in the order `insert` takes the columns."""

_ROWS_AT_ONCE = 256
"""As many facts as the processor's cache holds; turning 50 000 at once takes twice as long."""


def fact_columns(facts: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Turn facts, the fold's rows in the order of `FACTS` without version, into the columns `insert` takes.

    The version is the offset, the last field. Empty facts are empty columns. 0.36 us a row.
    """
    columns: list[list[Any]] = [[] for _ in FACTS.columns[:-1]]
    for start in range(0, len(facts), _ROWS_AT_ONCE):
        for column, values in zip(
            columns, zip(*facts[start : start + _ROWS_AT_ONCE], strict=True), strict=True
        ):
            column.extend(values)
    return [*columns, columns[-1]]


class StoredCharge(NamedTuple):
    """Where a stored message was charged, and the fingerprint of its immutable fields."""

    kafka_partition: int
    kafka_offset: int
    fingerprint: int


def stored_charges(client: Client, keys: Sequence[tuple[str, bytes]]) -> dict[bytes, StoredCharge]:
    """Return the charges stored for (tenant, message key of 16 bytes), by key; keys not stored are absent.

    One query for all of them, answered by the projection on message_key. Of several rows of a message the
    first charge counts, at the lowest offset.
    """
    charges: dict[bytes, StoredCharge] = {}
    for _, key, partition, offset, fingerprint in _rows_of(client, _CHARGES, set(keys)):
        first = charges.get(key)
        if first is None or offset < first.kafka_offset:
            charges[key] = StoredCharge(partition, offset, fingerprint)
    return charges


def stored_messages(client: Client, keys: Sequence[tuple[str, bytes]]) -> dict[bytes, StoredMessage]:
    """Return what a refund has to know of (tenant, message key of 16 bytes), by key; keys not stored are absent.

    The facts are what the fold gave, field by field. One query, as for `stored_charges`; the first row counts, of
    a charge as of a refund.
    """
    refund_keys = {key: refund_key(key) for _, key in keys}
    asked = {*keys, *((tenant, refund_keys[key]) for tenant, key in keys)}
    facts: dict[bytes, Fact] = {}
    for fact in _rows_of(client, _MESSAGES, asked):
        first = facts.get(fact[_KEY])
        if first is None or fact[_OFFSET] < first[_OFFSET]:
            facts[fact[_KEY]] = fact
    messages = {}
    for key, own_key in refund_keys.items():
        refund = facts.get(own_key)
        if key in facts:
            messages[key] = StoredMessage(facts[key], refund[_OFFSET] if refund else NO_OFFSET)
    return messages


def _rows_of(client: Client, statement: str, asked: set[tuple[str, bytes]]) -> Iterator[tuple[Any, ...]]:
    """Give the rows of (tenant, message key), with which every row begins; no query if none is asked for."""
    if not asked:
        return
    filled = statement.replace("KEYS", ", ".join(_literal(key) for _, key in asked))
    settings = {**_LOOK_UP_SETTINGS, "max_query_size": len(filled) + 1024}
    for row in ask_whole(client, filled, settings=settings):
        if row[:2] in asked:
            yield row


_CHARGES = """
SELECT tenant, message_key, kafka_partition, kafka_offset, fingerprint
FROM rated_messages
WHERE message_key IN (KEYS)
"""

_AS_NUMBER = {_INSTANT: "toUnixTimestamp64Milli({})", "Date": "toUInt16({})"}
"""The driver would make objects of instants and dates; facts have numbers."""
_MESSAGES = _CHARGES.replace(
    "tenant, message_key, kafka_partition, kafka_offset, fingerprint",
    ", ".join(_AS_NUMBER.get(kind, "{}").format(name) for name, kind in FACTS.columns[:-1]),
)
_KEY, _OFFSET = FACT_COLUMNS.index("message_key"), FACT_COLUMNS.index("kafka_offset")

_LOOK_UP_SETTINGS = {
    # By default the index is used on large tables only, and only for few keys.
    "min_table_rows_to_use_projection_index": 0,
    "max_projection_rows_to_use_projection_index": 1 << 62,
}


def _literal(key: bytes) -> str:
    """Write the key as a string literal of hexadecimal escapes, which no key can break out of."""
    assert len(key) == 16, "a message key has 16 bytes"
    return "'\\x" + key.hex("x").replace("x", "\\x") + "'"
