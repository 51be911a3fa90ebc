"""The ClickHouse engine (chDB) of one data directory, driven by many threads.

Decides which engine handle runs a statement and with which database and settings. Takes
statements, query parameters and bodies as bytes; gives result bytes and counts. Knows nothing of
HTTP. Every method blocks; callers use threads.

Invariants:
- a handle serves one statement at a time (chDB answers a second one with an empty result);
- a handle's database and settings are exactly those its statement asked for, never leftovers of
  the statement before;
- an insert is committed when `insert` has returned, and refused when it raised.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
from typing import IO, TYPE_CHECKING

import chdb

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from pathlib import Path

# Idle handles kept; more are opened when more statements run at once, and closed afterwards.
_IDLE_HANDLES = 16
_ROWS_IN_MEMORY_BYTES = 64 * 1024 * 1024
# Formats whose blocks may follow each other; the others have a head or a foot, which chDB would
# write once per block. Source: clickhouse_connect.driver._backend.chdb_backend.
STREAMABLE_FORMATS = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})

_ERROR_CODE = re.compile(r"Code: (\d+)\.")
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNKNOWN_EXCEPTION = 1002
_UNKNOWN_SETTING = 115

# Caches default to gibibytes.
_ENGINE_CONFIGURATION = """<clickhouse>
  <timezone>UTC</timezone>
  <max_server_memory_usage>{memory_bytes}</max_server_memory_usage>
  <max_thread_pool_size>256</max_thread_pool_size>
  <max_thread_pool_free_size>64</max_thread_pool_free_size>
  <background_pool_size>{merge_threads}</background_pool_size>
  <mark_cache_size>67108864</mark_cache_size>
  <primary_index_cache_size>67108864</primary_index_cache_size>
  <index_mark_cache_size>16777216</index_mark_cache_size>
  <query_condition_cache_size>16777216</query_condition_cache_size>
</clickhouse>
"""


class EngineError(Exception):
    """A statement the engine refused; `code` is ClickHouse's own error number."""

    def __init__(self, text: str) -> None:
        start = text.find("Code: ")
        super().__init__(text[start:] if start > 0 else text)
        found = _ERROR_CODE.search(text)
        self.code = int(found.group(1)) if found else _UNKNOWN_EXCEPTION


def quoted_name(name: str) -> str:
    """Give `name` as an SQL identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quoted(value: str) -> str:
    """Give `value` as an SQL string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def setting_assignments(settings: Mapping[str, str]) -> str:
    """Give `a = '1', b = '2'`; EngineError for a name that is no identifier."""
    for name in settings:
        if not _SETTING_NAME.fullmatch(name):
            raise EngineError(f"Code: {_UNKNOWN_SETTING}. DB::Exception: no setting's name: {name!r}")
    # Quoted numbers are cast to the setting's type; bare ones would fail for text settings.
    return ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as refused:
        raise EngineError(str(refused)) from refused


class Handle:
    """One connection to the engine, with the database and settings it has at the moment.

    `standing` settings hold wherever a statement asks for nothing else.
    """

    def __init__(self, connection: chdb.state.sqlitelike.Connection, standing: Mapping[str, str]) -> None:
        self._connection = connection
        self._standing = dict(standing)
        self._database = "default"
        self._settings: dict[str, str] = {}
        self.adopt("default", {})

    def has(self, database: str, settings: Mapping[str, str]) -> bool:
        """Whether it is in this state already."""
        return self._database == database and self._settings == {**self._standing, **settings}

    def adopt(self, database: str, settings: Mapping[str, str]) -> None:
        """Take on a database and exactly these settings; EngineError for unknown ones."""
        with _engine_errors():
            if database != self._database:
                self._connection.query(f"USE {quoted_name(database)}")
                self._database = database
            wanted = {**self._standing, **settings}
            gone = self._settings.keys() - wanted.keys()
            changed = {name: value for name, value in wanted.items() if self._settings.get(name) != value}
            if gone:
                self._connection.query("SET " + ", ".join(f"{name} = DEFAULT" for name in sorted(gone)))
            if changed:
                # Noted first: a statement refused half-way may have set some of them.
                self._settings = {**self._settings, **changed}
                self._connection.query(f"SET {setting_assignments(changed)}")
            self._settings = wanted

    def query(
        self, statement: str, output_format: str, parameters: Mapping[str, str]
    ) -> tuple[bytes, dict[str, int]]:
        """Run a statement to its end; gives its output and counts (rows, bytes, nanoseconds)."""
        with _engine_errors():
            result = self._connection.query(statement, output_format, params=dict(parameters))
            counts = {
                "read_rows": result.rows_read(),
                "read_bytes": result.bytes_read(),
                "written_rows": result.rows_written(),
                "written_bytes": result.bytes_written(),
                "elapsed_ns": int(result.elapsed() * 1e9),
            }
            return result.bytes() or b"", counts

    def blocks(
        self, statement: str, output_format: str, parameters: Mapping[str, str]
    ) -> Generator[bytes, None, None]:
        """Run a query and give its output block by block; the format must be a streamable one."""
        with _engine_errors():
            stream = self._connection.send_query(statement, output_format, params=dict(parameters))
            try:
                for block in stream:
                    yield block.bytes()
            finally:
                stream.close()

    def insert(self, target: str, settings: str, data_format: str, rows: Rows) -> dict[str, int]:
        """Store `rows` and give the counts; EngineError when they are refused.

        `target` is table and columns as written, `settings` what follows SETTINGS, may be empty.
        """
        # Not chDB's own streaming insert: its finish() says success also when the storage
        # refused the rows (a violated constraint, a time-out), which are then lost.
        clause = f" SETTINGS {settings}" if settings else ""
        source = f"FROM INFILE {quoted(rows.path)} COMPRESSION 'none'{clause} FORMAT {data_format}"
        return self.query(f"INSERT INTO {target} {source}", "Null", {})[1]

    def close(self) -> None:
        """Release the engine's side of it."""
        self._connection.close()


