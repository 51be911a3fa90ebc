# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""What a worker no longer holds it finds in ClickHouse: old windows are summed anew, old identities looked up."""

import os
from random import Random

import pytest

from pipeline.traffic import Traffic
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import log_now

SEED = int(os.environ.get("AGREEMENT_SEED", str(Random().getrandbits(32))))


@pytest.mark.timeout(600)
def test_late_messages_and_old_duplicates_are_counted_once_although_nothing_old_is_held(
    make_system: MakeSystem,
):
    random = Random(SEED)
    print(f"seed {SEED}")
    # An hour of windows, and identities only as long as a crash could bring their records back.
    system = make_system(partitions=1, window_hours=1, identity_limit=1)
    traffic = Traffic(
        start_at=0,
        seed=SEED,
        messages=30_000,
        tenants=300,
        duplicates=0.05,
        late=0.05,
        late_hours=(2, 40),
        purchases=0.001,
    )
    log = log_now(traffic)
    gateway = system.gateway(log, records_per_second=1_500)
    worker = system.worker()
    recomputed = 0.0
    for _ in range(2):
        worker.start()
        worker.await_condition(lambda: worker.metric("windows_recomputed_total") > 20, "met late messages")
        worker.await_later(random.uniform(0, 3))
        recomputed += worker.metric("windows_recomputed_total")
        worker.kill()
    worker.start()
    gateway.join()
    system.await_all_committed()
    totals = system.assert_agreement(log, f"AGREEMENT_SEED={SEED}")
    held = worker.metric("identities_held")
    print(f"{recomputed:.0f} windows summed anew, {held:.0f} of {len(totals.identities)} identities held")
    assert 0 < held < len(totals.identities) / 2
