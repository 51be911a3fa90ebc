"""A gateway with another partitioner: its records are brought to their tenant's owner, once, and counted once."""

from random import Random

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline.core.partitions import partition_of
from pipeline.core.signing import ORIGIN_HEADER, header, signed_headers
from pipeline.logfile import LogRecord
from pipeline.topics import MESSAGES_RAW
from pipeline.traffic import Traffic, tenant_name
from tests.builders import message
from tests.e2e.agreement import Totals, read_documents
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now


class Log:
    """`messages.raw` as any client sees and writes it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.partitions = system.settings.partitions

    def owner(self, record: LogRecord) -> int:
        return partition_of(record.key or b"", self.partitions)

    def write(self, placed: list[tuple[int, LogRecord]]) -> None:
        """Writes each record into the partition beside it."""
        producer = Producer({"bootstrap.servers": self._system.settings.kafka, "linger.ms": 20})
        for partition, record in placed:
            while True:
                try:
                    producer.produce(
                        MESSAGES_RAW, record.value, record.key, partition, headers=record.headers or None
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    def forwarded(self) -> dict[tuple[int, int], int]:
        """How often each stray's (partition, offset) was forwarded."""
        consumer = Consumer({"bootstrap.servers": self._system.settings.kafka, "group.id": "strays"})
        counts: dict[tuple[int, int], int] = {}
        for partition in range(self.partitions):
            place = TopicPartition(MESSAGES_RAW, partition, 0)
            _, end = consumer.get_watermark_offsets(place, 30)
            consumer.assign([place])
            read = 0
            while read < end:
                for record in consumer.consume(1_000, 1.0):
                    assert record.error() is None
                    read += 1
                    if origin := header(record.headers() or (), ORIGIN_HEADER):
                        at = orjson.loads(origin)
                        where = (at["partition"], at["offset"])
                        counts[where] = counts.get(where, 0) + 1
        consumer.close()
        return counts


def without_order(totals: Totals) -> Totals:
    """What does not depend on the order of a tenant's records, which strays lose: `used` in an alert does."""
    totals.alerts = {(alert[0], alert[1]) for alert in totals.alerts}
    return totals


@pytest.mark.timeout(600)
def test_strays_that_a_crash_forwards_again_are_counted_once(make_system: MakeSystem):
    # No checkpoint before the kill, so that all that was forwarded is forwarded again.
    system = make_system(default_plan="starter", checkpoint_milliseconds=3_600_000, checkpoint_rows=1_000_000)
    log, random = Log(system), Random(5)
    traffic = Traffic(start_at=0, seed=5, messages=8_000, tenants=6, malformed=0, plans=False, purchases=0)
    records = log_now(traffic)
    placed = [(random.randrange(log.partitions), record) for record in records]
    log.write(placed)
    worker = system.worker().start()
    worker.await_condition(lambda: worker.metric("messages_rerouted_total") > 1_000, "forwarded something")
    worker.kill()
    system.worker("successor", checkpoint_milliseconds=500).start()
    system.await_all_committed()

    forwarded = log.forwarded()
    assert len(forwarded) == sum(partition != log.owner(record) for partition, record in placed)
    assert max(forwarded.values()) > 1
    totals = system.totals()
    assert len(totals.alerts) > 10
    assert without_order(totals).differences(without_order(system.simulated(records))) == []


@pytest.mark.timeout(300)
def test_a_stray_is_forwarded_once_and_refused_where_that_did_not_bring_it_home(make_system: MakeSystem):
    system = make_system()
    log = Log(system)
    secret = system.settings.command_key.encode()
    (plan,) = system.signed(log_now(Traffic(start_at=0, messages=0, tenants=1, purchases=0)))
    sms = message(tenant=tenant_name(0), occurred_at=plan.received_at)
    wrong = (log.owner(plan) + 1) % log.partitions
    log.write([(wrong, plan)])
    worker = system.worker().start()
    # The message follows when its plan is in force, and a copy of it that says it was forwarded already.
    system.await_all_committed()
    key, value = tenant_name(0).encode(), orjson.dumps(sms)
    origin = orjson.dumps({"received_at": plan.received_at, "partition": 0, "offset": 0})
    marks = signed_headers(secret, "forwarded", key, value, origin)
    log.write([(wrong, LogRecord(key, value)), (wrong, LogRecord(key, value, marks))])
    system.await_all_committed()

    (result,) = read_documents(system.settings.kafka, "account.results")
    assert (result["outcome"], result["partition"]) == ("accepted", log.owner(plan))
    (refusal,) = read_documents(system.settings.kafka, "messages.refused")
    assert (refusal["reason"], refusal["partition"], refusal["offset"]) == ("stray", wrong, 2)
    assert log.forwarded() == {(0, 0): 1, (wrong, 0): 1, (wrong, 1): 1}
    assert system.rows("SELECT kafka_partition, count() FROM rated_messages GROUP BY 1") == [
        (log.owner(plan), 1)
    ]
    assert worker.metric("messages_rerouted_total") == 2
