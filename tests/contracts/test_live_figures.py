"""The live view's figures go on over restarts, name what cannot be read, and fit a small terminal."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from pipeline.cli.live_figures import Figures, FiguresReader, RecentAlert
from pipeline.cli.live_view import Event, figures_line, live_view, start_view
from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.queries import TenantUsage
from pipeline.clickhouse.snapshots import ALERTS
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.stack import ProcessState, State
from tests.contracts.clickhouse_rows import columns_of

NOWHERE = "http://127.0.0.1:1/default"


class Worker:
    """What stands at a worker's /metrics."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}/metrics"
        self.text = ""
        self.status = 200

    def says(self, received: int, lag: int = 0, **refused: int) -> None:
        lines = [
            "# TYPE msgmeter_messages_received_total counter",
            f"msgmeter_messages_received_total {received}.0",
            "# TYPE msgmeter_messages_refused_total counter",
            *(f'msgmeter_messages_refused_total{{reason="{name}"}} {n}.0' for name, n in refused.items()),
            "# TYPE msgmeter_consumer_lag_offsets gauge",
            f"msgmeter_consumer_lag_offsets {lag}.0",
        ]
        self.text = "\n".join(lines) + "\n"


@pytest.fixture
def worker() -> Iterator[Worker]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(metrics.status)
            self.end_headers()
            self.wfile.write(metrics.text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    metrics = Worker(server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield metrics
    server.shutdown()
    server.server_close()


def test_counts_go_on_when_a_worker_starts_again_at_nought(worker: Worker) -> None:
    reader = FiguresReader(worker.url, partial(connect, NOWHERE))
    worker.says(100, not_json=3, stray=1)
    assert reader.read().received == 100
    worker.says(0)
    assert reader.read().received == 100
    worker.says(50, not_json=2)
    figures = reader.read()
    assert figures.received == 150
    assert figures.refused == {"not_json": 5, "stray": 1}


def test_a_worker_that_has_counted_further_than_before_it_died_is_seen_by_its_other_counters(
    worker: Worker,
) -> None:
    reader = FiguresReader(worker.url, partial(connect, NOWHERE))
    worker.says(10, not_json=3)
    reader.read()
    worker.says(20)
    assert reader.read().received == 30


@pytest.mark.parametrize("trouble", ["status", "text"])
def test_an_unreadable_worker_is_named_and_its_last_figures_stay(worker: Worker, trouble: str) -> None:
    reader = FiguresReader(worker.url, partial(connect, NOWHERE))
    worker.says(100, lag=7)
    reader.read()
    worker.status, worker.text = (500, "") if trouble == "status" else (200, "{not metrics")
    figures = reader.read()
    assert "the worker's /metrics" in figures.faults
    assert (figures.received, figures.lag_offsets) == (100, 7)


def test_a_clickhouse_that_is_away_is_named_and_read_again_when_it_is_back(
    worker: Worker, clickhouse: EmbeddedClickHouse, database: str
) -> None:
    url = [NOWHERE]
    reader = FiguresReader(worker.url, lambda: connect(url[0]))
    assert reader.read().faults == ("ClickHouse",)
    url[0] = f"{clickhouse.url}/{database}"
    client = connect(url[0])
    apply_migrations(client)
    assert reader.read().faults == ()

    soon = int(time.time() * 1000) + 60_000
    alerts = [{"alert_id": f"a{level}", "level": level, "occurred_at": soon + level} for level in (80, 85)]
    insert(client, ALERTS, columns_of(ALERTS, *alerts), "alerts")
    client.close()
    assert reader.read().latest_alerts == (
        RecentAlert("acme", 85, 80, 100, soon + 85),
        RecentAlert("acme", 80, 80, 100, soon + 80),
    )


BUSY = Figures(
    received=123_456_789,
    credits_burned=234_567_890.5,
    stored=98_765_432,
    stored_before=12_345_678,
    statuses=9_876_543,
    duplicates=1_234_567,
    alerts={50: 1, 80: 12_345, 85: 11_111, 90: 10_000, 95: 9_999},
    refused={"identity_conflict": 123_456, "signature_missing": 99_999, "not_json": 5, "stray": 1},
    received_per_second=98_765.4,
    credits_per_second=123_456.7,
    stored_per_second=87_654.3,
    history=tuple(float(n % 9) for n in range(60)),
    lag_offsets=1_234_567,
    lag_seconds=61.5,
    partitions=32,
    partitions_assigned=32,
    latest_alerts=(RecentAlert("tenant-00001", 95, 950_000_000, 1_000_000_000, 1_760_000_000_000),) * 5,
    top=(TenantUsage("tenant-00001", 1, 1, 1, 12_345_678_000_000),) * 5,
    faults=("the worker's /metrics", "ClickHouse"),
    worker_read_at=float("inf"),
)
PROCESSES = [
    ProcessState("broker", State.RUNNING, "127.0.0.1:9092", 1, None, 0, None),
    ProcessState("clickhouse", State.EXTERNAL, "http://db:8123", None, None, 0, None),
    ProcessState("migrate", State.DONE, "", None, 0, 0, None),
    ProcessState("worker", State.RUNNING, "", 2, None, 2, None),
    ProcessState("gateway", State.DIED, "", None, 1, 0, None),
]


def shown(view: object, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(view)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("figures", [Figures(), BUSY], ids=["first", "busy"])
def test_the_view_fits_a_terminal_of_80_columns_and_24_lines(figures: Figures, width: int) -> None:
    event = Event("worker died with exit code -9", datetime.now().astimezone(), is_bad=True)
    lines = shown(live_view(figures, PROCESSES, event, 3_725, "var/", width), width)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    assert "1:02:05" in lines[0]


def test_the_view_tells_all_that_was_asked_for() -> None:
    text = "\n".join(shown(live_view(BUSY, PROCESSES, None, 5, "var/", 80), 80))
    for needle in (
        "123,456,789", "98,765/s", "234,567,890", "98,765,432", "111,111,110 with earlier runs", "1,234,567",
        "61.5 s", "80% 12,345", "identity_conflict 123,456", "others 100,005", "later statuses 9,876,543",
        "duplicates 1,234,567", "950 of 1,000", "12,345,678", "worker restarted 2 times", "gateway died",
        "var/", "msgmeter usage tenant-00001 --by day", "No answer from the worker's /metrics and ClickHouse",
    ):  # fmt: skip
        assert needle in text, needle


def test_one_line_tells_the_same_to_a_log() -> None:
    line = figures_line(BUSY, PROCESSES)
    assert "messages 123456789 (98765/s)" in line
    assert "gateway died" in line
    assert "no answer from ClickHouse" in line


@pytest.mark.parametrize(
    "changed",
    [
        {"worker_read_at": time.monotonic() - 60},
        {"partitions": 31},
        {"partitions": 0, "partitions_assigned": 0},
        {"lag_offsets": 0, "lag_seconds": 0.0, "received_per_second": 0.0},
    ],
    ids=["silent worker", "recovering", "no partitions", "nothing metered of what is sent"],
)
def test_a_lag_that_nobody_can_tell_is_not_shown_as_a_number(changed: dict[str, Any]) -> None:
    gateway = ProcessState("gateway", State.RUNNING, "", 3, None, 0, None)
    assert "lag 1234567 (61.5 s)" in figures_line(BUSY, [gateway])
    unknown = replace(BUSY, **changed)
    assert "lag ?" in figures_line(unknown, [gateway])
    assert "61.5 s" not in "\n".join(shown(live_view(unknown, [gateway], None, 5, "var/", 80), 80))


def test_an_old_rate_is_not_shown() -> None:
    line = figures_line(replace(BUSY, worker_read_at=time.monotonic() - 60), PROCESSES)
    assert "messages 123456789 (?/s)" in line


def test_where_nobody_sends_nothing_is_left_to_meter() -> None:
    quiet = replace(BUSY, lag_offsets=0, lag_seconds=0.0, received_per_second=0.0)
    assert "lag 0 (0.0 s)" in figures_line(quiet, PROCESSES)


def test_a_start_lists_what_is_yet_to_come() -> None:
    lines = shown(start_view(PROCESSES[:1], ("broker", "clickhouse"), "logs in var/"), 80)
    assert [line.split() for line in lines if "broker" in line] == [["●", "broker", "127.0.0.1:9092"]]
    assert [line.split() for line in lines if "clickhouse" in line] == [["○", "clickhouse"]]
