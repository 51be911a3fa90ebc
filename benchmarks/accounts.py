"""What many accounts cost: bytes of a kept value, memory in the tables and at work, and the same on disk.

    python -m benchmarks.accounts [--accounts 1000000] [--partitions 32] [--live 100000] [--reads 10000] [--json]

A typical account has one plan of its own, three grants, two periods and the answers to its last two commands. Its kept
value is what tables and changelogs hold. Each figure is taken in a process of its own:

- `memory`: all of them in the table of a worker with MSGMETER_STORE=memory;
- `live`: as accounts at work, of which a fold holds those that were touched since the last checkpoint but one;
- `rocksdb`: written and closed, then opened by another process, which looks up random ones, twice; the second time
  RocksDB's cache holds what fits of them. The operating system's cache holds the files in both.

Memory is resident memory after less before. Bytes per account are those of all accounts.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import faust
import msgspec

from pipeline.core.account import Account, Answer, Grant, Period, PlanInForce
from pipeline.core.amounts import MICROS
from pipeline.core.kept import encode_kept
from pipeline.core.partitions import partition_of
from pipeline.core.plans import encode_plan
from pipeline.core.rules import Rules
from pipeline.core.state import PartitionState
from pipeline.data import load_plan, load_rate_cards
from pipeline.stream.stores import NOTHING, PartitionedStore, Position
from pipeline.stream.tables import ChangelogTable

_MEBIBYTE = 1 << 20
_BATCH = 1_000
_AT = 1_773_576_000_000
_DAY_MILLISECONDS = 86_400_000
_PLAN = load_plan("bundle_by_type")


def tenant_of(number: int) -> str:
    """The name of an account's tenant."""
    return f"tenant-{number:07d}"


def make_account(number: int, at: int = _AT) -> Account:
    """The account of a tenant that has a plan and two purchases, at the beginning of its second period."""
    plan = msgspec.structs.replace(_PLAN, allowance_credits=str(20_000 + number % 7))
    month = 30 * _DAY_MILLISECONDS
    bought = 5_000 * MICROS
    used = number * 1_009 % 10_000 * MICROS
    return Account(
        tenant_of(number),
        applied_offset=number,
        clock_at=at,
        plans=[PlanInForce(at - 2 * month, encode_plan(plan))],
        grants=[
            Grant(f"allowance:{at}", "allowance", 20_000 * MICROS, used, at, at + month, 100, number),
            *(
                Grant(
                    f"{number:08x}-{each:04x}", "purchase", bought, bought, at, at + each * month, 500, number + each,
                    90_000_000, "USD",
                )
                for each in (6, 12)
            ),
        ],
        periods=[
            Period(at - month, at, 30_000 * MICROS, 20_000 * MICROS, (80, 85, 90, 95)),
            Period(at, at + month, 30_000 * MICROS, used, ()),
        ],
        answers=[Answer(f"{number:08x}-{each:04x}", bytes(16), "", 30_000 * MICROS) for each in (6, 12)],
    )  # fmt: skip


