# ruff: noqa: ANN401 - it builds on Faust's stores, which are untyped.
"""Where a worker keeps the values of its tables: in memory, or in one RocksDB file per partition.

Decides how values, the position in the changelog and a reader's notes lie on this machine. Takes changes of one
partition; gives values, and the `Position` up to which they are complete. Never talks to Kafka and never decides
which of two values wins.

Invariants:
- values, notes and position of one `apply` are stored together or not at all, so the position is never ahead of
  the values; after a kill RocksDB may fall back to an earlier pair, which recovery completes;
- a partition that is not opened has no values here, whatever another worker left in the directory;
- a file of another changelog, or of a newer state version, is not read; the newer one is not touched either;
- no value of a damaged file is given: every block's checksum is looked at, which RocksDB leaves out by itself. Whoever
  meets one gets `DamagedFileError` and ends; the file is noted, and rebuilt when it is opened next;
- no RocksDB file of this process is closed while another one is being opened.
"""

import logging
import shutil
import struct
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import rocksdb
from faust.stores import memory as faust_memory
from faust.stores import rocksdb as faust_rocksdb

import pipeline.stream.pins  # noqa: F401 - builds on private parts of Faust's stores
from pipeline.core import kept
from pipeline.stream.disk import full_disk_ends_process
from pipeline.stream.notes import Notes
from pipeline.stream.rocksdb_files import (
    DamagedFileError,
    FileLockedError,
    PartitionOptions,
    UnusableFileError,
    is_damage,
    is_locked,
    said,
    shared_timer,
)

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

    def behind(self, next_offset: int, count: int) -> "Position":
        """The position behind `count` records of our own that end before `next_offset` (0: nobody knows where).

        It stays where records of somebody else stand before ours: they have to be read, or a loser among them
        would never be noticed.
        """
        return self._replace(next_offset=next_offset) if next_offset - count == self.next_offset else self


NOTHING = Position(0, b"")
"""The position of a partition of which nothing is stored."""


class MemoryStore(faust_memory.Store):  # type: ignore[misc]
    """A dictionary per partition; lost with the process."""

    def __post_init__(self) -> None:
        """Start without partitions (called at the end of the service's construction)."""
        super().__post_init__()
        self._partitions: dict[int, dict[bytes, bytes]] = {}
        self._positions: dict[int, Position] = {}
        self._notes: dict[int, Notes] = {}

    def lacks_file(self, _partition: int) -> bool:
        """Tell whether a partition's file is missing: there are none."""
        return False

    def open_partition(self, partition: int, *_: bytes | int, waits: bool = True) -> Position:  # noqa: ARG002 - there is no lock
        """Give what is known of a partition; it can be read and changed from now on."""
        self._partitions.setdefault(partition, {})
        self._notes.setdefault(partition, Notes())
        self._show_opened()
        return self._positions.setdefault(partition, NOTHING)

    def close_partition(self, partition: int) -> None:
        """Drop the values of a partition that another worker may now own."""
        self._partitions.pop(partition, None)
        self._positions.pop(partition, None)
        self._notes.pop(partition, None)
        self._show_opened()

    def wipe_partition(self, partition: int) -> None:
        """Forget the values of an open partition, because they cannot be trusted."""
        self._partitions[partition] = {}
        self._positions[partition] = NOTHING
        self._notes[partition] = Notes()
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

    def notes_of(self, partition: int) -> Notes:
        """Give the notes of an open partition; whoever changes them names the keys in the next `apply`."""
        return self._notes[partition]

    def apply(
        self,
        partition: int,
        changes: Changes,
        position: Position,
        noted: Iterable[bytes] = (),  # noqa: ARG002 - notes are in memory already
    ) -> None:
        """Store changes of an open partition, the position they lead to, and the notes of the keys `noted`."""
        values = self._partitions[partition]
        for key, value in changes.items():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        self._positions[partition] = position


# No key of a table begins like this: tenants have no NUL, and as an instant or a number it is too large.
_OWN_KEYS = b"__msgmeter\0"
_POSITION_KEY = _OWN_KEYS + b"position__"
_TOMBSTONE_KEYS = _OWN_KEYS + b"tombstone\0"
_OUTDATED_KEYS = _OWN_KEYS + b"outdated\0"
# Next changelog offset, milliseconds since 1970 when it was stored; since state version 2 that version, and the
# changelog's topic id, zeros where it is not known. Then the floor: 8 bytes or none.
_POSITION_NUMBERS = struct.Struct(">QQ")
_POSITION_HEAD = struct.Struct(">QQB16s")
_UNKNOWN_CHANGELOG = bytes(16)
# A key deleted while a worker was away is known from its tombstone, which Kafka keeps for delete.retention.ms
# (7 days, pipeline/topics.py). Older files could bring deleted keys back.
_FILE_AGE_MAX_MS = 6 * 86_400_000
# Of workers that share a directory, the one that lost a partition closes its file about when our recovery begins.
_LOCKED_SECONDS_MAX = 20.0


