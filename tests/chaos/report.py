# ruff: noqa: T201 - it is a report.
"""What a run of faults was and what came of it, as text for people; `make chaos` keeps it."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.campaign import Campaign
from tests.chaos.deployment import Deployment
from tests.chaos.verdict import Verdict

_MEBIBYTE = 1 << 20


def write_report(
    path: str | None,
    seed: int,
    seconds: float,
    deployment: Deployment,
    campaign: Campaign,
    verdict: Verdict,
    reconciled: "subprocess.CompletedProcess[str]",
) -> None:
    """Prints the report, and writes it where a path is given."""
    totals = verdict.totals
    lines = [
        "# A run of chaos",
        "",
        (
            f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, {seconds / 60:.1f} minutes on {os.cpu_count()} cores"
            f" ({platform.machine()}, Python {platform.python_version()})."
        ),
        (
            "Three Apache Kafka nodes with three replicas, one ClickHouse engine behind a proxy that makes faults,"
            " one to four workers (half of them on RocksDB), sessions of"
            f" {deployment.system.settings.session_seconds} s."
        ),
        "",
        (
            f"**{len(verdict.differences)} differences** between what is stored and the simulation of the log;"
            f" `msgmeter reconcile` ended with {reconciled.returncode}."
        ),
        *(f"- {difference}" for difference in verdict.differences),
        "",
        "| what was done | times |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in sorted(campaign.counts.items())),
        f"| **killed with -9** | **{campaign.killed}** |",
        "",
        "| how workers ended that nobody had told to | times |",
        "|---|---|",
        *(f"| {ending} | {count} |" for ending, count in sorted(deployment.endings.items())),
        "",
        "| what was counted | |",
        "|---|---|",
        f"| records in the log, forwarded ones among them | {verdict.records}, {verdict.forwarded} |",
        f"| messages charged, by identity | {len(totals.identities)} |",
        f"| windows, by dimension | {len(totals.windows)} |",
        f"| accounts | {len(totals.balances)} |",
        f"| alerts, by id | {len(totals.alerts)} |",
        f"| results of commands | {len(totals.results)} |",
        f"| refusals, by position and reason | {sum(totals.refusals.values())} |",
        f"| largest memory of a worker | {deployment.peak_memory_bytes / _MEBIBYTE:.0f} MiB |",
        "",
        "```text",
        reconciled.stdout.strip(),
        "```",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if path:
        Path(path).write_text(text, encoding="utf-8")
