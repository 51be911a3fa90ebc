"""From a server that dies to the message at the pager, and to the message that it is over: everything is real."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import OwnedProcess, free_port
from pipeline.traffic import Traffic
from tests import runbooks
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, environment_of, log_now
from tests.monitoring import Alertmanager, Pager, Prometheus

FASTER = 30
"""A minute of `for` takes 2 s. What must have paged before `MsgmeterReconcileAbsent` fires has 30 s to do so."""


@pytest.fixture
def own_clickhouse(tmp_path: Path) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path / "clickhouse") as running:
        yield running
        running.kill()


@pytest.fixture
def start_scheduler() -> Iterator[Callable[[System, int], None]]:
    """Give `start_scheduler(system, metrics_port)`; it ends with the test."""
    started: list[OwnedProcess] = []

    def start(system: System, metrics_port: int) -> None:
        command = [sys.executable, "-m", "pipeline", "schedule", "--metrics-port", str(metrics_port)]
        log = system.directory / "scheduler.log"
        process = OwnedProcess("scheduler", command, log, environment_of(system.settings))
        process.start()
        started.append(process)

    yield start
    for process in started:
        process.kill()


@pytest.mark.timeout(300)
def test_clickhouse_away_is_all_that_pages_with_its_runbook_and_is_resolved(
    own_clickhouse: EmbeddedClickHouse,
    make_system: MakeSystem,
    start_scheduler: Callable[[System, int], None],
    tmp_path: Path,
) -> None:
    system = make_system(clickhouse=f"{own_clickhouse.url}/default")
    worker_port, scheduler_port = free_port(), free_port()
    worker = system.worker(metrics_port=worker_port).start()
    start_scheduler(system, scheduler_port)
    log = log_now(Traffic(start_at=0, seed=5, messages=1_000, tenants=20))
    system.send(log[:500])
    worker.await_condition(lambda: worker.metric("clickhouse_up"), "stored something")
    targets = {
        "msgmeter-worker": [f"127.0.0.1:{worker_port}"],
        "msgmeter-scheduler": [f"127.0.0.1:{scheduler_port}"],
    }
    with (
        Pager() as pager,
        Alertmanager(tmp_path, pager.url, faster=FASTER) as alertmanager,
        Prometheus(tmp_path, targets, faster=FASTER, alertmanager=alertmanager.address) as prometheus,
    ):
        prometheus.await_samples("sum(msgmeter_clickhouse_up) == 2")
        # It finds its targets after five seconds; meanwhile they count as absent, for longer than they may here.
        alertmanager.await_only({"MsgmeterWatchdog"})
        pager.told.clear()

        own_clickhouse.kill()
        system.send(log[500:])

        path, page = pager.await_message("MsgmeterClickHouseAway")
        assert path == "/page"
        alert = page["alerts"][0]
        job = alert["labels"]["job"]
        assert alert["labels"] == {
            "alertname": "MsgmeterClickHouseAway",
            "severity": "critical",
            "family": "clickhouse",
            "job": job,
            "instance": targets[job][0],
        }
        runbook, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert runbook == "https://github.com/msgmeter/msgmeter/blob/main/docs/runbooks.md"
        assert anchor in runbooks.anchors(runbooks.TEXT)
        assert alert["annotations"]["dashboard_url"] == "http://localhost:3000/d/msgmeter-pipeline"

        # Nobody reconciles here. That alone would be a ticket; without ClickHouse nobody could.
        prometheus.await_samples('ALERTS{alertname="MsgmeterReconcileAbsent", alertstate="firing"}')
        alertmanager.await_inhibited({"alertname": "MsgmeterReconcileAbsent"})
        told = {
            message["groupLabels"]["alertname"] for _, message in pager.told if message["status"] == "firing"
        }
        assert told == {"MsgmeterClickHouseAway", "MsgmeterWatchdog"}

        own_clickhouse.start()
        pager.await_message("MsgmeterClickHouseAway", "resolved")
        path, _ = pager.await_message("MsgmeterReconcileAbsent")
        assert path == "/ticket"
