"""Brings a database to the shape `sql/NNN_*.sql` describes; refuses when what was applied has been changed.

Takes a client and the directory; gives the migrations it applied. A file holds one statement, which must be
harmless to run twice (`IF NOT EXISTS`): so a crash between a statement and its record, or two runs at once,
leave the same database as one run. Never changes or skips an applied migration, never guesses.

Order: everything is checked before anything is touched; then each migration is applied and recorded before
the next one starts.
"""

import hashlib
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import Server, Table, ask_whole, connect, driver_errors, insert
from pipeline.errors import MsgmeterError


def _sql_directory() -> Path:
    """Where the files are: beside the package in a checkout, else where an installation has put them."""
    beside = Path(__file__).resolve().parents[2] / "sql"
    # Some other project's folder of that name may lie beside an installed package.
    if (beside / "001_schema_migrations.sql").is_file():
        return beside
    return Path(sys.prefix, "share", "msgmeter", "sql")


SQL_DIRECTORY = _sql_directory()

LEDGER = Table(
    "schema_migrations",
    (
        ("version", "UInt16"),
        ("name", "String"),
        ("checksum", "FixedString(64)"),
        ("applied_at", "DateTime64(3, 'UTC')"),
    ),
)

_LEDGER_EXISTS = "SELECT 1 FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"

_NAME = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")


class MigrationError(MsgmeterError):
    """Files or database are not what the migrations left; nothing was changed. The text lists every fault."""


@dataclass(frozen=True)
class Applied:
    """One migration, as a file holds it or the database records it."""

    version: int
    """Counted from 1 without gaps."""
    name: str
    checksum: str
    """SHA-256 of the file in hexadecimal."""


def apply_migrations(client: Client, directory: Path = SQL_DIRECTORY) -> list[Applied]:
    """Apply the migrations of `directory` that the database lacks, in order; return them, oldest first.

    Raises `MigrationError` before anything is touched if a file is misnamed or missing, an applied one was
    changed, or the database has migrations this directory does not know.
    """
    migrations = read_migrations(directory)
    recorded = applied_migrations(client)
    _check(migrations, recorded)
    pending = migrations[len(recorded) :]
    for migration in pending:
        with driver_errors():
            client.command((directory / f"{migration.name}.sql").read_text("utf-8"))
        _record(client, migration)
    return pending


def check_migrated(client: Client, directory: Path = SQL_DIRECTORY) -> None:
    """Raise `MigrationError` unless the database is what all migrations of `directory`, and no others, have made."""
    migrations = read_migrations(directory)
    recorded = applied_migrations(client)
    _check(migrations, recorded)
    if lacking := [migration.name for migration in migrations[len(recorded) :]]:
        raise MigrationError(f"The database lacks {', '.join(lacking)}: run `msgmeter migrate` first")


def create_database(server: Server | str) -> None:
    """Create the database that a server's URL names, unless it exists."""
    if isinstance(server, str):
        server = Server(server)
    parts = urlsplit(server.url)
    database = parts.path.strip("/") or "default"
    client = connect(replace(server, url=urlunsplit(parts._replace(path=""))))
    with driver_errors():
        client.command(
            "CREATE DATABASE IF NOT EXISTS {database:Identifier}", parameters={"database": database}
        )
        client.close()


def read_migrations(directory: Path) -> list[Applied]:
    """Return the migrations of a directory, oldest first."""
    files = sorted(directory.glob("*.sql"))
    faults = [f"{file.name} is not named NNN_words.sql" for file in files if not _NAME.fullmatch(file.name)]
    if faults:
        raise MigrationError("; ".join(faults))
    migrations = [
        Applied(int(file.name[:3]), file.stem, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files
    ]
    if [migration.version for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise MigrationError(f"The migrations in {directory.name}/ are not numbered from 001 without gaps")
    return migrations


def applied_migrations(client: Client) -> list[Applied]:
    """Return what the database records as applied, oldest first; nothing if it has no record yet."""
    if not ask_whole(client, _LEDGER_EXISTS, parameters={"name": LEDGER.name}):
        return []
    rows = ask_whole(client, f"SELECT version, name, checksum FROM {LEDGER.name} FINAL")  # noqa: S608 - our own name
    return [Applied(version, name, checksum.decode()) for version, name, checksum in sorted(rows)]


def _check(migrations: list[Applied], recorded: list[Applied]) -> None:
    faults = [
        f"{was.name} was applied, but the file ({now.name}) was changed since: write a new migration"
        for was, now in zip(recorded, migrations, strict=False)
        if was != now
    ]
    faults += [
        f"{was.name} was applied, but this program does not know it: it is older than the database"
        for was in recorded[len(migrations) :]
    ]
    if faults:
        raise MigrationError("; ".join(faults))


def _record(client: Client, migration: Applied) -> None:
    columns: list[list[object]] = [
        [migration.version],
        [migration.name],
        [migration.checksum.encode()],
        [time.time_ns() // 1_000_000],
    ]
    insert(client, LEDGER, columns, f"{migration.version}-{migration.checksum}")
