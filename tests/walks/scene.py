# ruff: noqa: T201 - a person is told where to look.
"""A whole deployment in which something may be broken: servers, two workers, gateways, and what watches them.

Takes a directory; gives the processes of an ordinary deployment on this machine, with ClickHouse behind a proxy that
can be slow, and a pager at the end of the alerts. Time of alerts runs `FASTER` times faster; traffic and workers do
not.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import clickhouse_connect

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import free_port
from pipeline.logfile import LogRecord
from pipeline.sending import LogSender
from pipeline.settings import Settings
from pipeline.traffic import Traffic, TrafficGenerator
from tests.e2e.system import System
from tests.e2e.watching import Shell, watched
from tests.e2e.worker_process import WorkerProcess
from tests.faults.proxy import FaultProxy
from tests.grafana.answers import picture
from tests.grafana.dashboards import View
from tests.grafana.prometheus_server import PrometheusQuestions
from tests.monitoring import Alertmanager, Pager, Prometheus

FASTER = 10
RECORDS_PER_SECOND = 150
_SEED = 1
_PACE_SECONDS = 0.02
_SHOWN_SECONDS = 180
_SHOWN_STEP_SECONDS = 2
_RATES_OVER_SECONDS = 20
"""What pictures show. Rates are as of a scrape each five seconds: some epochs are then in each."""
_CALM_SAMPLES = 60
"""Of each worker before something is broken, so that a picture shows what is usual: 90 s."""


@dataclass
class Scene:
    """What a walk breaks, and what it looks with."""

    system: System
    workers: dict[int, WorkerProcess]
    """By port of their metrics."""
    proxy: FaultProxy
    clickhouse: EmbeddedClickHouse
    prometheus: Prometheus
    pager: Pager
    gateway: "Gateways"
    pictures: dict[str, Any] | None
    """Collects by name what pictures of dashboards show; None where none are wanted."""

    def shell(self, port: int) -> Shell:
        """The shell on the machine of the worker at that port."""
        settings = self.system.settings
        return Shell(self.system.directory, settings, self.prometheus, port, self.workers[port].name)

    def picture(self, dashboard: str, rows: Sequence[str]) -> dict[str, Any]:
        """What those rows of a dashboard show at this moment, of the last minutes."""
        now = int(time.time())
        shown = View(
            now - _SHOWN_SECONDS,
            now,
            _SHOWN_STEP_SECONDS,
            (("granularity", "day"),),
            scrape_seconds=_RATES_OVER_SECONDS // 4,
        )
        # What ClickHouse has begins with a quarter of an hour, which may have begun before.
        hour = replace(shown, starts_at=now - 3600)
        client = clickhouse_connect.get_client(dsn=f"{self.clickhouse.url}/msgmeter")
        return picture(
            client, PrometheusQuestions(self.prometheus.url), dashboard, shown, of_clickhouse=hour, rows=rows
        )

    def hold(self, name: str) -> None:
        """Waits for a person who looks at the walk of that name; goes on at once where there is none."""
        if name:
            print(f"{name} is broken. Prometheus: {self.prometheus.url}  ClickHouse: {self.clickhouse.url}")
            input("Enter mends it ")


class Gateways:
    """Sends sample traffic for as long as the walk lasts; `spoil` may change each record on its way."""

    def __init__(self, system: System) -> None:
        self.spoil: Callable[[LogRecord], LogRecord] = lambda record: record
        self._is_ended = threading.Event()
        self._sender = LogSender(system.settings)
        self._system = system
        self._thread = threading.Thread(target=self._run, name="gateways", daemon=True)

    def start(self) -> None:
        """Begins with a plan for each tenant."""
        self._thread.start()

    def end(self) -> None:
        """Returns when the broker has everything."""
        self._is_ended.set()
        self._thread.join()

    def _run(self) -> None:
        start_at = time.time_ns() // 1_000_000
        traffic = Traffic(
            start_at=start_at, seed=_SEED, messages=None, tenants=200, records_per_second=RECORDS_PER_SECOND
        )
        began = time.monotonic()
        for record in TrafficGenerator(traffic):
            early_seconds = ((record.received_at or 0) - start_at) / 1000 - (time.monotonic() - began)
            if early_seconds > _PACE_SECONDS:
                time.sleep(early_seconds)
            if self._is_ended.is_set():
                break
            [signed] = self._system.signed([self.spoil(record)])
            self._sender.send(signed)
        self._sender.flush()


@contextmanager
def scene(directory: Path, pictures: dict[str, Any] | None) -> Iterator[Scene]:
    """A deployment that is well: everything is caught up and nothing but the watchdog fires."""
    with (
        EmbeddedBroker(directory / "broker") as broker,
        EmbeddedClickHouse(directory / "clickhouse") as clickhouse,
        FaultProxy(clickhouse.host, clickhouse.port) as proxy,
        Pager() as pager,
        Alertmanager(directory, pager.url, faster=FASTER) as alertmanager,
    ):
        settings = Settings(
            kafka=broker.bootstrap_servers,
            clickhouse=f"{proxy.url}/msgmeter",
            partitions=8,
            default_plan="starter",
            command_key="signs commands of walks",
            counterparty_key="hashes counterparties of walks",
        )
        direct = System(replace(settings, clickhouse=f"{clickhouse.url}/msgmeter"), directory)
        direct.migrate()
        system = System(settings, directory)
        numbers = itertools.count(1)
        workers = {
            port: system.worker(f"worker-{next(numbers)}", metrics_port=port)
            for port in (free_port(), free_port())
        }
        gateway = Gateways(system)
        try:
            for worker in workers.values():
                worker.start()
            for worker in workers.values():
                worker.await_ready()
            with watched(direct, [*workers], faster=FASTER, alertmanager=alertmanager.address) as prometheus:
                gateway.start()
                prometheus.await_samples("sum(msgmeter_partitions_owned) == 8")
                prometheus.await_samples("msgmeter:group_lag_seconds:max < 30")
                prometheus.await_samples("msgmeter:insert_seconds:p90_10m < 1")
                pager.await_message("MsgmeterWatchdog")
                if pictures is not None:
                    calm = f"min(count_over_time(up[1h])) >= {_CALM_SAMPLES}"
                    prometheus.await_samples(calm, deadline_seconds=300)
                yield Scene(system, workers, proxy, clickhouse, prometheus, pager, gateway, pictures)
        finally:
            gateway.end()
            system.close()
            clickhouse.kill()
            broker.kill()
