"""Every metric of a worker, in one place: names, units, and what each counts.

No label holds a tenant: tenants are unbounded, and what concerns one of them is in ClickHouse. Metrics are for
watching; billing truth is the stored facts, so a replay after a crash may count a record twice here.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.errors import MsgmeterError

REGISTRY = CollectorRegistry()

RECEIVED = Counter("msgmeter_messages_received", "Records read from messages.raw.", registry=REGISTRY)
GONE_UNREAD = Counter(
    "msgmeter_messages_gone_unread",
    "Offsets of messages.raw that retention deleted before they were read.",
    registry=REGISTRY,
)
ACCEPTED = Counter("msgmeter_messages_accepted", "Messages charged and stored.", registry=REGISTRY)
REFUSED = Counter("msgmeter_messages_refused", "Records refused.", ["reason"], registry=REGISTRY)
DUPLICATES = Counter("msgmeter_messages_duplicate", "Records that repeat one before.", registry=REGISTRY)
STATUSES = Counter("msgmeter_messages_status", "Further statuses of charged messages.", registry=REGISTRY)
LATE = Counter(
    "msgmeter_messages_late", "Messages received over an hour after they occurred.", registry=REGISTRY
)
UNRATED = Counter("msgmeter_messages_unrated", "Messages rated by a fallback zone.", registry=REGISTRY)
SEGMENTS_DIFFER = Counter(
    "msgmeter_segments_differ",
    "Messages whose gateway counted other segments than we did.",
    registry=REGISTRY,
)
REROUTED = Counter(
    "msgmeter_messages_rerouted", "Records forwarded to their tenant's partition.", registry=REGISTRY
)
CREDITS = Counter("msgmeter_credits_burned", "Credits charged, all tenants together.", registry=REGISTRY)
ALERTS = Counter("msgmeter_alerts_emitted", "Alerts written.", ["level"], registry=REGISTRY)
COMMANDS = Counter("msgmeter_commands", "Commands answered.", ["outcome"], registry=REGISTRY)
WINDOWS_RECOMPUTED = Counter(
    "msgmeter_windows_recomputed", "Late messages for windows no longer held.", registry=REGISTRY
)
EPOCH_ROWS = Histogram(
    "msgmeter_epoch_rows",
    "Facts in an epoch.",
    buckets=(1, 100, 1_000, 10_000, 50_000, 100_000),
    registry=REGISTRY,
)
EPOCH_SECONDS = Histogram(
    "msgmeter_epoch_seconds", "Seconds from closing an epoch to its last effect.", registry=REGISTRY
)
CHECKPOINT_SECONDS = Histogram(
    "msgmeter_checkpoint_seconds",
    "Seconds from an epoch's effects to acknowledged chunks.",
    registry=REGISTRY,
)
LAST_EPOCH = Gauge(
    "msgmeter_epoch_last_success_timestamp_seconds",
    "When the last epoch was stored, in seconds since 1970.",
    registry=REGISTRY,
)
INSERT_FAILURES = Counter(
    "msgmeter_insert_failures", "Inserts that had to be tried again.", registry=REGISTRY
)
ROWS_UNSTORABLE = Counter(
    "msgmeter_rows_unstorable",
    "Rows, besides facts, that ClickHouse did not take and that are not stored.",
    ["table"],
    registry=REGISTRY,
)
STORED_SECONDS = Histogram(
    "msgmeter_received_to_stored_seconds",
    "Seconds from the broker's append to the stored row, of each epoch's oldest record.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600),
    registry=REGISTRY,
)
BUILD = Gauge("msgmeter_build_info", "Always 1; the labels say what runs.", ["version"], registry=REGISTRY)


class WorkerState(Collector):
    """Figures read when they are asked for, because they would cost something on every chunk."""

    def __init__(self, read: Callable[[], dict[str, float]]) -> None:
        """`read` gives values by the names of `_STATE`."""
        self._read = read
        REGISTRY.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The state as gauges."""
        for name, value in self._read().items():
            yield GaugeMetricFamily(f"msgmeter_{name}", _STATE[name], value=value)

    def close(self) -> None:
        """Stops being asked."""
        REGISTRY.unregister(self)


_STATE = {
    "partitions_owned": "Partitions this worker owns.",
    "consumer_lag_offsets": "Records in the log of owned partitions that were not folded yet.",
    "consumer_lag_seconds": "Age of the last folded record in the partition furthest behind; 0 when none is.",
    "uncommitted_offsets": "Records folded and not yet acknowledged.",
    "identities_held": "Charged identities held in memory.",
    "identities_held_bytes": "Memory of the charged identities held.",
    "identities_pending": "Messages waiting for a billable status or their content.",
    "identity_span_seconds": "How far back every charged identity is held in memory; -1: since the beginning.",
    "accounts_held": "Accounts taken up by the folds.",
    "standby_partitions": "Partitions of other workers that this one keeps up to date, to take over sooner.",
    "standby_lag_records": "Changelog records of those partitions that were not read yet, as far as is known.",
}


def serve_metrics(port: int) -> int:
    """Serves /metrics on loopback; gives the port, which the system chose where `port` is 0.

    Raise MsgmeterError where the port cannot be had.
    """
    try:
        server, _ = start_http_server(port, addr="127.0.0.1", registry=REGISTRY)
    except OSError as error:
        raise MsgmeterError(
            f"/metrics cannot be served on port {port} ({error.strerror}):"
            " set MSGMETER_METRICS_PORT to another one, 0 for any free one"
        ) from error
    return int(server.server_port)
