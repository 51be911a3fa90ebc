"""State tables against a real broker: what was written is found again, whatever happened in between."""

from collections.abc import Callable
from pathlib import Path

import pytest
from table_scene import PARTITIONS, Tables, value

from pipeline.embedded.broker import EmbeddedBroker


@pytest.fixture(params=["memory", "rocksdb"])
def tables(
    request: pytest.FixtureRequest,
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Tables:
    topic = create_topic("raw", partitions=PARTITIONS)
    scene = Tables(broker.bootstrap_servers, topic, unique_name("group"), tmp_path, request.param)
    scene.create_changelog()
    return scene


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
