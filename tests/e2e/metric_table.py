"""What every metric of every process must say in the scenario that a test lets the process go through.

One entry per metric, by the name it is scraped under, without buckets: whoever defines a metric adds what would be
seen if it moved wrongly. Takes what was scraped at the stages of the scenario; `wrong` gives what does not hold.
"""

import itertools
import subprocess
import urllib.request
from collections.abc import Callable, Mapping

Scraped = dict[str, float]
"""By name with labels, as it stands in the text."""
Seen = Mapping[str, Scraped]
"""By stage."""
Table = Mapping[str, Callable[[Seen], bool]]


def scrape(url: str) -> tuple[str, Scraped]:
    """What /metrics says, as text and by name; raises OSError where nobody answers."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return text, parsed(text)


def parsed(text: str) -> Scraped:
    """The samples of a text."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def lint(text: str) -> str:
    """What Prometheus's own check finds wrong with names, units and texts; nothing where all is well."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def wrong(table: Table, seen: Seen) -> list[str]:
    """The metrics of a table that do not say what they must, with what they say."""
    return [
        f"{name}: { {stage: _of(name, scraped) for stage, scraped in seen.items()} }"
        for name, holds in table.items()
        if not _holds(holds, seen)
    ]


def _holds(holds: Callable[[Seen], bool], seen: Seen) -> bool:
    try:
        return holds(seen)
    except KeyError:
        return False  # One that had to be shown is not.


def _of(name: str, scraped: Scraped) -> Scraped:
    return {
        sample: value
        for sample, value in scraped.items()
        if sample.startswith(name) and "_bucket{" not in sample
    }


PROCESS: Table = {
    "msgmeter_build_info": lambda seen: all(
        1 in _of("msgmeter_build_info", scraped).values() for scraped in seen.values()
    ),
    "process_virtual_memory_bytes": lambda seen: all(
        scraped["process_virtual_memory_bytes"] > scraped["process_resident_memory_bytes"]
        for scraped in seen.values()
    ),
    "process_resident_memory_bytes": lambda seen: all(
        1e7 < scraped["process_resident_memory_bytes"] < 1e10 for scraped in seen.values()
    ),
    "process_start_time_seconds": lambda seen: all(
        scraped["process_start_time_seconds"] > 1.7e9 for scraped in seen.values()
    ),
    "process_cpu_seconds_total": lambda seen: all(
        0 < scraped["process_cpu_seconds_total"] < 1_000 for scraped in seen.values()
    ),
    "process_open_fds": lambda seen: all(
        0 < scraped["process_open_fds"] < scraped["process_max_fds"] for scraped in seen.values()
    ),
    "process_max_fds": lambda seen: all(scraped["process_max_fds"] > 0 for scraped in seen.values()),
    "python_info": lambda seen: all(1 in _of("python_info", scraped).values() for scraped in seen.values()),
}
"""Of every process, at every stage."""


def counts(name: str, at_last: float, stage: str = "after") -> Callable[[Seen], bool]:
    """Nought when the process was ready, and exactly so much at this stage."""
    return lambda seen: (seen["ready"][name], seen[stage][name]) == (0, at_last)


def grows(name: str, stage: str = "after") -> Callable[[Seen], bool]:
    """Nought when the process was ready, and more at this stage."""
    return lambda seen: seen["ready"][name] == 0 < seen[stage][name]


def _are(name: str, seen: Seen, **by_stage: float) -> bool:
    """Whether it has these values."""
    return all(seen[stage][name] == value for stage, value in by_stage.items())


def _rises(name: str, seen: Seen, *stages: str) -> bool:
    """Whether it is more at each stage than at the one before."""
    values = [seen[stage][name] for stage in stages]
    return all(before < after for before, after in itertools.pairwise(values))


def labelled(name: str, label: str, by_value: Mapping[str, float]) -> Callable[[Seen], bool]:
    """From nought to exactly so much by label value, and nothing under any other."""
    expected = {f'{name}{{{label}="{value}"}}': count for value, count in by_value.items()}
    return lambda seen: (
        not any(_of(name, seen["ready"]).values())
        and set(expected) <= set(_of(name, seen["ready"]))
        and {sample: count for sample, count in _of(name, seen["after"]).items() if count} == expected
    )


def observes(name: str, most_seconds: float = 300, labels: str = "") -> Callable[[Seen], bool]:
    """From no observation to some, of a duration that can be."""
    return lambda seen: (
        seen["ready"][f"{name}_count{labels}"] == 0 < seen["after"][f"{name}_count{labels}"]
        and 0 < seen["after"][f"{name}_sum{labels}"] < most_seconds
    )


RATED = '{table="rated_messages"}'

WORKER: Table = PROCESS | {
    # The way of messages: 22 records and the copy of one that had to be brought to its tenant's partition.
    "msgmeter_messages_received_total": counts("msgmeter_messages_received_total", 23),
    "msgmeter_messages_accepted_total": counts("msgmeter_messages_accepted_total", 12),
    "msgmeter_messages_refused_total": labelled("msgmeter_messages_refused_total", "reason", {"not_json": 1}),
    "msgmeter_messages_duplicate_total": counts("msgmeter_messages_duplicate_total", 1),
    "msgmeter_messages_status_total": counts("msgmeter_messages_status_total", 3),
    "msgmeter_messages_refunded_total": counts("msgmeter_messages_refunded_total", 1),
    "msgmeter_messages_late_total": labelled(
        "msgmeter_messages_late_total", "action", {"own_window": 1, "recomputed": 2, "next_period": 1}
    ),
    "msgmeter_messages_unrated_total": labelled(
        "msgmeter_messages_unrated_total", "reason", {"country_unknown": 1, "fallback_zone": 1}
    ),
    "msgmeter_segments_differ_total": counts("msgmeter_segments_differ_total", 1),
    "msgmeter_messages_rerouted_total": counts("msgmeter_messages_rerouted_total", 1),
    "msgmeter_windows_recomputed_total": counts("msgmeter_windows_recomputed_total", 3),
    "msgmeter_messages_gone_unread_total": lambda seen: (
        seen["after"]["msgmeter_messages_gone_unread_total"] == 0
        and seen["again"]["msgmeter_messages_gone_unread_total"] == 3
    ),
    # Accounts.
    "msgmeter_credits_burned_total": grows("msgmeter_credits_burned_total"),
    "msgmeter_alerts_emitted_total": labelled(
        "msgmeter_alerts_emitted_total", "level", {"80": 1, "85": 1, "90": 1, "95": 1}
    ),
    "msgmeter_commands_total": labelled("msgmeter_commands_total", "outcome", {"accepted": 4, "refused": 1}),
    "msgmeter_recharges_requested_total": counts("msgmeter_recharges_requested_total", 1),
    # How long it takes. Messages of 20 and twice of 5 days ago are among those that are stored.
    "msgmeter_received_to_stored_seconds": observes("msgmeter_received_to_stored_seconds"),
    "msgmeter_occurred_to_stored_seconds": lambda seen: (
        seen["ready"]["msgmeter_occurred_to_stored_seconds_count"]
        == 0
        < seen["after"]["msgmeter_occurred_to_stored_seconds_count"]
        <= seen["after"]["msgmeter_messages_accepted_total"]
    ),
    "msgmeter_received_to_alert_seconds": lambda seen: (
        observes("msgmeter_received_to_alert_seconds", 600)(seen)
        and seen["after"]["msgmeter_received_to_alert_seconds_count"] == 4
    ),
    # Epochs and checkpoints.
    "msgmeter_epoch_rows": lambda seen: (
        seen["ready"]["msgmeter_epoch_rows_sum"] == 0 and seen["after"]["msgmeter_epoch_rows_sum"] == 13
    ),
    "msgmeter_epoch_seconds": observes("msgmeter_epoch_seconds"),
    "msgmeter_checkpoint_seconds": observes("msgmeter_checkpoint_seconds"),
    "msgmeter_epoch_last_success_timestamp_seconds": lambda seen: (
        seen["after"]["msgmeter_epoch_last_success_timestamp_seconds"]
        > seen["away"]["msgmeter_epoch_last_success_timestamp_seconds"]
        > seen["ready"]["msgmeter_epoch_last_success_timestamp_seconds"]
        == 0
    ),
    "msgmeter_checkpoint_last_success_timestamp_seconds": lambda seen: (
        seen["after"]["msgmeter_checkpoint_last_success_timestamp_seconds"]
        > seen["away"]["msgmeter_checkpoint_last_success_timestamp_seconds"]
        > seen["ready"]["msgmeter_checkpoint_last_success_timestamp_seconds"]
        == 0
    ),
    "msgmeter_epoch_open_seconds": lambda seen: (
        seen["away"]["msgmeter_epoch_open_seconds"]
        > 1
        > seen["after"]["msgmeter_epoch_open_seconds"]
        == seen["ready"]["msgmeter_epoch_open_seconds"]
        == 0
    ),
    # ClickHouse. One tenant's account is not taken, and then nothing for a while.
    "msgmeter_inserts_total": lambda seen: (
        not any(_of("msgmeter_inserts_total", seen["ready"]).values())
        and seen["after"]['msgmeter_inserts_total{result="stored",table="rated_messages"}'] > 0
        and seen["away"]['msgmeter_inserts_total{result="retried",table="rated_messages"}'] > 0
        and seen["after"]['msgmeter_inserts_total{result="refused",table="account_snapshots"}'] == 1
        and seen["after"]['msgmeter_inserts_total{result="refused",table="rated_messages"}'] == 0
    ),
    "msgmeter_insert_seconds": lambda seen: (
        observes("msgmeter_insert_seconds", labels=RATED)(seen)
        and seen["after"][f"msgmeter_insert_seconds_count{RATED}"]
        == seen["after"]['msgmeter_inserts_total{result="stored",table="rated_messages"}']
    ),
    "msgmeter_insert_failures_total": lambda seen: (
        seen["ready"]["msgmeter_insert_failures_total"] == 0 < seen["away"]["msgmeter_insert_failures_total"]
    ),
    "msgmeter_rows_unstorable_total": labelled(
        "msgmeter_rows_unstorable_total", "table", {"account_snapshots": 1}
    ),
    "msgmeter_clickhouse_up": lambda seen: (
        "msgmeter_clickhouse_up" not in seen["ready"]
        and (seen["away"]["msgmeter_clickhouse_up"], seen["after"]["msgmeter_clickhouse_up"]) == (0, 1)
    ),
    # The group: two partitions, later shared with another worker, whose partition is followed.
    "msgmeter_rebalances_total": lambda seen: (
        seen["ready"]["msgmeter_rebalances_total"]
        == seen["after"]["msgmeter_rebalances_total"]
        < seen["beside"]["msgmeter_rebalances_total"]
    ),
    "msgmeter_recovery_seconds": lambda seen: all(
        0 < seen[stage]["msgmeter_recovery_seconds_count"] <= seen[stage]["msgmeter_rebalances_total"]
        and 0 < seen[stage]["msgmeter_recovery_seconds_sum"] < 100
        for stage in ("ready", "beside", "again")
    ),
    "msgmeter_partitions_assigned": lambda seen: (
        [seen[stage]["msgmeter_partitions_assigned"] for stage in ("ready", "beside", "other", "again")]
        == [2, 1, 1, 2]
    ),
    "msgmeter_partitions_owned": lambda seen: (
        [seen[stage]["msgmeter_partitions_owned"] for stage in ("ready", "beside", "other", "again")]
        == [2, 1, 1, 2]
    ),
    "msgmeter_partitions_taken_up": lambda seen: (
        seen["ready"]["msgmeter_partitions_taken_up"] == 0 < seen["after"]["msgmeter_partitions_taken_up"]
    ),
    "msgmeter_consumer_lag_offsets": lambda seen: (
        [seen[stage]["msgmeter_consumer_lag_offsets"] for stage in ("ready", "away", "after")] == [0, 1, 0]
    ),
    "msgmeter_consumer_lag_seconds": lambda seen: (
        seen["away"]["msgmeter_consumer_lag_seconds"]
        > 0
        == seen["ready"]["msgmeter_consumer_lag_seconds"]
        == seen["after"]["msgmeter_consumer_lag_seconds"]
    ),
    "msgmeter_watermark_timestamp_seconds": lambda seen: (
        seen["ready"]["msgmeter_watermark_timestamp_seconds"]
        < seen["away"]["msgmeter_watermark_timestamp_seconds"]
        < seen["after"]["msgmeter_watermark_timestamp_seconds"]
    ),
    "msgmeter_uncommitted_offsets": lambda seen: (
        seen["away"]["msgmeter_uncommitted_offsets"] > 0 == seen["after"]["msgmeter_uncommitted_offsets"]
    ),
    "msgmeter_standby_partitions": lambda seen: (
        [seen[stage]["msgmeter_standby_partitions"] for stage in ("after", "beside", "other")] == [0, 1, 1]
    ),
    "msgmeter_standby_lag_records": lambda seen: (
        [seen[stage]["msgmeter_standby_lag_records"] for stage in ("after", "beside", "other")] == [0, 0, 0]
    ),
    # State.
    "msgmeter_identities_held": lambda seen: (
        seen["ready"]["msgmeter_identities_held"] == 0 < seen["after"]["msgmeter_identities_held"] <= 12
    ),
    "msgmeter_identities_held_bytes": lambda seen: (
        seen["after"]["msgmeter_identities_held_bytes"] > 16 * seen["after"]["msgmeter_identities_held"]
    ),
    "msgmeter_identities_pending": counts("msgmeter_identities_pending", 1),
    "msgmeter_identity_span_seconds": lambda seen: (
        seen["ready"]["msgmeter_identity_span_seconds"]
        == -1
        < 0
        < seen["after"]["msgmeter_identity_span_seconds"]
        < 600
    ),
    "msgmeter_accounts_held": lambda seen: (
        seen["ready"]["msgmeter_accounts_held"] == 0 < seen["away"]["msgmeter_accounts_held"] <= 3
    ),
    "msgmeter_windows_held": lambda seen: (
        seen["ready"]["msgmeter_windows_held"] == 0 < seen["after"]["msgmeter_windows_held"]
    ),
    "msgmeter_state_disk_free_bytes": lambda seen: (
        0 < seen["after"]["msgmeter_state_disk_free_bytes"] <= seen["after"]["msgmeter_state_disk_size_bytes"]
    ),
    "msgmeter_state_disk_size_bytes": lambda seen: (
        seen["after"]["msgmeter_state_disk_size_bytes"] == seen["other"]["msgmeter_state_disk_size_bytes"] > 0
    ),
    "msgmeter_memory_limit_bytes": lambda seen: (
        seen["after"]["msgmeter_memory_limit_bytes"] > seen["after"]["process_resident_memory_bytes"]
    ),
}

_OURS = ("broker", "clickhouse", "worker", "scheduler", "gateway")

STACK: Table = PROCESS | {
    # What died, and what is not ours, has tests of its own: this one would have to look at the right moment.
    "msgmeter_stack_process_up": lambda seen: all(
        _of("msgmeter_stack_process_up", scraped)
        == {f'msgmeter_stack_process_up{{process="{name}"}}': 1 for name in _OURS}
        for scraped in seen.values()
    ),
    "msgmeter_stack_process_restarts_total": lambda seen: (
        [
            sum(_of("msgmeter_stack_process_restarts_total", seen[stage]).values())
            for stage in ("ready", "after")
        ]
        == [0, 1]
        and seen["after"]['msgmeter_stack_process_restarts_total{process="worker"}'] == 1
    ),
    "msgmeter_stack_process_resident_bytes": lambda seen: all(
        scraped[f'msgmeter_stack_process_resident_bytes{{process="{name}"}}'] > 1e7
        for scraped in seen.values()
        for name in _OURS
    ),
    "msgmeter_stack_disk_free_bytes": lambda seen: all(
        scraped["msgmeter_stack_disk_free_bytes"] > 0 for scraped in seen.values()
    ),
}

SCHEDULER: Table = PROCESS | {
    "msgmeter_schedule_last_success_timestamp_seconds": lambda seen: _rises(
        "msgmeter_schedule_last_success_timestamp_seconds", seen, "ready", "after", "behind"
    ),
    "msgmeter_ticks_sent_total": counts("msgmeter_ticks_sent_total", 1, "behind"),
    # A tick is repeated after a minute: test_scheduler.py lets it pass.
    "msgmeter_ticks_repeated_total": counts("msgmeter_ticks_repeated_total", 0, "behind"),
    "msgmeter_accounts_due": lambda seen: _are("msgmeter_accounts_due", seen, ready=0, after=0, behind=1),
    "msgmeter_kafka_up": lambda seen: _are("msgmeter_kafka_up", seen, ready=1, behind=1, away=1),
    # A table that is missing is a refusal, and no outage.
    "msgmeter_kafka_refuses": lambda seen: _are("msgmeter_kafka_refuses", seen, ready=0, behind=0, away=0),
    "msgmeter_clickhouse_up": lambda seen: _are("msgmeter_clickhouse_up", seen, ready=1, behind=1, away=1),
    "msgmeter_clickhouse_refuses": lambda seen: _are(
        "msgmeter_clickhouse_refuses", seen, ready=0, behind=0, away=1
    ),
    "msgmeter_partitions": lambda seen: _are("msgmeter_partitions", seen, ready=4, behind=4, away=4),
    "msgmeter_group_members": lambda seen: _are("msgmeter_group_members", seen, ready=0, after=1, behind=0),
    # Three messages and a tick.
    "msgmeter_group_lag_offsets": lambda seen: _are(
        "msgmeter_group_lag_offsets", seen, ready=0, after=0, behind=4, away=4
    ),
    "msgmeter_group_lag_seconds": lambda seen: (
        _are("msgmeter_group_lag_seconds", seen, ready=0, after=0)
        and 0 < seen["behind"]["msgmeter_group_lag_seconds"] < 200
    ),
    "msgmeter_tenants": lambda seen: (
        _are("msgmeter_tenants", seen, ready=0, after=2, behind=3) and "msgmeter_tenants" not in seen["away"]
    ),
    "msgmeter_tenants_over_level": lambda seen: all(
        _are(f'msgmeter_tenants_over_level{{level="{level}"}}', seen, ready=0, after=1, behind=1)
        for level in (80, 85, 90, 95)
    ),
    "msgmeter_tenants_unalerted": lambda seen: (
        _are("msgmeter_tenants_unalerted", seen, ready=0, after=0, behind=1)
        and "msgmeter_tenants_unalerted" not in seen["away"]
    ),
    "msgmeter_recharges_unanswered": lambda seen: _are(
        "msgmeter_recharges_unanswered", seen, ready=0, after=1, behind=1
    ),
    "msgmeter_recharge_oldest_unanswered_seconds": lambda seen: (
        _rises("msgmeter_recharge_oldest_unanswered_seconds", seen, "ready", "after", "behind")
        and seen["behind"]["msgmeter_recharge_oldest_unanswered_seconds"] < 200
    ),
    "msgmeter_fleet_last_success_timestamp_seconds": lambda seen: _rises(
        "msgmeter_fleet_last_success_timestamp_seconds", seen, "ready", "after", "behind"
    ),
}

_DRIFT = "msgmeter_reconcile_drift_rows"
_RUN = "msgmeter_reconcile_last_run_timestamp_seconds"
_AGREEMENT = "msgmeter_reconcile_last_agreement_timestamp_seconds"

RECONCILE: Table = PROCESS | {
    "msgmeter_reconcile_runs_total": lambda seen: (
        seen["after"]['msgmeter_reconcile_runs_total{result="agrees"}'] > 1
        and _are('msgmeter_reconcile_runs_total{result="differs"}', seen, ready=0, after=0)
        and seen["behind"]['msgmeter_reconcile_runs_total{result="differs"}'] > 1
        and _are('msgmeter_reconcile_runs_total{result="failed"}', seen, ready=0, after=0, behind=0)
        and seen["away"]['msgmeter_reconcile_runs_total{result="failed"}'] > 0
        and _are('msgmeter_reconcile_runs_total{result="incomplete"}', seen, ready=0, after=0, away=0)
    ),
    # One message is gone, and an account has come from nowhere; a run that fails takes nothing of that back.
    _DRIFT: lambda seen: (
        len(_of(_DRIFT, seen["ready"])) == len(_of(_DRIFT, seen["after"])) == 12
        and not any(_of(_DRIFT, seen["ready"]).values())
        and not any(_of(_DRIFT, seen["after"]).values())
        and all(
            _are(f'{_DRIFT}{{subject="{subject}"}}', seen, behind=1, away=1)
            for subject in ("facts", "windows of facts", "usage of facts")
        )
    ),
    _RUN: lambda seen: (
        _rises(_RUN, seen, "ready", "after", "behind") and seen["away"][_RUN] >= seen["behind"][_RUN]
    ),
    _AGREEMENT: lambda seen: (
        _rises(_AGREEMENT, seen, "ready", "after")
        and seen["after"][_AGREEMENT] == seen["after"][_RUN]
        and seen["behind"][_AGREEMENT] < seen["behind"][_RUN]
    ),
    "msgmeter_reconcile_seconds": lambda seen: all(
        0 < scraped["msgmeter_reconcile_seconds"] < 100 for scraped in seen.values()
    ),
    "msgmeter_reconcile_records_compared": lambda seen: _are(
        "msgmeter_reconcile_records_compared", seen, ready=0, after=4, behind=4, away=4
    ),
}

TABLES: Mapping[str, Table] = {
    "worker": WORKER,
    "scheduler": SCHEDULER,
    "reconcile": RECONCILE,
    "stack": STACK,
}
"""By module of `pipeline.metrics`."""