def values(count: int, partitions: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(partition, key, kept value) of so many accounts."""
    for number in range(count):
        account = make_account(number)
        key = account.tenant.encode()
        yield partition_of(key, partitions), key, encode_kept(account.applied_offset, account)


def resident_mebibytes() -> float:
    """Memory of this process that is in use, without pages of files."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def open_store(kind: str, directory: Path, partitions: int) -> PartitionedStore:
    """The store of the accounts' table, as a worker opens it."""
    app = faust.App("accounts-benchmark", datadir=directory, store=f"{kind}://", Table=ChangelogTable)
    store: PartitionedStore = app.Table("accounts").data
    for partition in range(partitions):
        store.open_partition(partition)
    return store


def fill(store: PartitionedStore, count: int, partitions: int) -> None:
    """Applies the accounts' values in batches, as checkpoints do."""
    changes: dict[int, dict[bytes, bytes]] = {partition: {} for partition in range(partitions)}
    for partition, key, value in values(count, partitions):
        changes[partition][key] = value
        if len(changes[partition]) >= _BATCH:
            store.apply(partition, changes[partition], Position(1, NOTHING.floor))
            changes[partition] = {}
    for partition, left in changes.items():
        store.apply(partition, left, Position(1, NOTHING.floor))


def measure_value() -> dict[str, float]:
    """Bytes of a kept value, and of the plan in it."""
    account = make_account(123_456)
    return {
        "kept_bytes": len(encode_kept(account.applied_offset, account)),
        "of_it_plan_bytes": len(account.plans[0].document),
    }


def measure_memory(count: int, partitions: int) -> dict[str, float]:
    """All accounts in the table in memory."""
    store = open_store("memory", Path("unused"), partitions)
    before = resident_mebibytes()
    fill(store, count, partitions)
    used = resident_mebibytes() - before
    return {"mebibytes": round(used), "bytes_per_account": round(used * _MEBIBYTE / count)}


def measure_live(count: int) -> dict[str, float]:
    """Accounts at work, taken up from kept values one by one, and given out again at a checkpoint."""
    rules = Rules(cards=load_rate_cards(), partitions=1)
    kept = {key: value for _, key, value in values(count, 1)}
    state = PartitionState(0, rules, kept.get, lambda _: None, ())
    before, began = resident_mebibytes(), time.process_time()
    for key in kept:
        live = state.account(key, key.decode())
        live.terms_at(_AT)
        live.is_dirty = True
    took, used = time.process_time() - began, resident_mebibytes() - before
    began = time.process_time()
    state.checkpoint(_AT)
    kept_again = time.process_time() - began
    assert len(state.accounts) == count
    return {
        "accounts": count,
        "bytes_per_account": round(used * _MEBIBYTE / count),
        "taking_up_cpu_us": round(took / count * 1e6, 1),
        "keeping_cpu_us": round(kept_again / count * 1e6, 1),
    }


def write_files(directory: Path, count: int, partitions: int) -> dict[str, float]:
    """All accounts written to RocksDB."""
    store = open_store("rocksdb", directory, partitions)
    began, wall = time.process_time(), time.monotonic()
    fill(store, count, partitions)
    took, waited = time.process_time() - began, time.monotonic() - wall
    held = resident_mebibytes()
    for partition in range(partitions):
        store.close_partition(partition)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return {
        "mebibytes_on_disk": round(size / _MEBIBYTE),
        "writing_cpu_us": round(took / count * 1e6, 1),
        "writing_seconds": round(waited, 1),
        "resident_mebibytes_after_writing": round(held),
    }


def read_files(directory: Path, count: int, partitions: int, reads: int) -> dict[str, float]:
    """Random accounts looked up in files that another process has written."""
    idle = resident_mebibytes()
    store = open_store("rocksdb", directory, partitions)
    opened = resident_mebibytes()
    lookups = [store.lookup(partition) for partition in range(partitions)]
    chance = Random(1)
    keys = [tenant_of(chance.randrange(count)).encode() for _ in range(reads)]
    found = [(lookups[partition_of(key, partitions)], key) for key in keys]
    rates = []
    for _ in range(2):
        began = time.monotonic()
        missing = sum(lookup(key) is None for lookup, key in found)
        rates.append(round(reads / (time.monotonic() - began)))
        assert not missing, f"{missing} accounts are missing"
    return {
        "mebibytes_opened": round(opened - idle),
        "mebibytes_after_reading": round(resident_mebibytes() - idle),
        "reads_per_second_first": rates[0],
        "reads_per_second_again": rates[1],
    }


def apart(call: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:  # noqa: ANN401 - the call's own
    """What a call gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--live", type=int, default=100_000)
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    count, partitions = arguments.accounts, arguments.partitions
    report: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}",
        "accounts": count,
        "value": measure_value(),
        "memory": apart(measure_memory, count, partitions),
        "live": apart(measure_live, arguments.live),
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        report["rocksdb"] = apart(write_files, directory, count, partitions) | apart(
            read_files, directory, count, partitions, arguments.reads
        )
    print(json.dumps(report, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
