"""Every metric of a worker: names, units, and what each counts.

The stream moves them. Counters of messages move when an epoch is stored and published, once for all of its records,
so counting costs nothing per message. What would have to be counted all the time is read at each scrape (`STATE`).
"""

from prometheus_client import Counter, Gauge, Histogram

from pipeline.core.charging import LATE_ACTIONS, UNRATED_REASONS
from pipeline.core.refusals import Refusal
from pipeline.metrics.registry import Figure, Figures, counter_of, new_registry

REGISTRY = new_registry("worker")

# The way of messages.

RECEIVED = Counter("msgmeter_messages_received", "Records read from messages.raw.", registry=REGISTRY)
GONE_UNREAD = Counter(
    "msgmeter_messages_gone_unread",
    "Offsets of messages.raw that retention deleted before they were read.",
    registry=REGISTRY,
)
ACCEPTED = Counter("msgmeter_messages_accepted", "Messages charged and stored.", registry=REGISTRY)
REFUSED = counter_of(REGISTRY, "msgmeter_messages_refused", "Records refused.", "reason", Refusal)
DUPLICATES = Counter("msgmeter_messages_duplicate", "Records that repeat one before.", registry=REGISTRY)
STATUSES = Counter("msgmeter_messages_status", "Further statuses of charged messages.", registry=REGISTRY)
REFUNDED = Counter(
    "msgmeter_messages_refunded", "Charges taken back because the message failed.", registry=REGISTRY
)
LATE = counter_of(
    REGISTRY,
    "msgmeter_messages_late",
    "Messages received over an hour after they occurred, by what became of them: own_window, counted in the window"
    " they belong to; recomputed, in a window no longer held, which is summed anew from stored rows; next_period,"
    " charged to the open period because their own is closed.",
    "action",
    LATE_ACTIONS,
)
UNRATED = counter_of(
    REGISTRY,
    "msgmeter_messages_unrated",
    "Messages charged at the price for any country though their kind is priced by country: country_unknown, because"
    " neither number nor sender says one; fallback_zone, because the rate card has no price for it.",
    "reason",
    UNRATED_REASONS,
)
SEGMENTS_DIFFER = Counter(
    "msgmeter_segments_differ",
    "Messages whose gateway counted other segments than we did.",
    registry=REGISTRY,
)
REROUTED = Counter(
    "msgmeter_messages_rerouted", "Records forwarded to their tenant's partition.", registry=REGISTRY
)
WINDOWS_RECOMPUTED = Counter(
    "msgmeter_windows_recomputed",
    "Late messages and refunds for windows no longer held.",
    registry=REGISTRY,
)

# Accounts.

CREDITS = Counter("msgmeter_credits_burned", "Credits charged, all tenants together.", registry=REGISTRY)
ALERTS = counter_of(
    REGISTRY,
    "msgmeter_alerts_emitted",
    "Alerts written, by the percent of the limit that was reached.",
    "level",
    ("80", "85", "90", "95"),
)
COMMANDS = counter_of(REGISTRY, "msgmeter_commands", "Commands answered.", "outcome", ("accepted", "refused"))
RECHARGES_REQUESTED = Counter(
    "msgmeter_recharges_requested", "Blocks of credits asked for by automatic recharge.", registry=REGISTRY
)

# How long it takes.

_WAITS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)
STORED_SECONDS = Histogram(
    "msgmeter_received_to_stored_seconds",
    "Seconds from the broker's append to the stored row, of the oldest record of each partition in an epoch.",
    buckets=_WAITS,
    registry=REGISTRY,
)
OCCURRED_SECONDS = Histogram(
    "msgmeter_occurred_to_stored_seconds",
    "Seconds from the message to the stored row, senders' delays included, of the first and every 32nd further"
    " message of each partition in an epoch.",
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400, 604_800),
    registry=REGISTRY,
)
ALERT_SECONDS = Histogram(
    "msgmeter_received_to_alert_seconds",
    "Seconds from the broker's append of the record that reached a level to the acknowledged alert.",
    buckets=_WAITS,
    registry=REGISTRY,
)

# Epochs and checkpoints.

