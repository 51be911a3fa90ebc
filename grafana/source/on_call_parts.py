"""Which part of the pipeline it is that fails: what answers, each worker, refusals and inserts. A section of On call.

Read from Prometheus.
"""

from grafana_foundation_sdk.models.dashboard import DataTransformerConfig, DynamicConfigValue

from grafana.source.boards import Section
from grafana.source.panels import (
    ANSWERS,
    GREEN,
    ONE_IS_GOOD,
    PER_SECOND,
    RED,
    RESULT_COLORS,
    UP,
    ZERO_IS_GOOD,
    lines,
    stat,
    table,
)
from grafana.source.queries import REFUSED_BY_REASON, now, now_as_table, over_time


def _answering(compared: str) -> str:
    """How many of a kind answer, where that compares so with how many are known, which is a label."""
    reached = 'up{job=~"msgmeter-.*"}'
    return f"""
label_replace(
    count_values by (job) ("known", count by (job) ({reached}))
    * on (job) group_left () (sum by (job) ({reached}) {compared} count by (job) ({reached})),
    "kind", "$1", "job", "msgmeter-(.*)"
)
"""


WHICH = Section(
    "Which part is it",
    (
        stat(
            "ClickHouse",
            "Whether the last call got an answer, by who asked.",
            [now("min by (job) (msgmeter_clickhouse_up)", "{{job}}")],
            steps=ONE_IS_GOOD,
            mapped=UP,
            width=5,
        ),
        stat(
            "Kafka",
            "Whether the last call got an answer, by who asked.",
            [now("min by (job) (msgmeter_kafka_up)", "{{job}}")],
            steps=ONE_IS_GOOD,
            mapped=UP,
            width=5,
        ),
        stat(
            "Processes that answer",
            "By kind: how many Prometheus reaches, of how many it knows; red where one is missing.",
            [now(_answering("=="), "{{kind}} of {{known}}"), now(_answering("<"), "{{kind}} of {{known}}")],
            steps=((None, GREEN),),
            width=9,
        ).override_by_query(
            "B", [DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": RED})]
        ),
        stat(
            "Partitions not taken up",
            "Of messages.raw: nobody counts what is in them.",
            [now("clamp_min(max(msgmeter_partitions) - sum(msgmeter_partitions_owned), 0)")],
            steps=ZERO_IS_GOOD,
            width=5,
        ),
        table(
            "Workers",
            "One line each: whether it answers Prometheus, how far behind it is, how long its oldest epoch waits,"
            " what it owns, how much memory it has, and when it was started. One that is dead or stands still does not"
            " answer and has no other figures; one that answers, owns partitions and reads nothing when behind hangs.",
            [
                now_as_table('max by (instance) (up{job="msgmeter-worker"})'),
                now_as_table("max by (instance) (msgmeter_consumer_lag_seconds)"),
                now_as_table("max by (instance) (msgmeter_epoch_open_seconds)"),
                now_as_table("sum by (instance) (rate(msgmeter_messages_received_total[1m]))"),
                now_as_table("max by (instance) (msgmeter_partitions_assigned)"),
                now_as_table("max by (instance) (msgmeter_partitions_owned)"),
                now_as_table(
                    "time() - max by (instance) (msgmeter_epoch_last_success_timestamp_seconds > 0)"
                ),
                now_as_table('max by (instance) (process_resident_memory_bytes{job="msgmeter-worker"})'),
                now_as_table(
                    'time() - max by (instance) (process_start_time_seconds{job="msgmeter-worker"})'
                ),
            ],
            width=24,
            height=6,
            transformations=[
                DataTransformerConfig(id_val="joinByField", options={"byField": "instance", "mode": "outer"}),
                DataTransformerConfig(
                    id_val="organize",
                    options={
                        "excludeByName": {
                            f"Time{each}": True for each in ("", *(f" {n}" for n in range(1, 10)))
                        },
                        "renameByName": {
                            "Value #A": "answers",
                            "Value #B": "behind",
                            "Value #C": "open epoch",
                            "Value #D": "records/s",
                            "Value #E": "assigned",
                            "Value #F": "taken up",
                            "Value #G": "since last epoch",
                            "Value #H": "memory",
                            "Value #I": "up for",
                        },
                    },
                ),
            ],
            columns={
                "answers": {
                    "mappings": [
                        {
                            "type": "value",
                            "options": {
                                value: {"text": word, "color": color}
                                for value, (word, color) in ANSWERS.items()
                            },
                        }
                    ],
                    "custom.cellOptions": {"type": "color-text"},
                },
                "behind": {"unit": "s"},
                "open epoch": {"unit": "s"},
                "records/s": {"unit": PER_SECOND},
                "since last epoch": {"unit": "s"},
                "memory": {"unit": "bytes"},
                "up for": {"unit": "s"},
            },
        ),
        lines(
            "Refusals by reason",
            "Records that cannot be billed. `msgmeter refusals` says which tenant, source and partition they come"
            " from: one gateway mostly.",
            [over_time(REFUSED_BY_REASON, "{{reason}}")],
            unit=PER_SECOND,
            width=8,
        ),
        lines(
            "Insert seconds, 99 %",
            "By table. A slow ClickHouse shows here before the lag grows.",
            [
                over_time(
                    "histogram_quantile(0.99,"
                    " sum by (le, table) (rate(msgmeter_insert_seconds_bucket[$__rate_interval])))",
                    "{{table}}",
                )
            ],
            unit="s",
            width=8,
        ),
        lines(
            "Inserts by result",
            "Retried: ClickHouse did not answer in time. Refused: it said no for good.",
            [over_time("sum by (result) (rate(msgmeter_inserts_total[$__rate_interval]))", "{{result}}")],
            unit="ops",
            stacked=True,
            width=8,
            colors=RESULT_COLORS,
        ),
    ),
)
