"""An app with state tables, and a changelog to look at and to tamper with."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from pipeline.core.kept import STATE_VERSION
from pipeline.stream.changelog import APPLIED_HEADER
from pipeline.stream.chunks import ChunkTransport, Untouched, transport_settings
from pipeline.stream.exits import ends_process_on_error
from pipeline.stream.producer import BarrierProducer
from pipeline.stream.recovery import MeterTableManager
from pipeline.stream.sensors import SendErrorEndsProcess
from pipeline.stream.tables import ChangelogTable, StateTable

PARTITIONS = 2
BESIDE_THE_TESTS = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
"""Of scripts: they import the program beside the tests, not the installed one (tests/protections changes a copy)."""
_COMPACTED = {"cleanup.policy": "compact", "max.message.bytes": "2000000"}


def value(applied_offset: int, payload: bytes = b"", version: int = STATE_VERSION) -> bytes:
    return applied_offset.to_bytes(8, "big") + bytes([version]) + payload


class MendedTransport(ChunkTransport):
    """The worker's transport: chunks in, and a producer whose flush is a barrier."""

    Producer = BarrierProducer


def make_app(servers: str, group: str, topic: str, directory: Path, **settings: Any) -> Any:
    """An app on the chunk transport whose table manager is ours; `store` is a setting like any other."""
    directory.mkdir(parents=True, exist_ok=True)
    ours = {
        "Table": ChangelogTable,
        "TableManager": functools.partial(
            MeterTableManager, kafka={"bootstrap.servers": servers}, source_topic=topic
        ),
        "store": "memory://",
        "producer_acks": -1,
        "broker_commit_interval": 0.2,
        "broker_session_timeout": 6,
        "broker_heartbeat_interval": 1,
        "stream_recovery_delay": 0,
        "table_standby_replicas": 0,
    }
    app = faust.App(
        group,
        broker=f"kafka://{servers}",
        datadir=directory,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        **{**transport_settings(), **ours, **settings},
    )
    app.transport = MendedTransport(app.conf.broker_consumer, app, topics={topic})

    app.sensors.add(SendErrorEndsProcess())
    return app


def add_agent(app: Any, topic: str, handle: Callable[[Any], Any]) -> None:
    """Give every event of the topic to `handle`, one agent instance per partition; acknowledges nothing."""

    @app.agent(app.topic(topic, schema=Untouched()), isolated_partitions=True, name="agent")
    @ends_process_on_error
    async def agent(stream: Any) -> None:
        async for event in stream.noack().events():
            await handle(event)


async def ignore(_: Any) -> None:
    """What an agent does that only has to be there."""


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition that changes with the event loop."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - Faust has no event for what is waited for
            await asyncio.sleep(0.02)


class Worker:
    """A worker process (counting_worker.py) and what it has printed."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=BESIDE_THE_TESTS)

    async def line(self, text: str, seconds: float = 60) -> str:
        """Wait for a line that contains the text, and give it."""
        async with asyncio.timeout(seconds):
            while text not in (line := await asyncio.to_thread(self.process.stdout.readline)):
                assert line, f"the worker has ended with code {self.process.wait()} before it said {text!r}"
        return line

    async def exit_code(self, seconds: float = 60) -> int:
        """Wait until the process has ended by itself, and give its code."""
        async with asyncio.timeout(seconds):
            await asyncio.to_thread(self.process.stdout.read)
        return self.process.wait(5)

    def end(self, number: int) -> int:
        """Send the signal, if it still runs, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.stdout.close()
        return self.process.wait(30)


