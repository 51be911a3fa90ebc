"""Three Apache Kafka nodes keep what replication promises, whichever of them dies.

What one node shows as well is in test_embedded_broker.py. Every test leaves all three nodes running.
"""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as Place
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from click.testing import CliRunner
from cluster_clients import Clients, only_errors, until
from confluent_kafka import Consumer, ElectionType, KafkaError, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource, ResourceType

from pipeline.cli import main
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.cluster import EmbeddedCluster
from pipeline.settings import Settings
from pipeline.stream.chunks import ChunkLimits
from pipeline.topics import topics
from tests.stream.chunk_worker import Notebook, add_reader, make_app, running

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Three nodes for this module, whose cleaners look every half second."""
    often = {"log.cleaner.backoff.ms": "200", "log.retention.check.interval.ms": "300"}
    soon = {"log.initial.task.delay.ms": "300"}
    with EmbeddedCluster(tmp_path_factory.mktemp("cluster"), configuration={**often, **soon}) as cluster:
        yield Clients(cluster)
        cluster.kill()


def test_every_codec_is_read_by_both_clients_from_three_replicas(
    clients: Clients, unique_name: Callable[[str], str]
) -> None:
    topic = clients.create_topic(unique_name("codecs"), *[[1, 2, 3], [2, 3, 1], [3, 1, 2]] * 2)
    values = [b"%d " % number * 50 for number in range(500)]
    for partition, codec in enumerate(CODECS):
        clients.produce(topic, values, partition, compression_type=codec)
    by_confluent = [
        [record.value() for record in clients.read(topic, partition)] for partition in range(len(CODECS))
    ]
    assert by_confluent == [values] * len(CODECS)
    by_aiokafka = asyncio.run(_read_with_aiokafka(clients, topic, len(CODECS), len(values)))
    assert by_aiokafka == [values] * len(CODECS)
    assert all(clients.insync(topic, partition) == {1, 2, 3} for partition in range(len(CODECS)))


async def _read_with_aiokafka(
    clients: Clients, topic: str, partitions: int, count_each: int
) -> list[list[bytes]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=clients.servers, auto_offset_reset="earliest")
    places = [Place(topic, partition) for partition in range(partitions)]
    values: dict[Place, list[bytes]] = {place: [] for place in places}
    await consumer.start()
    try:
        consumer.assign(places)
        async with asyncio.timeout(60):
            while sum(map(len, values.values())) < partitions * count_each:
                for place, records in (await consumer.getmany(timeout_ms=1000)).items():
                    values[place] += [record.value for record in records]
    finally:
        await consumer.stop()
    return list(values.values())


# Groups ---------------------------------------------------------------------------------------


class _Member:
    """A member on confluent-kafka, in a thread of its own: notes and commits what it is given."""

    def __init__(self, clients: Clients, group: str, topic: str) -> None:
        self.values: list[bytes] = []
        self.owned: set[int] = set()
        self._leaving = threading.Event()
        options = {"heartbeat_interval_ms": 300, "partition_assignment_strategy": "roundrobin"}
        self._consumer = clients.consumer(group, auto_offset_reset="earliest", **options)
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _assigned(self, _consumer: Consumer, places: list[TopicPartition]) -> None:
        self.owned = {place.partition for place in places}

    def _revoked(self, _consumer: Consumer, _places: list[TopicPartition]) -> None:
        self.owned = set()

    def _run(self) -> None:
        while not self._leaving.is_set():
            record = self._consumer.poll(0.1)
            if record is not None and record.error() is None:
                self._consumer.commit(record, asynchronous=False)
                self.values.append(record.value())
        self._consumer.close()

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join(60)


async def test_members_of_both_clients_share_a_group_and_what_it_committed(
    clients: Clients, unique_name: Callable[[str], str]
) -> None:
    topic = clients.create_topic(unique_name("shared"), [1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 3, 2])
    group, numbers = unique_name("group"), count()

    async def produce_some() -> list[bytes]:
        values = [b"%d" % next(numbers) for _ in range(40)]
        for partition in range(4):
            await asyncio.to_thread(clients.produce, topic, values[partition::4], partition)
        return values

    sent = await produce_some()
    member = await asyncio.to_thread(_Member, clients, group, topic)
    try:
        await asyncio.to_thread(until, lambda: len(member.values) == 40)
        assert member.owned == {0, 1, 2, 3}
        async with _aiokafka_member(clients, group, topic) as (other, other_values):
            await asyncio.to_thread(until, lambda: len(other.assignment()) == len(member.owned) == 2)
            assert member.owned.isdisjoint(place.partition for place in other.assignment())
            sent += await produce_some()
            await asyncio.to_thread(until, lambda: len(member.values) + len(other_values) == 80)
            await asyncio.to_thread(member.leave)
            await asyncio.to_thread(until, lambda: len(other.assignment()) == 4)
            sent += await produce_some()
            await asyncio.to_thread(until, lambda: len(member.values) + len(other_values) == 120)
    finally:
        await asyncio.to_thread(member.leave)
    assert sorted(member.values + other_values, key=int) == sent
    assert [clients.committed(group, topic, partition) for partition in range(4)] == [30] * 4


@contextlib.asynccontextmanager
async def _aiokafka_member(clients: Clients, group: str, topic: str) -> Any:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=clients.servers,
        group_id=group,
        enable_auto_commit=False,
        heartbeat_interval_ms=300,
        partition_assignment_strategy=[RoundRobinPartitionAssignor],
    )
    values: list[bytes] = []

    async def read() -> None:
        async for record in consumer:
            await consumer.commit({Place(record.topic, record.partition): record.offset + 1})
            values.append(record.value)

    await consumer.start()
    reading = asyncio.create_task(read())
    try:
        yield consumer, values
    finally:
        reading.cancel()
        await consumer.stop()


# What logs forget -----------------------------------------------------------------------------


def test_compaction_keeps_the_last_value_of_a_key_and_nothing_younger_than_its_lag_goes(
    clients: Clients, unique_name: Callable[[str], str]
) -> None:
    compacted = {"cleanup_policy": "compact", "segment_ms": 50, "min_cleanable_dirty_ratio": 0.01}
    # One leader, and so one cleaner, which looks at both.
    held = clients.create_topic(unique_name("held"), [1, 2, 3], min_compaction_lag_ms=3_600_000, **compacted)
    free = clients.create_topic(unique_name("free"), [1, 2, 3], **compacted)
    producer, values = clients.producer(), {b"a": b"4", b"b": b"5"}
    for topic in (held, free):
        for number in range(6):
            producer.produce(topic, b"%d" % number, key=b"ab"[number % 2 : number % 2 + 1])
        assert producer.flush(30) == 0

    def kept(topic: str) -> list[tuple[bytes, bytes]]:
        producer.produce(topic, b"", key=b"rolls the segment")
        assert producer.flush(30) == 0
        return [(record.key(), record.value()) for record in clients.read(topic) if record.value()]

    until(lambda: len(kept(free)) == 2)
    assert dict(kept(free)) == values
    assert len(kept(held)) == 6
    no_lag = ConfigEntry("min.compaction.lag.ms", "0", incremental_operation=AlterConfigOpType.SET)
    changed = ConfigResource(ResourceType.TOPIC, held, incremental_configs=[no_lag])
    clients.admin.incremental_alter_configs([changed])[changed].result(30)
    until(lambda: len(kept(held)) == 2)
    assert dict(kept(held)) == values


async def test_retention_takes_what_a_group_has_not_read_and_every_reader_can_tell(
    clients: Clients, unique_name: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mebibyte = 1024 * 1024
    topic = clients.create_topic(
        unique_name("retained"), [2, 3, 1], segment_bytes=mebibyte, retention_bytes=mebibyte
    )
    group = unique_name("group")
    values = [os.urandom(mebibyte // 8) for _ in range(40)]
    await asyncio.to_thread(clients.produce, topic, values, batch_size=mebibyte // 4)
    clients.commit(group, topic, 3)
    await asyncio.to_thread(until, lambda: clients.bounds(topic)[0] > 24)
    low, high = clients.bounds(topic)
    assert high == 40

    strict = clients.consumer(group, auto_offset_reset="error")
    strict.assign([TopicPartition(topic, 0)])
    refused = strict.poll(30)
    strict.close()
    assert refused.error().code() == KafkaError._AUTO_OFFSET_RESET

    notebook = Notebook()
    app = make_app(clients.servers.replace(",", ";"), group, topic, tmp_path)
    add_reader(app, topic, notebook.note)
    async with running(app):
        await notebook.until(lambda: notebook.count() == high - low)
    assert [record.value for chunk in notebook.chunks() for record in chunk.records] == values[low:]
    assert f"offsets 3 to {low - 1} are gone, unread" in caplog.text


def test_a_fetch_waits_at_the_leader_and_a_later_append_answers_it(
    clients: Clients, unique_name: Callable[[str], str]
) -> None:
    topic = clients.create_topic(unique_name("waited"), [3, 1, 2])
    asked: list[int] = []

    def note(text: str) -> None:
        asked.append(sum(each["req"].get("Fetch", 0) for each in json.loads(text)["brokers"].values()))

    options = {"fetch_wait_max_ms": 50_000, "statistics_interval_ms": 50, "stats_cb": note}
    with contextlib.closing(clients.consumer(**options)) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])

        def waits() -> bool:
            """Whether no new fetch was sent for ten looks: one that is answered at once is asked again."""
            return consumer.poll(0.05) is None and len(asked) >= 10 and 0 < asked[-10] == asked[-1]

        until(waits)
        clients.produce(topic, [b"later"])
        record = consumer.poll(25)
        assert record is not None
        assert record.value() == b"later"
        until(waits)


# Deaths ---------------------------------------------------------------------------------------


def test_leaders_that_die_or_are_moved_lose_nothing_acknowledged_and_repeat_nothing(
    clients: Clients, unique_name: Callable[[str], str]
) -> None:
    topic = clients.create_topic(unique_name("led"), [2, 3, 1])
    acknowledged, refused = [], []
    stop = threading.Event()
    producer = clients.producer(enable_idempotence=True, message_timeout_ms=120_000)

    def note(error: KafkaError | None, record: Any) -> None:
        (acknowledged if error is None else refused).append(record.value())

    def produce() -> None:
        for number in count():
            if stop.is_set():
                return
            producer.produce(topic, b"%d" % number, on_delivery=note)
            producer.poll(0.002)

    def until_more() -> None:
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 100)

    producing = threading.Thread(target=produce)
    producing.start()
    try:
        until_more()
        clients.node(2).kill()
        until(lambda: clients.leader(topic) in {1, 3})
        clients.node(2).start()
        until_more()
        until(lambda: clients.insync(topic) == {1, 2, 3})
        assert clients.leader(topic) != 2
        place = TopicPartition(topic, 0)
        elected = clients.admin.elect_leaders(ElectionType.PREFERRED, [place]).result(30)
        assert elected[place] is None
        until(lambda: clients.leader(topic) == 2)
        until_more()
    finally:
        stop.set()
        producing.join(60)
    assert producer.flush(60) == 0
    assert not refused
    stored = [record.value() for record in clients.read(topic)]
    assert stored == acknowledged == [b"%d" % number for number in range(len(stored))]


async def test_a_leader_that_dies_inside_a_transaction_leaves_no_hole_no_aborted_record_and_every_commit(
    clients: Clients, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    idle = unique_name("idle_group")
    dying = clients.coordinator(idle)
    topic = clients.create_topic(
        unique_name("transactions"), sorted((1, 2, 3), key=lambda each: each != dying)
    )
    clients.commit(idle, topic, 7)
    committing, aborting = (
        clients.producer(transactional_id=unique_name(noun)) for noun in ("committing", "aborting")
    )
    words = {committing: b"committed", aborting: b"aborted"}

    def each(act: Callable[[Any], object]) -> None:
        for producer in (committing, aborting):
            act(producer)

    def produce(producer: Any) -> None:
        for _ in range(10):
            producer.produce(topic, words[producer], partition=0)
        assert producer.flush(60) == 0

    def end() -> None:
        aborting.abort_transaction(60)
        committing.commit_transaction(60)

    notebook, group = Notebook(), unique_name("group")

    async def note_and_acknowledge(event: Any) -> None:
        event.ack()
        await notebook.note(event)

    app = make_app(clients.servers.replace(",", ";"), group, topic, tmp_path, limits=ChunkLimits(records=7))
    add_reader(app, topic, note_and_acknowledge)
    each(lambda producer: producer.init_transactions(60))
    async with running(app):
        each(lambda producer: producer.begin_transaction())
        await asyncio.to_thread(each, produce)
        await asyncio.to_thread(end)
        await notebook.until(lambda: notebook.count() == 10)
        each(lambda producer: producer.begin_transaction())
        await asyncio.to_thread(each, produce)
        clients.node(dying).kill()
        restart = asyncio.create_task(asyncio.to_thread(clients.node(dying).start))
        await asyncio.to_thread(each, produce)
        assert await asyncio.to_thread(clients.committed, idle, topic) == 7
        await asyncio.to_thread(end)
        await asyncio.to_thread(clients.produce, topic, [b"last"])
        await notebook.until(lambda: notebook.count() == 31)
        await asyncio.to_thread(until, lambda: clients.committed(group, topic) == 65)
        await restart
    # 60 records, a marker at the end of each of four transactions, and the last record.
    assert clients.bounds(topic) == (0, 65)
    chunks = notebook.chunks()
    assert [record.value for chunk in chunks for record in chunk.records] == [b"committed"] * 30 + [b"last"]
    assert all(chunk.start_offset == previous.last_offset + 1 for previous, chunk in pairwise(chunks))


def test_a_write_that_too_few_nodes_have_is_not_acknowledged_until_enough_have_it(
    clients: Clients, unique_name: Callable[[str], str]
) -> None:
    place = [1, 2, 3]
    strict = clients.create_topic(unique_name("strict"), place, min_insync_replicas=3)
    topic = clients.create_topic(unique_name("usual"), place, min_insync_replicas=2)

    def refusal(name: str) -> int:
        refused: list[KafkaError] = []
        producer = clients.producer(retries=0, message_timeout_ms=4000, request_timeout_ms=1000)
        producer.produce(name, b"refused", on_delivery=only_errors(refused))
        assert producer.flush(30) == 0
        return refused[0].code() if refused else 0

    clients.node(3).kill()
    until(lambda: clients.insync(strict) == {1, 2})
    assert refusal(strict) == KafkaError.NOT_ENOUGH_REPLICAS
    clients.produce(topic, [b"two have it"])
    clients.node(2).kill()
    # Without a majority no controller can say that node 2 is gone: the leader waits for it.
    assert refusal(topic) in {KafkaError.REQUEST_TIMED_OUT, KafkaError._MSG_TIMED_OUT}
    waiting = clients.producer(enable_idempotence=True, message_timeout_ms=120_000)
    refused: list[KafkaError] = []
    for name in (strict, topic):
        waiting.produce(name, b"waited", on_delivery=only_errors(refused))
    # One more majority, and what needs no more than that goes through; the rest with the third.
    clients.node(2).start()
    until(lambda: waiting.flush(0.1) == 1)
    clients.node(3).start()
    assert waiting.flush(60) == 0
    assert not refused
    assert [record.value() for record in clients.read(strict)] == [b"waited"]
    values = [record.value() for record in clients.read(topic)]
    # What timed out was never acknowledged: it may be there all the same.
    assert [value for value in values if value != b"refused"] == [b"two have it", b"waited"]


def test_migrate_gives_every_topic_three_replicas_of_which_two_must_have_a_write(
    clients: Clients, clickhouse: EmbeddedClickHouse, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("KAFKA", clients.servers),
        ("CLICKHOUSE", f"{clickhouse.url}/{database}"),
        ("PARTITIONS", "2"),
        ("REPLICATION", "3"),
    ):
        monkeypatch.setenv(f"MSGMETER_{name}", value)
    done = CliRunner().invoke(main, ["migrate"])
    assert done.exit_code == 0, done.output
    for topic in topics(Settings(kafka=clients.servers, partitions=2, replication=3)):
        found = clients.admin.list_topics(topic.name, timeout=30).topics[topic.name].partitions
        assert [len(partition.replicas) for partition in found.values()] == [3, 3]
        asked = ConfigResource(ResourceType.TOPIC, topic.name)
        config = clients.admin.describe_configs([asked])[asked].result(30)
        for name, value in (("min.insync.replicas", "2"), ("unclean.leader.election.enable", "false")):
            # The topic's own, which outlives a change of the brokers' defaults.
            own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            assert (config[name].value, config[name].source) == (value, own)
