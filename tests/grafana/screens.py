"""Data for pictures of the dashboards: `python -m tests.grafana.screens FILE` writes what each panel is answered.

A deployment of two workers, a scheduler and Prometheus meters a month of generated traffic, then minutes of live
traffic, in which one gateway goes bad and one worker stands still at the end: so that there is something to see.
`grafana/render` draws them.
"""

import json
import os
import re
import signal
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import LOOPBACK, OwnedProcess, free_port
from pipeline.logfile import LogRecord
from pipeline.settings import Settings
from pipeline.traffic import Traffic, TrafficGenerator
from tests.e2e.metered_models import send_at_stated_times, take_stated_times
from tests.e2e.system import System, environment_of
from tests.grafana.answers import picture
from tests.grafana.dashboards import View
from tests.grafana.prometheus_server import PrometheusServer

TENANTS = 24
SHOWN_TENANT = "tenant-00003"
HISTORY_DAYS, HISTORY_RECORDS, HISTORY_RATE = 30, 90_000, 3
LIVE_SECONDS, LIVE_RATE = 540, 8
POISON_AFTER, FROZEN_AFTER = 330, 420
"""Seconds of live traffic before one gateway sends what nobody can read, and before one worker stands still."""

_DAY_SECONDS = 86_400
_INSTANT = re.compile(rb'"(occurred_at|status_at)":("[^"]+"|\d+)')
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def main() -> None:
    """Runs the deployment and writes the answers."""
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with (
            EmbeddedBroker(directory / "broker") as broker,
            EmbeddedClickHouse(directory / "engine") as engine,
        ):
            settings = Settings(
                kafka=broker.bootstrap_servers,
                clickhouse=f"{engine.url}/screens",
                application="screens",
                partitions=8,
                command_key="signs commands of pictures",
                counterparty_key="hashes counterparties of pictures",
            )
            system = System(settings, directory)
            try:
                answers = _run(system, directory)
            finally:
                system.close()
    path.write_text(json.dumps(answers, default=str), "utf-8")


def _run(system: System, directory: Path) -> dict[str, Any]:
    system.migrate()
    workers = [system.worker(name).start() for name in ("worker-1", "worker-2")]
    for worker in workers:
        worker.await_ready()
    take_stated_times(system)
    scheduler_port, reconcile_port = free_port(), free_port()
    scheduler = _process(system, "schedule", "--metrics-port", str(scheduler_port))
    reconcile = _process(system, "reconcile", "--every", "90", "--metrics-port", str(reconcile_port))
    scheduler.start()
    history_ends_at = int(time.time() * 1000)
    send_at_stated_times(system, _history(history_ends_at))
    system.await_all_committed()
    jobs = {
        "msgmeter-worker": [_address(worker.metrics_url()) for worker in workers],
        "msgmeter-scheduler": [f"{LOOPBACK}:{scheduler_port}"],
        "msgmeter-reconcile": [f"{LOOPBACK}:{reconcile_port}"],
    }
    reconcile.start()
    prometheus = PrometheusServer(directory / "prometheus", jobs, at_own_pace=True)
    try:
        _live(system, workers[1].pid)
        client = clickhouse_connect.get_client(dsn=system.settings.clickhouse)
        return _answers(client, prometheus)
    finally:
        prometheus.close()
        scheduler.kill()
        reconcile.kill()


def _process(system: System, command: str, *options: str) -> OwnedProcess:
    """One of our commands beside the workers."""
    arguments = [sys.executable, "-m", "pipeline", command, *options]
    return OwnedProcess(
        command, arguments, system.directory / f"{command}.log", environment_of(system.settings)
    )


