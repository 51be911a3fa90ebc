"""Raw -> stored: what one worker manages, where its time goes, how much memory it takes, how late rows are.

    python -m benchmarks.throughput [--messages 1000000] [--tenants 10000] [--json]

Starts Kafka and the ClickHouse engine in a temporary directory, fills `messages.raw` with seeded traffic (2 %
duplicates, 1 % late, 0.5 % malformed, receipts), and lets one worker process read the backlog: a record counts when
its effects are stored and published. Then sends at half the speed found and reads from the worker's own metric how
long the oldest record of each epoch took from the broker's append to its stored row. Last, the steps one by one
in this process, without a broker.

CPU seconds per million records hold on a busy machine; records per second do not.
"""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.facts import FACTS, fact_columns
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.core.process import PartitionFold
from pipeline.core.rules import Rules
from pipeline.data import load_plan, load_rate_cards
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import OwnedProcess
from pipeline.logfile import sign_plain
from pipeline.sending import LogSender
from pipeline.settings import Settings, load_settings
from pipeline.topics import create_topics
from pipeline.traffic import Traffic, TrafficGenerator

_TICKS = os.sysconf("SC_CLK_TCK")
_STEP_RECORDS = 200_000
_CHUNK_RECORDS = 2_000
_LATENCY_SECONDS = 30


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_mebibytes(pid: int) -> int:
    """The most memory a process has had resident."""
    line = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) // 1024


def traffic(arguments: argparse.Namespace, messages: int, seed: int, *, plans: bool) -> TrafficGenerator:
    """Seeded traffic that ends about now."""
    start_at = time.time_ns() // 1_000_000 - 3_600_000
    return TrafficGenerator(
        Traffic(
            start_at=start_at,
            seed=seed,
            messages=messages,
            tenants=arguments.tenants,
            records_per_second=messages // 3_000 + 1,
            plans=plans,
            purchases=0,
        )
    )


def fill(settings: Settings, records: TrafficGenerator, per_second: int = 0) -> int:
    """Sends records, evenly spread where a rate is given; gives their number."""
    sender = LogSender(settings)
    secret = settings.command_key.encode()
    started_at = time.monotonic()
    for record in records:
        sender.send(sign_plain(record, secret))
        if per_second and sender.sent_count % 500 == 0:
            ahead_seconds = sender.sent_count / per_second - (time.monotonic() - started_at)
            if ahead_seconds > 0:
                time.sleep(ahead_seconds)
    sender.flush()
    return sender.sent_count


@contextmanager
def servers() -> Iterator[tuple[Settings, dict[str, int]]]:
    """Settings of a fresh system, and the servers' process ids."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            EmbeddedBroker(directory / "kafka") as broker,
            EmbeddedClickHouse(directory / "clickhouse") as engine,
        ):
            settings = load_settings(
                {
                    "MSGMETER_KAFKA": broker.bootstrap_servers,
                    "MSGMETER_CLICKHOUSE": f"{engine.url}/default",
                    "MSGMETER_DEFAULT_PLAN": "starter",
                    "MSGMETER_STATE_DIRECTORY": str(directory / "worker"),
                    "MSGMETER_METRICS_PORT": "0",
                }
            )
            create_topics(settings)
            apply_migrations(connect(settings.clickhouse))
            yield settings, {"broker": broker.process.pid, "clickhouse": engine.process.pid}


class Worker:
    """A worker as a process of its own."""

    def __init__(self, settings: Settings) -> None:
        """Start it and wait until its tables are recovered."""
        directory = settings.state_directory
        directory.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ) | {
            "MSGMETER_KAFKA": settings.kafka,
            "MSGMETER_CLICKHOUSE": settings.clickhouse,
            "MSGMETER_DEFAULT_PLAN": settings.default_plan,
            "MSGMETER_STATE_DIRECTORY": str(directory),
            "MSGMETER_METRICS_PORT": "0",
        }
        command = [sys.executable, "-m", "pipeline", "worker"]
        self.process = OwnedProcess("worker", command, directory / "worker.log", environment)
        self.process.start()
        while "worker ready" not in (log := self.process.log_path.read_text()):
            assert self.process.running, self.process.log_tail()
            time.sleep(0.02)
        self._address = log.partition("metrics on ")[2].split()[0]

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process.pid is not None, self.process.log_tail()
        return self.process.pid

    def metrics(self) -> dict[str, float]:
        """Metrics by name with labels."""
        with urllib.request.urlopen(self._address, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }


class Record(NamedTuple):
    """A record as the log hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


