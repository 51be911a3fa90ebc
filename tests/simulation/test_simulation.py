"""Whatever dies, freezes or is sent twice, whenever: the servers end up with what the logs say.

Each seed is a world of its own, and plays out the same each time. `SIMULATION_SEED=4711` plays that one alone;
`SIMULATION_SEEDS=20000` plays so many. A seed that fails tells what happened in it.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pipeline.clickhouse.snapshots import ENTRIES, USAGE
from pipeline.core import identity
from pipeline.core.simulation import simulate
from tests.simulation.oracle import Truth, stored_by
from tests.simulation.world import World

SEEDS = 700


@pytest.fixture(scope="module", autouse=True)
def small_deltas() -> Iterator[None]:
    """Deltas are cut and sealed after a handful of identities, so that short logs make several."""
    before = identity.SEALED_WEIGHT, identity.CUT_WEIGHT
    identity.SEALED_WEIGHT, identity.CUT_WEIGHT = 3, 5
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    identity.SEALED_WEIGHT, identity.CUT_WEIGHT = before


def seeds() -> range:
    if alone := os.environ.get("SIMULATION_SEED"):
        return range(int(alone), int(alone) + 1)
    return range(int(os.environ.get("SIMULATION_SEEDS", SEEDS)))


@pytest.mark.timeout(0)  # A long run takes as long as it takes; nothing in it can hang.
def test_every_world_ends_where_its_logs_say() -> None:
    for seed in seeds():
        world = World(seed)
        try:
            world.run()
            found = world.differences()
        except Exception as error:  # noqa: BLE001 - it is told with its seed
            found = [repr(error)]
        assert not found, f"SIMULATION_SEED={seed}\n" + "\n".join([*world.journal, *found])


def test_a_world_is_a_function_of_its_seed() -> None:
    """Also in another process, whose sets and dictionaries hash otherwise."""
    program = (
        "import sys, logging; logging.disable(); from tests.simulation.world import World\n"
        "for seed in range(20):\n"
        "    world = World(seed); world.run(); print(*world.journal, world.chance.random(), sep='\\n')"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert told[0]
    assert told[0] == told[1]


def test_the_truth_is_what_simulate_says() -> None:
    for seed in range(100):
        world = World(seed)
        world.loop.close()
        if len(world.broker.logs) > 1:
            continue  # It sends strays home before they are counted, and offsets differ.
        (log,) = world.broker.logs
        records = [
            SimpleNamespace(key=each.key, value=each.value, headers=each.headers, received_at=each.timestamp)
            for each in log
        ]
        report = simulate(records, world.rules, chunk_records=7, checkpoint_records=20)
        truth = Truth(log, world.rules, 0)
        for name in ("facts", "alerts", "results", "recharges"):
            assert getattr(truth.outcomes, name) == getattr(report, name), (seed, name)
        by_place = {(each["offset"], each["reason"]): each for each in truth.outcomes.refusals}
        assert by_place == {(each["offset"], each["reason"]): each for each in report.refusals}
        accounts = {account.tenant: account for account in truth.changes.changed_accounts}
        assert accounts == report.accounts
        stored = stored_by([truth], world.rules)
        windows = {
            (row[0], row[1] * 1000, *row[2:6]): list(row[6:10])
            for row in stored.tables[USAGE.name].final().values()
        }
        assert windows == report.windows
        amount = ENTRIES.column_names.index("amount_micros")
        entries = {key: row[amount] for key, row in stored.tables[ENTRIES.name].final().items()}
        assert entries == {(tenant, entry.entry_id): entry.amount for tenant, entry in report.entries}
