# ruff: noqa: T201 - the seed and the figures of a run are shown when it fails, or with -s.
"""What the meter says of a log is what `simulate` says of it, however often the worker is killed on the way.

The size follows the environment, so that `make test-long` runs the same test over a million records:
AGREEMENT_RECORDS, AGREEMENT_TENANTS, and AGREEMENT_SEED to repeat a run.
"""

import os
import time
from itertools import islice
from random import Random

import pytest

from pipeline.logfile import LogRecord
from pipeline.traffic import Traffic
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now

KILLS = 5
RECORDS = int(os.environ.get("AGREEMENT_RECORDS", "60000"))
TENANTS = int(os.environ.get("AGREEMENT_TENANTS", "600"))
LARGE = {
    "partitions": 32,
    "epoch_rows": 20_000,
    "epoch_milliseconds": 500,
    "checkpoint_rows": 100_000,
    "checkpoint_milliseconds": 3_000,
}
"""Settings for a log that must not take all day: a kill still meets a worker between two effects."""
LATEST_KILL_SECONDS = 1.5 if RECORDS <= 500_000 else 5.0
SEED = int(os.environ.get("AGREEMENT_SEED", str(Random().getrandbits(32))))


def written_log(system: System, records: int, tenants: int) -> list[LogRecord]:
    """A log as it is read back from its file; two minutes long, the last record is received now."""
    traffic = Traffic(
        start_at=0,
        seed=SEED,
        messages=records,
        tenants=tenants,
        records_per_second=max(1, records // 120),
        duplicates=0.02,
        late=0.01,
        malformed=0.005,
        purchases=0.001,
    )
    return log_now(traffic, system.directory / "log.jsonl")


def meter_with_kills(system: System, log: list[LogRecord], random: Random, kills: int) -> None:
    """Sends the log in as many pieces as the worker has lives, each of which but the last ends with kill -9."""
    records = iter(log)
    piece_length = -(-len(log) // (kills + 1))
    worker = system.worker()
    gateway = None
    for life in range(kills + 1):
        worker.start()
        if gateway is not None:
            gateway.join()
        # Before the worker is there a part of the piece waits for it, the rest comes while it works.
        gateway = system.gateway(list(islice(records, piece_length)), records_per_second=piece_length / 8)
        worker.await_work()
        if life < kills:
            worker.await_later(random.uniform(0, LATEST_KILL_SECONDS))
            worker.kill()
            print(f"killed: {system.uncommitted()} of what was sent were not committed")
    gateway.join()
    system.await_all_committed()


@pytest.mark.timeout(300 + RECORDS // 500)
def test_totals_are_those_of_the_simulation_although_the_worker_is_killed_five_times(make_system: MakeSystem):
    random = Random(SEED)
    system = make_system(**(LARGE if RECORDS > 500_000 else {}))
    began = time.monotonic()
    log = written_log(system, RECORDS, TENANTS)
    print(
        f"seed {SEED}: {len(log)} records of {TENANTS} tenants, written in {time.monotonic() - began:.0f} s"
    )

    began = time.monotonic()
    meter_with_kills(system, log, random, KILLS)
    print(f"metered in {time.monotonic() - began:.0f} s")

    totals = system.assert_agreement(log, f"AGREEMENT_SEED={SEED}")
    print(
        f"{len(totals.identities)} messages, {len(totals.windows)} rows of windows, {len(totals.alerts)} alerts"
    )
    print(f"refusals: {dict(totals.refusals)}, results: {len(totals.results)}")
    # The log has what it must have for this to mean anything.
    assert len(totals.refusals) > 5
    assert len(totals.alerts) > TENANTS / 10
    assert len(totals.identities) > RECORDS / 4


@pytest.mark.timeout(600)
def test_tables_on_disk_hold_what_the_simulation_says_over_kills(make_system: MakeSystem):
    print(f"seed {SEED}")
    system = make_system(store="rocksdb")
    log = written_log(system, records=15_000, tenants=300)
    meter_with_kills(system, log, Random(SEED), kills=2)
    system.assert_agreement(log, f"AGREEMENT_SEED={SEED}")
    assert any((system.directory / "worker").rglob("*.sst")) or any(
        (system.directory / "worker").rglob("*.log")
    )
