"""Migrations: applied once, in order, and never changed afterwards."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import connect
from pipeline.clickhouse.migrate import (
    SQL_DIRECTORY,
    MigrationError,
    applied_migrations,
    apply_migrations,
    create_database,
    read_migrations,
)
from pipeline.embedded.clickhouse import EmbeddedClickHouse


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    connected = connect(f"{clickhouse.url}/{database}")
    yield connected
    connected.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The repository's first migration and one more, to be tampered with."""
    first = SQL_DIRECTORY / "001_schema_migrations.sql"
    (tmp_path / first.name).write_bytes(first.read_bytes())
    (tmp_path / "002_second.sql").write_text("CREATE TABLE IF NOT EXISTS second (a UInt8) ENGINE = Null")
    return tmp_path


def tables(client: Client) -> list[str]:
    return [name for (name,) in client.query("SHOW TABLES").result_rows]


def test_every_migration_is_applied_once_in_order(client: Client) -> None:
    applied = apply_migrations(client)
    assert [each.version for each in applied] == list(range(1, len(applied) + 1))
    assert applied_migrations(client) == applied == read_migrations(SQL_DIRECTORY)
    assert apply_migrations(client) == []
    assert {"rated_messages", "usage_15m", "account_snapshots", "ledger_entries", "alerts"} <= set(
        tables(client)
    )


def test_only_what_is_missing_is_applied(client: Client, directory: Path) -> None:
    apply_migrations(client, directory)
    (directory / "003_third.sql").write_text("CREATE TABLE IF NOT EXISTS third (a UInt8) ENGINE = Null")
    assert [each.name for each in apply_migrations(client, directory)] == ["003_third"]


def test_statement_applied_but_not_recorded_is_applied_again(client: Client, directory: Path) -> None:
    """What a crash between the two leaves behind."""
    client.command((directory / "002_second.sql").read_text())
    assert len(apply_migrations(client, directory)) == 2


def test_two_runs_at_once_leave_the_same_database_as_one(
    clickhouse: EmbeddedClickHouse, database: str
) -> None:
    def run(_: int) -> None:
        client = connect(f"{clickhouse.url}/{database}")
        apply_migrations(client)
        client.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    client = connect(f"{clickhouse.url}/{database}")
    assert applied_migrations(client) == read_migrations(SQL_DIRECTORY)
    client.close()


def test_changed_migration_stops_before_anything_is_touched(client: Client, directory: Path) -> None:
    apply_migrations(client, directory)
    (directory / "002_second.sql").write_text("CREATE TABLE IF NOT EXISTS second (a UInt16) ENGINE = Null")
    (directory / "003_third.sql").write_text("CREATE TABLE IF NOT EXISTS third (a UInt8) ENGINE = Null")
    with pytest.raises(MigrationError, match="002_second was applied, but the file"):
        apply_migrations(client, directory)
    assert tables(client) == ["schema_migrations", "second"]


def test_database_ahead_of_the_program_is_refused(client: Client, directory: Path) -> None:
    apply_migrations(client, directory)
    (directory / "002_second.sql").unlink()
    with pytest.raises(MigrationError, match="older than the database"):
        apply_migrations(client, directory)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("4_short.sql", "not named"), ("004_Capital.sql", "not named"), ("004_gap.sql", "without gaps")],
)
def test_misnamed_migration_is_refused(client: Client, directory: Path, name: str, fault: str) -> None:
    (directory / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=fault):
        apply_migrations(client, directory)
    assert tables(client) == []


def test_migration_that_fails_leaves_the_earlier_ones_recorded(client: Client, directory: Path) -> None:
    (directory / "003_third.sql").write_text("CREATE TABLE IF NOT EXISTS third (a NoSuchType) ENGINE = Null")
    with pytest.raises(Exception, match="NoSuchType"):
        apply_migrations(client, directory)
    assert [each.name for each in applied_migrations(client)] == ["001_schema_migrations", "002_second"]


def test_database_is_created_where_it_is_missing(clickhouse: EmbeddedClickHouse, database: str) -> None:
    name = f"{database}_new"
    for _ in range(2):
        create_database(f"{clickhouse.url}/{name}")
    client = connect(f"{clickhouse.url}/{name}")
    assert client.command("SELECT currentDatabase()") == name
    client.command(f"DROP DATABASE {name}")
    client.close()


def test_every_migration_says_what_its_table_holds() -> None:
    for file in SQL_DIRECTORY.glob("*.sql"):
        header = file.read_text().split("CREATE")[0]
        for word in ("Grain:", "Key:", "Engine:", "Order:", "Retention:"):
            assert word in header, f"{file.name} does not say {word}"
