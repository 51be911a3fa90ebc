"""An idle tenant renews in time because of the scheduler: through ClickHouse, the log and a worker."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import orjson
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, TopicPartition

from pipeline.cli import main
from pipeline.embedded.owned import OwnedProcess
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System

_SOON_MILLISECONDS = 3_000


def environment(system: System) -> dict[str, str]:
    return {
        f"MSGMETER_{each.name.upper()}": str(getattr(system.settings, each.name)) for each in fields(Settings)
    }


def account(system: System, *arguments: object) -> Result:
    """`msgmeter account …`, which has to be accepted."""
    texts = ["account", *map(str, arguments), "--wait-seconds", "100"]
    result = CliRunner().invoke(main, texts, env=environment(system))
    assert result.exit_code == 0, result.output
    return result


@contextmanager
def scheduler(system: System, name: str) -> Iterator[OwnedProcess]:
    """`msgmeter schedule` as a process, which has to end in order."""
    command = [sys.executable, "-m", "pipeline", "schedule", "--every-seconds", "0.3", "--metrics-port", "0"]
    process = OwnedProcess(name, command, system.directory / f"{name}.log", environment(system))
    process.start()
    yield process
    assert process.running, process.log_tail()
    process.stop(30)
    assert process.exit_code == 0, process.log_tail()


def ticks(system: System) -> list[dict[str, object]]:
    """Every tick in the log, by tenant and time."""
    consumer = Consumer({"bootstrap.servers": system.settings.kafka, "group.id": "ticks", "log_level": 2})
    values = []
    for partition in range(system.settings.partitions):
        place = TopicPartition(MESSAGES_RAW, partition, 0)
        _, end = consumer.get_watermark_offsets(place, 30)
        consumer.assign([place])
        for _ in range(end):
            record = consumer.poll(30)
            assert record is not None
            values.append(orjson.loads(record.value()))
    consumer.close()
    return sorted((each for each in values if each["type"] == "tick"), key=lambda each: str(each["id"]))


def entries(system: System, tenant: str, kind: str) -> list[tuple[int, int]]:
    """(instant, micro-credits) of a tenant's entries of one kind."""
    return system.rows(
        "SELECT toUnixTimestamp64Milli(effective_at), amount_micros FROM ledger_entries FINAL"
        f" WHERE tenant = '{tenant}' AND kind = '{kind}' ORDER BY effective_at"
    )


@pytest.mark.timeout(300)
def test_what_falls_due_for_idle_tenants_is_posted_at_its_own_instant(make_system: MakeSystem):
    """A grant ends, a reservation ends, and a larger plan begins; nobody sends anything meanwhile."""
    system = make_system()
    system.worker().start().await_ready()
    for tenant in ("acme", "bolt", "coil", "idle"):
        account(system, "plan", "set", tenant, "--preset", "starter")
    due_at = time.time_ns() // 1_000_000 + _SOON_MILLISECONDS
    account(system, "grant", "acme", 50, "--expires-at", due_at)
    account(system, "reserve", "bolt", 400, "--until", due_at)
    account(
        system, "plan", "set", "coil", "--preset", "starter", "--allowance", 1500, "--effective-at", due_at
    )

    with scheduler(system, "scheduler-1"), scheduler(system, "scheduler-2"):
        system.await_condition(lambda: entries(system, "acme", "expiry"), "acme's grant expired", 60)
        balances = (
            "SELECT tenant, balance_micros, reserved_micros FROM account_snapshots FINAL ORDER BY tenant"
        )
        expected = [
            ("acme", 1_000_000_000, 0),
            ("bolt", 1_000_000_000, 0),
            ("coil", 1_500_000_000, 0),
            ("idle", 1_000_000_000, 0),
        ]
        system.await_condition(lambda: system.rows(balances) == expected, "all accounts are renewed", 60)

    # In the last millisecond in which the grant was valid, so that a statement of its period has the entry.
    assert entries(system, "acme", "expiry") == [(due_at - 1, -50_000_000)]
    assert entries(system, "coil", "plan_change") == [(due_at, 500_000_000)]
    sent = ticks(system)
    # Both schedulers may have sent one; they are the same command.
    assert {(each["id"], each["effective_at"]) for each in sent} == {
        (f"tick:{due_at}", due_at) for tenant in ("acme", "bolt", "coil")
    }
    assert len(sent) <= 6


@pytest.mark.timeout(300)
def test_what_fell_due_while_nothing_ran_is_caught_up_with(make_system: MakeSystem):
    """Neither worker nor scheduler was there; the entry has the instant at which it was due all the same."""
    system = make_system()
    worker = system.worker().start()
    worker.await_ready()
    account(system, "plan", "set", "acme", "--preset", "starter")
    due_at = time.time_ns() // 1_000_000 + _SOON_MILLISECONDS
    account(system, "grant", "acme", 50, "--expires-at", due_at)
    assert worker.stop() == 0
    while time.time_ns() // 1_000_000 <= due_at:
        time.sleep(0.05)
    assert entries(system, "acme", "expiry") == []

    with scheduler(system, "scheduler"):
        system.worker("second").start()
        system.await_condition(lambda: entries(system, "acme", "expiry"), "acme's grant expired", 100)
    # In the last millisecond in which the grant was valid, so that a statement of its period has the entry.
    assert entries(system, "acme", "expiry") == [(due_at - 1, -50_000_000)]