_EFFORTS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
EPOCH_ROWS = Histogram(
    "msgmeter_epoch_rows",
    "Facts in an epoch.",
    buckets=(1, 100, 1_000, 10_000, 50_000, 100_000),
    registry=REGISTRY,
)
EPOCH_SECONDS = Histogram(
    "msgmeter_epoch_seconds",
    "Seconds from closing an epoch to its last effect.",
    buckets=_EFFORTS,
    registry=REGISTRY,
)
CHECKPOINT_SECONDS = Histogram(
    "msgmeter_checkpoint_seconds",
    "Seconds from an epoch's effects to acknowledged chunks.",
    buckets=_EFFORTS,
    registry=REGISTRY,
)
LAST_EPOCH = Gauge(
    "msgmeter_epoch_last_success_timestamp_seconds",
    "When the last epoch was stored, in seconds since 1970; 0: none yet.",
    registry=REGISTRY,
)
LAST_CHECKPOINT = Gauge(
    "msgmeter_checkpoint_last_success_timestamp_seconds",
    "When the last checkpoint was committed, in seconds since 1970; 0: none yet.",
    registry=REGISTRY,
)

# ClickHouse.

INSERTS = Counter(
    "msgmeter_inserts",
    "Inserts by how each attempt ended: stored; retried, made again later; refused, ClickHouse did not take all rows.",
    ["table", "result"],
    registry=REGISTRY,
)
INSERT_SECONDS = Histogram(
    "msgmeter_insert_seconds",
    "Seconds of each attempt to insert that ClickHouse carried out, stored or refused.",
    ["table"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=REGISTRY,
)
INSERT_FAILURES = Counter(
    "msgmeter_insert_failures",
    "Inserts and questions to ClickHouse that had to be tried again.",
    registry=REGISTRY,
)
ROWS_UNSTORABLE = Counter(
    "msgmeter_rows_unstorable",
    "Rows, besides facts, that ClickHouse did not take and that are not stored.",
    ["table"],
    registry=REGISTRY,
)

# The group.

REBALANCES = Counter(
    "msgmeter_rebalances", "Assignments of partitions that the group made to this worker.", registry=REGISTRY
)
RECOVERY_SECONDS = Histogram(
    "msgmeter_recovery_seconds",
    "Seconds from an assignment to its partitions being metered: tables are recovered meanwhile.",
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800),
    registry=REGISTRY,
)

STATE = Figures(
    REGISTRY,
    {
        "partitions_assigned": Figure("Partitions that the group gave this worker."),
        "partitions_owned": Figure(
            "Of those, the ones whose tables are recovered; messages of the others wait."
        ),
        "partitions_taken_up": Figure("Of those, the ones in which something was folded since."),
        "consumer_lag_offsets": Figure(
            "Records in the log of partitions assigned that were not folded yet. Not shown without partitions."
        ),
        "consumer_lag_seconds": Figure(
            "Age of the last folded record in the partition furthest behind; 0 when none is. Where nothing was folded"
            " yet, the time since the assignment. Not shown without partitions."
        ),
        "uncommitted_offsets": Figure("Records folded and not yet acknowledged."),
        "watermark_timestamp_seconds": Figure(
            "When the last folded record of the partition furthest behind was appended, in seconds since 1970; now,"
            " when none is behind. Not shown without partitions."
        ),
        "epoch_open_seconds": Figure(
            "Age of the oldest epoch that has records and is not stored yet; 0 when there is none."
        ),
        "clickhouse_up": Figure(
            "1: the last calls to ClickHouse were answered; 0: one is being tried again. Not shown before the first."
        ),
        "identities_held": Figure("Charged identities held in memory."),
        "identities_held_bytes": Figure("Memory of the charged identities held."),
        "identities_pending": Figure("Messages waiting for a billable status or their content."),
        "identity_span_seconds": Figure(
            "How far back every charged identity is held in memory; -1: since the beginning."
        ),
        "accounts_held": Figure("Accounts taken up by the folds."),
        "windows_held": Figure("15-minute windows kept, in memory or on disk."),
        "standby_partitions": Figure(
            "Partitions of other workers that this one keeps up to date, to take over sooner."
        ),
        "standby_lag_records": Figure(
            "Changelog records of those partitions that were not read yet. Not shown before their ends are known."
        ),
        "state_disk_free_bytes": Figure("Room left for this user where MSGMETER_STATE_DIRECTORY is."),
        "state_disk_size_bytes": Figure("Size of that file system."),
        "memory_limit_bytes": Figure(
            "What this process may take: its control group's limit, or else the machine's memory."
        ),
    },
)
"""Read by `pipeline.stream.figures.read_state`."""
