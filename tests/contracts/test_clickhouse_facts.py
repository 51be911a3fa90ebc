"""Old charges are found by key, and windows are summed anew from what is stored."""

from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_rows import NOON, columns_of, facts, key_of

from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.facts import (
    _CHARGES,
    _LOOK_UP_SETTINGS,
    FACTS,
    StoredCharge,
    fact_columns,
    stored_charges,
    stored_messages,
)
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import USAGE, WINDOWS_PER_QUERY, recompute_windows
from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.refunds import StoredMessage, refund_key
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from tests.builders import AT, Log, plan, run

QUARTER = 900_000


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    connected = connect(f"{clickhouse.url}/{database}")
    apply_migrations(connected)
    yield connected
    connected.close()


# Columns of folded facts.


def test_facts_of_the_fold_are_the_columns_of_the_table() -> None:
    assert (*FACT_COLUMNS, "version") == FACTS.column_names


@pytest.mark.parametrize("count", [0, 1, 256, 257, 1_000])
def test_columns_hold_the_facts_in_order(count: int) -> None:
    rows = [tuple(f"{name} {row}" for name in FACT_COLUMNS) for row in range(count)]
    columns = dict(zip(FACTS.column_names, fact_columns(rows), strict=True))
    for name in FACT_COLUMNS:
        assert columns[name] == [f"{name} {row}" for row in range(count)]
    assert columns["version"] == columns["kafka_offset"]


def test_fact_of_another_shape_is_a_bug() -> None:
    with pytest.raises(ValueError, match="zip"):
        fact_columns([("tenant", b"key")])


# Look-up by key.


def test_stored_charge_is_found_by_key(client: Client) -> None:
    rows = [
        {"message_id": f"m{i}", "kafka_offset": i, "kafka_partition": i % 5, "fingerprint": 2 * i}
        for i in range(9)
    ]
    insert(client, FACTS, columns_of(FACTS, *rows), "token")
    keys = [("acme", key_of(f"m{i}")) for i in (2, 7, 99)]
    assert stored_charges(client, keys) == {
        key_of("m2"): StoredCharge(2, 2, 4),
        key_of("m7"): StoredCharge(2, 7, 14),
    }


def test_no_keys_are_no_query(client: Client) -> None:
    client.command("DROP TABLE rated_messages")
    assert stored_charges(client, []) == {}


def test_another_tenants_key_is_not_found(client: Client) -> None:
    insert(client, FACTS, facts(1), "token")
    assert stored_charges(client, [("other", key_of("m0"))]) == {}


def test_keys_of_any_bytes_are_found(client: Client) -> None:
    """Quotes, backslashes, NUL and bytes that are no UTF-8 are in hashes too."""
    keys = [bytes([first]) + b"'\\\0`\"%{}\n$?\xff\xc3x;"[:15].ljust(15, b"\0") for first in range(256)]
    rows = [{"message_key": key, "kafka_offset": offset} for offset, key in enumerate(keys)]
    insert(client, FACTS, columns_of(FACTS, *rows), "token")
    found = stored_charges(client, [("acme", key) for key in keys])
    assert {key: charge.kafka_offset for key, charge in found.items()} == {
        key: offset for offset, key in enumerate(keys)
    }


def test_first_charge_counts_whether_merged_or_not(client: Client) -> None:
    for offset in (5, 4, 6):
        row = {"message_id": "same", "kafka_offset": offset, "version": offset, "occurred_at": NOON + offset}
        insert(client, FACTS, columns_of(FACTS, row), f"token {offset}")
    expected = {key_of("same"): StoredCharge(3, 4, 9)}
    assert stored_charges(client, [("acme", key_of("same"))]) == expected
    client.command("OPTIMIZE TABLE rated_messages FINAL")
    assert stored_charges(client, [("acme", key_of("same"))]) == expected