@dataclass
class Tables:
    """A source topic, a group and the changelog of its table `state`, of one's own on the shared broker."""

    servers: str
    topic: str
    group: str
    directory: Path
    store: str = "memory"

    @property
    def changelog(self) -> str:
        return f"{self.group}-state-changelog"

    def create_changelog(self, partitions: int = PARTITIONS) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers})
        topic = NewTopic(self.changelog, partitions, 1, config=_COMPACTED)
        admin.create_topics([topic])[self.changelog].result(30)

    def add_partition(self) -> None:
        """To the source topic."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        admin.create_partitions([NewPartitions(self.topic, PARTITIONS + 1)])[self.topic].result(30)
        while len(admin.list_topics(self.topic, timeout=30).topics[self.topic].partitions) == PARTITIONS:
            pass

    def delete_changelog(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers})
        admin.delete_topics([self.changelog])[self.changelog].result(30)
        while self.changelog in admin.list_topics(timeout=30).topics:
            pass

    def append(
        self, records: list[tuple[bytes, bytes | None, int]], partition: int = 0, **config: Any
    ) -> None:
        """Append (key, value or None, applied offset of a tombstone) to the changelog, as anybody might."""
        dotted = {key.replace("_", "."): setting for key, setting in config.items()}
        producer = Producer({"bootstrap.servers": self.servers, **dotted})
        transactional = "transactional_id" in config
        if transactional:
            producer.init_transactions(30)
            producer.begin_transaction()
        for key, content, applied in records:
            headers = [(APPLIED_HEADER, applied.to_bytes(8, "big"))] if content is None else []
            producer.produce(self.changelog, content, key, partition, headers=headers)
        assert producer.flush(30) == 0
        if transactional:
            producer.commit_transaction(30)

    def read_changelog(self, partition: int = 0) -> list[tuple[bytes, bytes | None]]:
        """Everything in a partition of the changelog, in order."""
        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": "reader", "enable.partition.eof": True}
        )
        consumer.assign([TopicPartition(self.changelog, partition, 0)])
        records = []
        try:
            while (message := consumer.poll(30)).error() is None:
                records.append((message.key(), message.value()))
        finally:
            consumer.close()
        return records

    @contextlib.asynccontextmanager
    async def worker(self, name: str = "worker", **settings: Any) -> AsyncIterator[tuple[Any, StateTable]]:
        """A worker in this process that owns the partitions it was given, until the end of the block."""
        app = make_app(
            self.servers, self.group, self.topic, self.directory / name, store=f"{self.store}://", **settings
        )
        add_agent(app, self.topic, ignore)
        table = StateTable(app, "state", partitions=PARTITIONS)
        await app.start()
        try:
            async with asyncio.timeout(60):
                await app.tables.recovery.completed.wait()
            yield app, table
        finally:
            await app.stop()

    def process(self, name: str, *options: str) -> Worker:
        """A worker process that counts; it owns its part of the partitions until it is ended."""
        script = Path(__file__).with_name("counting_worker.py")
        arguments = [self.servers, self.group, self.topic, self.directory / name, "--store", self.store]
        return Worker([sys.executable, script, *arguments, *options])

    @contextlib.contextmanager
    def running(self, name: str, *options: str) -> Iterator[Worker]:
        """A worker process until the end of the block, if it has not ended before."""
        worker = self.process(name, *options)
        try:
            yield worker
        finally:
            worker.end(signal.SIGKILL)

    def produce_to(self, partition: int, count: int) -> None:
        """Append records to one partition of the source topic."""
        producer = Producer({"bootstrap.servers": self.servers})
        for _ in range(count):
            producer.produce(self.topic, b"", b"k", partition)
        assert producer.flush(30) == 0

    def produce(self, keys: list[bytes]) -> None:
        """Append records with these keys to the source topic, in turn to its partitions."""
        producer = Producer({"bootstrap.servers": self.servers, "queue.buffering.max.messages": 1_000_000})
        for number, key in enumerate(keys):
            producer.produce(self.topic, b"", key, number % PARTITIONS)
        assert producer.flush(30) == 0

    def committed(self) -> int:
        """How many records of the source topic the group has committed."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.group})
        try:
            wanted = [TopicPartition(self.topic, partition) for partition in range(PARTITIONS)]
            return sum(max(0, found.offset) for found in consumer.committed(wanted, 30))
        except KafkaException as error:
            if not (error.args[0].retriable() or error.args[0].code() == KafkaError.NOT_COORDINATOR):
                raise
            return 0  # The coordinator is being elected; asked again.
        finally:
            consumer.close()

    async def until_committed(self, count: int) -> None:
        """Wait until the group has committed so many records."""
        async with asyncio.timeout(90):
            while await asyncio.to_thread(self.committed) < count:
                pass

    async def until_left(self) -> None:
        """Wait until nobody is in the group, as a killed worker is for the length of its session."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        async with asyncio.timeout(60):
            while admin.describe_consumer_groups([self.group])[self.group].result(30).members:  # noqa: ASYNC110 - none
                await asyncio.sleep(0.1)

    async def contents(self, partition: int = 0, name: str = "worker") -> Mapping[bytes, bytes]:
        """What a worker started now finds in a partition."""
        async with self.worker(name) as (_, table):
            return dict(table.items(partition))

    async def counts(self, name: str) -> Counter[bytes]:
        """What counting workers have counted, by key, as a worker started now recovers it."""
        counts: Counter[bytes] = Counter()
        async with self.worker(name) as (_, table):
            for partition in range(PARTITIONS):
                for key, content in table.items(partition):
                    counts[key] += int.from_bytes(content[9:], "big")
        return counts
