"""The dashboard of the pipeline: what flows, how far behind it is, how long things take, and what state is held.

Everything is read from Prometheus. What workers say of themselves is summed or shown by `instance`; what the scheduler
says of the whole (`msgmeter_group_*`) is there also when every worker is gone.
"""

from typing import Any

from grafana.source import annotations
from grafana.source.boards import PROMETHEUS_VARIABLE, Section, board
from grafana.source.panels import (
    GREEN,
    ONE_IS_GOOD,
    ORANGE,
    RED,
    RESULT_COLORS,
    UP,
    YELLOW,
    ZERO_IS_GOOD,
    heat_map,
    lines,
    stat,
    table,
)
from grafana.source.queries import buckets, now, now_as_table, over_time

UID = "msgmeter-pipeline"

_RATE = "[$__rate_interval]"


def _rate(metric: str, by: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{_RATE}))"


def _heat(title: str, description: str, metric: str) -> Any:
    expr = f"sum by (le) (increase({metric}_bucket{_RATE}))"
    return heat_map(title, f"{description} Brighter is more observations in a bucket.", [buckets(expr)])


def _quantiles(metric: str, by: str = "") -> list[Any]:
    """The median and the 99th percentile."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        over_time(
            f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{_RATE})))",
            f"{name}{legend}",
        )
        for share, name in ((0.5, "median"), (0.99, "99 %"))
    ]


_FLOW = Section(
    "Flow",
    (
        lines(
            "Records per second",
            "What workers read, and what became of it: accepted is charged, further statuses and duplicates cost"
            " nothing, refused cannot be billed, refunded took a charge back.",
            [
                over_time(_rate("msgmeter_messages_received_total"), "received"),
                over_time(_rate("msgmeter_messages_accepted_total"), "accepted"),
                over_time(_rate("msgmeter_messages_status_total"), "further statuses"),
                over_time(_rate("msgmeter_messages_duplicate_total"), "duplicates"),
                over_time(_rate("msgmeter_messages_refused_total"), "refused"),
                over_time(_rate("msgmeter_messages_refunded_total"), "refunded"),
            ],
            unit="cps",
        ),
        lines(
            "Received by worker",
            "A worker that reads nothing while others do is stuck or owns nothing.",
            [
                over_time(
                    "sum by (instance) (rate(msgmeter_messages_received_total[$__rate_interval]))",
                    "{{instance}}",
                )
            ],
            unit="cps",
            stacked=True,
        ),
        lines(
            "Refused by reason",
            "Records that cannot be billed; `msgmeter refusals` says who sends them.",
            [over_time(f"{_rate('msgmeter_messages_refused_total', 'reason')} > 0", "{{reason}}")],
            unit="cps",
            stacked=True,
            width=8,
        ),
        lines(
            "Late and unrated",
            "Messages received over an hour after they occurred, by what was done with them; and messages without a"
            " price of their own.",
            [
                over_time(_rate("msgmeter_messages_late_total", "action"), "late: {{action}}"),
                over_time(_rate("msgmeter_messages_unrated_total", "reason"), "unrated: {{reason}}"),
                over_time(_rate("msgmeter_windows_recomputed_total"), "windows summed anew"),
            ],
            unit="cps",
            width=8,
        ),
        lines(
            "Out of the ordinary",
            "Segments the gateway counted otherwise, records in the wrong partition that were forwarded, records that"
            " retention deleted unread, rows that ClickHouse did not take.",
            [
                over_time(_rate("msgmeter_segments_differ_total"), "segments differ"),
                over_time(_rate("msgmeter_messages_rerouted_total"), "rerouted"),
                over_time(_rate("msgmeter_messages_gone_unread_total"), "gone unread"),
                over_time(_rate("msgmeter_rows_unstorable_total", "table"), "unstorable: {{table}}"),
            ],
            unit="cps",
            width=8,
        ),
        lines(
            "Credits burned per second",
            "All tenants together.",
            [over_time(_rate("msgmeter_credits_burned_total"), "credits")],
            unit="locale",
            width=8,
        ),
        lines(
            "Commands by outcome",
            "Answers to signed commands: plans, purchases, reservations.",
            [over_time(_rate("msgmeter_commands_total", "outcome"), "{{outcome}}")],
            unit="cps",
            width=8,
        ),
        lines(
            "Alerts and recharges",
            "Alerts written by level, and requests to recharge, per minute.",
            [
                over_time(f"60 * {_rate('msgmeter_alerts_emitted_total', 'level')}", "{{level}} %"),
                over_time(f"60 * {_rate('msgmeter_recharges_requested_total')}", "recharges"),
            ],
            unit="locale",
            width=8,
        ),
    ),
)

_LAG = Section(
    "Lag",
    (
        lines(
            "How old is what is not counted yet",
            "Age of the oldest record that the group has not committed, by the scheduler, which sees it also when no"
            " worker lives. The line is the objective: 60 s.",
            [over_time("max(msgmeter_group_lag_seconds)", "group")],
            unit="s",
            steps=((None, "transparent"), (60, RED)),
        ),
        lines(
            "Records not committed yet",
            "By the scheduler over all partitions; and by workers, what they have not folded and what they have folded"
            " and not acknowledged.",
            [
                over_time("max(msgmeter_group_lag_offsets)", "group"),
                over_time("sum(msgmeter_consumer_lag_offsets)", "not folded"),
                over_time("sum(msgmeter_uncommitted_offsets)", "not acknowledged"),
            ],
            unit="locale",
        ),
        lines(
            "Lag by worker",
            "Age of the last folded record in the partition furthest behind, 0 where none is.",
            [over_time("max by (instance) (msgmeter_consumer_lag_seconds)", "{{instance}}")],
            unit="s",
            width=8,
        ),
        lines(
            "Age of the watermark by worker",
            "Since the append of the last folded record of the partition furthest behind: grows also where nothing is"
            " sent.",
            [over_time("time() - (msgmeter_watermark_timestamp_seconds > 0)", "{{instance}}")],
            unit="s",
            width=8,
        ),
        lines(
            "Age of the open epoch by worker",
            "How long the oldest epoch with records in it has waited to be stored: about a second, unless ClickHouse"
            " is slow or away.",
            [over_time("max by (instance) (msgmeter_epoch_open_seconds)", "{{instance}}")],
            unit="s",
            width=8,
        ),
    ),
)

_LATENCY = Section(
    "Latency",
    (
        _heat(
            "Received to stored",
            "From the broker's append to the row in ClickHouse, of each epoch's oldest record.",
            "msgmeter_received_to_stored_seconds",
        ),
        lines(
            "Received to stored, median and 99 %",
            "The same as numbers.",
            _quantiles("msgmeter_received_to_stored_seconds"),
            unit="s",
        ),
        _heat(
            "Occurred to stored",
            "From a message's own moment to its row: what gateways and carriers add is in it.",
            "msgmeter_occurred_to_stored_seconds",
        ),
        _heat(
            "Received to alert",
            "From the broker's append of the message that reached a level to the alert in its topic.",
            "msgmeter_received_to_alert_seconds",
        ),
    ),
)

_EPOCHS = Section(
    "Epochs and inserts",
    (
        lines(
            "Epoch and checkpoint seconds",
            "From closing an epoch to its last effect, and from there to acknowledged chunks.",
            [
                over_time(
                    f"histogram_quantile(0.99, sum by (le) (rate(msgmeter_epoch_seconds_bucket{_RATE})))",
                    "epoch 99 %",
                ),
                over_time(
                    f"histogram_quantile(0.99, sum by (le) (rate(msgmeter_checkpoint_seconds_bucket{_RATE})))",
                    "checkpoint 99 %",
                ),
            ],
            unit="s",
            width=8,
        ),
        lines(
            "Rows per epoch and epochs per second",
            "Facts in an epoch on average, and how often one is stored.",
            [
                over_time(
                    f"{_rate('msgmeter_epoch_rows_sum')} / {_rate('msgmeter_epoch_rows_count')}",
                    "rows per epoch",
                ),
                over_time(_rate("msgmeter_epoch_rows_count"), "epochs per second"),
            ],
            unit="locale",
            width=8,
        ),
        lines(
            "Since the last epoch and checkpoint",
            "Of the worker that is furthest behind; grows also where nothing is sent.",
            [
                over_time("time() - min(msgmeter_epoch_last_success_timestamp_seconds > 0)", "epoch"),
                over_time(
                    "time() - min(msgmeter_checkpoint_last_success_timestamp_seconds > 0)", "checkpoint"
                ),
            ],
            unit="s",
            width=8,
        ),
        lines(
            "Inserts by result",
            "Attempts that got an answer: stored, to be tried again, or refused for good.",
            [over_time(_rate("msgmeter_inserts_total", "result"), "{{result}}")],
            unit="ops",
            width=8,
            stacked=True,
            colors=RESULT_COLORS,
        ),
        lines(
            "Inserts by table",
            "The same, by table, and those that had to be tried again.",
            [
                over_time(_rate("msgmeter_inserts_total", "table"), "{{table}}"),
                over_time(_rate("msgmeter_insert_failures_total"), "tried again"),
            ],
            unit="ops",
            width=8,
        ),
        lines(
            "Insert seconds by table",
            "What ClickHouse takes for an insert, 99th percentile.",
            [
                over_time(
                    f"histogram_quantile(0.99, sum by (le, table) (rate(msgmeter_insert_seconds_bucket{_RATE})))",
                    "{{table}}",
                )
            ],
            unit="s",
            width=8,
        ),
        lines(
            "ClickHouse and Kafka",
            "1 where the last call got an answer, by who asked; the lowest of the processes of a kind.",
            [
                over_time("min by (job) (msgmeter_clickhouse_up)", "ClickHouse, {{job}}"),
                over_time("min by (job) (msgmeter_kafka_up)", "Kafka, {{job}}"),
            ],
            unit="bool_on_off",
            width=12,
            height=6,
        ),
        stat(
            "ClickHouse now",
            "By who asked.",
            [now("min by (job) (msgmeter_clickhouse_up)", "{{job}}")],
            steps=ONE_IS_GOOD,
            mapped=UP,
            width=6,
            height=6,
        ),
        stat(
            "Kafka now",
            "By who asked.",
            [now("min by (job) (msgmeter_kafka_up)", "{{job}}")],
            steps=ONE_IS_GOOD,
            mapped=UP,
            width=6,
            height=6,
        ),
    ),
)

_STATE = Section(
    "Partitions and state",
    (
        lines(
            "Partitions",
            "Of messages.raw: how many there are, how many the group assigned to workers, how many these have taken up."
            " Where the last is lower, a worker is recovering.",
            [
                over_time("max(msgmeter_partitions)", "there are"),
                over_time("sum(msgmeter_partitions_assigned)", "assigned"),
                over_time("sum(msgmeter_partitions_owned)", "taken up"),
            ],
            unit="locale",
            decimals=0,
            width=8,
        ),
        lines(
            "Workers and rebalances",
            "Members of the group, and rebalances per minute that workers saw.",
            [
                over_time("max(msgmeter_group_members)", "members"),
                over_time(
                    "60 * max(rate(msgmeter_rebalances_total[$__rate_interval]))", "rebalances per minute"
                ),
            ],
            unit="locale",
            width=8,
        ),
        lines(
            "Recovery of a partition",
            "Seconds to take a partition up from its changelogs.",
            _quantiles("msgmeter_recovery_seconds"),
            unit="s",
            width=8,
        ),
        lines(
            "Identities held",
            "Charged messages that are known without asking ClickHouse, and messages that wait for their outcome or"
            " content.",
            [
                over_time("sum(msgmeter_identities_held)", "charged"),
                over_time("sum(msgmeter_identities_pending)", "waiting"),
            ],
            unit="locale",
            width=8,
        ),
        lines(
            "Accounts and windows held",
            "Accounts that folds have taken up, and 15-minute windows that are not final yet.",
            [
                over_time("sum(msgmeter_accounts_held)", "accounts"),
                over_time("sum(msgmeter_windows_held)", "windows"),
            ],
            unit="locale",
            width=8,
        ),
        lines(
            "How far back identities reach",
            "For so long every charged message is in memory; older ones are looked up. None: since the beginning.",
            [over_time("min by (instance) (msgmeter_identity_span_seconds >= 0)", "{{instance}}")],
            unit="s",
            width=8,
        ),
        lines(
            "Memory by worker",
            "Resident memory, of that the identities, and what the process may have at most.",
            [
                over_time('process_resident_memory_bytes{job="msgmeter-worker"}', "resident {{instance}}"),
                over_time("msgmeter_identities_held_bytes", "identities {{instance}}"),
                over_time("min(msgmeter_memory_limit_bytes)", "limit"),
            ],
            unit="bytes",
            width=8,
        ),
        lines(
            "Disk of the state",
            "Free and whole, of the file system that MSGMETER_STATE_DIRECTORY is on.",
            [
                over_time("min by (instance) (msgmeter_state_disk_free_bytes)", "free {{instance}}"),
                over_time("max(msgmeter_state_disk_size_bytes)", "size"),
            ],
            unit="bytes",
            width=8,
        ),
        lines(
            "Standbys",
            "Partitions of others that are kept up to date to be taken over sooner, and records they lack.",
            [
                over_time("sum(msgmeter_standby_partitions)", "partitions"),
                over_time("sum(msgmeter_standby_lag_records)", "records behind"),
            ],
            unit="locale",
            width=8,
        ),
    ),
)

_AGREES = Section(
    "Does it all agree",
    (
        stat(
            "Rows that differ",
            "What `msgmeter reconcile` found different between the log and what is stored, at its last run: must be 0.",
            [now("sum(msgmeter_reconcile_drift_rows)")],
            steps=ZERO_IS_GOOD,
        ),
        stat(
            "Since the last run",
            "A promise is only as good as its last check.",
            [now("time() - max(msgmeter_reconcile_last_run_timestamp_seconds > 0)")],
            unit="s",
            steps=((None, GREEN), (6 * 3600, YELLOW), (26 * 3600, RED)),
        ),
        stat(
            "Since it last agreed",
            "Grows where runs fail or differ.",
            [now("time() - max(msgmeter_reconcile_last_agreement_timestamp_seconds > 0)")],
            unit="s",
            steps=((None, GREEN), (6 * 3600, YELLOW), (26 * 3600, RED)),
            nothing="never",
        ),
        stat(
            "Last run took",
            "Seconds of the last run.",
            [now("max(msgmeter_reconcile_seconds)")],
            unit="s",
        ),
        stat(
            "Records compared",
            "In the last run.",
            [now("max(msgmeter_reconcile_records_compared)")],
        ),
        stat(
            "Runs in the time range",
            "By result: agrees, differs, incomplete (the log no longer reaches back), failed.",
            [now("round(sum by (result) (increase(msgmeter_reconcile_runs_total[$__range])))", "{{result}}")],
        ),
        lines(
            "Drift by subject",
            "Rows that differ, by what was compared.",
            [over_time("sum by (subject) (msgmeter_reconcile_drift_rows)", "{{subject}}")],
            unit="locale",
            decimals=0,
            width=12,
            height=6,
        ),
        lines(
            "Scheduler",
            "Ticks that let time pass for tenants that send nothing: sent, and sent again for want of an answer; and"
            " accounts that are due.",
            [
                over_time(_rate("msgmeter_ticks_sent_total"), "sent per second"),
                over_time(_rate("msgmeter_ticks_repeated_total"), "repeated per second"),
                over_time("max(msgmeter_accounts_due)", "accounts due"),
                over_time(
                    "time() - max(msgmeter_schedule_last_success_timestamp_seconds > 0)",
                    "seconds since its last round",
                ),
            ],
            unit="locale",
            width=12,
            height=6,
        ),
    ),
)

_PROCESSES = Section(
    "Processes",
    (
        table(
            "What runs",
            "Every process that answers, with its version.",
            [now_as_table("sum by (job, instance, process, version) (msgmeter_build_info)")],
            unit="string",
            width=8,
            columns={"Time": {"custom.hidden": True}, "Value": {"custom.hidden": True}},
        ),
        lines(
            "CPU by process",
            "Seconds of CPU per second: a worker uses one core at most.",
            [
                over_time(
                    'rate(process_cpu_seconds_total{job=~"msgmeter-.*"}[$__rate_interval])',
                    "{{job}} {{instance}}",
                )
            ],
            unit="percentunit",
            width=8,
        ),
        lines(
            "Open files",
            "By process, and the lowest limit of them.",
            [
                over_time('process_open_fds{job=~"msgmeter-.*"}', "{{job}} {{instance}}"),
                over_time('min(process_max_fds{job=~"msgmeter-.*"})', "limit"),
            ],
            unit="locale",
            width=8,
        ),
        stat(
            "Processes of `msgmeter up`",
            "Of the embedded stack, where it is used: whether each of its processes runs.",
            [now("min by (process) (msgmeter_stack_process_up)", "{{process}}")],
            steps=ONE_IS_GOOD,
            mapped=UP,
            width=12,
            height=5,
            nothing="not used",
        ),
        lines(
            "Memory and restarts of `msgmeter up`",
            "Resident memory of its processes; restarts are counted as they happen.",
            [over_time("max by (process) (msgmeter_stack_process_resident_bytes)", "{{process}}")],
            unit="bytes",
            width=6,
            height=5,
        ),
        stat(
            "Disk and restarts of `msgmeter up`",
            "Free space where its data is, and how often processes were started again.",
            [
                now("min(msgmeter_stack_disk_free_bytes)", "free"),
                now("sum(msgmeter_stack_process_restarts_total)", "restarts"),
            ],
            unit="bytes",
            overrides={"restarts": {"unit": "locale"}},
            steps=((None, ORANGE), (1, GREEN)),
            width=6,
            height=5,
            nothing="not used",
        ),
    ),
)


def pipeline_health() -> Any:
    """The dashboard."""
    return board(
        UID,
        "Pipeline",
        "Throughput, lag, latency, epochs and inserts, partitions and state of the workers, reconciliation, and the"
        " processes themselves.",
        (_FLOW, _LAG, _LATENCY, _EPOCHS, _STATE, _AGREES, _PROCESSES),
        variables=(PROMETHEUS_VARIABLE,),
        annotations=(annotations.FIRING,),
    )