@pytest.mark.parametrize("merged", [False, True])
def test_look_up_reads_the_index_not_the_table(client: Client, merged: bool) -> None:
    insert(client, FACTS, facts(30_000), "token")
    insert(client, FACTS, facts(30_000, tenant="other"), "token 2")
    if merged:
        client.command("OPTIMIZE TABLE rated_messages FINAL")
    asked = _CHARGES.replace("KEYS", "'0123456789abcdef', 'fedcba9876543210'")
    rows = client.query(f"EXPLAIN projections = 1 {asked}", settings=_LOOK_UP_SETTINGS).result_rows
    plan = "\n".join(row[0] for row in rows)
    assert "Name: by_message_key" in plan
    assert len(stored_charges(client, [("acme", key_of(f"m{i}")) for i in range(20_000)])) == 20_000


def test_merge_that_drops_replaced_rows_keeps_the_index_right(client: Client) -> None:
    for version in range(3):
        insert(client, FACTS, facts(1_000, version=version, fingerprint=version), f"token {version}")
    client.command("OPTIMIZE TABLE rated_messages FINAL")
    assert client.command("SELECT count() FROM rated_messages") == 1_000
    found = stored_charges(client, [("acme", key_of(f"m{i}")) for i in range(1_000)])
    assert {charge.fingerprint for charge in found.values()} == {2}
    assert len(found) == 1_000


# Look-up of messages that may be refunded.


def folded(*statuses: str) -> list[tuple[Any, ...]]:
    """The facts of one message over a boundary of two grants, as the fold gives them."""
    log = Log()
    log.set_plan(plan("1", refunded_statuses=["failed"]))
    log.grant("5")
    for status in statuses:
        log.message("m1", status=status, body="x" * 161, list="vip", member="kim", inbox="sales")
    return list(run(log).effects.facts.values())


def stored(client: Client, facts: list[tuple[Any, ...]]) -> dict[bytes, StoredMessage]:
    insert(client, FACTS, fact_columns(facts), "token")
    return stored_messages(client, [(facts[0][AT["tenant"]], facts[0][AT["message_key"]])])


def test_stored_message_is_what_the_fold_gave(client: Client) -> None:
    (charge,) = folded("sent")
    assert charge[AT["further_grants"]]
    (message,) = stored(client, [charge]).values()
    assert message == StoredMessage(charge)
    assert [type(value) for value in message.charge] == [type(value) for value in charge]


def test_stored_refund_is_found_with_its_message(client: Client) -> None:
    charge, refund = folded("sent", "failed")
    key = charge[AT["message_key"]]
    assert refund[AT["message_key"]] == refund_key(key)
    assert stored(client, [charge, refund]) == {key: StoredMessage(charge, refund[AT["kafka_offset"]])}


def test_first_charge_and_first_refund_count(client: Client) -> None:
    for offset in (5, 4, 6):
        rows = [
            {
                "message_id": "same",
                "message_key": key,
                "kafka_offset": offset + later,
                "version": offset + later,
            }
            for key, later in ((key_of("same"), 0), (refund_key(key_of("same")), 10))
        ]
        insert(client, FACTS, columns_of(FACTS, *rows), f"token {offset}")
    (message,) = stored_messages(client, [("acme", key_of("same"))]).values()
    assert (message.charge[AT["kafka_offset"]], message.refund_offset) == (4, 14)


def test_another_tenants_message_is_not_found(client: Client) -> None:
    insert(client, FACTS, facts(1), "token")
    assert stored_messages(client, [("other", key_of("m0"))]) == {}
    client.command("DROP TABLE rated_messages")
    assert stored_messages(client, []) == {}


# Windows summed anew.


def windows(
    client: Client, versions: dict[tuple[str, int], int]
) -> dict[tuple[object, ...], tuple[object, ...]]:
    columns = recompute_windows(client, versions)
    return {row[:6]: row[6:] for row in zip(*columns, strict=True)}


