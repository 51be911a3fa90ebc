"""How the log flows through the workers: what comes and what becomes of it, how far behind, and how long it takes.

Sections of the Pipeline dashboard, read from Prometheus.
"""

from typing import Any

from grafana.source.boards import Section
from grafana.source.panels import (
    GREEN,
    ONE_IS_GOOD,
    PER_SECOND,
    RED,
    RESULT_COLORS,
    UP,
    ZERO_IS_GOOD,
    heat_map,
    lines,
    stat,
)
from grafana.source.queries import REFUSED_BY_REASON, buckets, now, over_time

_RATE = "[$__rate_interval]"


def rate(metric: str, by: str = "") -> str:
    """PromQL of a counter's increase per second, summed over workers."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{_RATE}))"


def _heat(title: str, description: str, metric: str) -> Any:
    expr = f"sum by (le) (increase({metric}_bucket{_RATE}))"
    return heat_map(title, f"{description} Brighter is more observations in a bucket.", [buckets(expr)])


def quantiles(metric: str, by: str = "") -> list[Any]:
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


FLOW = Section(
    "Flow",
    (
        lines(
            "Records per second",
            "What workers read, and what became of it: accepted is charged, further statuses and duplicates cost"
            " nothing, refused cannot be billed, refunded took a charge back.",
            [
                over_time(rate("msgmeter_messages_received_total"), "received"),
                over_time(rate("msgmeter_messages_accepted_total"), "accepted"),
                over_time(rate("msgmeter_messages_status_total"), "further statuses"),
                over_time(rate("msgmeter_messages_duplicate_total"), "duplicates"),
                over_time(rate("msgmeter_messages_refused_total"), "refused"),
                over_time(rate("msgmeter_messages_refunded_total"), "refunded"),
            ],
            unit=PER_SECOND,
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
            unit=PER_SECOND,
            stacked=True,
        ),
        lines(
            "Refused by reason",
            "Records that cannot be billed; `msgmeter refusals` says who sends them.",
            [over_time(REFUSED_BY_REASON, "{{reason}}")],
            unit=PER_SECOND,
            width=8,
        ),
        lines(
            "Late and unrated",
            "Messages received over an hour after they occurred, by what was done with them; and messages without a"
            " price of their own.",
            [
                over_time(rate("msgmeter_messages_late_total", "action"), "late: {{action}}"),
                over_time(rate("msgmeter_messages_unrated_total", "reason"), "unrated: {{reason}}"),
                over_time(rate("msgmeter_windows_recomputed_total"), "windows summed anew"),
            ],
            unit=PER_SECOND,
            width=8,
        ),
        lines(
            "Out of the ordinary",
            "Segments the gateway counted otherwise, records in the wrong partition that were forwarded, records that"
            " retention deleted unread, rows that ClickHouse did not take.",
            [
                over_time(rate("msgmeter_segments_differ_total"), "segments differ"),
                over_time(rate("msgmeter_messages_rerouted_total"), "rerouted"),
                over_time(rate("msgmeter_messages_gone_unread_total"), "gone unread"),
                over_time(rate("msgmeter_rows_unstorable_total"), "unstorable"),
            ],
            unit=PER_SECOND,
            width=8,
        ),
        lines(
            "Credits burned per second",
            "All tenants together.",
            [over_time(rate("msgmeter_credits_burned_total"), "credits")],
            unit="locale",
            width=8,
        ),
        lines(
            "Commands by outcome",
            "Answers to signed commands: plans, purchases, reservations.",
            [over_time(rate("msgmeter_commands_total", "outcome"), "{{outcome}}")],
            unit=PER_SECOND,
            width=8,
        ),
        lines(
            "Alerts and recharges",
            "Alerts written by level, and requests to recharge, per minute.",
            [
                over_time(f"60 * {rate('msgmeter_alerts_emitted_total', 'level')}", "{{level}} %"),
                over_time(f"60 * {rate('msgmeter_recharges_requested_total')}", "recharges"),
            ],
            unit="locale",
            width=8,
        ),
    ),
)

LAG = Section(
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

LATENCY = Section(
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
            quantiles("msgmeter_received_to_stored_seconds"),
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

EPOCHS = Section(
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
                    f"{rate('msgmeter_epoch_rows_sum')} / {rate('msgmeter_epoch_rows_count')}",
                    "rows per epoch",
                ),
                over_time(rate("msgmeter_epoch_rows_count"), "epochs per second"),
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
            [over_time(rate("msgmeter_inserts_total", "result"), "{{result}}")],
            unit="ops",
            width=8,
            stacked=True,
            colors=RESULT_COLORS,
        ),
        lines(
            "Inserts by table",
            "The same, by table, and those that had to be tried again.",
            [
                over_time(rate("msgmeter_inserts_total", "table"), "{{table}}"),
                over_time(rate("msgmeter_insert_failures_total"), "tried again"),
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
            width=4,
            height=6,
        ),
        stat(
            "Kafka now",
            "By who asked.",
            [now("min by (job) (msgmeter_kafka_up)", "{{job}}")],
            steps=ONE_IS_GOOD,
            mapped=UP,
            width=4,
            height=6,
        ),
        stat(
            "Refuses",
            "Answers the scheduler, and refuses it: a login, a permission, a table or a topic is missing.",
            [
                now("max(msgmeter_clickhouse_refuses)", "ClickHouse"),
                now("max(msgmeter_kafka_refuses)", "Kafka"),
            ],
            steps=ZERO_IS_GOOD,
            mapped={"0": ("no", GREEN), "1": ("yes", RED)},
            width=4,
            height=6,
        ),
    ),
)
