"""The stores of a worker's tables by themselves, without a broker."""

import multiprocessing
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import faust
import pytest
import rocksdb
from table_scene import value

from pipeline.core import kept
from pipeline.core.kept import STATE_VERSION, StateVersionError
from pipeline.stream.changelog import Bounds, PartitionReplay, trusted_position
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

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return self.name

    def value(self) -> bytes | None:
        return self.content

    def headers(self) -> list[tuple[str, bytes]]:
        return []


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
    trusted_position(store, 0, bounds(9))
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
    trusted_position(store, 0, bounds(9))
    store.apply(0, {b"k": value(5)}, Position(9, bytes(8)))
    store = opened()
    assert trusted_position(store, 0, found) == NOTHING
    assert not dict(store.items_of(0))
    [warning] = caplog.messages
    assert warning == f"state: partition 0 is rebuilt from its changelog: {reason}"


def test_a_file_of_an_older_position_is_read_on_from_there(opened: Open) -> None:
    store = opened()
    trusted_position(store, 0, bounds(9))
    store.apply(0, {b"k": value(5)}, Position(9, bytes(8)))
    store = opened()
    assert trusted_position(store, 0, bounds(500)) == Position(9, bytes(8))
