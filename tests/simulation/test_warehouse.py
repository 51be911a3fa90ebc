"""The simulation's ClickHouse says what the real one does: the same inserts, merges and questions to both."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import Table, connect, insert
from pipeline.clickhouse.facts import FACTS, stored_charges, stored_messages
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE, recompute_windows
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from tests.builders import AT
from tests.simulation.oracle import Truth, stored_by
from tests.simulation.warehouse import TABLES, Row, StoredTable, Warehouse, WarehouseClient
from tests.simulation.world import World

STEPS = 80
VARIED = {
    FACTS.name: "credits_micros",
    USAGE.name: "credits_micros",
    ACCOUNTS.name: "used_micros",
    ENTRIES.name: "amount_micros",
    CONTACTS.name: "effective_at",
    ALERTS.name: "used_micros",
}
"""A column of each table that is not in its key: rows of one key are told apart by it."""
AS_NUMBER = {
    "DateTime64(3, 'UTC')": "toUnixTimestamp64Milli({})",
    "Nullable(DateTime64(3, 'UTC'))": "toUnixTimestamp64Milli({})",
    "DateTime('UTC')": "toUnixTimestamp({})",
    "Date": "toUInt16({})",
}


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    connected = connect(f"{clickhouse.url}/{database}")
    apply_migrations(connected)
    yield connected
    connected.close()


def rows_to_store() -> dict[str, list[Row]]:
    """Rows of every table, as a few worlds have them."""
    pool: dict[str, list[Row]] = {table.name: [] for table in TABLES}
    for seed in range(8):
        world = World(seed)
        world.loop.close()
        truths = [Truth(log, world.rules, number) for number, log in enumerate(world.broker.logs)]
        for name, table in stored_by(truths, world.rules).tables.items():
            pool[name] += table.final().values()
    assert all(pool.values())
    return pool


def varied(chance: Random, table: Table, row: Row) -> Row:
    """Perhaps another version of a row, perhaps other content of the same version."""
    names = table.column_names
    changed = list(row)
    if chance.random() < 0.7:
        changed[names.index(VARIED[table.name])] = chance.randrange(1_000_000)
    changed[names.index("version")] = chance.randrange(4)
    return tuple(changed)


def final_rows(client: Client, table: Table) -> list[Row]:
    columns = ", ".join(AS_NUMBER.get(kind, "{}").format(name) for name, kind in table.columns)
    rows = client.query(f"SELECT {columns} FROM {table.name} FINAL").result_rows
    return sorted(map(tuple, rows), key=repr)


def answers(client: Any, facts: list[Row]) -> tuple[Any, ...]:
    """What epochs ask, of some messages and windows."""
    keys = [(fact[AT["tenant"]], fact[AT["message_key"]]) for fact in facts]
    windows = {
        (fact[AT["tenant"]], fact[AT["occurred_at"]] // 900_000 * 900_000): fact[AT["kafka_offset"]]
        for fact in facts
    }
    return stored_charges(client, keys), stored_messages(client, keys), recompute_windows(client, windows)


@pytest.mark.parametrize("seed", [1, 2])
def test_both_hold_and_answer_the_same_after_the_same_inserts_and_merges(client: Client, seed: int) -> None:
    chance = Random(seed)
    pool = rows_to_store()
    twin: Any = WarehouseClient(Warehouse())
    tokens: dict[str, list[str]] = {table.name: [] for table in TABLES}
    asked = 0
    for step in range(STEPS):
        table = chance.choice(TABLES)
        if chance.random() < 0.15:
            client.command(f"OPTIMIZE TABLE {table.name} FINAL")
            twin.warehouse.tables[table.name].merge()
            continue
        few = chance.sample(pool[table.name], min(len(pool[table.name]), 5))
        columns = [list(column) for column in zip(*(varied(chance, table, row) for row in few), strict=True)]
        known = tokens[table.name]
        # A token that was used stores nothing, whatever comes under it.
        token = chance.choice(known) if known and chance.random() < 0.2 else f"{table.name} {step}"
        known.append(token)
        for each in (client, twin):
            insert(each, table, columns, token)
        if table is FACTS:
            asked += 1
            assert answers(client, few) == answers(twin, few)
    assert asked > 3
    for table in TABLES:
        held: StoredTable = twin.warehouse.tables[table.name]
        assert final_rows(client, table) == sorted(held.final().values(), key=repr), table.name
