"""Deployments for end-to-end tests, on the broker and engine of the test session."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.settings import Settings
from tests.e2e.system import System, delete_topics

MakeSystem = Callable[..., System]

_SMALL = {
    "partitions": 8,
    "session_seconds": 6,
    "epoch_rows": 2_000,
    "epoch_milliseconds": 200,
    "checkpoint_rows": 6_000,
    "checkpoint_milliseconds": 1_000,
    "command_key": "signs commands of tests",
    "counterparty_key": "hashes counterparties of tests",
}
"""Epochs and checkpoints so small that a kill often falls between two effects of one."""


@pytest.fixture
def make_system(
    broker: EmbeddedBroker,
    clickhouse: EmbeddedClickHouse,
    database: str,
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Iterator[MakeSystem]:
    """Give `make_system(**settings)`: a migrated deployment; its workers end with the test."""
    made: list[System] = []

    def make(**changes: Any) -> System:
        given = {
            "kafka": broker.bootstrap_servers,
            "clickhouse": f"{clickhouse.url}/{database}",
            "application": unique_name("meter"),
        }
        settings = Settings(**{**_SMALL, **given, **changes})
        delete_topics(settings)
        system = System(settings, tmp_path)
        made.append(system)
        system.migrate()
        return system

    yield make
    for system in made:
        system.close()
        delete_topics(system.settings)
