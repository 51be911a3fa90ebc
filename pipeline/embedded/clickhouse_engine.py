"""The ClickHouse engine (chDB) of one data directory, driven by many threads.

Decides which engine handle runs a statement and with which database and settings. Takes
statements, query parameters and bodies as bytes; gives result bytes and counts. Knows nothing of
HTTP. Every method blocks; callers use threads.

Invariants:
- a handle serves one statement at a time (chDB answers a second one with an empty result);
- a handle's database and settings are exactly those its statement asked for, never leftovers of
  the statement before;
- an insert is committed when `finish` has returned, and not at all after `cancel`.
"""

from __future__ import annotations

import contextlib
import re
import threading
from typing import TYPE_CHECKING

import chdb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Idle handles kept; more are opened when more statements run at once, and closed afterwards.
_IDLE_HANDLES = 16
# Formats whose blocks may follow each other; the others have a head or a foot, which chDB would
# write once per block. Source: clickhouse_connect.driver._backend.chdb_backend.
STREAMABLE_FORMATS = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})

_ERROR_CODE = re.compile(r"Code: (\d+)\.")
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNKNOWN_EXCEPTION = 1002
_UNKNOWN_SETTING = 115

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
  <profiles><default>
    <max_threads>{query_threads}</max_threads>
    <max_insert_threads>1</max_insert_threads>
  </default></profiles>
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
    """One connection to the engine, with the database and settings it has at the moment."""

    def __init__(self, connection: chdb.state.sqlitelike.Connection) -> None:
        self._connection = connection
        self._database = "default"
        self._settings: dict[str, str] = {}

    def has(self, database: str, settings: Mapping[str, str]) -> bool:
        """Whether it is in this state already."""
        return self._database == database and self._settings == settings

    def adopt(self, database: str, settings: Mapping[str, str]) -> None:
        """Take on a database and exactly these settings; EngineError for unknown ones."""
        with _engine_errors():
            if database != self._database:
                self._connection.query(f"USE {quoted_name(database)}")
                self._database = database
            gone = self._settings.keys() - settings.keys()
            changed = {name: value for name, value in settings.items() if self._settings.get(name) != value}
            if gone:
                self._connection.query("SET " + ", ".join(f"{name} = DEFAULT" for name in sorted(gone)))
            if changed:
                # Noted first: a statement refused half-way may have set some of them.
                self._settings = {**self._settings, **changed}
                self._connection.query(f"SET {setting_assignments(changed)}")
            self._settings = dict(settings)

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

    def blocks(self, statement: str, output_format: str, parameters: Mapping[str, str]) -> Iterator[bytes]:
        """Run a query and give its output block by block; the format must be a streamable one."""
        with _engine_errors():
            stream = self._connection.send_query(statement, output_format, params=dict(parameters))
            try:
                for block in stream:
                    yield block.bytes()
            finally:
                stream.close()

    def insert(self, statement: str, data_format: str) -> Insert:
        """Open an insert: `INSERT INTO t (a, b) [SETTINGS …]`, without a FORMAT clause."""
        with _engine_errors():
            return Insert(self._connection.send_insert(statement, data_format))

    def close(self) -> None:
        """Release the engine's side of it."""
        self._connection.close()


class Insert:
    """An insert being written: append bytes as they come, then finish or cancel."""

    def __init__(self, inserter: chdb.state.sqlitelike.StreamingInserter) -> None:
        self._inserter = inserter

    def append(self, data: bytes) -> None:
        """Hand over the next bytes; they need not end at a row or block."""
        with _engine_errors():
            self._inserter.append(data)

    def finish(self) -> dict[str, int]:
        """Commit; gives the counts. EngineError when the rows were refused: none are stored."""
        with _engine_errors():
            done = self._inserter.finish()
        return {
            "written_rows": done.rows_written,
            "written_bytes": done.bytes_written,
            "elapsed_ns": int(done.elapsed * 1e9),
        }

    def cancel(self) -> None:
        """Drop what was appended."""
        with contextlib.suppress(RuntimeError):
            self._inserter.cancel()


class Engine:
    """The engine of a data directory. One per process, because chDB allows one path per process."""

    def __init__(
        self, directory: Path, *, memory_mebibytes: int, query_threads: int, merge_threads: int
    ) -> None:
        configuration = directory / "engine.xml"
        configuration.write_text(
            _ENGINE_CONFIGURATION.format(
                memory_bytes=memory_mebibytes * 1024 * 1024,
                query_threads=query_threads,
                merge_threads=merge_threads,
            ),
            encoding="utf-8",
        )
        self._target = f"{directory / 'data'}?config-file={configuration}"
        self._lock = threading.Lock()
        self._idle: list[Handle] = [self._open()]

    def _open(self) -> Handle:
        with _engine_errors():
            return Handle(chdb.connect(self._target))

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
