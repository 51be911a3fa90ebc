# ruff: noqa: T201 - the figures of a run are shown when it fails, or with -s.
"""ClickHouse or Kafka die under load and come back: nothing is acknowledged that is not stored, nothing is lost."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import clickhouse_connect
import orjson
import pytest

from pipeline.core.simulation import simulate
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.logfile import LogRecord
from pipeline.rules import make_rules
from pipeline.traffic import Traffic
from tests.builders import message
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now

MEBIBYTE = 1 << 20
MEMORY_GROWTH_BYTES = 128 * MEBIBYTE
"""A worker may grow by this much while ClickHouse is away; what waits in the log is twice as large."""


@pytest.fixture
def own_clickhouse(tmp_path: Path) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path / "clickhouse") as running:
        yield running
        running.kill()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker") as running:
        yield running
        running.kill()


def large_messages(like: Sequence[LogRecord], count: int, value_bytes: int) -> list[LogRecord]:
    """Messages whose bodies cannot be packed, of the tenants and from the time of another log."""
    random = Random(1)
    bodies = ["".join(random.choices("abcdefgh12345678", k=value_bytes)) for _ in range(50)]
    tenants = sorted({record.key.decode() for record in like if record.is_plain_command and record.key})
    at = max(record.received_at or 0 for record in like)
    records = []
    for number in range(count):
        tenant = random.choice(tenants)
        document = message(f"large-{number}", tenant=tenant, occurred_at=at, body=random.choice(bodies))
        records.append(LogRecord(tenant.encode(), orjson.dumps(document), [], at))
    return records


def charged_offsets(system: System, log: Sequence[LogRecord]) -> set[tuple[int, int]]:
    """(partition, offset) of every record that charges, if keys alone decide where a record goes."""
    facts = simulate(system.signed(log), make_rules(system.settings)).facts
    return {(fact[-2], fact[-1]) for fact in facts}


def stored_offsets(clickhouse_url: str) -> set[tuple[int, int]]:
    client = clickhouse_connect.get_client(dsn=f"{clickhouse_url}/default")
    rows = client.query("SELECT kafka_partition, kafka_offset FROM rated_messages").result_rows
    client.close()
    return {(partition, offset) for partition, offset in rows}


@pytest.mark.timeout(600)
def test_while_clickhouse_is_away_nothing_is_acknowledged_and_the_worker_waits_and_catches_up(
    own_clickhouse: EmbeddedClickHouse, make_system: MakeSystem
):
    system = make_system(clickhouse=f"{own_clickhouse.url}/default")
    log = log_now(Traffic(start_at=0, seed=3, messages=6_000, tenants=200, malformed=0, purchases=0.001))
    log += large_messages(log, count=10_000, value_bytes=20_000)
    worker = system.worker().start()
    gateway = system.gateway(log[:6_000], records_per_second=1_000)
    worker.await_condition(lambda: sum(system.committed().values()) > 1_000, "committed something")
    memory_bytes = peak_bytes = worker.memory_bytes()

    own_clickhouse.kill()
    gateway.join()
    gateway = system.gateway(log[6_000:], records_per_second=2_000)
    worker.await_condition(lambda: worker.metric("insert_failures_total") > 1, "noticed")
    # What was acknowledged before ClickHouse died is committed within a second.
    worker.await_condition(lambda: gateway.sent_count > 7_000, "was offered more than it may take")
    committed, failures = system.committed(), worker.metric("insert_failures_total")
    while gateway.is_sending or worker.metric("insert_failures_total") <= failures:
        peak_bytes = max(peak_bytes, worker.memory_bytes())
    gateway.join()
    print(f"memory {memory_bytes / MEBIBYTE:.0f} MiB, at most {peak_bytes / MEBIBYTE:.0f} MiB while away")
    assert peak_bytes - memory_bytes < MEMORY_GROWTH_BYTES
    # What waits, waits in the log, and whoever looks is told so.
    assert worker.metric("uncommitted_offsets") < 8_000
    worker.await_condition(lambda: worker.metric("consumer_lag_offsets") > 8_000, "told of its lag")
    assert system.committed() == committed
    acknowledged = {
        (part, offset) for part, offset in charged_offsets(system, log) if offset < committed[part]
    }
    assert len(acknowledged) > 500
    # On another port, where the worker does not find it.
    with EmbeddedClickHouse(own_clickhouse.directory) as elsewhere:
        assert acknowledged <= stored_offsets(elsewhere.url)

    own_clickhouse.start()
    system.await_all_committed()
    assert worker.rebalances() == 1
    system.assert_agreement(log)


@pytest.mark.timeout(600)
def test_a_broker_that_is_killed_and_comes_back_costs_nothing(
    own_broker: EmbeddedBroker, make_system: MakeSystem
):
    system = make_system(kafka=own_broker.bootstrap_servers)
    log = log_now(Traffic(start_at=0, seed=4, messages=15_000, tenants=200, purchases=0.001))
    worker = system.worker().start()
    gateway = system.gateway(log, records_per_second=1_000)
    worker.await_condition(lambda: sum(system.committed().values()) > 1_000, "committed something")
    own_broker.kill()
    own_broker.start()
    gateway.join()
    system.await_all_committed()
    assert worker.is_running
    system.assert_agreement(log)
