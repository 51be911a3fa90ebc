"""The chunk transport against a real broker: nothing lost, nothing committed early, nobody held up."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chunk_worker import Notebook, add_reader, make_app, running
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from faust.types import TP
from table_scene import BESIDE_THE_TESTS

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.metrics.worker import GONE_UNREAD
from pipeline.stream.chunks import ChunkLimits
from pipeline.stream.cutter import LogCutError, LogHoleError


@dataclass
class Scene:
    """A topic and a group of one's own on the shared broker."""

    servers: str
    topic: str
    group: str
    directory: Path

    def app(self, handle: Callable[[Any], Any], name: str = "worker", **settings: Any) -> Any:
        app = make_app(self.servers, self.group, self.topic, self.directory / name, **settings)
        add_reader(app, self.topic, handle)
        return app

    def producer(self, **config: Any) -> Producer:
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        return Producer({"bootstrap.servers": self.servers, "linger.ms": 20, **dotted})

    def produce(self, values: list[bytes | None], partition: int = 0, **config: Any) -> None:
        """Send the values in order, with keys and a header that number them; all are in the log after."""
        producer = self.producer(**config)
        for number, value in enumerate(values):
            producer.produce(
                self.topic, value, b"key-%d" % number, partition, headers=[("n", b"%d" % number)]
            )
        assert producer.flush(30) == 0

    def committed(self, partition: int = 0, topic: str = "") -> int:
        """The group's committed offset; negative when it has committed nothing."""
        asking = Consumer({"bootstrap.servers": self.servers, "group.id": self.group})
        try:
            return asking.committed([TopicPartition(topic or self.topic, partition)], 30)[0].offset
        finally:
            asking.close()

    def commit(self, offset: int, partition: int = 0) -> None:
        """Commit an offset for the group, which has no members."""
        group = Consumer({"bootstrap.servers": self.servers, "group.id": self.group})
        group.commit(offsets=[TopicPartition(self.topic, partition, offset)], asynchronous=False)
        group.close()

    def delete_before(self, offset: int, partition: int = 0) -> None:
        """Take away what is older, as retention does."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        bound = TopicPartition(self.topic, partition, offset)
        admin.delete_records([bound])[bound].result(30)

    async def until_committed(self, offset: int, partition: int = 0, topic: str = "") -> None:
        """Wait until the group has committed the offset; fails at once when it has committed more."""
        async with asyncio.timeout(60):
            while (committed := await asyncio.to_thread(self.committed, partition, topic)) < offset:
                pass
        assert committed == offset

    @contextlib.contextmanager
    def worker(self, *options: str, name: str = "process") -> Iterator[subprocess.Popen[str]]:
        """A worker process; its lines are `partition start first last ack|hold`."""
        script = Path(__file__).with_name("chunk_worker.py")
        directory = self.directory / name
        command = [sys.executable, script, self.servers, self.group, self.topic, directory, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=BESIDE_THE_TESTS) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def scene(
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Scene:
    topic = create_topic("raw", partitions=2)
    return Scene(broker.bootstrap_servers, topic, unique_name("group"), tmp_path)


class Line(NamedTuple):
    """One chunk as a worker process tells of it."""

    partition: int
    start: int
    first: int
    last: int
    verdict: str


async def read_chunks(process: subprocess.Popen[str], count: int) -> list[Line]:
    """The next chunks a worker process tells of; fewer if it ends before."""
    lines: list[Line] = []
    while len(lines) < count and (text := await asyncio.to_thread(process.stdout.readline)):
        _, found, rest = text.rpartition("chunk ")  # Faust writes to the terminal, too, even on our line.
        if found:
            *numbers, verdict = rest.split()
            lines.append(Line(*map(int, numbers), verdict))
    return lines


def numbered(count: int) -> list[bytes | None]:
    return [b"value %d" % number for number in range(count)]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_record_arrives_once_in_log_order_whatever_the_codec(codec: str, scene: Scene) -> None:
    values = [b"value %d" % number if number % 10 else None for number in range(3000)]
    for partition in (0, 1):
        scene.produce(values, partition, compression_type=codec)
    notebook = Notebook()
    async with running(scene.app(notebook.note)):
        await notebook.until(lambda: notebook.count() >= 6000)
    for partition in (0, 1):
        records = [record for chunk in notebook.chunks(partition) for record in chunk.records]
        assert [record.offset for record in records] == list(range(3000))
        assert [record.value for record in records] == values
        assert [record.key for record in records] == [b"key-%d" % number for number in range(3000)]
        assert list(records[7].headers) == [("n", b"7")]
        assert records[0].timestamp_type == 1  # The broker's append time.


async def test_a_chunk_keeps_its_limits_although_a_batch_is_larger(scene: Scene) -> None:
    scene.produce(numbered(1000), compression_type="lz4", linger_ms=500)
    scene.produce([b"x" * 10_000] * 100, 1, compression_type="lz4", linger_ms=500)
    notebook = Notebook()
    limits = ChunkLimits(records=300, size_bytes=200_000)
    async with running(scene.app(notebook.note, limits=limits, broker_max_poll_records=400)):
        await notebook.until(lambda: notebook.count() >= 1100)
    assert notebook.offsets(0) == list(range(1000))
    assert notebook.offsets(1) == list(range(100))
    assert max(len(chunk.records) for chunk in notebook.chunks(0)) == 300
    # Bytes are counted every 64 records.
    assert max(len(chunk.records) for chunk in notebook.chunks(1)) == 64
    assert sum(chunk.size_bytes for chunk in notebook.chunks(1)) == 1_000_000


async def test_a_record_arrives_although_many_fetches_were_empty(scene: Scene) -> None:
    notebook = Notebook()
    async with running(scene.app(notebook.note)) as app:
        fetcher = app.consumer._thread._consumer._fetcher
        fetch = fetcher._proc_fetch_request
        answers: list[bool] = []
        loop, enough = asyncio.get_running_loop(), asyncio.Event()

        async def watching(*args: Any) -> bool:
            answers.append(await fetch(*args))
            if len(answers) == 5:  # In the consumer's thread, which has a loop of its own.
                loop.call_soon_threadsafe(enough.set)
            return answers[-1]

        fetcher._proc_fetch_request = watching
        await asyncio.wait_for(enough.wait(), 30)
        scene.produce(numbered(1))
        await notebook.until(lambda: notebook.count() == 1)
    assert answers[:5] == [False] * 5
    assert notebook.offsets() == [0]


async def test_transaction_markers_and_aborted_records_are_the_only_holes(scene: Scene) -> None:
    producer = scene.producer(transactional_id=scene.group)
    producer.init_transactions()
    sent: list[bytes] = []
    for transaction in range(6):
        producer.begin_transaction()
        values = [b"%d-%d" % (transaction, number) for number in range(10)]
        for value in values:
            producer.produce(scene.topic, value, partition=0)
        if transaction in (1, 2, 5):
            producer.flush()
            producer.abort_transaction()
        else:
            producer.commit_transaction()
            sent += values
    scene.produce([b"last"])
    notebook = Notebook()

    async def note_and_acknowledge(event: Any) -> None:
        event.ack()
        await notebook.note(event)

    app = scene.app(note_and_acknowledge, limits=ChunkLimits(records=7))
    async with running(app):
        await notebook.until(lambda: notebook.count() == 31)
    chunks = notebook.chunks()
    assert [record.value for chunk in chunks for record in chunk.records] == [*sent, b"last"]
    assert chunks[0].start_offset == 0
    assert all(chunk.follows(previous) for previous, chunk in pairwise(chunks))
    assert chunks[-1].last_offset == 66  # 6 transactions of 10 records and a marker, then one record.
    assert scene.committed() == 67


async def test_markers_at_the_end_of_a_fetch_belong_to_the_next_chunk(scene: Scene) -> None:
    producer = scene.producer(transactional_id=scene.group)
    producer.init_transactions()
    notebook = Notebook()
    async with running(scene.app(notebook.note)):
        for count in (1, 2, 3):
            producer.begin_transaction()
            producer.produce(scene.topic, b"committed", partition=0)
            producer.commit_transaction()
            await notebook.until(lambda count=count: notebook.count() == count)
    assert [(chunk.start_offset, chunk.first_offset) for chunk in notebook.chunks()] == [
        (0, 0),
        (1, 2),
        (3, 4),
    ]


async def test_after_a_kill_the_log_goes_on_behind_the_last_acknowledged_chunk(scene: Scene) -> None:
    for partition in (0, 1):
        scene.produce(numbered(1000), partition)
    with scene.worker("--acks", "3") as process:
        before = await read_chunks(process, 20)
        for partition in (0, 1):
            await scene.until_committed(300, partition)
        process.kill()
    with scene.worker(name="successor") as process:
        after = await read_chunks(process, 14)
    for partition in (0, 1):
        acknowledged = [line for line in before if line.partition == partition and line.verdict == "ack"]
        again = [line for line in after if line.partition == partition]
        assert acknowledged[-1].last == 299
        assert again[0].start == 300
        offsets = [offset for line in acknowledged + again for offset in range(line.first, line.last + 1)]
        assert offsets == list(range(1000))


async def test_a_chunk_lost_on_the_way_ends_the_worker_and_nothing_after_it_is_committed(
    scene: Scene,
) -> None:
    scene.produce(numbered(1000))
    with scene.worker("--lose-one") as process:
        lines = await read_chunks(process, 10)
        assert await asyncio.to_thread(process.wait, 60) != 0
    assert [line.last for line in lines] == [99]
    assert scene.committed() == 100


async def test_acknowledging_out_of_order_commits_only_the_unbroken_run(scene: Scene) -> None:
    scene.produce(numbered(500))
    notebook = Notebook()
    async with running(scene.app(notebook.note, limits=ChunkLimits(records=100))):
        await notebook.until(lambda: notebook.count() == 500)
        events = notebook.events[0]
        for position in (0, 2, 3):
            events[position].ack()
        await scene.until_committed(100)
        events[1].ack()
        await scene.until_committed(400)


async def test_a_seek_to_the_committed_offset_hands_everything_after_it_out_again(scene: Scene) -> None:
    scene.produce(numbered(500))
    notebook = Notebook()
    async with running(scene.app(notebook.note, limits=ChunkLimits(records=100))) as app:
        await notebook.until(lambda: notebook.count() == 500)
        assert app.consumer.reads_from(TP(scene.topic, 0)) == 0
        first, _, third, *_ = notebook.events.pop(0)
        first.ack()
        await scene.until_committed(100)
        third.ack()
        await app.consumer.perform_seek()
        assert app.consumer.reads_from(TP(scene.topic, 0)) == 100
        await notebook.until(lambda: notebook.count() == 400)
        assert notebook.offsets() == list(range(100, 500))
        notebook.events[0][0].ack()
        await scene.until_committed(200)  # What was said of chunks before the seek is forgotten.
        for event in notebook.events[0]:
            event.ack()
        await scene.until_committed(500)


async def test_a_stuck_partition_keeps_its_group_and_holds_up_no_other(scene: Scene) -> None:
    scene.produce(numbered(2000))
    notebook = Notebook()
    release = asyncio.Event()

    async def stuck_on_partition_0(event: Any) -> None:
        await notebook.note(event)
        if event.message.partition == 0:
            await release.wait()

    settings = {"limits": ChunkLimits(records=100), "broker_session_timeout": 2}
    async with running(scene.app(stuck_on_partition_0, **settings)) as app:
        await notebook.until(lambda: notebook.offsets(0) == list(range(100)))
        generation = app.consumer_generation_id
        session_ends = asyncio.get_running_loop().time() + 3
        rounds = 0
        while asyncio.get_running_loop().time() < session_ends or rounds < 20:
            scene.produce(numbered(1), 1)
            rounds += 1
            await notebook.until(lambda: len(notebook.offsets(1)) == rounds)  # noqa: B023
        assert notebook.offsets(0) == list(range(100))
        assert app.consumer_generation_id == generation
        # One chunk in the agent's hands, two in its queue, and no more was cut.
        assert app.consumer._expected_offset[TP(scene.topic, 0)] == 300
        release.set()
        await notebook.until(lambda: len(notebook.offsets(0)) == 2000)
    assert notebook.offsets(0) == list(range(2000))
    assert notebook.offsets(1) == list(range(rounds))


async def test_after_a_rebalance_unacknowledged_chunks_are_read_again_by_their_new_owner(
    scene: Scene,
) -> None:
    for partition in (0, 1):
        scene.produce(numbered(500), partition)
    first, second = Notebook(), Notebook()
    limits = ChunkLimits(records=100)
    async with running(scene.app(first.note, limits=limits)) as app:
        await first.until(lambda: first.count() == 1000)
        for partition in (0, 1):
            first.events[partition][0].ack()
            await scene.until_committed(100, partition)
        generation = app.consumer_generation_id
        stale = {partition: list(first.events[partition]) for partition in (0, 1)}
        first.events.clear()
        async with running(scene.app(second.note, "second", limits=limits)):
            await second.until(lambda: second.count() == 400)
            await first.until(lambda: first.count() == 400)
            assert app.consumer_generation_id != generation
            (ours,) = first.events
            (theirs,) = second.events
            assert {ours, theirs} == {0, 1}
            # Chunks of the old generation are read again, so what is said of them now counts for nothing.
            for events in stale.values():
                for event in events[1:]:
                    event.ack()
            for notebook, partition in ((first, ours), (second, theirs)):
                assert notebook.chunks(partition)[0].start_offset == 100
                assert notebook.offsets(partition) == list(range(100, 500))
                notebook.events[partition][0].ack()
                await scene.until_committed(200, partition)
            for notebook, partition in ((first, ours), (second, theirs)):
                for event in notebook.events[partition]:
                    event.ack()
                await scene.until_committed(500, partition)


async def test_a_worker_that_dies_leaves_its_partitions_to_the_other_from_the_committed_offset(
    scene: Scene,
) -> None:
    for partition in (0, 1):
        scene.produce(numbered(500), partition)
    notebook = Notebook()

    async def note_and_acknowledge(event: Any) -> None:
        event.ack()
        await notebook.note(event)

    with scene.worker("--acks", "2") as process:
        before = await read_chunks(process, 10)
        for partition in (0, 1):
            await scene.until_committed(200, partition)
        async with running(scene.app(note_and_acknowledge, limits=ChunkLimits(records=100))):
            await notebook.until(lambda: notebook.count() == 300)
            process.kill()
            await notebook.until(lambda: notebook.count() >= 600)
            for partition in (0, 1):
                await scene.until_committed(500, partition)
    assert {line.partition for line in before} == {0, 1}
    for partition in (0, 1):
        assert sorted(set(notebook.offsets(partition))) == list(range(200, 500))


async def test_what_retention_deleted_unread_is_reported_and_the_rest_is_read(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.produce(numbered(500))
    scene.commit(100)
    scene.delete_before(300)
    before = GONE_UNREAD._value.get()
    notebook = Notebook()
    async with running(scene.app(notebook.note)) as app:
        await notebook.until(lambda: notebook.count() == 200)
        assert app.consumer.reads_from(TP(scene.topic, 0)) == 300
    assert notebook.offsets() == list(range(300, 500))
    assert "offsets 100 to 299 are gone, unread" in caplog.text
    assert GONE_UNREAD._value.get() == before + 200


async def test_a_reader_that_retention_overtakes_ends_instead_of_going_on_behind_the_hole(
    scene: Scene,
) -> None:
    # More than one fetch brings, so that the reader has to come back for the rest.
    scene.produce([b"x" * 40_000] * 100)
    notebook, release = Notebook(), asyncio.Event()

    async def wait(event: Any) -> None:
        await notebook.note(event)
        await release.wait()

    async with running(scene.app(wait, limits=ChunkLimits(records=1))) as app:
        await notebook.until(lambda: notebook.count() == 1)
        await asyncio.to_thread(scene.delete_before, 90)
        release.set()
        await asyncio.wait_for(app.wait_until_stopped(), 60)
        assert isinstance(app.crash_reason, LogHoleError)
    read = notebook.count()
    assert 0 < read < 90
    assert notebook.offsets() == list(range(read))
    assert f"offsets {read} to 89 were never handed out" in str(app.crash_reason)


async def test_a_log_that_ends_before_the_committed_offset_is_not_read_from_its_beginning(
    scene: Scene,
) -> None:
    scene.commit(300)
    scene.produce(numbered(100))
    notebook = Notebook()
    async with running(scene.app(notebook.note)) as app:
        await asyncio.wait_for(app.wait_until_stopped(), 60)
        assert isinstance(app.crash_reason, LogCutError)
    assert notebook.count() == 0
    assert "offset 300" in str(app.crash_reason)
    assert scene.committed() == 300


async def test_other_topics_and_changelogs_go_the_stock_way(
    scene: Scene, create_topic: Callable[..., str]
) -> None:
    plain = create_topic("plain", partitions=2)
    scene.produce(numbered(300))
    notebook = Notebook()
    heard: list[bytes] = []

    def make(name: str) -> tuple[Any, Any]:
        async def count(event: Any) -> None:
            totals[b"total"] = totals.get(b"total", 0) + len(event.value.records)
            event.ack()
            await notebook.note(event)

        app = scene.app(count, name, topic_partitions=2, limits=ChunkLimits(records=100))
        totals = app.Table("totals", partitions=2, key_type=bytes, value_type=int)

        @app.agent(app.topic(plain, key_type=bytes, value_type=bytes, value_serializer="raw"))
        async def listen(stream: Any) -> None:
            async for value in stream:
                heard.append(value)
                async with notebook.changed:
                    notebook.changed.notify_all()

        return app, totals

    app, totals = make("first")
    async with running(app):
        await notebook.until(lambda: notebook.count() == 300)
        producer = scene.producer()
        for number in range(50):
            producer.produce(plain, b"%d" % number, partition=0)
        producer.flush()
        await notebook.until(lambda: len(heard) == 50)
        await scene.until_committed(300)
        await scene.until_committed(50, topic=plain)
    assert heard == [b"%d" % number for number in range(50)]
    app, totals = make("second")
    async with running(app):
        scene.produce(numbered(10))
        await notebook.until(lambda: notebook.count() == 310)
        assert totals[b"total"] == 310
