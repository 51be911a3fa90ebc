"""A ClickHouse of dictionaries: what inserts, merges and this system's queries do, and no more.

A table keeps, by the columns of its ORDER BY, the rows that were inserted and not yet merged away. A merge, whenever
it comes, leaves of each key the row with the highest version, of equal ones the last; FINAL answers as if it had come.
An insert under a token that is remembered stores nothing. `test_warehouse.py` holds it against the real engine.
"""

import re
from collections import deque
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.clickhouse.client import _SUMMARY_FIELD, Table
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.queries import _statement
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE

TABLES = (FACTS, USAGE, ACCOUNTS, ENTRIES, CONTACTS, ALERTS)
REMEMBERED_TOKENS = 1000
Row = tuple[Any, ...]
_SQL = Path(__file__).parents[2] / "sql"
_AT = {name: position for position, name in enumerate(FACTS.column_names)}
_DIMENSIONS = tuple(_AT[name] for name in ("kind", "direction", "country", "category"))
_SUMS = tuple(_AT[name] for name in ("messages", "segments", "quantity", "credits_micros"))
_CHARGE = tuple(
    _AT[name] for name in ("tenant", "message_key", "kafka_partition", "kafka_offset", "fingerprint")
)
_LITERAL = re.compile(r"'((?:\\x[0-9a-f]{2}){16})'")
WINDOW_SECONDS = 900
_WHOLE_HEAD = {_SUMMARY_FIELD: "0"}


@cache
def key_columns(table: str) -> tuple[int, ...]:
    """The positions of the columns in a table's ORDER BY, as its migration says."""
    text = next(
        text for path in _SQL.glob("*.sql") if f"IF NOT EXISTS {table}\n" in (text := path.read_text("utf-8"))
    )
    assert "ENGINE = ReplacingMergeTree(version)" in text
    names = re.findall(r"\w+", text.split("ORDER BY", 1)[1].split("SETTINGS")[0])
    columns = next(each for each in TABLES if each.name == table).column_names
    # A function of a column, such as toDate(occurred_at), adds nothing where the column itself is in the key.
    return tuple(dict.fromkeys(columns.index(name) for name in names if name in columns))


class StoredTable:
    """The rows of one table."""

    def __init__(self, table: Table) -> None:
        self.name = table.name
        self._key = key_columns(table.name)
        self._version = table.column_names.index("version")
        self.rows: dict[Row, list[Row]] = {}
        self.tokens: deque[str] = deque(maxlen=REMEMBERED_TOKENS)

    def insert(self, rows: list[Row], token: str) -> None:
        if token in self.tokens:
            return
        self.tokens.append(token)
        for row in rows:
            self.rows.setdefault(tuple(row[at] for at in self._key), []).append(row)

    def merge(self) -> None:
        for rows in self.rows.values():
            rows[:] = [self._winner(rows)]

    def final(self) -> dict[Row, Row]:
        """By key, the row that a merge of everything would leave."""
        return {key: self._winner(rows) for key, rows in self.rows.items()}

    def _winner(self, rows: list[Row]) -> Row:
        winner = rows[0]
        for row in rows[1:]:
            if row[self._version] >= winner[self._version]:
                winner = row
        return winner


class Warehouse:
    """All tables, and the queries that epochs ask."""

    def __init__(self) -> None:
        self.tables = {table.name: StoredTable(table) for table in TABLES}
        self._facts_by_message: dict[bytes, set[Row]] = {}

    def insert(self, table: str, columns: Any, token: str) -> None:
        rows = list(zip(*columns, strict=True))
        self.tables[table].insert(rows, token)
        if table == FACTS.name:
            key = key_columns(table)
            for row in rows:
                self._facts_by_message.setdefault(row[_AT["message_key"]], set()).add(
                    tuple(row[at] for at in key)
                )

    def query(self, statement: str, parameters: Any) -> list[Row]:
        if _statement("windows_from_facts") in statement:
            return self._windows_from_facts(parameters["tenants"], parameters["starts"])
        assert "FROM rated_messages\nWHERE message_key IN" in statement, statement
        keys = sorted(bytes.fromhex(each.replace("\\x", "")) for each in _LITERAL.findall(statement))
        wanted = tuple(range(len(_AT) - 1)) if "further_grants" in statement else _CHARGE
        facts = self.tables[FACTS.name].rows
        return [
            tuple(row[at] for at in wanted)
            for message_key in keys
            for key in sorted(self._facts_by_message.get(message_key, ()))
            for row in facts.get(key, ())
        ]

    def _windows_from_facts(self, tenants: list[str], starts: list[int]) -> list[Row]:
        asked = set(zip(tenants, starts, strict=True))
        sums: dict[Row, list[int]] = {}
        for key in self.tables[USAGE.name].final():
            if key[:2] in asked:
                sums[key] = [0, 0, 0, 0]
        for row in self.tables[FACTS.name].final().values():
            start = row[_AT["occurred_at"]] // 1000 // WINDOW_SECONDS * WINDOW_SECONDS
            if (row[_AT["tenant"]], start) in asked:
                key = (row[_AT["tenant"]], start, *(row[at] for at in _DIMENSIONS))
                cell = sums.setdefault(key, [0, 0, 0, 0])
                for position, at in enumerate(_SUMS):
                    cell[position] += row[at]
        return [(*key, *cell) for key, cell in sorted(sums.items())]


class WarehouseClient:
    """Stands where the driver's client does, of one warehouse that never fails; questions are those of `ask_whole`."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse

    def insert(self, table: str, columns: Any, *, settings: dict[str, Any], **_: Any) -> SimpleNamespace:
        self.warehouse.insert(table, columns, settings["insert_deduplication_token"])
        return SimpleNamespace(summary=_WHOLE_HEAD)

    def query(self, statement: str, *, parameters: Any = None, **_: Any) -> SimpleNamespace:
        assert statement.startswith("SELECT groupArray(tuple(*)) FROM (")
        rows = self.warehouse.query(statement, parameters)
        return SimpleNamespace(result_rows=[(rows,)], summary=_WHOLE_HEAD)
