"""A worker of the next release has written state; the present one stops before it touches anything."""

import time

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline.core.kept import STATE_VERSION, encode_kept
from pipeline.core.partitions import partition_of
from pipeline.logfile import LogRecord
from pipeline.stream.exits import ExitCode
from pipeline.topics import changelog_names, topics
from pipeline.traffic import Traffic
from tests.builders import message
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now


def topic_ends(system: System) -> dict[tuple[str, int], int]:
    """The end of every partition of every topic: whoever writes anywhere moves one."""
    consumer = Consumer({"bootstrap.servers": system.settings.kafka, "group.id": "ends"})
    try:
        return {
            (topic.name, partition): consumer.get_watermark_offsets(
                TopicPartition(topic.name, partition), 30
            )[1]
            for topic in topics(system.settings)
            for partition in range(topic.partitions)
        }
    finally:
        consumer.close()


def row_counts(system: System) -> list[tuple[object, ...]]:
    """Rows by table, repetitions included."""
    return system.rows(
        "SELECT name, total_rows FROM system.tables WHERE database = currentDatabase() ORDER BY name"
    )


@pytest.mark.timeout(300)
def test_a_damaged_value_is_named_by_its_place_and_never_shown(make_system: MakeSystem):
    system = make_system(partitions=4)
    tenant = b"tenant of a damaged account"
    partition = partition_of(tenant, 4)
    producer = Producer({"bootstrap.servers": system.settings.kafka})
    accounts = changelog_names(system.settings.application)[0]
    producer.produce(accounts, encode_kept(-1, ["secret", "of", "nobody"]), tenant, partition)
    assert producer.flush(30) == 0
    document = message(tenant=tenant.decode(), occurred_at=time.time_ns() // 1_000_000)
    system.send([LogRecord(tenant, orjson.dumps(document))])
    worker = system.worker().start()
    assert worker.wait(60) == ExitCode.RECOVERY_FAILED, worker.log_tail()
    said = f"partition {partition}: a value of table accounts, under its tenant, is damaged"
    assert said in worker.log()
    assert "secret" not in worker.log()
    assert system.rows("SELECT count() FROM rated_messages") == [(0,)]


@pytest.mark.timeout(300)
def test_a_worker_of_the_version_before_stops_and_changes_nothing_and_the_newer_one_goes_on(
    make_system: MakeSystem,
):
    system = make_system(store="rocksdb", partitions=4)
    log = log_now(Traffic(start_at=0, seed=5, messages=3_000, tenants=60, purchases=0.002))
    newer = system.worker("newer", module="tests.e2e.next_version").start()
    system.send(log[:1_500])
    system.await_all_committed()
    newer.stop()
    # It would have something to do.
    system.send(log[1_500:])

    before = topic_ends(system), row_counts(system), system.committed()
    assert all(before[0][changelog_names(system.settings.application)[0], each] for each in range(4))
    # One finds the newer values in the changelogs, and one, in the newer's directory, does not even read these.
    for name in ("elsewhere", "newer"):
        older = system.worker(name).start()
        assert older.wait(60) == ExitCode.RECOVERY_FAILED, older.log_tail()
        assert (
            f"the state is of version {STATE_VERSION + 1}, written by a newer msgmeter;"
            f" this one reads versions 1 to {STATE_VERSION} and has changed no topic and no row"
            in older.log()
        )
        assert "Run the newer msgmeter" in older.log()
        assert "Traceback" not in older.log()
        assert (topic_ends(system), row_counts(system), system.committed()) == before

    newer.start()
    system.await_all_committed()
    system.assert_agreement(log)
