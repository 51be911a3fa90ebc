"""Mend A (streams go on in the right order after a rebalance) and mend F (the changelog is never behind)."""

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from table_scene import PARTITIONS, Tables, make_app, until

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream.exits import ExitCode

SLICE = 100


@pytest.fixture
def scene(
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Tables:
    topic = create_topic("raw", partitions=PARTITIONS)
    tables = Tables(broker.bootstrap_servers, topic, unique_name("group"), tmp_path, "rocksdb")
    tables.create_changelog()
    return tables


class SlowSeek(driver.Consumer):  # type: ignore[misc]
    """Faust's own consumer, whose seek to the committed offsets takes as long as over a slow network."""

    async def perform_seek(self) -> None:
        await asyncio.sleep(0.2)
        await super().perform_seek()


class SlowSeekTransport(driver.Transport):  # type: ignore[misc]
    """Not the chunk transport: that one would notice the hole by itself and end."""

    Consumer = SlowSeek


class Reader:
    """A worker on Faust's own transport that notes and acknowledges every record, one by one."""

    def __init__(self, scene: Tables, name: str, enough: asyncio.Event) -> None:
        self.enough = enough
        self.seen: set[tuple[int, int]] = set()
        self.app = make_app(
            scene.servers, scene.group, scene.topic, scene.directory / name, stream_buffer_maxsize=4096
        )
        self.app.transport = SlowSeekTransport(self.app.conf.broker_consumer, self.app)
        topic = self.app.topic(scene.topic, key_type=bytes, value_type=bytes, value_serializer="raw")

        @self.app.agent(topic, isolated_partitions=True)
        async def note(stream: Any) -> None:
            async for event in stream.events():
                self.seen.add((event.message.partition, event.message.offset))
                if not self.enough.is_set():
                    await asyncio.sleep(0.001)  # Slower than the source, so that queues are never empty.


async def test_no_record_is_committed_unseen_while_workers_come_and_go(scene: Tables) -> None:
    enough = asyncio.Event()
    first, second = Reader(scene, "first", enough), Reader(scene, "second", enough)
    producing = asyncio.create_task(produce_until(enough, scene))
    await first.app.start()
    await until(lambda: len(first.seen) > 10 * SLICE)
    await second.app.start()
    await until(lambda: len(second.seen) > 5 * SLICE)
    await second.app.stop()
    seen = len(first.seen)
    await until(lambda: len(first.seen) > seen + 10 * SLICE)
    enough.set()
    produced = await producing
    await scene.until_committed(produced)
    await first.app.stop()
    assert len(first.seen | second.seen) == produced


async def produce_until(enough: asyncio.Event, scene: Tables) -> int:
    """Append records, a slice at a time, and give how many."""
    produced = 0
    while not enough.is_set():
        await produce_slice(scene)
        produced += SLICE
    return produced


async def produce_slice(scene: Tables) -> None:
    """Append some records, each with a key of its own: no later record makes up for a lost one."""
    await asyncio.to_thread(scene.produce, [uuid.uuid4().bytes for _ in range(SLICE)])
    await asyncio.sleep(0.03)


@pytest.mark.parametrize("fault", ["--kill-before-send=3", "--kill-before-apply=3"])
async def test_a_kill_during_a_write_leaves_changelog_and_file_in_agreement(
    fault: str, scene: Tables
) -> None:
    produced = 0
    with scene.running("same-directory", fault) as killed:
        while killed.process.poll() is None:
            await produce_slice(scene)
            produced += SLICE
        assert await killed.line("killed")
    with scene.running("same-directory"):
        await scene.until_committed(produced)
    for partition in range(PARTITIONS):
        same = await scene.contents(partition, "same-directory")
        assert same == await scene.contents(partition, "another-directory")
    assert (await scene.counts("another-directory")).total() == produced


async def test_an_exception_in_a_recovery_callback_ends_the_process(scene: Tables) -> None:
    with scene.running("worker", "--fail-in-callback") as worker:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED


async def test_a_missing_changelog_ends_the_process(scene: Tables) -> None:
    scene.delete_changelog()
    with scene.running("worker") as worker:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED
