# ruff: noqa: T201 - the figures of a run are shown when it fails, or with -s.
"""ClickHouse dies under load and stays away: nothing is lost, memory is bounded, and the backlog is worked off.

Short here; `make chaos-outage` takes ten minutes and writes the report. In the environment: OUTAGE_SECONDS, OUTAGE_RATE
in records per second, OUTAGE_REPORT for a file.
"""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from tests.chaos.deployment import Deployment, deployed
from tests.chaos.gateway import ChaoticGateway
from tests.chaos.verdict import Verdict, judge

SECONDS = int(os.environ.get("OUTAGE_SECONDS", "12"))
RATE = int(os.environ.get("OUTAGE_RATE", "600"))
TENANTS = 500
MEBIBYTE = 1 << 20
MEMORY_GROWTH_BYTES = 192 * MEBIBYTE
"""By so much both workers together may grow while ClickHouse is away, however long."""


@pytest.mark.timeout(400 + 3 * SECONDS)
def test_an_outage_of_clickhouse_costs_time_and_nothing_else(tmp_path: Path) -> None:
    with deployed(
        tmp_path, epoch_rows=20_000, checkpoint_rows=50_000, checkpoint_milliseconds=5_000
    ) as deployment:
        system = deployment.system
        deployment.scale(2)
        gateway = ChaoticGateway(system, Random(1), RATE, RATE * (SECONDS + 60), TENANTS)
        await_condition(deployment, lambda: sum(system.committed().values()) > 10 * RATE)
        memory_bytes = resident_bytes(deployment)

        deployment.clickhouse.kill()
        away_at, peak_bytes = time.monotonic(), memory_bytes
        while time.monotonic() < away_at + SECONDS:
            deployment.pass_time(1)
            peak_bytes = max(peak_bytes, resident_bytes(deployment))
        backlog = system.uncommitted()
        deployment.clickhouse.start()
        back_at, sent_before = time.monotonic(), gateway.sent_count
        # Caught up is who has no more before him than arrives between two checkpoints.
        await_condition(deployment, lambda: system.uncommitted() < 6 * RATE)
        seconds = time.monotonic() - back_at
        done = backlog + gateway.sent_count - sent_before - system.uncommitted()

        gateway.join()
        await_condition(deployment, lambda: system.uncommitted() == 0)
        verdict = judge(deployment, gateway.sent)
        text = report(backlog, seconds, done / seconds, memory_bytes, peak_bytes, verdict)
        print(text)
        if "OUTAGE_REPORT" in os.environ:
            Path(os.environ["OUTAGE_REPORT"]).write_text(text, "utf-8")
        assert not verdict.differences, "\n".join(verdict.differences)
        assert peak_bytes - memory_bytes < MEMORY_GROWTH_BYTES, text
        # Nobody lost a partition meanwhile, and nobody ended.
        assert not deployment.endings
        assert all(worker.process.rebalances() <= 2 for worker in deployment.wanted)


def resident_bytes(deployment: Deployment) -> int:
    """Of all workers together."""
    return sum(worker.process.memory_bytes() for worker in deployment.wanted)


def await_condition(deployment: Deployment, holds, deadline_seconds: float = 600) -> None:
    """Returns when it holds."""
    deadline = time.monotonic() + deadline_seconds
    while not holds():
        assert time.monotonic() < deadline, [worker.process.log_tail() for worker in deployment.wanted]
        deployment.pass_time(0.5)


def report(
    backlog: int, seconds: float, per_second: float, memory_bytes: int, peak_bytes: int, verdict: Verdict
) -> str:
    """The run as text for people."""
    return "\n".join(
        [
            "# ClickHouse away under load",
            "",
            (
                f"{datetime.now(UTC):%Y-%m-%d}: {SECONDS} s away, killed with -9, while {RATE} records/s arrived; two"
                f" workers on {os.cpu_count()} cores that Kafka and ClickHouse shared."
            ),
            "",
            "| | |",
            "|---|---|",
            f"| differences to the simulation of the log | {len(verdict.differences)} |",
            f"| records in the log | {verdict.records} |",
            f"| not committed when ClickHouse came back | {backlog} |",
            f"| caught up after | {seconds:.0f} s |",
            f"| worked off meanwhile | {per_second:.0f} records/s, {per_second / RATE:.1f} times what arrived |",
            (
                f"| memory of both workers: before, most while away | {memory_bytes / MEBIBYTE:.0f},"
                f" {peak_bytes / MEBIBYTE:.0f} MiB |"
            ),
            "",
        ]
    )
