"""Every metric of a process, scraped over HTTP while everything happens to it that moves one."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.core.partitions import partition_of
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.logfile import LogRecord
from pipeline.topics import MESSAGES_RAW
from tests.builders import DAY, MINUTE, message, plan
from tests.e2e.conftest import MakeSystem
from tests.e2e.metric_table import WORKER, lint, parsed, wrong
from tests.e2e.system import System
from tests.e2e.worker_process import WorkerProcess
from tests.faults.proxy import FaultProxy

PARTITIONS = 2


class Traffic:
    """Records that occur now; each is of a tenant whose plan is in force since long ago."""

    @property
    def now(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def message(self, message_id: str, *, age: int = 0, **fields: Any) -> LogRecord:
        """A message that occurred so many milliseconds ago."""
        document = message(message_id, occurred_at=self.now - age, **fields)
        return LogRecord(document["tenant"].encode(), orjson.dumps(document))

    def command(self, command_type: str, tenant: str = "acme", **fields: Any) -> LogRecord:
        """A command that is in force since 60 days."""
        document = {
            "type": command_type,
            "id": f"{command_type} {tenant}",
            "tenant": tenant,
            "effective_at": self.now - 60 * DAY,
            **fields,
        }
        return LogRecord(tenant.encode(), orjson.dumps(document), is_plain_command=True)

    def plan(self) -> dict[str, Any]:
        """Prices by country, refunds, and periods that end 10 to 13 days ago and are closed at once."""
        start = datetime.fromtimestamp(self.now / 1000, UTC) - timedelta(days=10)
        while start.day > 28:
            start -= timedelta(days=1)
        return plan(rates=[], anchor_day=start.day, late_grace_hours=0, refunded_statuses=["failed"])

    def records(self) -> list[LogRecord]:
        """Something of everything."""
        recharge = {"level_credits": "1", "block_credits": "10", "price": "1"}
        return [
            self.command("set_plan", plan=self.plan()),
            self.command("set_plan", "cafe", plan=plan("1", recharge=recharge, currency="USD")),
            self.command("set_plan", "unstorable", plan=plan()),
            self.command("grant", credits="5"),
            self.command("void_grant", grant="unknown"),
            self.message("m1"),
            self.message("m1"),
            self.message("m1", status="delivered"),
            self.message("m2", status="queued"),
            self.message("m3", segments=2),
            self.message("m4", to="nowhere"),
            self.message("m5", to="+6421234567"),
            self.message("m6", age=62 * MINUTE),
            self.message("m7", age=5 * DAY),
            self.message("m8", age=20 * DAY),
            self.message("m9"),
            self.message("m9", status="failed"),
            self.message("m10", tenant="cafe"),
            LogRecord(b"acme", b"not JSON"),
        ]


def send_astray(system: System, record: LogRecord) -> None:
    """Writes a record into a partition that is not its tenant's."""
    producer = Producer({"bootstrap.servers": system.settings.kafka})
    assert record.key is not None
    wrong_partition = 1 - partition_of(record.key, PARTITIONS)
    producer.produce(MESSAGES_RAW, record.value, record.key, wrong_partition)
    assert producer.flush(60) == 0


def delete_log(system: System, partition: int) -> None:
    """What retention does: everything in a partition is gone."""
    consumer = Consumer({"bootstrap.servers": system.settings.kafka, "group.id": "ends"})
    end = consumer.get_watermark_offsets(TopicPartition(MESSAGES_RAW, partition), 30)[1]
    consumer.close()
    place = TopicPartition(MESSAGES_RAW, partition, end)
    admin = AdminClient({"bootstrap.servers": system.settings.kafka})
    admin.delete_records([place])[place].result(30)


def until(worker: WorkerProcess, **wanted: float) -> dict[str, float]:
    """What a worker says once these metrics have these values, or more where one is not whole."""

    def holds() -> bool:
        told = worker.metrics()
        return all(told.get(f"msgmeter_{name}") == value for name, value in wanted.items())

    worker.await_condition(holds, f"said {wanted}")
    return worker.metrics()


@pytest.fixture
def proxy(clickhouse: EmbeddedClickHouse) -> Iterator[FaultProxy]:
    with FaultProxy(clickhouse.host, clickhouse.port) as running:
        yield running


@pytest.mark.timeout(300)
def test_every_metric_of_a_worker_moves_as_it_should(
    make_system: MakeSystem, proxy: FaultProxy, database: str
) -> None:
    system = make_system(partitions=PARTITIONS, window_hours=2, identity_limit=16, standbys=1)
    system.rows("ALTER TABLE account_snapshots ADD CONSTRAINT taken CHECK tenant != 'unstorable'")
    traffic, seen = Traffic(), {}
    worker = system.worker("one", clickhouse=f"{proxy.url}/{database}").start()
    worker.await_ready()
    seen["ready"] = worker.metrics()

    system.send(traffic.records())
    system.await_all_committed()
    send_astray(system, traffic.message("m11"))
    system.await_all_committed()

    # What is new is folded and cannot be stored; what is old waits for an answer whether it was charged before.
    proxy.away()
    system.send([traffic.message("m12", tenant="cafe")])
    worker.await_condition(lambda: worker.metric("epoch_open_seconds") > 1, "had an open epoch")
    system.send([traffic.message("m13", age=5 * DAY)])
    seen["away"] = until(worker, consumer_lag_offsets=1, clickhouse_up=0)
    proxy.back()
    system.await_all_committed()
    last, away = "checkpoint_last_success_timestamp_seconds", seen["away"]
    worker.await_condition(lambda: worker.metric(last) > away[f"msgmeter_{last}"], "told of its checkpoint")
    text = worker.metrics_text()
    seen["after"] = parsed(text)

    other = system.worker("two").start()
    for each in (worker, other):
        until(each, partitions_owned=1, standby_partitions=1, standby_lag_records=0)
    seen["beside"], seen["other"] = worker.metrics(), other.metrics()

    assert [worker.stop(), other.stop()] == [0, 0]
    system.send([traffic.message(f"gone {number}") for number in range(3)])
    delete_log(system, partition_of(b"acme", PARTITIONS))
    seen["again"] = until(worker.start(), partitions_owned=2, messages_gone_unread_total=3)

    assert wrong(WORKER, seen) == []
    assert lint(text) == ""
