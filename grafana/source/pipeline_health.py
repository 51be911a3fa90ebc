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
    UP,
    YELLOW,
    ZERO_IS_GOOD,
    lines,
    stat,
    table,
    wide,
)
from grafana.source.pipeline_flow import EPOCHS, FLOW, LAG, LATENCY, quantiles, rate
from grafana.source.queries import now, now_as_table, over_time

UID = "msgmeter-pipeline"


_STATE = Section(
    "Partitions and state",
    (
        lines(
            "Partitions",
            "Of messages.raw: how many there are, how many the group assigned to workers, how many of these are"
            " recovered, and in how many something was folded since. Where recovered is lower than assigned, a worker"
            " is taking partitions up.",
            [
                over_time("max(msgmeter_partitions)", "there are"),
                over_time("sum(msgmeter_partitions_assigned)", "assigned"),
                over_time("sum(msgmeter_partitions_owned)", "recovered"),
                over_time("sum(msgmeter_partitions_taken_up)", "folded since"),
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
            quantiles("msgmeter_recovery_seconds"),
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
            "For so many days every charged message is in memory; older ones are looked up. Below 0: since the"
            " beginning.",
            [over_time("min by (instance) (msgmeter_identity_span_seconds) / 86400", "{{instance}}")],
            unit="suffix:days",
            least=None,
            width=8,
        ),
        lines(
            "Memory by worker",
            "Resident memory, and of that the identities. On call shows it as a share of what the process may have.",
            [
                over_time('process_resident_memory_bytes{job="msgmeter-worker"}', "resident {{instance}}"),
                over_time("msgmeter_identities_held_bytes", "identities {{instance}}"),
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
            width=3,
            steps=ZERO_IS_GOOD,
        ),
        stat(
            "Since the last run",
            "A promise is only as good as its last check.",
            [now("time() - max(msgmeter_reconcile_last_run_timestamp_seconds > 0)")],
            width=3,
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
            width=4,
        ),
        stat(
            "Last run took",
            "Seconds of the last run.",
            [now("max(msgmeter_reconcile_seconds)")],
            unit="s",
            width=3,
        ),
        stat(
            "Records compared",
            "In the last run.",
            [now("max(msgmeter_reconcile_records_compared)")],
            width=4,
        ),
        stat(
            "Runs in the time range",
            "By result: agrees, differs, incomplete (the log no longer reaches back), failed.",
            [now("round(sum by (result) (increase(msgmeter_reconcile_runs_total[$__range])))", "{{result}}")],
            width=7,
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
                over_time(rate("msgmeter_ticks_sent_total"), "sent per second"),
                over_time(rate("msgmeter_ticks_repeated_total"), "repeated per second"),
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


def _with_kind(expr: str) -> str:
    """The same with a label `kind`: a job without msgmeter-, so that legends are short."""
    return f'label_replace({expr}, "kind", "$1", "job", "msgmeter-(.*)")'


_PROCESSES = Section(
    "Processes",
    (
        table(
            "What runs",
            "Every process that answers, with its version.",
            [now_as_table("sum by (instance, process, version) (msgmeter_build_info)")],
            unit="string",
            width=8,
            height=10,
            columns={
                "instance": wide(180),
                "process": wide(110),
                "Time": {"custom.hidden": True},
                "Value": {"custom.hidden": True},
            },
        ),
        lines(
            "CPU by process",
            "Seconds of CPU per second: a worker uses one core at most.",
            [
                over_time(
                    _with_kind('rate(process_cpu_seconds_total{job=~"msgmeter-.*"}[$__rate_interval])'),
                    "{{kind}} {{instance}}",
                )
            ],
            unit="percentunit",
            width=8,
            height=10,
        ),
        lines(
            "Open files",
            "By process.",
            [
                over_time(_with_kind('process_open_fds{job=~"msgmeter-.*"}'), "{{kind}} {{instance}}"),
            ],
            unit="locale",
            width=8,
            height=10,
        ),
        stat(
            "Processes of msgmeter up",
            "Of the embedded stack, where it is used: whether each of its processes runs.",
            [now("min by (process) (msgmeter_stack_process_up)", "{{process}}")],
            steps=ONE_IS_GOOD,
            mapped=UP,
            width=12,
            height=5,
            nothing="not used",
        ),
        lines(
            "Memory of msgmeter up",
            "Resident memory of the processes of the embedded stack, where it is used.",
            [over_time("max by (process) (msgmeter_stack_process_resident_bytes)", "{{process}}")],
            unit="bytes",
            width=6,
            height=5,
            nothing="not used",
        ),
        stat(
            "Disk and restarts of msgmeter up",
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
        (FLOW, LAG, LATENCY, EPOCHS, _STATE, _AGREES, _PROCESSES),
        variables=(PROMETHEUS_VARIABLE,),
        annotations=(annotations.FIRING,),
    )
