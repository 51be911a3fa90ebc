"""What storing a fact costs: in the inserting process, in the engine at insert, and in the engine's merges.

    python benchmarks/clickhouse_insert.py [--blocks 20] [--rows 50000] [--tenants 10000]

Starts an embedded ClickHouse in a temporary directory, migrates it, inserts blocks of facts as the fold gives
them (row tuples, turned into columns by `fact_columns`), waits for the merges, then looks up old charges.
Prints one JSON object. Microseconds are CPU time per row, but for `wall`; what else runs on the machine costs
caches and shows in all of them. `by_column` is what the driver takes to serialise each column, in nanoseconds
per row.
"""

import argparse
import json
import os
import platform
import random
import tempfile
import time
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.insert import InsertContext

from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.facts import FACTS, fact_columns, stored_charges
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.embedded.clickhouse import EmbeddedClickHouse

Fact = tuple[Any, ...]

_START_AT = 1_760_000_000_000
_NO_FURTHER: dict[str, int] = {}


def make_facts(count: int, tenants: int, first_offset: int) -> list[Fact]:
    """Make facts of random tenants at consecutive offsets, 3 ms apart, up to a minute before they arrived."""
    chance = random.Random(first_offset)
    names = [(f"tenant-{number:05d}", f"grant-tenant-{number:05d}-2025-10") for number in range(tenants)]
    facts = []
    for offset in range(first_offset, first_offset + count):
        tenant, grant = chance.choice(names)
        message_id = f"{chance.getrandbits(128):032x}"
        received_at = _START_AT + offset * 3
        occurred_at = received_at - chance.randrange(60_000)
        segments = chance.choice((1, 1, 1, 2, 3))
        facts.append((
            tenant, blake2b((tenant + message_id).encode(), digest_size=16).digest(), message_id,
            chance.choice(("gateway-a", "gateway-b")), chance.choice(("sms", "sms", "mms", "rcs")),
            chance.choice(("outbound", "inbound")), chance.choice(("sent", "delivered", "undelivered")),
            chance.choice(("US", "CA", "GB", "DE", "FR", "IN", "BR", "")),
            chance.choice(("campaign", "messaging", "transactional", "")), "", "", "",
            f"c-{tenant}-{chance.randrange(3)}" if chance.random() < 0.5 else "",
            chance.choice(("GSM-7", "UCS-2")), occurred_at, received_at, occurred_at // 86_400_000,
            _START_AT, 1, segments, segments, 1_000_000, segments * 1_000_000, "card-1", chance.getrandbits(64),
            grant, segments * 1_000_000, _NO_FURTHER, chance.getrandbits(32), chance.randrange(32), offset,
        ))  # fmt: skip
    return facts


def cpu_seconds_of(process_id: int) -> float:
    """Return the CPU time a process has used, user and system (Linux)."""
    fields = Path(f"/proc/{process_id}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def await_merges(client: Client) -> None:
    """Return when the engine has had nothing to merge for a second."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 1:
        if client.command("SELECT count() FROM system.merges"):
            quiet_since = time.monotonic()
        time.sleep(0.1)


def nanoseconds_by_column(facts: list[Fact]) -> dict[str, int]:
    """Return what the driver takes to serialise each column, per row, the best of five."""
    taken = {}
    for name, kind, column in zip(FACTS.column_names, FACTS.column_types, fact_columns(facts), strict=True):
        context = InsertContext(FACTS.name, [name], [kind])
        context.start_column(name)
        best = min(_seconds_to_write(kind, column, context) for _ in range(5))
        taken[name] = round(best / len(facts) * 1e9)
    return taken


def _seconds_to_write(kind: Any, column: tuple[Any, ...], context: InsertContext) -> float:  # noqa: ANN401 - the driver's
    started = time.process_time()
    kind.write_column(column, bytearray(), context)
    return time.process_time() - started


def measure_inserts(client: Client, engine: int, given: argparse.Namespace) -> dict[str, float]:
    """Store the blocks, made one at a time as in a worker; return microseconds per row."""
    rows = given.blocks * given.rows
    columns_cpu = insert_cpu = wall = 0.0
    engine_cpu = cpu_seconds_of(engine)
    for number in range(given.blocks):
        block = make_facts(given.rows, given.tenants, number * given.rows)
        started = time.perf_counter()
        before = time.process_time()
        columns = fact_columns(block)
        between = time.process_time()
        insert(client, FACTS, columns, f"block {number}")
        columns_cpu += between - before
        insert_cpu += time.process_time() - between
        wall += time.perf_counter() - started
    at_insert = cpu_seconds_of(engine)
    await_merges(client)
    seconds = {
        "rows to columns": columns_cpu,
        "insert": insert_cpu,
        "wall": wall,
        "engine while inserting": at_insert - engine_cpu,
        "engine with all merges": cpu_seconds_of(engine) - engine_cpu,
    }
    return {name: round(value / rows * 1e6, 2) for name, value in seconds.items()}


def measure_look_ups(client: Client, stored: list[Fact]) -> dict[int, float]:
    """Return milliseconds by number of keys looked up at once."""
    known = [(fact[0], fact[1]) for fact in stored]
    taken = {}
    for count in (10, 100, 1_000, 5_000):
        keys = random.Random(count).sample(known, count)
        started = time.perf_counter()
        found = stored_charges(client, keys)
        taken[count] = round((time.perf_counter() - started) * 1000, 1)
        assert len(found) == count
    return taken


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--rows", type=int, default=50_000, help="rows per block")
    parser.add_argument("--tenants", type=int, default=10_000)
    given = parser.parse_args()
    block = make_facts(given.rows, given.tenants, 0)
    with tempfile.TemporaryDirectory() as directory, EmbeddedClickHouse(Path(directory)) as running:
        client = connect(running.url)
        apply_migrations(client)
        assert running.process is not None
        assert running.process.pid is not None
        figures = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": f"clickhouse-connect {version('clickhouse-connect')}, engine {client.server_version}",
            "facts": f"{given.blocks} x {given.rows} of {given.tenants} tenants",
            "microseconds_per_row": measure_inserts(client, running.process.pid, given),
            "bytes_per_row": client.command(
                "SELECT round(sum(bytes_on_disk) / sum(rows)) FROM system.parts"
                " WHERE active AND table = 'rated_messages'"
            ),
            "look_up_milliseconds_by_keys": measure_look_ups(client, block),
            "by_column": nanoseconds_by_column(block),
        }
        client.close()
        running.kill()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