def measure_backlog(worker: Worker, records: int, pids: dict[str, int]) -> dict[str, float]:
    """Reads the backlog; seconds run from the first stored epoch's beginning to the last one's end."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    started_at = time.monotonic()
    while worker.metrics()["msgmeter_messages_received_total"] < records:
        time.sleep(0.05)
    seconds = time.monotonic() - started_at
    used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    return {
        "records": records,
        "seconds": round(seconds, 2),
        "records_per_second": round(records / seconds),
        **{f"{name}_cpu_us_per_record": round(value / records * 1e6, 2) for name, value in used.items()},
        "worker_peak_mebibytes": peak_mebibytes(pids["worker"]),
    }


def measure_latency(
    settings: Settings, worker: Worker, arguments: argparse.Namespace, rate: int
) -> dict[str, float]:
    """From append to stored row at a steady rate, per epoch's oldest record."""
    before = worker.metrics()
    fill(settings, traffic(arguments, rate * _LATENCY_SECONDS, 2, plans=False), rate)
    while worker.metrics()["msgmeter_consumer_lag_offsets"]:
        time.sleep(0.1)
    time.sleep(2)
    after = worker.metrics()
    name = "msgmeter_received_to_stored_seconds"
    count = after[f"{name}_count"] - before[f"{name}_count"]
    within = {
        bound: (after[f'{name}_bucket{{le="{bound}"}}'] - before[f'{name}_bucket{{le="{bound}"}}']) / count
        for bound in ("0.5", "1.0", "2.0", "5.0")
    }
    return {
        "rate": rate,
        "mean_seconds": round((after[f"{name}_sum"] - before[f"{name}_sum"]) / count, 3),
        **{f"share_within_{bound}_s": round(share, 3) for bound, share in within.items()},
    }


def measure_steps(arguments: argparse.Namespace, settings: Settings) -> dict[str, float]:
    """CPU microseconds per record of each step, one partition, in this process."""
    rules = Rules(
        cards=load_rate_cards(),
        partitions=1,
        command_key=settings.command_key.encode(),
        counterparty_key=settings.counterparty_key.encode(),
        default_plan=load_plan("starter"),
    )
    records = [
        Record(offset, record.received_at or 0, record.key, record.value, record.headers)
        for offset, record in enumerate(traffic(arguments, _STEP_RECORDS, 3, plans=False))
    ]
    fold = PartitionFold(0, rules)
    spent = dict.fromkeys(("admit", "fold", "checkpoint", "columns", "insert"), 0.0)
    client = connect(settings.clickhouse)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        spent[name] += time.thread_time() - began

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    for start in range(0, len(records), _CHUNK_RECORDS):
        chunk = records[start : start + _CHUNK_RECORDS]
        with step("admit"):
            admitted = fold.admit(chunk)
        with step("fold"):
            fold.fold(admitted)
            fold.applied(chunk[-1].offset)
        if len(fold.outcomes.facts) >= settings.epoch_rows // 2 or start + _CHUNK_RECORDS >= len(records):
            facts = fold.take_outcomes().facts
            with step("columns"):
                columns = fact_columns(facts)
            with step("insert"):
                insert(client, FACTS, columns, f"steps-{start}")
    with step("checkpoint"):
        fold.checkpoint()
    return {name: round(seconds / len(records) * 1e6, 2) for name, seconds in spent.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with servers() as (settings, pids):
        say(f"filling messages.raw with {arguments.messages:,} records of {arguments.tenants:,} tenants …")
        records = fill(settings, traffic(arguments, arguments.messages, 1, plans=True))
        say("one worker reads them …")
        worker = Worker(settings)
        report: dict[str, object] = {
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"
        }
        backlog = measure_backlog(worker, records, pids | {"worker": worker.pid})
        report["backlog"] = backlog
        rate = int(backlog["records_per_second"] // 2)
        say(f"{rate:,} records a second for {_LATENCY_SECONDS} s …")
        report["latency"] = measure_latency(settings, worker, arguments, rate)
        report["worker_peak_mebibytes"] = peak_mebibytes(worker.pid)
        worker.process.stop(30)
        say("the steps one by one …")
        report["steps_cpu_us_per_record"] = measure_steps(arguments, settings)
    print(json.dumps(report, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
