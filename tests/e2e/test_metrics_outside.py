"""Every metric of the scheduler and of `reconcile --every`, scraped while the deployment gives it a reason to move."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
import pytest

from pipeline.cli.reconcile_stored import STORED_PARTS
from pipeline.logfile import LogRecord
from tests.builders import DAY, message, plan
from tests.e2e.conftest import MakeSystem
from tests.e2e.metric_table import RECONCILE, SCHEDULER, Scraped, lint, parsed, wrong
from tests.e2e.system import System, environment_of
from tests.e2e.worker_process import WorkerProcess

START = ("--metrics-port", "0")
Run = Callable[..., WorkerProcess]


@pytest.fixture
def run(make_system: MakeSystem) -> Iterator[Run]:
    """Give `run(system, name, *command)`: a process of the deployment, which ends with the test."""
    started: list[WorkerProcess] = []

    def start(system: System, name: str, *command: str) -> WorkerProcess:
        environment = environment_of(system.settings)
        started.append(WorkerProcess(name, system.directory, environment, command=(*command, *START)).start())
        return started[-1]

    yield start
    for each in started:
        each.kill()


def command(command_type: str, tenant: str, **fields: Any) -> LogRecord:
    """A command that is in force since 60 days."""
    effective_at = time.time_ns() // 1_000_000 - 60 * DAY
    named = {"type": command_type, "id": f"{command_type} {tenant}", "tenant": tenant}
    document = {**named, "effective_at": effective_at, **fields}
    return LogRecord(tenant.encode(), orjson.dumps(document), is_plain_command=True)


def sent_now(message_id: str, tenant: str) -> LogRecord:
    """A message of one credit."""
    document = message(message_id, tenant=tenant, occurred_at=time.time_ns() // 1_000_000)
    return LogRecord(tenant.encode(), orjson.dumps(document))


def until(process: WorkerProcess, holds: Callable[[Scraped], object], what: str) -> Scraped:
    """What a process says once that holds."""
    told: list[Scraped] = []

    def ask() -> bool:
        told.append(parsed(process.metrics_text()))
        with suppress(KeyError):  # Not shown yet.
            return bool(holds(told[-1]))
        return False

    process.await_condition(ask, what, 60)
    return told[-1]


def runs(told: Scraped, result: str) -> float:
    """How many runs of `reconcile` have ended so."""
    return told.get(f'msgmeter_reconcile_runs_total{{result="{result}"}}', 0)


@pytest.mark.timeout(240)
def test_every_metric_of_scheduler_and_reconcile_moves_as_it_should(
    make_system: MakeSystem, run: Run
) -> None:
    system = make_system(partitions=4)
    scheduler = run(system, "scheduler", "schedule", "--every-seconds", "0.2", "--watch-seconds", "0.2")
    reconcile = run(system, "reconcile", "reconcile", "--every", "0.2")
    seen: dict[str, Scraped] = {}
    compared: dict[str, Scraped] = {}

    # Nobody has sent anything yet.
    seen["ready"] = until(
        scheduler,
        lambda told: (
            {"msgmeter_fleet_last_success_timestamp_seconds", "msgmeter_accounts_due"} <= told.keys()
        ),
        "looked at the whole",
    )
    compared["ready"] = until(reconcile, lambda told: runs(told, "agrees"), "compared nothing with nothing")

    # One tenant has plenty of credits; the other's are at an end, and a recharge is asked for.
    recharge = {"level_credits": "1", "block_credits": "10", "price": "1"}
    system.send(
        [
            command("set_plan", "acme", plan=plan()),
            command("set_plan", "cafe", plan=plan("1", recharge=recharge, currency="USD")),
            sent_now("m1", "acme"),
            sent_now("m2", "cafe"),
        ]
    )
    worker = system.worker().start()
    system.await_all_committed()
    seen["after"] = until(
        scheduler,
        lambda told: told["msgmeter_tenants"] == 2 and told["msgmeter_group_lag_offsets"] == 0,
        "saw two tenants",
    )
    compared["after"] = until(
        reconcile, lambda told: told["msgmeter_reconcile_records_compared"] == 4, "compared the log"
    )
    assert [lint(each.metrics_text()) for each in (scheduler, reconcile)] == ["", ""]

    # Without a worker records wait; and somebody has been at the tables.
    assert worker.stop() == 0
    system.send([sent_now(f"w{number}", tenant) for number, tenant in enumerate(("acme", "cafe", "cafe"))])
    system.rows("ALTER TABLE alerts DELETE WHERE level = 95 SETTINGS mutations_sync = 1")
    system.rows("ALTER TABLE rated_messages DELETE WHERE tenant = 'acme' SETTINGS mutations_sync = 1")
    system.rows("INSERT INTO account_snapshots (tenant, due_at, grants) VALUES ('idle', '2026-01-01', '[]')")
    seen["behind"] = until(
        scheduler,
        lambda told: (
            told["msgmeter_tenants_unalerted"] == 1
            and told["msgmeter_accounts_due"] == 1
            and told["msgmeter_group_lag_offsets"] == 4
        ),
        "saw what is wrong",
    )
    compared["behind"] = until(reconcile, lambda told: runs(told, "differs") > 1, "saw what differs")
    stored = run(system, "stored", "reconcile", "--every", "0.2", "--stored-only", "--output", "json")
    of_stored = until(stored, lambda told: runs(told, "differs"), "compared what is stored")
    subjects = {f'msgmeter_reconcile_drift_rows{{subject="{part.name}"}}' for part in STORED_PARTS}
    assert {name for name in of_stored if name.startswith("msgmeter_reconcile_drift")} == subjects
    assert "msgmeter_reconcile_records_compared" not in of_stored

    # What cannot be asked is neither told nor taken for an agreement.
    system.rows("RENAME TABLE alerts TO elsewhere")
    seen["away"] = until(scheduler, lambda told: told["msgmeter_clickhouse_refuses"] == 1, "missed a table")
    compared["away"] = until(reconcile, lambda told: runs(told, "failed"), "could not compare")
    assert [wrong(SCHEDULER, seen), wrong(RECONCILE, compared)] == [[], []]

    told = reconcile.log()
    assert "all agrees; 4 records of the log and " in told
    assert "rows differ (facts 1, " in told
    assert "facts 1" in told
    assert "acme" in told.partition("rows differ")[2], "the report is written where something differs"
    assert "acme" not in told.partition("rows differ")[0]
    assert '"agrees":false' in stored.log().replace(" ", "")
    assert "could not be compared: ClickHouse: " in told
    system.rows("RENAME TABLE elsewhere TO alerts")
    assert [each.stop() for each in (reconcile, stored)] == [0, 0]
    assert reconcile.log().rstrip().endswith("stopped")
