# ruff: noqa: ANN401 - it builds on Faust's stores, which are untyped.
"""Where a worker keeps the values of its tables: in memory, or in one RocksDB file per partition.

Decides how values and the position in the changelog lie on this machine. Takes changes of one partition;
gives values, and the `Position` up to which they are complete. Never talks to Kafka and never decides which
of two values wins.

Invariants:
- values and position of one `apply` are stored together or not at all, so the position is never ahead of
  the values; after a kill RocksDB may fall back to an earlier pair, which recovery completes;
- a partition that is not opened has no values here, whatever another worker left in the directory;
- a file of another changelog, or of a newer state version, is not read; the newer one is not touched either;
- no RocksDB file of this process is closed while another one is being opened.
"""

import contextlib
import logging
import shutil
import struct
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import rocksdb
from faust.stores import memory as faust_memory
from faust.stores import rocksdb as faust_rocksdb

import pipeline.stream.pins  # noqa: F401 - builds on private parts of Faust's stores
from pipeline.core import kept

_log = logging.getLogger(__name__)

Changes = Mapping[bytes, bytes | None]
"""Key to its value (pipeline/core/kept.py), or None where the key is deleted."""


class Position(NamedTuple):
    """How far the values of one partition are complete."""

    next_offset: int
    """The first changelog offset that is not contained."""
    floor: bytes
    """Applied offset (8 bytes, big-endian) of the last complete write: a key that is absent was absent or
    deleted at that point of the log. Empty while no write has completed."""


NOTHING = Position(0, b"")
"""The position of a partition of which nothing is stored."""


