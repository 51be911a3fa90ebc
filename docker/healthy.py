"""Whether a process of msgmeter is well, for a container's health check; standard library only, and quick to start.

    healthy.py worker http://127.0.0.1:9464/metrics

Takes which process it is and the address of its metrics; exits with 0 where it is well, else with 1 and one line that
says why. Well is what answers and does its own work. A worker that waits for ClickHouse is well: ClickHouse's own check
says that it is away, and something that restarts what is unhealthy would restart the worker for nothing.
"""

import sys
import time
from collections.abc import Callable
from urllib.request import urlopen

Figures = dict[str, float]

_ANSWER_SECONDS = 4
_EPOCH_SECONDS = 120
"""An epoch takes a second; the alert of it comes after as long."""
_RECOVERY_SECONDS = 1_800
"""Tables are recovered within minutes; the histogram of it ends there."""
_ROUND_SECONDS = 120
"""The scheduler's rounds come every few seconds."""
_RUN_SECONDS = 26 * 3_600
"""As the alert about runs that are too old has it: the first of them may take hours."""


def _read(url: str) -> Figures:
    """Every figure by its name with its labels."""
    with urlopen(url, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - the container's own address
        lines = answer.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and line[0] != "#")
    return {name: float(value) for name, _, value in pairs}


def _worker(figures: Figures) -> str:
    """It has no partitions, as a spare one, or recovers them, or has; and what it takes is stored.

    Until its tables are recovered the lag is at least the time since it was given them.
    """
    assigned, owned = figures["msgmeter_partitions_assigned"], figures["msgmeter_partitions_owned"]
    lag_seconds = figures.get("msgmeter_consumer_lag_seconds", 0)
    if assigned and not owned and lag_seconds > _RECOVERY_SECONDS:
        return f"has recovered none of {assigned:g} partitions in {lag_seconds:.0f} s"
    open_seconds = figures["msgmeter_epoch_open_seconds"]
    if open_seconds > _EPOCH_SECONDS and figures.get("msgmeter_clickhouse_up", 1):
        return f"has stored nothing for {open_seconds:.0f} s, and ClickHouse answers"
    return ""


def _scheduler(figures: Figures) -> str:
    """Its last round came to its end, not long ago."""
    age_seconds = time.time() - figures["msgmeter_schedule_last_success_timestamp_seconds"]
    return f"its last round ended {age_seconds:.0f} s ago" if age_seconds > _ROUND_SECONDS else ""


def _reconcile(figures: Figures) -> str:
    """It has come to an end within a day, or is at its first run still."""
    ended_at = figures.get("msgmeter_reconcile_last_run_timestamp_seconds")
    failed = figures['msgmeter_reconcile_runs_total{result="failed"}']
    if ended_at is None:
        return f"has come to no end in {failed:g} runs" if failed else ""
    age_seconds = time.time() - ended_at
    return f"its last run ended {age_seconds:.0f} s ago" if age_seconds > _RUN_SECONDS else ""


_FAULTS: dict[str, Callable[[Figures], str]] = {
    "worker": _worker,
    "scheduler": _scheduler,
    "reconcile": _reconcile,
}


def _fault(process: str, url: str) -> str:
    """What is wrong; empty for nothing."""
    try:
        return _FAULTS[process](_read(url))
    except OSError as error:
        return f"{url} does not answer: {error}"
    except KeyError as missing:
        return f"{url} has no {missing.args[0]}"


def main() -> None:
    """Ask once."""
    if len(sys.argv) != 3 or sys.argv[1] not in _FAULTS:
        sys.exit(f"usage: healthy.py {{{'|'.join(_FAULTS)}}} URL")
    if fault := _fault(*sys.argv[1:]):
        sys.exit(fault)


main()
