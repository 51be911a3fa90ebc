# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""The network between a worker and its servers is cut in two and heals: whoever is on which side, totals agree."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.logfile import LogRecord
from pipeline.traffic import Traffic
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now
from tests.e2e.worker_process import WorkerProcess
from tests.faults.network import Network, network
from tests.faults.proxy import FaultProxy

SEED = int(os.environ.get("FAULTS_SEED", str(Random().getrandbits(32))))
PACE = 500
"""Records per second."""


@pytest.fixture
def cable(capsys: pytest.CaptureFixture[str]) -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(network())
        except PermissionError as refused:
            with capsys.disabled():
                print(f"\nNOT TRIED: a network cut in two, because this machine lets us make none: {refused}")
            pytest.skip(str(refused))
        yield made


@pytest.fixture
def far_broker(cable: Network, tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker", host=cable.servers[0]) as running:
        yield running
        running.kill()


@pytest.fixture
def far_clickhouse(cable: Network, tmp_path: Path) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path / "clickhouse", host=cable.servers[1]) as running:
        yield running
        running.kill()


def await_takeover(worker: WorkerProcess, system: System) -> None:
    worker.await_condition(lambda: worker.assigned() == system.settings.partitions, "owned all partitions")


def await_back(worker: WorkerProcess, system: System, rebalances: int) -> None:
    """It has joined again, or has ended by itself and is started as a supervisor would."""
    system.await_condition(
        lambda: not worker.is_running or worker.rebalances() > rebalances, "the cut worker was back"
    )
    print(f"{worker.name}: {worker.exit_code}, {worker.rebalances()} rebalances")
    if not worker.is_running:
        worker.start()
        worker.await_ready()


@pytest.mark.timeout(600)
def test_a_worker_that_is_cut_from_kafka_and_then_from_both_changes_nothing(
    cable: Network, far_broker: EmbeddedBroker, far_clickhouse: EmbeddedClickHouse, make_system: MakeSystem
) -> None:
    print(f"FAULTS_SEED={SEED}")
    system = make_system(kafka=far_broker.bootstrap_servers, clickhouse=f"{far_clickhouse.url}/default")
    log = log_now(Traffic(start_at=0, seed=SEED, messages=6_000, tenants=150, late=0.02, purchases=0.002))
    pieces: list[list[LogRecord]] = [log[start : start + 1_500] for start in range(0, len(log), 1_500)]
    with FaultProxy(far_clickhouse.host, far_clickhouse.port, host=far_clickhouse.host) as proxy:
        cut = system.worker("cut", prefix=cable.prefix, clickhouse=f"{proxy.url}/default").start()
        near = system.worker("near")
        gateway = system.gateway(pieces[0], PACE)
        held = proxy.hold("insert", naming="account_snapshots")
        held.await_arrival()

        # It reaches ClickHouse still, and stores late what its successor has stored.
        cable.cut(cable.servers[0])
        near.start()
        await_takeover(near, system)
        gateway.join()
        # The successor's rows are of a later place in the log, so they differ.
        system.send(pieces[1])
        system.await_all_committed()
        assert held.release() == "HTTP/1.1 200 OK"
        system.assert_agreement([*pieces[0], *pieces[1]], f"FAULTS_SEED={SEED}")
        rebalances = cut.rebalances()
        cable.heal()
        await_back(cut, system, rebalances)

        system.await_condition(
            lambda: 0 < near.assigned() < system.settings.partitions, "both had partitions"
        )
        gateway = system.gateway(pieces[2], PACE)
        rebalances = cut.rebalances()
        cable.cut(*cable.servers, both_ways=True)
        await_takeover(near, system)
        gateway.join()
        system.await_all_committed()
        cable.heal()
        await_back(cut, system, rebalances)
        for piece in pieces[3:]:
            system.send(piece)
        system.await_all_committed()
        system.assert_agreement(log, f"FAULTS_SEED={SEED}")