class MemoryStore(faust_memory.Store):  # type: ignore[misc]
    """A dictionary per partition; lost with the process."""

    def __post_init__(self) -> None:
        """Start without partitions (called at the end of the service's construction)."""
        super().__post_init__()
        self._partitions: dict[int, dict[bytes, bytes]] = {}
        self._positions: dict[int, Position] = {}

    def open_partition(self, partition: int, _changelog: bytes = b"") -> Position:
        """Give what is known of a partition; it can be read and changed from now on."""
        self._partitions.setdefault(partition, {})
        self._show_opened()
        return self._positions.setdefault(partition, NOTHING)

    def close_partition(self, partition: int) -> None:
        """Drop the values of a partition that another worker may now own."""
        self._partitions.pop(partition, None)
        self._positions.pop(partition, None)
        self._show_opened()

    def wipe_partition(self, partition: int) -> None:
        """Forget the values of an open partition, because they cannot be trusted."""
        self._partitions[partition] = {}
        self._positions[partition] = NOTHING
        self._show_opened()

    def _show_opened(self) -> None:
        # What Faust's own table interface reads: all keys of this worker.
        self.data = ChainMap(*self._partitions.values())

    def opened(self) -> set[int]:
        """Give the open partitions."""
        return set(self._partitions)

    def lookup(self, partition: int) -> Callable[[bytes], bytes | None]:
        """Give the function that finds a key's value in an open partition."""
        return self._partitions[partition].get

    def items_of(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Give keys and values of an open partition as they are now, in no particular order."""
        return iter(list(self._partitions[partition].items()))

    def position_of(self, partition: int) -> Position:
        """Give the position of an open partition."""
        return self._positions[partition]

    def apply(self, partition: int, changes: Changes, position: Position) -> None:
        """Store changes of an open partition and the position they lead to."""
        values = self._partitions[partition]
        for key, value in changes.items():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        self._positions[partition] = position


_POSITION_KEY = b"__msgmeter\0position__"
# Next changelog offset, milliseconds since 1970 when it was stored; since state version 2 that version, and the
# changelog's topic id, zeros where it is not known. Then the floor: 8 bytes or none.
_POSITION_NUMBERS = struct.Struct(">QQ")
_POSITION_HEAD = struct.Struct(">QQB16s")
_UNKNOWN_CHANGELOG = bytes(16)
# A key deleted while a worker was away is known from its tombstone, which Kafka keeps for delete.retention.ms
# (7 days, pipeline/topics.py). Older files could bring deleted keys back.
_FILE_AGE_MAX_MS = 6 * 86_400_000
# Workers that share a directory hand a partition's file over: the one that lost it closes it when its own
# recovery begins, a moment before or after ours.
_LOCKED_SECONDS_MAX = 20.0
# Per partition and table, so times 96 in a worker that owns all: Faust's defaults (64 MiB buffers, 2 GiB of
# cache and 90 % of the process's files each) are for one large database.
_WRITE_BUFFER_BYTES = 2 * 1024 * 1024
_OPEN_FILES_MAX = 24
_BLOCK_CACHE_BYTES = 32 * 1024 * 1024


class _SharedTimer:
    """Keeps closing apart from opening, because RocksDB 6.14 aborts the process when they meet.

    All files of a process share one timer thread (it flushes their logs, whatever the options say). Closing
    the last file ends it, without a lock between that and the opening that starts it again: "terminate
    called without an active exception". A worker meets this where it wipes files while it opens others.
    Openings go side by side, because they mostly wait for the disk.
    Source: https://github.com/facebook/rocksdb/issues/7711, mended after 6.14 by pull request 7888.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._openings = 0

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Wait until nobody closes a file; then nobody does until the end of the block."""
        with self._changed:
            self._openings += 1
        try:
            yield
        finally:
            with self._changed:
                self._openings -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Wait until nobody opens or closes a file; then nobody does until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._openings)
            yield


_shared_timer = _SharedTimer()


class _Options(faust_rocksdb.RocksDBOptions):  # type: ignore[misc]
    """RocksDB settings of all partitions of one table, which share one block cache."""

    def __init__(self) -> None:
        super().__init__(use_rocksdict=False)
        self._block_cache = rocksdb.LRUCache(_BLOCK_CACHE_BYTES)

    def as_options(self) -> Any:
        """Give fresh options: RocksDB binds an object to the file opened with it."""
        return rocksdb.Options(
            create_if_missing=True,
            max_open_files=_OPEN_FILES_MAX,
            write_buffer_size=_WRITE_BUFFER_BYTES,
            max_write_buffer_number=2,
            target_file_size_base=8 * _WRITE_BUFFER_BYTES,
            table_factory=rocksdb.BlockBasedTableFactory(
                filter_policy=rocksdb.BloomFilterPolicy(10), block_cache=self._block_cache
            ),
        )


class RocksStore(faust_rocksdb.Store):  # type: ignore[misc]
    """A RocksDB file per partition under Faust's table directory; survives the process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The driver is stated, because Faust prefers rocksdict, with another file format, where it is
        # installed (faust/stores/rocksdb.py:67).
        kwargs["options"] = {"driver": "python-rocksdb"}
        super().__init__(*args, **kwargs)
        self.rocksdb_options = _Options()
        self._changelogs: dict[int, bytes] = {}
        """By open partition: the topic id of its changelog."""

    def open_partition(self, partition: int, changelog: bytes = _UNKNOWN_CHANGELOG) -> Position:
        """Open the partition's file, or begin a new one where it is missing, corrupt, too old or of another topic.

        Waits for a file that another worker on this machine is about to close. Runs in a thread. Raises
        StateVersionError where a newer program wrote it.
        """
        self._changelogs[partition] = changelog
        deadline = time.monotonic() + _LOCKED_SECONDS_MAX
        while True:
            try:
                position, stored_at_ms, stored_changelog = self._stored_position(partition)
            except rocksdb.errors.Error as error:
                if "lock" not in str(error).lower():
                    return self._begin_anew(partition, f"it cannot be read: {error}")
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                break
        if position != NOTHING and stored_at_ms < time.time() * 1000 - _FILE_AGE_MAX_MS:
            return self._begin_anew(partition, f"it was last changed {stored_at_ms} ms after 1970")
        if _UNKNOWN_CHANGELOG not in (changelog, stored_changelog) and changelog != stored_changelog:
            return self._begin_anew(partition, "it is of another topic, or of one that was made anew since")
        return position

    def _stored_position(self, partition: int) -> tuple[Position, int, bytes]:
        """Give the position in a partition's file, when it was stored and of which changelog.

        Opens the file if need be. Raises StateVersionError where a newer program wrote it.
        """
        stored = self._db_for_partition(partition).get(_POSITION_KEY)
        if stored is None:
            return NOTHING, 0, _UNKNOWN_CHANGELOG
        if len(stored) < _POSITION_HEAD.size:  # Of state version 1.
            next_offset, stored_at_ms = _POSITION_NUMBERS.unpack_from(stored)
            return Position(next_offset, stored[_POSITION_NUMBERS.size :]), stored_at_ms, _UNKNOWN_CHANGELOG
        next_offset, stored_at_ms, version, changelog = _POSITION_HEAD.unpack_from(stored)
        if version > kept.STATE_VERSION:
            raise kept.StateVersionError(version)
        return Position(next_offset, stored[_POSITION_HEAD.size :]), stored_at_ms, changelog

    def _begin_anew(self, partition: int, reason: str) -> Position:
        _log.warning("%s: partition %d is rebuilt from its changelog: %s", self.table_name, partition, reason)
        self.wipe_partition(partition)
        return NOTHING

    def _open_for_partition(self, partition: int) -> Any:
        with _shared_timer.opening():
            return super()._open_for_partition(partition)

    def close_partition(self, partition: int) -> None:
        """Close the file and with it its lock; the next owner may be another process on this machine."""
        db = self._dbs.pop(partition, None)
        if db is not None:
            with _shared_timer.closing():
                db.close()

    def wipe_partition(self, partition: int) -> None:
        """Delete the file, because it cannot be trusted, and open an empty one."""
        self.close_partition(partition)
        shutil.rmtree(self.partition_path(partition), ignore_errors=True)
        self._db_for_partition(partition)

    def opened(self) -> set[int]:
        """Give the open partitions."""
        return set(self._dbs)

    def lookup(self, partition: int) -> Callable[[bytes], bytes | None]:
        """Give the function that finds a key's value in an open partition."""
        found: Callable[[bytes], bytes | None] = self._dbs[partition].get
        return found

    def items_of(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Give keys and values of an open partition as they were when asked, by key."""
        cursor = self._dbs[partition].iteritems()
        cursor.seek_to_first()
        return ((key, value) for key, value in cursor if key != _POSITION_KEY)

    def position_of(self, partition: int) -> Position:
        """Give the position of an open partition."""
        return self._stored_position(partition)[0]

    def apply(self, partition: int, changes: Changes, position: Position) -> None:
        """Store changes of an open partition and, in the same batch, the position they lead to.

        Without RocksDB's own log, which costs 3 us a key: the changelog is the log. What a kill takes
        (the buffers not yet flushed, values and positions alike) is read again from there.
        """
        batch = rocksdb.WriteBatch()
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        head = _POSITION_HEAD.pack(
            position.next_offset, int(time.time() * 1000), kept.STATE_VERSION, self._changelogs[partition]
        )
        batch.put(_POSITION_KEY, head + position.floor)
        self._dbs[partition].write(batch, disable_wal=True)

    def persisted_offset(self, tp: Any) -> int | None:
        """Give the last changelog offset contained, as Faust asks for it."""
        position = self.position_of(tp.partition)
        return position.next_offset - 1 if position.next_offset else None

    def _dbs_for_actives(self) -> Iterator[Any]:
        # Upstream asks the assignor for changelog partitions, which are not in the group here.
        return iter(self._dbs.values())

    def _visible_items(self, db: Any) -> Iterator[tuple[bytes, bytes]]:
        return (item for item in super()._visible_items(db) if item[0] != _POSITION_KEY)

    def _visible_keys(self, db: Any) -> Iterator[bytes]:
        return (key for key in super()._visible_keys(db) if key != _POSITION_KEY)

    async def stop(self) -> None:
        """Close every file; upstream leaves that to the garbage collector (faust/stores/rocksdb.py:543)."""
        for partition in list(self._dbs):
            self.close_partition(partition)
        await super().stop()


PartitionedStore = MemoryStore | RocksStore
