"""The stores of a worker's tables by themselves, without a broker."""

import errno
import multiprocessing
import os
import re
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import faust
import pytest
import rocksdb
from table_scene import value

from pipeline.core import kept
from pipeline.core.kept import STATE_VERSION, StateVersionError
from pipeline.stream.changelog import APPLIED_HEADER, Bounds, PartitionReplay, trusted_position
from pipeline.stream.notes import tombstone_note
from pipeline.stream.rocksdb_files import DamagedFileError, UnusableFileError
from pipeline.stream.stores import NOTHING, PartitionedStore, Position, RocksStore
from pipeline.stream.tables import ChangelogTable

TOPIC, OTHER_TOPIC = b"the topic's id, ", b"another one's id"
Open = Callable[..., PartitionedStore]


def open_and_wipe(directory: Path, threads: int, times: int) -> None:
    """Each thread opens, wipes and closes a partition of its own, again and again."""
    app = faust.App("files", datadir=directory, store="rocksdb://", Table=ChangelogTable)
    store: RocksStore = app.Table("state").data

    def repeat(partition: int) -> None:
        for _ in range(times):
            store.open_partition(partition)
            store.wipe_partition(partition)
            store.close_partition(partition)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(repeat, range(threads)))


def test_files_may_be_closed_in_one_thread_while_others_open_theirs(tmp_path: Path) -> None:
    # In a process of its own, because RocksDB ends the process where this rule is broken.
    child = multiprocessing.get_context("spawn").Process(
        target=open_and_wipe, args=(tmp_path, 3, 100), daemon=True
    )
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Give `opened(kind)`: the store of a table as a process that starts now has it; the one before is closed."""
    stores: list[PartitionedStore] = []

    def close() -> None:
        for store in stores:
            for partition in list(store.opened()):
                store.close_partition(partition)

    def make(kind: str = "rocksdb") -> PartitionedStore:
        close()
        app = faust.App("files", datadir=tmp_path, store=f"{kind}://", Table=ChangelogTable)
        store: PartitionedStore = app.Table("state").data
        stores.append(store)
        return store

    yield make
    close()


class Record(NamedTuple):
    """A record of a changelog, as confluent_kafka gives it."""

    at: int
    name: bytes
    content: bytes | None
    applied: int | None = None
    """What the header of a tombstone says."""

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return self.name

    def value(self) -> bytes | None:
        return self.content

    def headers(self) -> list[tuple[str, bytes]]:
        return [] if self.applied is None else [(APPLIED_HEADER, self.applied.to_bytes(8, "big"))]

    def timestamp(self) -> tuple[int, int]:
        return 1, self.at


def bounds(high: int, low: int = 0, topic: bytes = TOPIC) -> Bounds:
    return Bounds(low, high, topic)


def file_of(store: PartitionedStore) -> Path:
    return Path(store.partition_path(0))


@pytest.mark.parametrize("kind", ["memory", "rocksdb"])
def test_a_newer_value_in_a_changelog_stops_the_replay_before_anything_of_its_batch_is_stored(
    kind: str, opened: Open
) -> None:
    store = opened(kind)
    trusted_position(store, 0, bounds(9))
    replay = PartitionReplay(store, 0)
    replay.take(records := [Record(0, b"k", value(5)), Record(1, b"gone", None)])
    newer: list[Any] = [Record(2, b"l", value(6)), Record(3, b"m", value(7, version=STATE_VERSION + 1))]
    with pytest.raises(StateVersionError):
        replay.take(newer)
    assert dict(store.items_of(0)) == {b"k": value(5)}
    assert store.position_of(0).next_offset == len(records)


def test_a_file_that_a_newer_program_wrote_is_refused_when_it_is_opened_and_left_alone(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    trusted_position(store, 0, bounds(0))
    with monkeypatch.context() as next_program:
        next_program.setattr(kept, "STATE_VERSION", STATE_VERSION + 1)
        store.apply(0, {b"k": value(5)}, Position(9, bytes(8)))
    store = opened()
    with pytest.raises(StateVersionError, match=f"of version {STATE_VERSION + 1}"):
        trusted_position(store, 0, bounds(9))
    # The newer program goes on with it.
    monkeypatch.setattr(kept, "STATE_VERSION", STATE_VERSION + 1)
    store = opened()
    assert trusted_position(store, 0, bounds(9)) == Position(9, bytes(8))
    assert dict(store.items_of(0)) == {b"k": value(5)}


@pytest.mark.parametrize("floor", [b"", bytes(7) + b"\x07"])
def test_a_file_of_state_version_1_is_taken_over(floor: bytes, opened: Open) -> None:
    store = opened()
    db = rocksdb.DB(str(file_of(store)), rocksdb.Options(create_if_missing=True))
    db.put(b"k", value(5))
    db.put(b"__msgmeter\0position__", struct.pack(">QQ", 9, int(time.time() * 1000)) + floor)
    db.close()
    assert trusted_position(store, 0, bounds(9)) == Position(9, floor)
    assert dict(store.items_of(0)) == {b"k": value(5)}
    store.apply(0, {}, Position(10, floor))
    store = opened()
    assert trusted_position(store, 0, bounds(10)) == Position(10, floor)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (bounds(high=20, topic=OTHER_TOPIC), "it is of another topic, or of one that was made anew since"),
        (bounds(high=8), "it goes up to 9, the changelog only to 8"),
        (bounds(high=20, low=10), "it ends at 9, the changelog begins at 10"),
    ],
)
def test_a_file_that_is_not_of_this_changelog_is_rebuilt_and_one_warning_says_which_and_why(
    found: Bounds, reason: str, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    trusted_position(store, 0, bounds(0))
    store.apply(0, {b"k": value(5)}, Position(9, bytes(8)))
    store = opened()
    assert trusted_position(store, 0, found) == NOTHING
    assert not dict(store.items_of(0))
    [warning] = caplog.messages
    assert warning == f"state: partition 0 is rebuilt from its changelog: {reason}"


def test_a_deletion_is_remembered_for_as_long_as_it_has_to_be_repeated(opened: Open) -> None:
    store = opened("memory")
    trusted_position(store, 0, bounds(9))
    replay = PartitionReplay(store, 0)
    records: list[Any] = [
        Record(0, b"k", None, applied=150),
        Record(1, b"l", None, applied=150),
        Record(2, b"k", value(140)),
    ]
    replay.take(records)
    replay.forget_deleted_before(10_000)
    assert set(store.notes_of(0).tombstones) == {b"k"}
    assert replay.winners_to_repeat() == {b"k": (None, (150).to_bytes(8, "big"))}
    replay.repeated([b"k"], 4)
    replay.forget_deleted_before(10_000)
    assert not store.notes_of(0).tombstones


def test_what_somebody_else_deletes_where_nothing_is_known_keeps_no_value_out(opened: Open) -> None:
    store = opened("memory")
    trusted_position(store, 0, bounds(9))
    records: list[Any] = [Record(1_700_000_000_000, b"k", None), Record(1_700_000_000_001, b"k", value(5))]
    PartitionReplay(store, 0).take(records)
    assert dict(store.items_of(0)) == {b"k": value(5)}


def test_a_file_of_an_older_position_is_read_on_from_there(opened: Open) -> None:
    store = opened()
    trusted_position(store, 0, bounds(0))
    store.apply(0, {b"k": value(5)}, Position(9, bytes(8)))
    store = opened()
    assert trusted_position(store, 0, bounds(500)) == Position(9, bytes(8))


# Damage.


def filled(opened: Open) -> RocksStore:
    """A store of a file with 40 blocks of values, which is closed again, and so on disk."""
    store = opened()
    trusted_position(store, 0, bounds(0))
    chance = Random(1)
    values = {b"k%04d" % number: value(5, chance.randbytes(100)) for number in range(1_500)}
    store.apply(0, values, Position(9, bytes(8)))
    store.close_partition(0)
    return store


def flip(path: Path, start: int, count: int = 1) -> None:
    """Changes bytes of a file, as a disk might."""
    content = bytearray(path.read_bytes())
    for at in range(start, start + count):
        content[at] ^= 0x55
    path.write_bytes(content)


def only(directory: Path, pattern: str) -> Path:
    [found] = directory.glob(pattern)
    return found


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def read_one_by_one(store: PartitionedStore) -> None:
    lookup = store.lookup(0)
    for number in range(1_500):
        lookup(b"k%04d" % number)


def read_all(store: PartitionedStore) -> None:
    list(store.items_of(0))


def replay(store: PartitionedStore) -> None:
    records: list[Any] = [Record(9 + number, b"k%04d" % number, value(6)) for number in range(1_500)]
    PartitionReplay(store, 0).take(records)


@pytest.mark.parametrize("read", [read_one_by_one, read_all, replay])
def test_a_flipped_bit_is_never_given_as_a_value_and_the_file_is_rebuilt_when_it_is_opened_next(
    read: Callable[[PartitionedStore], None], opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    flip(only(file_of(filled(opened)), "*.sst"), 50_000)
    store = opened()
    assert trusted_position(store, 0, bounds(9)).next_offset == 9
    with pytest.raises(DamagedFileError, match=r"state: the file of partition 0 is damaged .*started again"):
        read(store)
    assert not caplog.messages
    store = opened()
    assert trusted_position(store, 0, bounds(9)) == NOTHING
    assert not dict(store.items_of(0))
    [warning] = caplog.messages
    assert warning.startswith(
        "state: partition 0 is rebuilt from its changelog: it was found damaged: Corruption:"
    )
    # Once only.
    store.apply(0, {}, Position(9, bytes(8)))
    store = opened()
    assert trusted_position(store, 0, bounds(9)).next_offset == 9


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: truncate(only(file, "*.sst")),
        lambda file: only(file, "*.sst").unlink(),
        lambda file: only(file, "*.sst").write_bytes(b"noise" * 1_000),
        # All of its blocks, and so that of the position, which is read first.
        lambda file: flip(only(file, "*.sst"), 0, 170_000),
        lambda file: flip(only(file, "MANIFEST-*"), 20, 20),
        lambda file: only(file, "MANIFEST-*").unlink(),
        lambda file: only(file, "CURRENT").write_text("noise"),
        lambda file: only(file, "CURRENT").unlink(),
        shutil.rmtree,
    ],
    ids=["cut", "no table", "noise", "blocks", "manifest", "no manifest", "current", "no current", "nothing"],
)
def test_a_damaged_file_is_rebuilt_and_one_warning_says_which_and_why(
    damage: Callable[[Path], None], opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    damage(file_of(filled(opened)))
    store = opened()
    assert trusted_position(store, 0, bounds(9)) == NOTHING
    assert not dict(store.items_of(0))
    [warning] = caplog.messages
    assert re.match(
        "state: partition 0 is rebuilt from its changelog: it (cannot be read: |has no file here)", warning
    )


def test_damaged_notes_are_never_given_and_the_file_is_rebuilt_at_once(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    trusted_position(store, 0, bounds(0))
    chance = Random(1)
    deleted = [chance.randbytes(20) for _ in range(1_500)]
    store.notes_of(0).tombstones.update((key, tombstone_note(bytes(8), 1)) for key in deleted)
    store.apply(0, {}, Position(9, bytes(8)), deleted)
    store.close_partition(0)
    # In one of its keys.
    flip(only(file_of(store), "*.sst"), 45_000)
    store = opened()
    assert trusted_position(store, 0, bounds(9)) == NOTHING
    assert not store.notes_of(0).tombstones
    [warning] = caplog.messages
    assert "state: partition 0 is rebuilt from its changelog: it cannot be read: Corruption:" in warning


def test_a_manifest_that_lost_its_end_gives_an_earlier_position_with_its_values(opened: Open) -> None:
    store = filled(opened)
    trusted_position(store, 0, bounds(20))
    store.apply(0, {b"k0000": value(7)}, Position(11, bytes(8)))
    store.close_partition(0)
    # What a kill leaves: the last write is not in the tables yet.
    manifest = only(file_of(store), "MANIFEST-*")
    os.truncate(manifest, manifest.stat().st_size - 10)
    store = opened()
    position = trusted_position(store, 0, bounds(20))
    held = store.lookup(0)(b"k0000")
    assert (position.next_offset, held is not None and held[:8]) in (
        (11, value(7)[:8]),
        (9, value(5)[:8]),
        (0, False),
    )


def test_a_partition_of_an_empty_changelog_is_no_rebuilt_one(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    assert trusted_position(opened(), 0, bounds(0)) == NOTHING
    assert trusted_position(opened("memory"), 0, bounds(9)) == NOTHING
    assert not caplog.messages


def test_a_file_that_cannot_be_made_is_told_by_its_path(opened: Open) -> None:
    store = opened()
    shutil.rmtree(file_of(store).parent)
    file_of(store).parent.write_text("a file where the directory should be")
    with pytest.raises(UnusableFileError, match=r"state-0\.db cannot be used: "):
        trusted_position(store, 0, bounds(9))


def test_a_file_that_cannot_be_opened_for_want_of_descriptors_is_left_alone(opened: Open) -> None:
    filled(opened)
    store = opened()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(next_one := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one + 1, limit[1]))
    try:
        with pytest.raises(UnusableFileError, match=r"state-0\.db cannot be used: .*Too many open files"):
            trusted_position(store, 0, bounds(9))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert trusted_position(store, 0, bounds(9)) == Position(9, bytes(8))


def test_a_wiped_file_that_cannot_be_deleted_is_not_taken_for_an_empty_one(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(opened)
    store = opened()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(UnusableFileError, match=r"state-0\.db cannot be used: .*Permission denied"):
        trusted_position(store, 0, bounds(high=8))


@pytest.mark.parametrize(("end", "is_kept"), [(9, True), (10, False)])
def test_an_old_file_is_rebuilt_only_where_it_may_have_missed_a_deletion(
    end: int, *, is_kept: bool, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    trusted_position(store, 0, bounds(0))
    with pytest.MonkeyPatch.context() as long_ago:
        long_ago.setattr(time, "time", lambda: 1_700_000_000.0)
        store.apply(0, {}, Position(9, bytes(8)))
    store = opened()
    assert (trusted_position(store, 0, bounds(end)) != NOTHING) is is_kept
    reason = "state: partition 0 is rebuilt from its changelog: it was last changed at 2023-11-14T22:13:20Z"
    assert caplog.messages == [reason] * (not is_kept)


def test_a_file_that_another_process_has_open_is_waited_for_and_not_rebuilt(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    path = file_of(filled(opened))
    other = rocksdb.DB(str(path), rocksdb.Options())
    store = opened()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(trusted_position, store, 0, bounds(9))
        with pytest.raises(TimeoutError):
            opening.result(0.5)
        other.close()
        assert opening.result(60).next_offset == 9
    assert not caplog.messages
