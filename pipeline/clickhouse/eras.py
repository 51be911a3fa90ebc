"""The eras of the log as the database records them: where `msgmeter repartition` stands.

Takes a client; gives the eras, and records steps. A row replaces the one of its era. Era 0 has none.
"""

import time
import uuid
from dataclasses import dataclass, replace
from typing import Literal

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import Table, ask, ask_whole, insert
from pipeline.core.eras import Era
from pipeline.errors import Permanent

LOG_ERAS = Table(
    "log_eras",
    (
        ("era", "UInt16"),
        ("partitions", "UInt16"),
        ("first_offsets", "Array(UInt64)"),
        ("state", "LowCardinality(String)"),
        ("changed_at", "DateTime64(3, 'UTC')"),
        ("version", "UInt32"),
    ),
)

EraState = Literal["begun", "ready", "withdrawn"]
"""One that was withdrawn gives its number to the next."""


@dataclass(frozen=True)
class RecordedEra:
    """One era's row."""

    era: Era
    """Without first offsets until it is checked that nothing before them is left to do."""
    partitions: int
    state: EraState
    version: int = 0
    """Steps recorded."""


def recorded_eras(client: Client) -> list[RecordedEra]:
    """Every era after the first, in order; only the last may be other than ready.

    Raises Permanent where the database lacks the table.
    """
    if not ask(client, f"EXISTS TABLE {LOG_ERAS.name}")[0][0]:
        raise Permanent(f"The database has no table {LOG_ERAS.name}: run `msgmeter migrate`")
    # An answer that was cut off must not pass for the first era.
    rows = ask_whole(client, "SELECT era, partitions, first_offsets, state, version FROM log_eras FINAL")
    return [
        RecordedEra(Era(number, tuple(first_offsets)), partitions, state, version)
        for number, partitions, first_offsets, state, version in sorted(rows)
    ]


def record(client: Client, recorded: RecordedEra) -> RecordedEra:
    """Records the next step of an era; gives it as recorded."""
    stored = replace(recorded, version=recorded.version + 1)
    columns: list[list[object]] = [
        [stored.era.number],
        [stored.partitions],
        [list(stored.era.first_offsets)],
        [stored.state],
        [time.time_ns() // 1_000_000],
        [stored.version],
    ]
    insert(client, LOG_ERAS, columns, uuid.uuid4().hex)
    return stored