def test_window_is_the_sum_of_its_facts(client: Client) -> None:
    rows = [
        {"message_id": "before", "occurred_at": NOON - 1},
        {"message_id": "first", "occurred_at": NOON, "segments": 2, "quantity": 2, "credits_micros": 20},
        {
            "message_id": "last",
            "occurred_at": NOON + QUARTER - 1,
            "segments": 3,
            "quantity": 1,
            "credits_micros": 5,
        },
        {"message_id": "after", "occurred_at": NOON + QUARTER},
        {"message_id": "mms", "kind": "mms", "occurred_at": NOON, "credits_micros": 7},
        {"message_id": "other", "tenant": "other", "occurred_at": NOON},
    ]
    insert(client, FACTS, columns_of(FACTS, *rows), "token")
    assert windows(client, {("acme", NOON): 42}) == {
        ("acme", NOON // 1000, "sms", "outbound", "US", "campaign"): (2, 5, 3, 25, 42),
        ("acme", NOON // 1000, "mms", "outbound", "US", "campaign"): (1, 1, 1, 7, 42),
    }


def test_facts_stored_twice_are_summed_once(client: Client) -> None:
    for token in ("token", "after a crash"):
        insert(client, FACTS, facts(100), token)
    assert windows(client, {("acme", NOON): 1}) == {
        ("acme", NOON // 1000, "sms", "outbound", "US", "campaign"): (100, 100, 100, 100_000_000, 1)
    }


def test_refund_takes_off_its_windows_sums_and_counts_no_message(client: Client) -> None:
    same = {"segments": 2, "quantity": 2, "credits_micros": 20}
    rows = [
        {"message_id": "m1", **same},
        {"message_id": "m2", **same},
        {"message_id": "m1", "message_key": key_of("m1 refund"), "messages": 0, "segments": 0, "quantity": -2,
         "credits_micros": -20},
    ]  # fmt: skip
    insert(client, FACTS, columns_of(FACTS, *rows), "token")
    assert windows(client, {("acme", NOON): 5}) == {
        ("acme", NOON // 1000, "sms", "outbound", "US", "campaign"): (2, 4, 2, 20, 5)
    }


def test_rows_stored_before_counted_messages_had_a_column_are_one_message_each(client: Client) -> None:
    names = [
        name for name in FACTS.column_names if name not in ("member", "inbox", "period_start", "messages")
    ]
    columns = dict(zip(FACTS.column_names, facts(3), strict=True))
    client.insert(FACTS.name, [columns[name] for name in names], column_names=names, column_oriented=True)
    assert windows(client, {("acme", NOON): 5}) == {
        ("acme", NOON // 1000, "sms", "outbound", "US", "campaign"): (3, 3, 3, 3_000_000, 5)
    }


def test_every_window_gets_its_own_version(client: Client) -> None:
    """More windows than one query takes, of tenants whose windows must not be mixed up."""
    versions = {(f"t{i % 7}", NOON + i * QUARTER): 1_000 + i for i in range(WINDOWS_PER_QUERY + 20)}
    rows = [
        {"tenant": f"t{tenant}", "message_id": f"{tenant} {i}", "occurred_at": NOON + i * QUARTER}
        for i in range(WINDOWS_PER_QUERY + 20)
        for tenant in (i % 7, (i + 1) % 7)
    ]
    insert(client, FACTS, columns_of(FACTS, *rows), "token")
    found = {key[:2]: row for key, row in windows(client, versions).items()}
    assert found == {
        (tenant, start // 1000): (1, 1, 1, 1_000_000, version)
        for (tenant, start), version in versions.items()
    }


def test_recomputed_window_replaces_the_stored_one(client: Client) -> None:
    stale = [
        {"messages": 99, "version": 5},
        {"country": "FR", "messages": 4, "version": 5},
        {"window_start": NOON // 1000 + 900, "messages": 8, "version": 5},
    ]
    insert(client, USAGE, columns_of(USAGE, *stale), "stream")
    insert(client, FACTS, facts(3), "token")
    insert(client, USAGE, recompute_windows(client, {("acme", NOON): 6}), "repair")
    stored = client.query(
        "SELECT toUnixTimestamp(window_start), country, messages FROM usage_15m FINAL ORDER BY ALL"
    )
    assert stored.result_rows == [
        (NOON // 1000, "FR", 0),
        (NOON // 1000, "US", 3),
        (NOON // 1000 + 900, "US", 8),
    ]


def test_window_nobody_knows_is_empty_columns(client: Client) -> None:
    assert recompute_windows(client, {("nobody", NOON): 1}) == [[] for _ in USAGE.columns]
    assert recompute_windows(client, {}) == [[] for _ in USAGE.columns]
