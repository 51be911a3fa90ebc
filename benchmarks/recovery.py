"""From `kill -9` to caught up: what a worker with much state needs for a restart, and what it reads for it.

    python -m benchmarks.recovery [--accounts 1000000] [--identities 20000000] [--backlog 100000] [--json]

Starts Kafka and the ClickHouse engine in a temporary directory, writes the state into the changelogs
(`benchmarks/recovery_state.py`), and starts worker processes on it one after the other:

- `rocksdb, no directory`: everything is read and written to files;
- `rocksdb, killed`: the same files after `kill -9`;
- `rocksdb, stopped`: the same after SIGTERM;
- `memory`: everything is read into dictionaries, after a `kill -9`.

Before each start the log gets a backlog. Seconds run from the start of the process, but `killed` ones from the
kill: Kafka keeps a dead worker's partitions for the session time, which is stated apart as `group_seconds`.
`caught_up` is when every record of the backlog is stored and published. Memory is resident memory at its peak.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benchmarks.recovery_state import Sizes, write_accounts, write_identities, write_log
from benchmarks.throughput import cpu_seconds, fill, peak_mebibytes, servers
from pipeline.embedded.owned import OwnedProcess
from pipeline.settings import Settings
from pipeline.traffic import Traffic, TrafficGenerator

_POLL_SECONDS = 0.05
_READ = re.compile(r"recovered (\d+) changelog records, (\d+) bytes, in ([\d.]+) s")
_ADDRESS = re.compile(r"metrics on (http://\S+)")


class Restart:
    """One life of a worker, with the seconds from its beginning to each stage."""

    def __init__(self, settings: Settings) -> None:
        directory = settings.state_directory
        directory.mkdir(parents=True, exist_ok=True)
        names = ("kafka", "clickhouse", "default_plan", "store", "state_directory", "partitions")
        environment = {f"MSGMETER_{name.upper()}": str(getattr(settings, name)) for name in names}
        self._log_path = directory.parent / "worker.log"
        self._log_path.unlink(missing_ok=True)
        self.process = OwnedProcess(
            "worker",
            [sys.executable, "-m", "pipeline", "worker"],
            self._log_path,
            environment | {"MSGMETER_METRICS_PORT": "0"},
        )
        self.process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def log(self) -> str:
        """All it has said."""
        return self._log_path.read_text("utf-8")

    def metric(self, name: str) -> float:
        """One metric, 0 before it is served."""
        address = _ADDRESS.search(self.log())
        if address is None:
            return 0
        with urllib.request.urlopen(address[1], timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)

    def until(self, holds: Callable[[], bool]) -> None:
        """Waits; fails when the worker has ended."""
        while not holds():
            assert self.process.running, self.process.log_tail()
            time.sleep(_POLL_SECONDS)


def measure(settings: Settings, began_at: float, backlog: int) -> tuple[dict[str, float], Restart]:
    """One restart that began at this time of the monotonic clock, and the worker that goes on."""
    worker = Restart(settings)
    seconds = {}

    def note(stage: str, holds: Callable[[], bool]) -> None:
        worker.until(holds)
        seconds[f"{stage}_seconds"] = round(time.monotonic() - began_at, 1)

    note("process_up", lambda: _ADDRESS.search(worker.log()) is not None)
    note("tables_recovered", lambda: "worker ready" in worker.log())
    note("folds_begun", lambda: worker.metric("msgmeter_partitions_taken_up") == settings.partitions)
    note("caught_up", lambda: worker.metric("msgmeter_messages_received_total") >= backlog)
    found = _READ.findall(worker.log())
    records, size_bytes, read_seconds = (sum(map(float, column)) for column in zip(*found, strict=True))
    waited = seconds["tables_recovered_seconds"] - seconds["process_up_seconds"] - read_seconds
    return {
        **seconds,
        "group_seconds": round(waited, 1),
        "changelog_records": int(records),
        "changelog_mebibytes": round(size_bytes / (1 << 20), 1),
        "identities_held": int(worker.metric("msgmeter_identities_held")),
        "cpu_seconds": round(cpu_seconds(worker.pid), 1),
        "peak_mebibytes": peak_mebibytes(worker.pid),
    }, worker


def append_backlog(settings: Settings, arguments: argparse.Namespace, seed: int) -> int:
    """New messages of tenants that have an account; gives how many records."""
    traffic = Traffic(
        start_at=time.time_ns() // 1_000_000 - 600_000,
        seed=seed,
        messages=arguments.backlog,
        tenants=min(arguments.tenants, arguments.accounts),
        records_per_second=arguments.backlog // 300 + 1,
        plans=False,
        purchases=0,
    )
    return fill(settings, TrafficGenerator(traffic))


def settle(worker: Restart) -> None:
    """Waits until what it has folded is acknowledged, so that the next life begins with the backlog alone."""
    worker.until(lambda: worker.metric("msgmeter_uncommitted_offsets") == 0)
    time.sleep(2)  # Offsets are committed every second.


def write_state(settings: Settings, sizes: Sizes) -> None:
    """Fills the changelogs, with two processes beside this one."""
    write_log(settings, sizes)
    halves = [range(half, settings.partitions, 2) for half in range(2)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(write_identities, settings, sizes, half) for half in halves]
        waiting.append(pool.submit(write_accounts, settings, sizes))
        for each in waiting:
            each.result()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--identities", type=int, default=20_000_000)
    parser.add_argument("--checkpoint-identities", type=int, default=1_024)
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=10_000, help="of the backlog")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}",
        "accounts": arguments.accounts,
        "identities": arguments.identities,
    }
    with servers() as (memory, _):
        rocksdb = dataclasses.replace(memory, store="rocksdb")
        say("writing the state …")
        sizes = Sizes(
            arguments.accounts,
            arguments.identities,
            arguments.checkpoint_identities,
            time.time_ns() // 1_000_000,
        )
        began_at = time.monotonic()
        write_state(memory, sizes)
        report["writing_seconds"] = round(time.monotonic() - began_at)
        worker: Restart | None = None
        shutil.rmtree(rocksdb.state_directory, ignore_errors=True)
        for seed, (name, settings) in enumerate(
            {
                "rocksdb, no directory": rocksdb,
                "rocksdb, killed": rocksdb,
                "rocksdb, stopped": rocksdb,
                "memory": memory,
            }.items()
        ):
            say(f"{name} … (load {os.getloadavg()[0]:.1f})")
            began_at = time.monotonic()
            if worker is not None:
                settle(worker)
                if name.endswith("stopped"):
                    os.kill(worker.pid, signal.SIGTERM)
                    assert worker.process.wait(60) == 0, worker.process.log_tail()
            backlog = append_backlog(memory, arguments, seed)
            if worker is not None and worker.process.running:
                worker.process.kill()
            began_at = time.monotonic()
            report[name], worker = measure(settings, began_at, backlog)
            say(json.dumps(report[name]))
        worker.process.kill()
    print(json.dumps(report, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
