"""State that was lost, moved or damaged between two lives of a worker: it is rebuilt, or the worker stops."""

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from table_scene import PARTITIONS, Tables

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream.exits import ExitCode

KEYS = [b"key-%d" % (number % 7) for number in range(600)]


@pytest.fixture
def scene(
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Tables:
    """A worker has counted and committed half of the log, and was killed; the other half waits."""
    topic = create_topic("raw", partitions=PARTITIONS)
    tables = Tables(broker.bootstrap_servers, topic, unique_name("group"), tmp_path, "rocksdb")
    tables.create_changelog()
    return tables


async def counted(scene: Tables, name: str, keys: list[bytes], *, of: int) -> None:
    """Lets a worker count further records, until so many are committed; then it is killed."""
    scene.produce(keys)
    with scene.running(name):
        await scene.until_committed(of)


def set_offsets(scene: Tables, offset: int) -> None:
    """What an operator does with kafka-consumer-groups.sh, once the group has noticed that nobody is in it."""
    admin = AdminClient({"bootstrap.servers": scene.servers})
    wanted = [TopicPartition(scene.topic, partition, offset) for partition in range(PARTITIONS)]
    asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(scene.group, wanted)])
    asked[scene.group].result(30)


async def test_offsets_moved_ahead_of_the_tables_stop_a_worker_and_moved_back_it_counts_exactly(
    scene: Tables, capfd: pytest.CaptureFixture[str]
) -> None:
    await counted(scene, "first", KEYS, of=len(KEYS))
    scene.produce(KEYS)
    await scene.until_left()
    set_offsets(scene, len(KEYS) // PARTITIONS + 100)
    before = scene.read_changelog()
    with scene.running("second") as worker:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED
    said = capfd.readouterr().err
    assert (
        "offset 400 is committed, but state ends at 300: the records between would never be metered" in said
    )
    assert f"--group {scene.group} --topic {scene.topic}:0 --reset-offsets --to-offset 300 --execute" in said
    assert "Traceback" not in said
    assert scene.read_changelog() == before
    assert scene.committed() == 800
    await scene.until_left()
    set_offsets(scene, 300)
    with scene.running("second"):
        await scene.until_committed(2 * len(KEYS))
    assert (await scene.counts("second")).total() == 2 * len(KEYS)


async def test_a_changelog_made_anew_stops_a_worker_before_it_counts_on_from_nothing(
    scene: Tables, capfd: pytest.CaptureFixture[str]
) -> None:
    await counted(scene, "worker", KEYS, of=len(KEYS))
    scene.delete_changelog()
    scene.create_changelog()
    scene.produce(KEYS)
    with scene.running("worker") as worker:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED
    said = capfd.readouterr().err
    assert "offset 300 is committed, but nothing is kept of state" in said
    assert "restore it from its backup" in said
    assert scene.read_changelog() == []
    assert scene.committed() == len(KEYS)