def _address(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/metrics")


def _history(ends_at: int) -> Iterator[LogRecord]:
    """A month of days and nights up to an instant, laid over generated traffic that is much denser."""
    starts_at = ends_at - HISTORY_DAYS * _DAY_SECONDS * 1000
    hours = range(HISTORY_DAYS * 24)
    first = _EPOCH + timedelta(milliseconds=starts_at)
    weights = list(accumulate(_busy(first + timedelta(hours=hour)) for hour in hours))
    dense_span = HISTORY_RECORDS * 1000 // HISTORY_RATE

    def moved(at: int) -> int:
        """Where an instant of the dense log lies in the month."""
        share = min(max((at - starts_at) / dense_span, 0.0), 1.0) * weights[-1]
        hour = min(bisect(weights, share), len(weights) - 1)
        before = weights[hour - 1] if hour else 0.0
        within = (share - before) / (weights[hour] - before)
        return starts_at + int((hour + within) * 3_600_000) + min(0, at - starts_at)

    traffic = Traffic(
        start_at=starts_at,
        messages=HISTORY_RECORDS,
        tenants=TENANTS,
        records_per_second=HISTORY_RATE,
        late=0,
        malformed=0,
    )
    for record in TrafficGenerator(traffic):
        assert record.received_at is not None
        value = _INSTANT.sub(
            lambda found: b'"%b":%d' % (found[1], moved(_milliseconds(found[2]))), record.value
        )
        yield LogRecord(
            record.key,
            value,
            record.headers,
            moved(record.received_at),
            is_plain_command=record.is_plain_command,
        )


def _busy(hour: datetime) -> float:
    """How much is sent in an hour: more by day, less at weekends."""
    by_day = 1.0 if 8 <= hour.hour < 20 else 0.15
    return by_day * (0.45 if hour.weekday() >= 5 else 1.0) * (1 + hour.day % 5 / 10)


def _milliseconds(text: bytes) -> int:
    if text[:1] != b'"':
        return int(text)
    return int((datetime.fromisoformat(text.decode().strip('"')) - _EPOCH) / timedelta(milliseconds=1))


def _live(system: System, frozen_pid: int) -> None:
    """Minutes of traffic at its own pace; a second is sent at a time."""
    began = time.time()
    traffic = Traffic(
        start_at=int(began * 1000),
        seed=2,
        messages=LIVE_SECONDS * LIVE_RATE,
        tenants=TENANTS,
        records_per_second=LIVE_RATE,
        plans=False,
        purchases=0,
        malformed=0.001,
    )
    records = iter(TrafficGenerator(traffic))
    is_frozen = False
    for second in range(LIVE_SECONDS):
        batch = [next(records) for _ in range(LIVE_RATE)]
        if second >= POISON_AFTER:
            batch += [LogRecord(b"tenant-00007", b'{"source": "gateway-us", "body": "', [], None)] * 25
        now = int(time.time() * 1000)
        send_at_stated_times(system, [LogRecord(each.key, each.value, each.headers, now) for each in batch])
        if second >= FROZEN_AFTER and not is_frozen:
            _signal(frozen_pid, signal.SIGSTOP)
            is_frozen = True
        time.sleep(max(0.0, began + second + 1 - time.time()))


def _signal(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)


def _answers(client: Client, prometheus: PrometheusServer) -> dict[str, Any]:
    """A picture of each dashboard, as what a reader chose and was answered."""
    now = int(time.time())
    ((zone,),) = client.query(
        f"SELECT zone FROM account_snapshots FINAL WHERE tenant = '{SHOWN_TENANT}'"
    ).result_rows
    chosen = {"tenant": SHOWN_TENANT, "zone": zone, "granularity": "day", "search": ""}
    month = View(now - HISTORY_DAYS * _DAY_SECONDS, now, 3 * 3600, tuple(chosen.items()))
    live = View(now - LIVE_SECONDS + 75, now, 5, tuple(chosen.items()), scrape_seconds=15)
    shown = {"tenant-usage": month, "fleet-and-revenue": month, "pipeline": live, "on-call": live}
    return {
        name: picture(client, prometheus, name, view, of_clickhouse=month, of_prometheus=live)
        for name, view in shown.items()
    }


if __name__ == "__main__":
    main()