class Rows:
    """An insert's data, gathered as it arrives: in memory, beyond a bound in an unlinked file.

    The engine sees it only when it is whole, because it would commit half of it at a block's end.
    """

    def __init__(self, spill_directory: Path) -> None:
        self._spill_directory = spill_directory
        self._size = 0
        self._file: IO[bytes] = os.fdopen(os.memfd_create("rows"), "w+b", buffering=0)

    @property
    def path(self) -> str:
        """Where the engine, in this process, finds them; valid until `close`."""
        return f"/proc/self/fd/{self._file.fileno()}"

    def append(self, piece: bytes) -> None:
        """Add the next bytes."""
        before = self._size
        self._size += len(piece)
        if before <= _ROWS_IN_MEMORY_BYTES < self._size:
            self._spill()
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]

    def _spill(self) -> None:
        in_memory = self._file
        in_memory.seek(0)
        # Closed by close(), as the one it replaces.
        self._file = tempfile.TemporaryFile(dir=self._spill_directory, buffering=0)  # noqa: SIM115
        shutil.copyfileobj(in_memory, self._file)
        in_memory.close()

    def close(self) -> None:
        """Forget them."""
        self._file.close()


class Engine:
    """The engine of a data directory. One per process, because chDB allows one path per process."""

    def __init__(
        self, directory: Path, *, memory_mebibytes: int, query_threads: int, merge_threads: int
    ) -> None:
        configuration = directory / "engine.xml"
        configuration.write_text(
            _ENGINE_CONFIGURATION.format(
                memory_bytes=memory_mebibytes * 1024 * 1024,
                merge_threads=merge_threads,
            ),
            encoding="utf-8",
        )
        # Here and not in the configuration, because chDB reads no profiles. An insert is gathered
        # to blocks of 256 MiB by default, of which several are in memory at once; 64 MiB still
        # hold some 300 000 rated messages in one part.
        self._standing = {
            "max_threads": str(query_threads),
            "max_insert_threads": "1",
            "min_insert_block_size_bytes": str(64 * 1024 * 1024),
        }
        self.spill_directory = directory
        self._target = f"{directory / 'data'}?config-file={configuration}"
        self._lock = threading.Lock()
        self._idle: list[Handle] = [self._open()]

    def _open(self) -> Handle:
        with _engine_errors():
            return Handle(chdb.connect(self._target), self._standing)

    def take(self, database: str, settings: Mapping[str, str]) -> Handle:
        """Give a handle nobody else uses, in that state; `give_back` it afterwards."""
        with self._lock:
            # Clients repeat their settings, so a handle that has them saves two statements.
            fitting = (index for index, handle in enumerate(self._idle) if handle.has(database, settings))
            index = next(fitting, -1)
            handle = self._idle.pop(index) if self._idle else None
        handle = handle or self._open()
        try:
            handle.adopt(database, settings)
        except EngineError:
            self.give_back(handle)
            raise
        return handle

    def give_back(self, handle: Handle) -> None:
        """Take a handle back for other statements."""
        with self._lock:
            if len(self._idle) < _IDLE_HANDLES:
                self._idle.append(handle)
                return
        handle.close()
