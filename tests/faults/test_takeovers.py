# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""Partitions go from worker to worker, and who had them wakes with an effect in hand: it changes nothing."""

import os
from collections.abc import Iterator
from random import Random

import pytest

from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.logfile import LogRecord
from pipeline.topics import changelog_names
from pipeline.traffic import Traffic
from tests.e2e.agreement import uncommitted
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now
from tests.e2e.worker_process import WorkerProcess
from tests.faults.proxy import FaultProxy

PACE = 500
"""Records per second."""
SEED = int(os.environ.get("FAULTS_SEED", str(Random().getrandbits(32))))


def traffic(messages: int) -> list[LogRecord]:
    print(f"FAULTS_SEED={SEED}")
    return log_now(
        Traffic(start_at=0, seed=SEED, messages=messages, tenants=150, duplicates=0.02, purchases=0.002)
    )


def assert_agreement(system: System, log: list[LogRecord]) -> None:
    system.await_all_committed()
    system.assert_agreement(log, f"FAULTS_SEED={SEED}")


def await_all_partitions(worker: WorkerProcess, system: System) -> None:
    worker.await_condition(lambda: worker.assigned() == system.settings.partitions, "owned all partitions")


def written_accounts(system: System) -> int:
    """How many records the changelog of the accounts has."""
    changelog, *_ = changelog_names(system.settings.application)
    return uncommitted(system.settings.kafka, "never-commits", changelog)


def await_noticed(worker: WorkerProcess, system: System) -> None:
    """Its own watchdog ends it; where the loop was quicker, the group tells it."""
    system.await_condition(
        lambda: not worker.is_running or worker.rebalances() > 1, "the zombie noticed that it had slept"
    )


@pytest.mark.parametrize("table", ["rated_messages", "usage_15m"])
def test_an_insert_of_a_zombie_that_arrives_after_its_successors_changes_nothing(
    make_system: MakeSystem, clickhouse: EmbeddedClickHouse, database: str, table: str
) -> None:
    with FaultProxy(clickhouse.host, clickhouse.port) as proxy:
        system = make_system()
        log = traffic(4_000)
        zombie = system.worker("zombie", clickhouse=f"{proxy.url}/{database}").start()
        gateway = system.gateway(log[:2_000], PACE)
        zombie.await_condition(lambda: sum(system.committed().values()) > 500, "committed something")
        # One gateway after the other: the order of the log decides what an alert says.
        gateway.join()
        held = proxy.hold("insert", naming=table)
        system.send(log[2_000:2_500])
        held.await_arrival()
        zombie.pause()

        successor = system.worker("successor").start()
        await_all_partitions(successor, system)
        # The successor's rows are of a later place in the log, so they differ.
        system.send(log[2_500:])
        system.await_all_committed()
        # A merge would take away what is counted here.
        system.rows(f"SYSTEM STOP MERGES {table}")
        before = system.rows(f"SELECT count() FROM {table}")
        assert held.release() == "HTTP/1.1 200 OK"
        assert system.rows(f"SELECT count() FROM {table}") > before, "the zombie's rows are there"
        system.assert_agreement(log, f"FAULTS_SEED={SEED}")
        zombie.resume()
        await_noticed(zombie, system)
        print(f"the zombie ended with {zombie.exit_code}")
        system.assert_agreement(log, f"FAULTS_SEED={SEED}")


def test_tables_of_a_zombie_that_slept_between_asking_and_writing_change_nothing(
    make_system: MakeSystem,
) -> None:
    system = make_system()
    log = traffic(6_000)
    stop_when = system.directory / "stop"
    zombie = system.worker(
        "zombie", module="tests.faults.stopping_worker", environment={"STOP_WHEN": str(stop_when)}
    ).start()
    gateway = system.gateway(log[:2_000], PACE)
    zombie.await_condition(lambda: sum(system.committed().values()) > 500, "committed something")
    # One gateway after the other: the order of the log decides what an alert says.
    gateway.join()
    stop_when.touch()
    system.send(log[2_000:2_500])
    zombie.await_condition(lambda: zombie.is_stopped, "stopped before a write")

    successor = system.worker("successor").start()
    await_all_partitions(successor, system)
    # The successor's values are of a later place in the log, so they differ.
    system.send(log[2_500:5_000])
    system.await_all_committed()
    written = written_accounts(system)
    zombie.resume()
    system.await_condition(lambda: written_accounts(system) > written, "the zombie had written")
    await_noticed(zombie, system)
    # Whoever recovers now reads the zombie's values behind its successor's.
    zombie.kill()
    successor.kill()
    heir = system.worker("heir").start()
    heir.await_ready()
    assert "had older values behind newer ones" in heir.log() + zombie.log() + successor.log()
    system.send(log[5_000:])
    assert_agreement(system, log)


def pieces(log: list[LogRecord], count: int) -> Iterator[list[LogRecord]]:
    length = -(-len(log) // count)
    return (log[start : start + length] for start in range(0, len(log), length))


def test_a_rolling_restart_under_load_counts_everything_once(make_system: MakeSystem) -> None:
    system = make_system()
    log = traffic(6_000)
    to_send = pieces(log, 4)
    workers = [system.worker(name) for name in ("first", "second", "third")]
    gateway = system.gateway(next(to_send), PACE)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.await_ready()
    for worker in workers:
        gateway.join()
        gateway = system.gateway(next(to_send), PACE)
        assert worker.stop() == 0
        worker.start()
        worker.await_ready()
    gateway.join()
    assert_agreement(system, log)


def test_workers_that_become_four_and_then_two_under_load_count_everything_once(
    make_system: MakeSystem,
) -> None:
    system = make_system()
    log = traffic(6_000)
    to_send = pieces(log, 3)
    first, *others = (system.worker(name) for name in ("first", "second", "third", "fourth"))
    gateway = system.gateway(next(to_send), PACE)
    first.start().await_work()
    gateway.join()
    gateway = system.gateway(next(to_send), PACE)
    for worker in others:
        worker.start()
    for worker in others:
        worker.await_ready()
    gateway.join()
    gateway = system.gateway(next(to_send), PACE)
    assert [first.stop(), others[0].stop()] == [0, 0]
    gateway.join()
    assert_agreement(system, log)
    system.await_condition(
        lambda: sum(worker.metric("partitions_owned") for worker in others[1:]) == system.settings.partitions,
        "the other two owned all partitions",
    )
