"""State tables against a real broker: what was written is found again, whatever happened in between."""

import asyncio
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from table_scene import PARTITIONS, Tables, until, value

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream.tables import NotOwnedError


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
    # What tests write as applied has to be in the log.
    for partition in range(PARTITIONS):
        scene.produce_to(partition, 10)
    return scene


@pytest.fixture(params=["memory", "rocksdb"])
def tables(request: pytest.FixtureRequest, rocks: Tables) -> Tables:
    return dataclasses.replace(rocks, store=request.param)


async def test_what_was_written_is_read_back_by_partition(tables: Tables) -> None:
    async with tables.worker() as (_, table):
        await table.write(0, {b"a": value(5, b"A"), b"b": value(6, b"B")}, applied_offset=6)
        await table.write(1, {b"a": value(9, b"other")}, applied_offset=9)
        assert table.get(0, b"a") == value(5, b"A")
        assert table.get(1, b"b") is None
        assert dict(table.items(1)) == {b"a": value(9, b"other")}


async def test_a_later_worker_finds_what_an_earlier_one_wrote_and_deleted(tables: Tables) -> None:
    async with tables.worker("first") as (_, table):
        await table.write(0, {b"kept": value(5), b"deleted": value(5)}, applied_offset=5)
        await table.write(0, {b"kept": value(8, b"newer"), b"deleted": None}, applied_offset=8)
    assert await tables.contents(name="second") == {b"kept": value(8, b"newer")}


async def test_an_older_value_behind_a_newer_one_loses_and_the_newer_one_is_written_again(
    tables: Tables,
) -> None:
    newer, older = value(20, b"newer"), value(10, b"by a worker that had lost the partition")
    tables.append([(b"k", newer, 0), (b"k", older, 0), (b"other", value(3), 0)])
    assert await tables.contents() == {b"k": newer, b"other": value(3)}
    assert tables.read_changelog()[-1] == (b"k", newer)


async def test_an_older_value_does_not_bring_a_deleted_key_back(tables: Tables) -> None:
    tables.append([(b"k", value(10), 0), (b"k", None, 30), (b"k", value(20), 0)])
    assert await tables.contents() == {}
    assert tables.read_changelog()[-1] == (b"k", None)


async def test_an_older_tombstone_deletes_nothing(tables: Tables) -> None:
    tables.append([(b"k", value(20), 0), (b"k", None, 10)])
    assert await tables.contents() == {b"k": value(20)}
    assert tables.read_changelog()[-1] == (b"k", value(20))


async def test_a_key_lives_again_after_its_deletion(tables: Tables) -> None:
    tables.append([(b"k", value(10), 0), (b"k", None, 20), (b"k", value(30), 0)])
    assert await tables.contents() == {b"k": value(30)}
    assert len(tables.read_changelog()) == 3


async def test_a_repeated_value_is_no_loser(tables: Tables) -> None:
    tables.append([(b"k", value(10), 0), (b"k", value(10), 0)])
    assert await tables.contents() == {b"k": value(10)}
    assert len(tables.read_changelog()) == 2


async def test_an_empty_changelog_is_recovered(tables: Tables) -> None:
    assert await tables.contents() == {}


async def test_a_changelog_that_ends_in_tombstones_and_a_transaction_marker_is_recovered(
    tables: Tables,
) -> None:
    tables.append([(b"k", value(10), 0), (b"gone", value(10), 0)])
    tables.append([(b"gone", None, 20)], transactional_id=tables.group)
    assert await tables.contents() == {b"k": value(10)}


async def test_values_larger_than_a_batch_and_many_batches_are_written(tables: Tables) -> None:
    changes = {b"large": value(7, b"x" * 700_000)} | {b"%d" % n: value(7, b"y" * 200) for n in range(3000)}
    async with tables.worker("first") as (_, table):
        await table.write(0, changes, applied_offset=7)
    assert await tables.contents(name="second") == changes


async def test_a_write_the_broker_refuses_raises_and_changes_nothing_locally(tables: Tables) -> None:
    async with tables.worker() as (_, table):
        with pytest.raises(MessageSizeTooLargeError):
            await table.write(0, {b"k": value(7, b"x" * 3_000_000)}, applied_offset=7)
        assert table.get(0, b"k") is None


async def test_a_write_overtaken_by_a_revocation_raises_and_changes_nothing_locally(tables: Tables) -> None:
    async with tables.worker() as (app, table):
        writing = asyncio.create_task(table.write(0, {b"k": value(7)}, applied_offset=7))
        await asyncio.sleep(0)
        app.tables.on_partitions_revoked(app.consumer.assignment())
        with pytest.raises(NotOwnedError):
            await writing
        with pytest.raises(NotOwnedError):
            await table.write(0, {b"k": value(7)}, applied_offset=7)
        assert table.get(0, b"k") is None
        assert not dict(app.tables["state"].data.items_of(0))


