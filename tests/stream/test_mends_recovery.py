"""Mend A (streams go on in the right order after a rebalance) and mend F (the changelog is never behind)."""

import asyncio
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from table_scene import PARTITIONS, Tables, make_app, until

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream.exits import ExitCode

RECORDS = 6_000


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

    def __init__(self, scene: Tables, name: str) -> None:
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


async def test_no_record_is_committed_unseen_while_workers_come_and_go(scene: Tables) -> None:
    first, second = Reader(scene, "first"), Reader(scene, "second")
    await first.app.start()
    producing = asyncio.create_task(produce_slowly(scene))
    await until(lambda: len(first.seen) > RECORDS / 6)
    await second.app.start()
    await until(lambda: len(second.seen) > RECORDS / 20)
    await second.app.stop()
    await producing
    await scene.until_committed(RECORDS)
    await first.app.stop()
    assert len(first.seen | second.seen) == RECORDS


async def produce_slowly(scene: Tables) -> None:
    """Append records over some seconds, each with a key of its own: no later record makes up for a lost one."""
    for _ in range(RECORDS // 100):
        await asyncio.to_thread(scene.produce, [uuid.uuid4().bytes for _ in range(100)])
        await asyncio.sleep(0.03)


@pytest.mark.parametrize("fault", ["--kill-before-send=3", "--kill-before-apply=3"])
async def test_a_kill_during_a_write_leaves_changelog_and_file_in_agreement(
    fault: str, scene: Tables
) -> None:
    for end in ([fault], []):
        worker = scene.process("same-directory", *end)
        try:
            producing = asyncio.create_task(produce_slowly(scene))
            if end:
                await worker.line("killed")
            await producing
            if not end:
                await scene.until_committed(2 * RECORDS)
        finally:
            worker.end(signal.SIGKILL)
    same, fresh = await scene.contents(0, "same-directory"), await scene.contents(0, "another-directory")
    assert same == fresh
    assert (await scene.counts("another-directory")).total() == 2 * RECORDS


async def test_an_exception_in_a_recovery_callback_ends_the_process(scene: Tables) -> None:
    worker = scene.process("worker", "--fail-in-callback")
    try:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED
    finally:
        worker.end(signal.SIGKILL)


async def test_a_missing_changelog_ends_the_process(scene: Tables) -> None:
    scene.delete_changelog()
    worker = scene.process("worker")
    try:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED
    finally:
        worker.end(signal.SIGKILL)
