"""Standbys: a partition of another worker is kept up to date, and taking it over reads only what is left."""

import asyncio
import dataclasses
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rocksdb
from table_scene import PARTITIONS, Tables, Worker, make_app, until, value

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream import standbys
from pipeline.stream.agreement import MARK_KEY
from pipeline.stream.exits import ExitCode
from pipeline.stream.notes import Notes
from pipeline.stream.replaying import Replaying
from pipeline.stream.tables import NotOwnedError, StateTable

BOTH = set(range(PARTITIONS))
MANY = {b"%d" % number: value(5, b"x") for number in range(300)}
RECOVERED = re.compile(r"recovered (\d+) changelog records, \d+ bytes, in [\d.]+ s; (\d+) of them")


@pytest.fixture
def rocks(
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Tables:
    topic = create_topic("raw", partitions=PARTITIONS)
    scene = Tables(broker.bootstrap_servers, topic, unique_name("group"), tmp_path, "rocksdb")
    scene.create_changelog()
    return scene


@pytest.fixture(params=["memory", "rocksdb"])
def tables(request: pytest.FixtureRequest, rocks: Tables) -> Tables:
    return dataclasses.replace(rocks, store=request.param)


def fill_log(scene: Tables) -> None:
    """What tests write as applied has to be in the log."""
    for partition in range(PARTITIONS):
        scene.produce_to(partition, 40)


def owned_by(app: Any) -> set[int]:
    return set(app.tables["state"].owned)


def followed(app: Any, partition: int) -> dict[bytes, bytes]:
    """What a standby holds of a partition; nothing while it is not opened."""
    store = app.tables["state"].data
    if partition not in store.opened():
        return {}
    return {key: kept for key, kept in store.items_of(partition) if key != MARK_KEY}


def notes_of(app: Any, partition: int) -> Notes:
    store = app.tables["state"].data
    notes: Notes = store.notes_of(partition)
    return notes


async def each_has_one(first: Any, second: Any) -> int:
    """Wait until each of two workers owns a partition and is a standby of the other's; give the first one's."""
    await until(lambda: len(owned_by(first)) == len(owned_by(second)) == 1)
    (partition,) = owned_by(first)
    await until(lambda: partition in second.tables["state"].data.opened())
    return partition


class Pair:
    """Two workers in this process with a directory each, of which either may be started and stopped."""

    def __init__(self, scene: Tables) -> None:
        self.scene = scene
        self._running: dict[str, tuple[Any, Any]] = {}

    async def start(self, name: str) -> tuple[Any, StateTable]:
        context = self.scene.worker(name, table_standby_replicas=1)
        app, table = await context.__aenter__()
        self._running[name] = (context, app)
        return app, table

    async def stop(self, name: str) -> None:
        """Returns when the other one, if it runs, owns everything: aiokafka may leave sockets behind where it is
        stopped while the group rebalances."""
        context, _ = self._running.pop(name)
        await context.__aexit__(None, None, None)
        for _, app in self._running.values():
            await until(lambda owner=app: owned_by(owner) == BOTH)  # type: ignore[misc]

    async def stop_all(self) -> None:
        for name in list(self._running):
            await self.stop(name)


@pytest.fixture
async def pair(tables: Tables) -> Any:
    fill_log(tables)
    workers = Pair(tables)
    yield workers
    await workers.stop_all()


@pytest.fixture
async def on_disk(rocks: Tables) -> Any:
    fill_log(rocks)
    workers = Pair(rocks)
    yield workers
    await workers.stop_all()


def counts_recovered(caplog: pytest.LogCaptureFixture) -> list[int]:
    """How many changelog records each recovery has read."""
    return [int(count) for count, _ in RECOVERED.findall(caplog.text)]


async def test_a_standby_has_what_the_owner_writes_and_taking_over_reads_nothing_again(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    first, of_first = await pair.start("first")
    second, of_second = await pair.start("second")
    partition = await each_has_one(first, second)
    await of_first.write(partition, MANY, applied_offset=5)
    await until(lambda: followed(second, partition) == MANY)
    await until(
        lambda: second.tables.standby_figures() == {"standby_partitions": 1, "standby_lag_records": 0}
    )
    with pytest.raises(NotOwnedError):
        of_second.get(partition, b"1")
    caplog.set_level("INFO", "pipeline")
    caplog.clear()
    await pair.stop("first")
    assert dict(of_second.items(partition)) == MANY
    assert counts_recovered(caplog) == [0]


async def test_a_worker_that_hands_a_partition_over_keeps_what_it_has_of_it(pair: Pair) -> None:
    first, of_first = await pair.start("first")
    for partition in BOTH:
        await of_first.write(partition, MANY, applied_offset=5)
    second, _ = await pair.start("second")
    kept = await each_has_one(first, second)
    (handed_over,) = BOTH - {kept}
    following = first.tables.recovery._standbys
    await until(lambda: following._replaying is not None)
    assert followed(first, handed_over) == MANY
    assert following._replaying.records == 0


async def test_a_partition_goes_back_and_forth_and_nothing_is_read_twice(
    on_disk: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair = on_disk
    _, of_first = await pair.start("first")
    for partition in BOTH:
        await of_first.write(partition, MANY, applied_offset=5)
    second, of_second = await pair.start("second")
    await until(lambda: sum(len(followed(second, partition)) for partition in BOTH) == len(MANY) * PARTITIONS)
    caplog.set_level("INFO", "pipeline")
    caplog.clear()
    await pair.stop("first")
    for partition in BOTH:
        await of_second.write(partition, {b"new": value(9), b"1": None}, applied_offset=9)
    first, of_first = await pair.start("first")
    await each_has_one(first, second)
    for partition in BOTH:
        await until(lambda number=partition: b"new" in followed(first, number))  # type: ignore[misc]
    await pair.stop("second")
    for partition in BOTH:
        expected = {key: kept for key, kept in MANY.items() if key != b"1"} | {b"new": value(9)}
        assert dict(of_first.items(partition)) == expected
        await of_first.write(partition, {b"1": value(12)}, applied_offset=12)
        assert of_first.get(partition, b"1") == value(12)
    # What was written while a worker was away, and no more, wherever it was read.
    assert sum(counts_recovered(caplog)) <= 3 * PARTITIONS


async def test_an_older_value_that_a_standby_reads_is_written_over_when_it_takes_over(pair: Pair) -> None:
    first, of_first = await pair.start("first")
    second, of_second = await pair.start("second")
    partition = await each_has_one(first, second)
    await of_first.write(partition, {b"k": value(20, b"newer"), b"gone": value(5)}, applied_offset=20)
    await of_first.write(partition, {b"gone": None}, applied_offset=30)
    older = [(b"k", value(10, b"a worker that had lost the partition"), 0), (b"gone", value(25), 0)]
    pair.scene.append(older, partition)
    await until(lambda: notes_of(second, partition).outdated == {b"k", b"gone"})
    await pair.stop("first")
    assert dict(of_second.items(partition)) == {b"k": value(20, b"newer")}
    last = dict(pair.scene.read_changelog(partition))
    assert (last[b"k"], last[b"gone"]) == (value(20, b"newer"), None)
    assert not notes_of(second, partition).outdated


async def test_a_standby_that_was_restarted_still_knows_what_was_deleted(on_disk: Pair) -> None:
    pair, rocks = on_disk, on_disk.scene
    first, of_first = await pair.start("first")
    second, _ = await pair.start("second")
    partition = await each_has_one(first, second)
    await of_first.write(partition, {b"gone": value(5)}, applied_offset=5)
    await of_first.write(partition, {b"gone": None}, applied_offset=30)
    await until(lambda: b"gone" in notes_of(second, partition).tombstones)
    await pair.stop("second")
    await pair.stop("first")
    rocks.append([(b"gone", value(20), 0)], partition)
    second, of_second = await pair.start("second")
    await until(lambda: owned_by(second) == BOTH)
    assert dict(of_second.items(partition)) == {}
    assert rocks.read_changelog(partition)[-1] == (b"gone", None)


async def test_an_older_value_between_two_writes_of_the_owner_is_noticed_when_the_file_is_opened_again(
    rocks: Tables,
) -> None:
    fill_log(rocks)
    async with rocks.worker() as (_, table):
        await table.write(0, {b"k": value(20)}, applied_offset=20)
        rocks.append([(b"k", value(10), 0)])
        await table.write(0, {b"other": value(25)}, applied_offset=25)
    assert await rocks.contents() == {b"k": value(20), b"other": value(25)}
    assert rocks.read_changelog()[-1] == (b"k", value(20))


async def test_a_standby_tries_again_to_open_what_another_process_had_open(
    rocks: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(standbys, "_RETRY_SECONDS", 0.1)
    attempts: list[bool] = []
    real_open = Replaying.open

    def noted_open(replaying: Replaying, *, is_owner: bool = True) -> bool:
        attempts.append(real_open(replaying, is_owner=is_owner))
        return attempts[-1]

    monkeypatch.setattr(Replaying, "open", noted_open)
    for partition in BOTH:
        rocks.append([(key, kept, 0) for key, kept in MANY.items()], partition)
    app = make_app(rocks.servers, rocks.group, rocks.topic, rocks.directory / "standby", store="rocksdb://")
    table = StateTable(app, "state", partitions=PARTITIONS)._table
    # Whoever opens a file holds its lock, also within a process.
    path = Path(table.data.partition_path(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    other = rocksdb.DB(str(path), rocksdb.Options(create_if_missing=True))
    following = standbys.Standbys({"bootstrap.servers": rocks.servers}, remembered_seconds=60)
    following.follow([table], frozenset(BOTH))
    try:
        await until(lambda: followed(app, 1) == MANY)
        assert following.partitions_followed == 1
        await until(lambda: attempts.count(False) > 2)
        other.close()
        await until(lambda: followed(app, 0) == MANY)
        assert (following.partitions_followed, following.records_behind) == (2, 0)
        [told] = [message for message in caplog.messages if "not followed" in message]
        assert told.startswith(
            f"{rocks.changelog}: partition 0 is not followed: {path} is open in another process"
        )
    finally:
        other.close()
        await following.stop()
        await table.data.stop()


class Failing:
    """A RocksDB file on a disk that takes no write."""

    SAID = "IO error: While appending to file: Input/output error"

    def __init__(self, db: Any) -> None:
        self.close = db.close

    def write(self, *_: Any, **__: Any) -> None:
        raise rocksdb.errors.RocksIOError(self.SAID.encode())


def without_readable_note(table: Any, partition: int) -> Path:
    """Put a directory where a worker looks for the note that the partition's file is damaged."""
    note = Path(f"{table.data.partition_path(partition)}.damaged")
    note.mkdir(parents=True)
    return note


async def test_a_file_that_is_hindered_leaves_out_its_partition_only_and_is_tried_again(
    rocks: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process may own others, of which all is well."""
    monkeypatch.setattr(standbys, "_RETRY_SECONDS", 0.1)
    for partition in BOTH:
        rocks.append([(key, kept, 0) for key, kept in MANY.items()], partition)
    app = make_app(rocks.servers, rocks.group, rocks.topic, rocks.directory / "standby", store="rocksdb://")
    table = StateTable(app, "state", partitions=PARTITIONS)._table
    unreadable = without_readable_note(table, 0)
    following = standbys.Standbys({"bootstrap.servers": rocks.servers}, remembered_seconds=60)
    following.follow([table], frozenset(BOTH))
    try:
        await until(lambda: followed(app, 1) == MANY)
        assert following.partitions_followed == 1
        await asyncio.to_thread(unreadable.rmdir)
        await until(lambda: followed(app, 0) == MANY)
        table.data._dbs[1] = Failing(table.data._dbs[1])
        for partition in BOTH:
            rocks.append([(b"new", value(9), 0)], partition)
        # Not read before it is told: the file is closed then, under whoever reads it.
        await until(lambda: Failing.SAID in caplog.text)
        await until(lambda: following.partitions_followed == 2)
        for partition in BOTH:
            await until(lambda number=partition: b"new" in followed(app, number))  # type: ignore[misc]
        await until(lambda: (following.partitions_followed, following.records_behind) == (2, 0))
        told = [message for message in caplog.messages if "not followed" in message]
        assert told == [
            f"{rocks.changelog}: partition 0 is not followed: [Errno 21] Is a directory: '{unreadable}'",
            f"{rocks.changelog}: partition 1 is not followed: {Failing.SAID}",
        ]
    finally:
        await following.stop()
        await table.data.stop()


async def test_a_bug_in_following_ends_the_process(rocks: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever may pass is waited out by name; the rest would harm an owner as well."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end_process(code: ExitCode, *_: str, cause: Exception) -> None:
        assert (code, type(cause)) == (ExitCode.RECOVERY_FAILED, AttributeError)
        following._ended.set()
        loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(standbys, "end_process", end_process)
    following = standbys.Standbys({"bootstrap.servers": rocks.servers}, remembered_seconds=60)
    no_table: Any = object()
    following.follow([no_table], frozenset(BOTH))
    async with asyncio.timeout(30):
        await ended.wait()
    await following.stop()


async def test_killed_workers_with_standbys_count_every_record_once(
    rocks: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    produced = 0

    async def produce_until(worker: Worker, said: str) -> None:
        nonlocal produced
        heard = asyncio.create_task(worker.line(said))
        while not heard.done():
            await asyncio.to_thread(rocks.produce, [b"%d" % (number % 50) for number in range(100)])
            produced += 100
            await asyncio.sleep(0.05)
        await heard

    with rocks.running("first", "--standbys=1") as first:
        await produce_until(first, "checkpoint")
        with rocks.running("second", "--standbys=1") as second:
            await produce_until(second, "checkpoint")
            second.end(signal.SIGKILL)
        with rocks.running("second", "--standbys=1") as second:
            await produce_until(second, "checkpoint")
            first.end(signal.SIGKILL)
            await rocks.until_committed(produced)
            second.end(signal.SIGKILL)
    caplog.set_level("INFO", "pipeline")
    assert (await rocks.counts("second")).total() == produced
    # What the killed worker's files lack was read while the group still waited for it.
    ((count, ahead),) = RECOVERED.findall(caplog.text)
    assert int(count) == int(ahead) > 0
    assert (await rocks.counts("another-directory")).total() == produced
