"""Data for pictures of the dashboards: `python -m tests.grafana.screens FILE` writes what each panel is answered.

A deployment of two workers, a scheduler and Prometheus meters a month of generated traffic, then minutes of live
traffic, in which one gateway goes bad and one worker stands still at the end: so that there is something to see.
Answers are data frames as Grafana's data sources give them, by dashboard, panel and target; `grafana/render` draws
them.
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
from tests.grafana.dashboards import DASHBOARDS, Target, View, targets
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
    """Data frames by dashboard, panel title and target; and what the reader chose."""
    now = int(time.time())
    month = View(now - HISTORY_DAYS * _DAY_SECONDS, now, 3 * 3600)
    live = View(now - LIVE_SECONDS + 75, now, 5, scrape_seconds=15)
    ((zone,),) = client.query(
        f"SELECT zone FROM account_snapshots FINAL WHERE tenant = '{SHOWN_TENANT}'"
    ).result_rows
    chosen = {"tenant": SHOWN_TENANT, "zone": zone, "granularity": "day", "search": ""}
    month = View(month.starts_at, month.ends_at, month.interval_seconds, tuple(chosen.items()))
    frames: dict[str, dict[str, Any]] = {name: {} for name in DASHBOARDS}
    for target in targets():
        answer = (
            _of_clickhouse(client, target, month) if target.sql else _of_prometheus(prometheus, target, live)
        )
        frames[target.dashboard].setdefault(target.panel, {})[target.ref_id] = answer
    return {
        "variables": chosen,
        "ranges": {
            name: [view.starts_at * 1000, view.ends_at * 1000]
            for name, view in (
                ("tenant-usage", month), ("fleet-and-revenue", month), ("pipeline", live), ("on-call", live),
            )
        },
        "frames": frames,
    }  # fmt: skip


def _of_clickhouse(client: Client, target: Target, view: View) -> list[dict[str, Any]]:
    """One frame; or, of a query over time, one per name, as the data source makes them."""
    assert target.sql is not None
    answer = client.query(view.sql(target.sql))
    names, rows = list(answer.column_names), [[_value(each) for each in row] for row in answer.result_rows]
    if target.query.get("format") != 0:
        fields = [
            {"name": name, "type": _type([row[at] for row in rows]), "values": [row[at] for row in rows]}
            for at, name in enumerate(names)
        ]
        return [{"refId": target.ref_id, "fields": fields}]
    return [
        {
            "refId": target.ref_id,
            "fields": [
                {"name": "time", "type": "time", "values": [row[0] for row in rows if row[1] == name]},
                {"name": name, "type": "number", "values": [row[2] for row in rows if row[1] == name]},
            ],
        }
        for name in sorted({row[1] for row in rows})
    ]


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return int(value.replace(tzinfo=UTC).timestamp() * 1000)
    return value


def _type(values: list[Any]) -> str:
    """As a data source would say: of texts, numbers and instants, by the first value there is."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str):
        return "string"
    return "time" if isinstance(first, int) and first > 1_000_000_000_000 else "number"


def _of_prometheus(prometheus: PrometheusServer, target: Target, view: View) -> list[dict[str, Any]]:
    """A frame per series; of an instant query in the format of a table, one for all."""
    assert target.expr is not None
    expr = view.promql(target.expr)
    if not target.query.get("instant"):
        series = prometheus.over_time(expr, view.starts_at, view.ends_at, view.interval_seconds)
        return [_series_frame(target, each["metric"], each["values"]) for each in series]
    series = prometheus.now(expr)
    if target.query.get("format") != "table":
        return [_series_frame(target, each["metric"], [each["value"]]) for each in series]
    labels = sorted({name for each in series for name in each["metric"]})
    fields: list[dict[str, Any]] = [
        {"name": "Time", "type": "time", "values": [each["value"][0] * 1000 for each in series]}
    ]
    fields += [
        {"name": label, "type": "string", "values": [each["metric"].get(label, "") for each in series]}
        for label in labels
    ]
    numbers = [float(each["value"][1]) for each in series]
    name = f"Value #{target.ref_id}" if target.panel == "Workers" else "Value"
    return [
        {"refId": target.ref_id, "fields": [*fields, {"name": name, "type": "number", "values": numbers}]}
    ]


def _series_frame(target: Target, labels: dict[str, str], values: list[list[Any]]) -> dict[str, Any]:
    legend = target.query.get("legendFormat", "__auto")
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)
    if legend == "__auto":
        name = ", ".join(labels.values())
    numbers = [None if each[1] in ("NaN", "+Inf", "-Inf") else float(each[1]) for each in values]
    return {
        "refId": target.ref_id,
        "fields": [
            {"name": "Time", "type": "time", "values": [each[0] * 1000 for each in values]},
            {"name": name, "type": "number", "values": numbers, "labels": labels},
        ],
    }


if __name__ == "__main__":
    main()
