"""What the live view shows, read once a second from the worker's /metrics and from ClickHouse.

Takes the address of /metrics and a way to connect to ClickHouse; gives `Figures`, a snapshot that never
changes. Whatever cannot be read keeps its last value and is named in `faults`: the worker may be restarting,
and the view must say so rather than end. A worker's counters start again at nought with it; the sums go on.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.request import urlopen

from clickhouse_connect.driver.client import Client
from prometheus_client.parser import text_string_to_metric_families

from pipeline.clickhouse.queries import TenantUsage, run_query, top_tenants
from pipeline.core.windows import WINDOW_MILLISECONDS, window_start
from pipeline.errors import MsgmeterError

_TIMEOUT_SECONDS = 2.0
_RATE_SECONDS = 10.0
"""A worker counts once per epoch, about once a second: a shorter span would show a sawtooth."""
_HISTORY_SAMPLES = 60
_TENANTS_EVERY_SECONDS = 5.0
"""Top tenants are summed from all windows of the day, so not each second."""
_DAY_MILLISECONDS = 86_400_000
_SHOWN = 5

Labelled = tuple[str, str]


class RecentAlert(NamedTuple):
    """An alert as the view lists it."""

    tenant: str
    level: int
    used_micros: int
    limit_micros: int
    occurred_at: int


@dataclass(frozen=True)
class Figures:
    """One moment of the pipeline; counts are since the view began."""

    received: int = 0
    credits_burned: float = 0.0
    stored: int = 0
    """Rows in ClickHouse."""
    stored_before: int = 0
    """Rows that were there when the view began."""
    statuses: int = 0
    """Further statuses of messages charged before."""
    duplicates: int = 0
    alerts: dict[int, int] = field(default_factory=dict)
    """By level."""
    refused: dict[str, int] = field(default_factory=dict)
    """By reason."""
    received_per_second: float = 0.0
    credits_per_second: float = 0.0
    stored_per_second: float = 0.0
    history: tuple[float, ...] = ()
    """Messages per second at the last samples, oldest first."""
    lag_offsets: int = 0
    lag_seconds: float = 0.0
    partitions: int = 0
    """Whose tables are recovered."""
    partitions_assigned: int = 0
    accounts: int = 0
    latest_alerts: tuple[RecentAlert, ...] = ()
    top: tuple[TenantUsage, ...] = ()
    faults: tuple[str, ...] = ()
    """Who did not answer; what they say is old."""
    worker_read_at: float = field(default_factory=time.monotonic)
    """When the worker last answered, on the monotonic clock in seconds."""


class FiguresReader:
    """Reads figures again and again; one thread at a time."""

    def __init__(self, metrics_url: str, connect: Callable[[], Client]) -> None:
        self._metrics_url = metrics_url
        self._connect = connect
        self._client: Client | None = None
        self._counters = _Counters()
        self._gauges: dict[str, float] = {}
        self._samples: deque[tuple[float, float, float, int]] = deque()
        self._history: deque[float] = deque(maxlen=_HISTORY_SAMPLES)
        self._stored = 0
        self._stored_before: int | None = None
        self._began_at = int(time.time() * 1000)
        self._alerts: tuple[RecentAlert, ...] = ()
        self._top: tuple[TenantUsage, ...] = ()
        self._top_read_at = 0.0
        self._worker_read_at = time.monotonic()

    def read(self) -> Figures:
        """Take one snapshot; never raises for a service that is away."""
        faults = []
        try:
            self._read_metrics()
        except (OSError, HTTPException, ValueError):
            faults.append("the worker's /metrics")
        try:
            self._read_clickhouse()
        except MsgmeterError:
            self._client = None
            faults.append("ClickHouse")
        return self._figures(tuple(faults))

    def _read_metrics(self) -> None:
        with urlopen(self._metrics_url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - our own address
            text = answer.read().decode()
        gauges = {}
        counters: dict[Labelled, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if family.type == "counter" and sample.name.endswith("_total"):
                    label = ",".join(sample.labels.values())
                    counters[sample.name.removesuffix("_total"), label] = sample.value
                elif family.type == "gauge":
                    gauges[sample.name] = sample.value
        self._counters.update(counters)
        self._gauges = gauges
        self._worker_read_at = time.monotonic()

    def _read_clickhouse(self) -> None:
        if self._client is None:
            self._client = self._connect()
        client = self._client
        now_at = int(time.time() * 1000)
        # Rows that a killed worker stored twice are merged into one: the number shown does not go back for it.
        self._stored = max(self._stored, int(run_query(client, "rows_stored", {})[0][0]))
        if self._stored_before is None:
            self._stored_before = self._stored
        latest = run_query(client, "latest_alerts", {"since": self._began_at, "limit": _SHOWN})
        self._alerts = tuple(RecentAlert(*row) for row in latest)
        if time.monotonic() - self._top_read_at >= _TENANTS_EVERY_SECONDS:
            today_at = now_at - now_at % _DAY_MILLISECONDS
            end_at = window_start(now_at) + WINDOW_MILLISECONDS
            self._top = tuple(top_tenants(client, today_at, end_at, _SHOWN))
            self._top_read_at = time.monotonic()

    def _figures(self, faults: tuple[str, ...]) -> Figures:
        count = self._counters.total
        received = count("msgmeter_messages_received")
        burned = count("msgmeter_credits_burned")
        rates = self._rates(received, burned, self._stored)
        self._history.append(rates[0])
        gauge = self._gauges.get
        return Figures(
            received=int(received),
            credits_burned=burned,
            stored=self._stored - (self._stored_before or 0),
            stored_before=self._stored_before or 0,
            statuses=int(count("msgmeter_messages_status")),
            duplicates=int(count("msgmeter_messages_duplicate")),
            alerts={int(level): n for level, n in self._counters.by_label("msgmeter_alerts_emitted").items()},
            refused=self._counters.by_label("msgmeter_messages_refused"),
            received_per_second=rates[0],
            credits_per_second=rates[1],
            stored_per_second=rates[2],
            history=tuple(self._history),
            lag_offsets=int(gauge("msgmeter_consumer_lag_offsets", 0)),
            lag_seconds=gauge("msgmeter_consumer_lag_seconds", 0.0),
            partitions=int(gauge("msgmeter_partitions_owned", 0)),
            partitions_assigned=int(gauge("msgmeter_partitions_assigned", 0)),
            accounts=int(gauge("msgmeter_accounts_held", 0)),
            latest_alerts=self._alerts,
            top=self._top,
            faults=faults,
            worker_read_at=self._worker_read_at,
        )

    def _rates(self, received: float, burned: float, stored: int) -> tuple[float, ...]:
        """Per second, over the last `_RATE_SECONDS`."""
        now = time.monotonic()
        self._samples.append((now, received, burned, stored))
        while now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        first, last = self._samples[0], self._samples[-1]
        seconds = max(last[0] - first[0], 1.0)
        return tuple((end - begin) / seconds for begin, end in zip(first[1:], last[1:], strict=True))


class _Counters:
    """Counters of a process that may restart, as sums that never fall."""

    def __init__(self) -> None:
        self._last: dict[Labelled, float] = {}
        self._before: dict[Labelled, float] = {}

    def update(self, values: dict[Labelled, float]) -> None:
        """Take what the process says now."""
        if any(values.get(key, 0.0) < last for key, last in self._last.items()):
            # One that fell, or is gone, means a new process: what the old one had counted is kept.
            for key, last in self._last.items():
                self._before[key] = self._before.get(key, 0.0) + last
        self._last = values

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(self._by_label(name).values())

    def by_label(self, name: str) -> dict[str, int]:
        """Whole sums by label value, nought left out."""
        return {label: int(value) for label, value in sorted(self._by_label(name).items()) if value}

    def _by_label(self, name: str) -> dict[str, float]:
        sums: dict[str, Any] = {}
        for values in (self._before, self._last):
            for (metric, label), value in values.items():
                if metric == name:
                    sums[label] = sums.get(label, 0.0) + value
        return sums
