# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""Workers of one group come, go, die and wake up late: whoever owns a tenant, it is counted once."""

import os
from random import Random

import pytest

from pipeline.traffic import Traffic
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now

SEED = int(os.environ.get("AGREEMENT_SEED", str(Random().getrandbits(32))))


def traffic(messages: int) -> Traffic:
    print(f"seed {SEED}")
    return Traffic(start_at=0, seed=SEED, messages=messages, tenants=300, purchases=0.001)


def assert_agreement(system: System, log: list) -> None:
    system.await_all_committed()
    system.assert_agreement(log, f"AGREEMENT_SEED={SEED}")


@pytest.mark.timeout(600)
def test_a_group_whose_workers_die_join_and_leave_counts_everything_once(make_system: MakeSystem):
    system = make_system()
    log = log_now(traffic(18_000))
    gateway = system.gateway(log, records_per_second=1_000)
    first, second, third = (system.worker(name) for name in ("first", "second", "third"))
    first.start()
    second.start()
    first.await_work()
    second.await_work()
    first.kill()
    third.start()
    third.await_work()
    # What it leaves is stored and acknowledged, and the other takes its partitions up.
    assert second.stop() == 0
    gateway.join()
    assert_agreement(system, log)
    assert third.metric("partitions_owned") == system.settings.partitions


@pytest.mark.timeout(600)
def test_a_worker_that_slept_through_its_session_writes_nothing_over_its_successor(make_system: MakeSystem):
    system = make_system()
    log = log_now(traffic(18_000))
    gateway = system.gateway(log, records_per_second=1_000)
    sleeper, successor = system.worker("sleeper"), system.worker("successor")
    sleeper.start()
    sleeper.await_work()
    sleeper.await_later(Random(SEED).uniform(0, 1))
    sleeper.pause()
    successor.start()
    # It gets all partitions when the sleeper's session has run out.
    successor.await_condition(
        lambda: successor.metric("partitions_owned") == system.settings.partitions, "owned all partitions"
    )
    sleeper.resume()
    # Its own watchdog ends it; where the loop was quicker, the group tells it.
    system.await_condition(
        lambda: not sleeper.is_running or sleeper.rebalances() > 1, "the sleeper noticed that it had slept"
    )
    print(f"the sleeper ended with {sleeper.exit_code}")
    gateway.join()
    assert_agreement(system, log)
