# ruff: noqa: T201 - the seed and the figures of a run are shown when it fails, or with -s.
"""Whatever dies, whenever: every message counted once, every alert told under one id, every total agreed.

Short here; `make chaos` makes it long and writes the report. In the environment: CHAOS_KILLS, CHAOS_SEED to repeat an
attack, CHAOS_RATE in records per second, CHAOS_REPORT for a file.
"""

import os
import time
from pathlib import Path
from random import Random

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.deployment import Deployment, deployed
from tests.chaos.gateway import ChaoticGateway
from tests.chaos.report import write_report
from tests.chaos.verdict import judge, reconcile
from tests.faults.leaks import assert_nothing_leaked

KILLS = int(os.environ.get("CHAOS_KILLS", "8"))
SEED = int(os.environ.get("CHAOS_SEED", str(Random().getrandbits(32))))
RATE = int(os.environ.get("CHAOS_RATE", "400"))
TENANTS = 300
_SECONDS_PER_KILL = 5
"""Some; allowances are cut to it."""


@pytest.mark.timeout(400 + 30 * KILLS)
def test_whatever_dies_every_message_is_counted_once(tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS} CHAOS_RATE={RATE}")
    random = Random(SEED)
    with deployed(tmp_path) as deployment:
        began = time.monotonic()
        gateway = ChaoticGateway(
            deployment.system, Random(random.random()), RATE, RATE * _SECONDS_PER_KILL * KILLS, TENANTS
        )
        campaign = Campaign(deployment, random, KILLS)
        campaign.run()
        gateway.join()
        deployment.scale(2)
        await_everything_committed(deployment)
        seconds = time.monotonic() - began
        verdict = judge(deployment, gateway.sent)
        reconciled = reconcile(deployment)
        write_report(os.environ.get("CHAOS_REPORT"), SEED, seconds, deployment, campaign, verdict, reconciled)
        assert not verdict.differences, f"CHAOS_SEED={SEED}\n" + "\n".join(verdict.differences)
        assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr
        system = deployment.system
        assert_nothing_leaked(
            gateway.marks,
            kafka=system.settings.kafka,
            clickhouse=deployment.direct_url,
            directory=tmp_path,
            metrics=[worker.process.metrics_text() for worker in deployment.wanted],
        )
    # The run has what it must have for this to mean anything.
    totals = verdict.totals
    assert campaign.killed >= KILLS
    assert len(totals.identities) > verdict.records / 5
    assert {"not_json", "identity_conflict"} & totals.refusals.keys()
    assert totals.alerts
    assert verdict.forwarded


def await_everything_committed(deployment: Deployment, deadline_seconds: float = 300 + 4 * KILLS) -> None:
    """Returns when the group has committed the end of the log."""
    deadline = time.monotonic() + deadline_seconds
    while deployment.system.uncommitted():
        assert time.monotonic() < deadline, (
            f"CHAOS_SEED={SEED}: not caught up in {deadline_seconds} s\n"
            + "\n".join(worker.process.log_tail() for worker in deployment.wanted)
        )
        deployment.pass_time(1)