class RocksStore(faust_rocksdb.Store):  # type: ignore[misc]
    """A RocksDB file per partition under Faust's table directory; survives the process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Faust prefers rocksdict, with another file format, where it is installed (faust/stores/rocksdb.py:67).
        kwargs["options"] = {"driver": "python-rocksdb"}
        super().__init__(*args, **kwargs)
        self.rocksdb_options = PartitionOptions()
        self._changelogs: dict[int, bytes] = {}
        """By open partition: the topic id of its changelog."""
        self._notes: dict[int, Notes] = {}

    def lacks_file(self, partition: int) -> bool:
        """Tell whether a partition's file is missing."""
        return not self.partition_path(partition).exists()

    def open_partition(
        self, partition: int, changelog: bytes = _UNKNOWN_CHANGELOG, end: int = 0, *, waits: bool = True
    ) -> Position:
        """Open the partition's file, or begin a new one where it is missing, corrupt, too old or of another topic.

        One that has all up to the changelog's `end` is not too old, because no deletion can have been missed. Waits
        for a file that another worker here is about to close; runs in a thread. Raises StateVersionError where a newer
        program wrote it, FileLockedError where it stays open, or was not to be waited for, and UnusableFileError
        where something hinders that a new file would not mend.
        """
        self._changelogs[partition] = changelog
        note = self._damage_note(partition)
        if note.exists():
            return self._begin_anew(partition, f"it was found damaged: {note.read_text('utf-8')}")
        deadline = time.monotonic() + _LOCKED_SECONDS_MAX
        while True:
            try:
                position, stored_at_ms, stored_changelog = self._stored_position(partition)
                notes = self._notes.get(partition) or self._stored_notes(partition)
            except rocksdb.errors.Error as error:
                if is_damage(error):
                    return self._begin_anew(partition, f"it cannot be read: {said(error)}")
                if not is_locked(error):
                    raise self._unusable(partition, error) from error
                if not waits or time.monotonic() > deadline:
                    raise FileLockedError(
                        f"{self.partition_path(partition)} is open in another process:"
                        " each worker needs a MSGMETER_STATE_DIRECTORY of its own"
                    ) from error
                time.sleep(0.1)
            else:
                break
        if 0 < position.next_offset < end and stored_at_ms < time.time() * 1000 - _FILE_AGE_MAX_MS:
            return self._begin_anew(
                partition,
                f"it was last changed at {datetime.fromtimestamp(stored_at_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}",
            )
        if _UNKNOWN_CHANGELOG not in (changelog, stored_changelog) and changelog != stored_changelog:
            return self._begin_anew(partition, "it is of another topic, or of one that was made anew since")
        self._notes[partition] = notes
        return position

    def _stored_notes(self, partition: int) -> Notes:
        """Give the notes in a partition's file, which is open."""
        tombstones = dict(self._stored_notes_of_kind(partition, _TOMBSTONE_KEYS))
        return Notes(tombstones, {key for key, _ in self._stored_notes_of_kind(partition, _OUTDATED_KEYS)})

    def _stored_notes_of_kind(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Give the notes of one kind, by the key that they are about."""
        cursor = self._dbs[partition].iteritems(verify_checksums=True)
        try:
            cursor.seek(prefix)
            for key, note in cursor:
                if not key.startswith(prefix):
                    return
                yield key[len(prefix) :], note
        finally:
            # An error would keep it in its traceback, and RocksDB ends a process that closes a file under a cursor.
            del cursor

    def _stored_position(self, partition: int) -> tuple[Position, int, bytes]:
        """Give the position in a partition's file, when it was stored and of which changelog.

        Opens the file if need be. Raises StateVersionError where a newer program wrote it.
        """
        stored = self._db_for_partition(partition).get(_POSITION_KEY, verify_checksums=True)
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
        with shared_timer.opening(), full_disk_ends_process(self.partition_path(partition)):
            return super()._open_for_partition(partition)

    def close_partition(self, partition: int) -> None:
        """Close the file and with it its lock; the next owner may be another process on this machine."""
        db = self._dbs.pop(partition, None)
        self._notes.pop(partition, None)
        if db is not None:
            with shared_timer.closing():
                db.close()

    def wipe_partition(self, partition: int) -> None:
        """Delete the file, because it cannot be trusted, and open an empty one."""
        self.close_partition(partition)
        try:
            if not self.lacks_file(partition):
                shutil.rmtree(self.partition_path(partition))
            self._db_for_partition(partition)
            self._damage_note(partition).unlink(missing_ok=True)
        except (rocksdb.errors.Error, OSError) as error:
            raise self._unusable(partition, error) from error
        self._notes[partition] = Notes()

    def opened(self) -> set[int]:
        """Give the open partitions."""
        return set(self._dbs)

    def lookup(self, partition: int) -> Callable[[bytes], bytes | None]:
        """Give the function that finds a key's value in an open partition."""
        get: Callable[..., bytes | None] = self._dbs[partition].get

        def found(key: bytes) -> bytes | None:
            try:
                return get(key, verify_checksums=True)
            except rocksdb.errors.Error as error:
                raise self._damaged(partition, error) from error

        return found

    def items_of(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Give keys and values of an open partition as they were when asked, by key."""
        cursor = self._dbs[partition].iteritems(verify_checksums=True)
        cursor.seek_to_first()
        return self._checked(partition, cursor)

    def _checked(
        self, partition: int, cursor: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from ((key, value) for key, value in cursor if not key.startswith(_OWN_KEYS))
        except rocksdb.errors.Error as error:
            raise self._damaged(partition, error) from error

    def _unusable(self, partition: int, error: Exception) -> UnusableFileError:
        return UnusableFileError(f"{self.partition_path(partition)} cannot be used: {said(error)}")

    def _damaged(self, partition: int, error: Exception) -> UnusableFileError:
        """Note that a file is damaged, if it is, for its next opening, and give what to raise."""
        if not is_damage(error):
            return self._unusable(partition, error)
        self._damage_note(partition).write_text(said(error), "utf-8")
        return DamagedFileError(
            f"{self.table_name}: the file of partition {partition} is damaged ({said(error)}); it is rebuilt when the"
            " worker is started again"
        )

    def _damage_note(self, partition: int) -> Path:
        return Path(f"{self.partition_path(partition)}.damaged")

    def position_of(self, partition: int) -> Position:
        """Give the position of an open partition."""
        return self._stored_position(partition)[0]

    def notes_of(self, partition: int) -> Notes:
        """Give the notes of an open partition; whoever changes them names the keys in the next `apply`."""
        return self._notes[partition]

    def apply(
        self, partition: int, changes: Changes, position: Position, noted: Iterable[bytes] = ()
    ) -> None:
        """Store changes of an open partition and, in one batch, position and the notes of the keys `noted`.

        Without RocksDB's own log, which costs 3 us a key: the changelog is the log. What a kill takes
        (the buffers not yet flushed, values and positions alike) is read again from there.
        """
        batch = rocksdb.WriteBatch()
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        notes = self._notes[partition]
        for key in noted:
            if key in notes.tombstones:
                batch.put(_TOMBSTONE_KEYS + key, notes.tombstones[key])
            else:
                batch.delete(_TOMBSTONE_KEYS + key)
            if key in notes.outdated:
                batch.put(_OUTDATED_KEYS + key, b"")
            else:
                batch.delete(_OUTDATED_KEYS + key)
        head = _POSITION_HEAD.pack(
            position.next_offset, int(time.time() * 1000), kept.STATE_VERSION, self._changelogs[partition]
        )
        batch.put(_POSITION_KEY, head + position.floor)
        try:
            with full_disk_ends_process(self.partition_path(partition)):
                self._dbs[partition].write(batch, disable_wal=True)
        except rocksdb.errors.Corruption as error:
            raise self._damaged(partition, error) from error

    def persisted_offset(self, tp: Any) -> int | None:
        """Give the last changelog offset contained, as Faust asks for it."""
        position = self.position_of(tp.partition)
        return position.next_offset - 1 if position.next_offset else None

    def _dbs_for_actives(self) -> Iterator[Any]:
        # Upstream asks the assignor for changelog partitions, which are not in the group here.
        return iter(self._dbs.values())

    def _visible_items(self, db: Any) -> Iterator[tuple[bytes, bytes]]:
        return (item for item in super()._visible_items(db) if not item[0].startswith(_OWN_KEYS))

    def _visible_keys(self, db: Any) -> Iterator[bytes]:
        return (key for key in super()._visible_keys(db) if not key.startswith(_OWN_KEYS))

    async def stop(self) -> None:
        """Close every file; upstream leaves that to the garbage collector (faust/stores/rocksdb.py:543)."""
        for partition in list(self._dbs):
            self.close_partition(partition)
        await super().stop()


PartitionedStore = MemoryStore | RocksStore