async def test_a_partition_that_went_away_and_came_back_holds_what_its_other_owner_wrote(
    tables: Tables,
) -> None:
    async with tables.worker("first") as (first_app, first):
        for partition in range(PARTITIONS):
            await first.write(partition, {b"k": value(5)}, applied_offset=5)
        async with tables.worker("second") as (_, second):
            (moved,) = {0, 1} - {tp.partition for tp in first_app.consumer.assignment()}
            await until(lambda: set(first_app.tables["state"].owned) == {1 - moved})
            assert first_app.tables["state"].data.opened() == {1 - moved}
            with pytest.raises(NotOwnedError):
                first.get(moved, b"k")
            assert second.get(moved, b"k") == value(5)
            await second.write(moved, {b"k": value(9)}, applied_offset=9)
        await until(lambda: len(first_app.tables["state"].owned) == PARTITIONS)
        assert first.get(moved, b"k") == value(9)
        assert first.get(1 - moved, b"k") == value(5)


async def test_faust_own_way_of_writing_is_refused(tables: Tables) -> None:
    async with tables.worker() as (app, _):
        with pytest.raises(TypeError, match="StateTable"):
            app.tables["state"][b"k"] = b"v"


class TestFiles:
    """What is particular to RocksDB: files that survive, and may be wrong."""

    def file(self, rocks: Tables) -> Path:
        (found,) = (rocks.directory / "worker").rglob("*state-0.db")
        return found

    async def written(self, rocks: Tables) -> None:
        async with rocks.worker() as (_, table):
            await table.write(0, {b"k": value(5), b"l": value(6)}, applied_offset=6)
            await table.write(0, {b"l": None}, applied_offset=8)

    async def test_only_what_is_new_in_the_changelog_is_read(
        self, rocks: Tables, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.written(rocks)
        rocks.append([(b"m", value(9), 0)])
        caplog.set_level("INFO", "pipeline")
        assert await rocks.contents() == {b"k": value(5), b"m": value(9)}
        assert "recovered 1 changelog records" in caplog.text

    async def test_a_key_deleted_before_the_file_was_closed_stays_deleted(self, rocks: Tables) -> None:
        await self.written(rocks)
        rocks.append([(b"l", value(7), 0)])
        assert await rocks.contents() == {b"k": value(5)}
        assert rocks.read_changelog()[-1] == (b"l", None)

    async def test_a_missing_file_is_rebuilt_and_the_log_says_so(
        self, rocks: Tables, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.written(rocks)
        shutil.rmtree(self.file(rocks))
        caplog.clear()
        assert await rocks.contents() == {b"k": value(5)}
        assert caplog.messages == ["state: partition 0 is rebuilt from its changelog: it has no file here"]

    @pytest.mark.parametrize("part", ["MANIFEST-*", "CURRENT"])
    async def test_a_corrupt_file_is_rebuilt_and_the_log_says_so(
        self, part: str, rocks: Tables, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.written(rocks)
        for damaged in self.file(rocks).glob(part):
            damaged.write_bytes(b"\xff" * max(64, damaged.stat().st_size))
        assert await rocks.contents() == {b"k": value(5)}
        assert "is rebuilt" in caplog.text

    async def test_a_copy_of_another_workers_older_directory_is_read_on_from_where_it_ends(
        self, rocks: Tables, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.written(rocks)
        shutil.copytree(rocks.directory / "worker", rocks.directory / "copy")
        async with rocks.worker() as (_, table):
            await table.write(0, {b"m": value(9)}, applied_offset=9)
        caplog.clear()
        caplog.set_level("INFO", "pipeline")
        assert await rocks.contents(name="copy") == {b"k": value(5), b"m": value(9)}
        assert "recovered 2 changelog records" in caplog.text  # The value and its write's mark.
        assert "rebuilt" not in caplog.text

    async def test_a_directory_of_another_application_is_rebuilt_and_the_log_says_so(
        self, rocks: Tables, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.written(rocks)
        other = dataclasses.replace(rocks, group=f"{rocks.group}_other")
        other.create_changelog()
        # Its changelog is as long, so its offsets alone would not tell.
        other.append([(b"%d" % number, value(number), 0) for number in range(10)])
        assert await other.contents() == {b"%d" % number: value(number) for number in range(10)}
        assert "state: partition 0 is rebuilt from its changelog: it is of another topic" in caplog.text

    async def test_a_file_of_a_changelog_that_was_made_anew_is_rebuilt_and_the_log_says_so(
        self, rocks: Tables, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.written(rocks)
        rocks.delete_changelog()
        rocks.create_changelog()
        rocks.append([(b"other", value(1), 0)])
        assert await rocks.contents() == {b"other": value(1)}
        assert "state: partition 0 is rebuilt from its changelog: it is of another topic" in caplog.text

    async def test_a_file_in_a_shared_directory_goes_with_its_partition(self, rocks: Tables) -> None:
        async with rocks.worker("shared") as (first_app, first):
            for partition in range(PARTITIONS):
                await first.write(partition, {b"k": value(5)}, applied_offset=5)
            async with rocks.worker("shared") as (_, second):
                await until(lambda: len(first_app.tables["state"].owned) == 1)
                (moved,) = {0, 1} - set(first_app.tables["state"].owned)
                assert second.get(moved, b"k") == value(5)
                await second.write(moved, {b"k": value(9)}, applied_offset=9)
            await until(lambda: len(first_app.tables["state"].owned) == PARTITIONS)
            assert first.get(moved, b"k") == value(9)
