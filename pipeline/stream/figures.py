"""What the epochs of a worker say to its metrics, and of rows that are not stored to its log.

Takes outcomes and the partitions owned; changes metrics, logs, and nothing else. `read_state` runs in the metrics
server's thread while the event loop goes on, so it only reads single numbers of things it has listed first.

Ages and lag are measured from what is known inside, so a worker that hangs says nothing of itself: `msgmeter schedule`
looks at the group from outside.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.charging import LATE_ACTIONS, UNRATED_REASONS
from pipeline.core.identity_deltas import NEVER_AT
from pipeline.core.outcomes import FACT_COLUMNS, Document, Outcomes
from pipeline.metrics import worker as metrics
from pipeline.stream.partitions import OwnedPartition

_log = logging.getLogger(__name__)

_OCCURRED, _RECEIVED, _MESSAGES, _CREDITS = (
    FACT_COLUMNS.index(name) for name in ("occurred_at", "received_at", "messages", "credits_micros")
)
_SAMPLED = 32
"""One of so many messages is observed by itself: an observation costs 1 us, and folding a message 16."""

_METRIC_BY_COUNT = {
    "received": metrics.RECEIVED,
    "duplicates": metrics.DUPLICATES,
    "statuses": metrics.STATUSES,
    "refunds": metrics.REFUNDED,
    "segments_differ": metrics.SEGMENTS_DIFFER,
    "windows_recomputed": metrics.WINDOWS_RECOMPUTED,
    **{f"late_{action}": metrics.LATE.labels(action) for action in LATE_ACTIONS},
    **{f"unrated_{reason}": metrics.UNRATED.labels(reason) for reason in UNRATED_REASONS},
}
"""By the names of `Outcomes.counts`."""

for _table in (FACTS, USAGE, ACCOUNTS, ENTRIES, ALERTS, CONTACTS):
    # Shown from the start, so that the first event of each is an increase.
    metrics.INSERT_SECONDS.labels(_table.name)
    metrics.ROWS_UNSTORABLE.labels(_table.name)
    for _result in ("stored", "retried", "refused"):
        metrics.INSERTS.labels(_table.name, _result)


def observe_epoch(of_partitions: Iterable[Outcomes], seconds: float) -> None:
    """Count what an epoch brought, once it is stored and published."""
    facts = messages = 0
    now = time.time()
    for outcomes in of_partitions:
        facts += len(outcomes.facts)
        messages += sum(fact[_MESSAGES] for fact in outcomes.facts)
        _count(outcomes)
        if outcomes.facts:
            oldest_at = min(fact[_RECEIVED] for fact in outcomes.facts)
            metrics.STORED_SECONDS.observe(max(now - oldest_at / 1000, 0))
        for fact in outcomes.facts[::_SAMPLED]:
            if fact[_MESSAGES]:
                metrics.OCCURRED_SECONDS.observe(max(now - fact[_OCCURRED] / 1000, 0))
        for alert in outcomes.alerts:
            metrics.ALERT_SECONDS.observe(max(now - alert["occurred_at"] / 1000, 0))
    metrics.ACCEPTED.inc(messages)
    metrics.EPOCH_ROWS.observe(facts)
    metrics.EPOCH_SECONDS.observe(seconds)
    metrics.LAST_EPOCH.set_to_current_time()


def observe_results(results: Iterable[Document]) -> None:
    """Count commands by what they are answered, once they are folded."""
    for result in results:
        metrics.COMMANDS.labels(result["outcome"]).inc()


def observe_insert(table: str, seconds: float, *, is_whole: bool) -> None:
    """Count an insert that ClickHouse carried out, if not with all rows; called in any thread."""
    metrics.INSERT_SECONDS.labels(table).observe(seconds)
    metrics.INSERTS.labels(table, "stored" if is_whole else "refused").inc()


def _count(outcomes: Outcomes) -> None:
    # A counter only grows, so it counts what was charged and leaves refunds out.
    metrics.CREDITS.inc(sum(fact[_CREDITS] for fact in outcomes.facts if fact[_MESSAGES]) / 1_000_000)
    metrics.REROUTED.inc(len(outcomes.forwards))
    metrics.RECHARGES_REQUESTED.inc(len(outcomes.recharges))
    for name, metric in _METRIC_BY_COUNT.items():
        metric.inc(outcomes.counts[name])
    for refusal in outcomes.refusals:
        metrics.REFUSED.labels(refusal["reason"]).inc()
    for alert in outcomes.alerts:
        metrics.ALERTS.labels(alert["level"]).inc()


def tell_unstorable(table: str, count_by_tenant: Mapping[str, int]) -> None:
    """Counts and logs rows that ClickHouse does not take.

    The account itself is right, and goes on; what is shown of it is not, until such a row is taken.
    """
    for tenant, count in count_by_tenant.items():
        _log.error("%d rows of tenant %r do not fit %s and are not stored", count, tenant, table)
        metrics.ROWS_UNSTORABLE.labels(table).inc(count)


class Assignment(NamedTuple):
    """What the group has given this worker, and how far it has taken it up."""

    assigned: frozenset[int]
    owned: frozenset[int]
    """Of these, the ones whose tables are recovered."""
    since: float
    """Monotonic seconds."""


class LogPlace(NamedTuple):
    """What is known of a partition's log."""

    reads_from: int | None
    """Where its reading began; none before the seek of an assignment."""
    end: int | None


def read_state(
    partitions: Mapping[int, OwnedPartition], assignment: Assignment, place: Callable[[int], LogPlace]
) -> dict[str, float]:
    """Give figures of `metrics.STATE`; without partitions there is nothing to be behind, and no lag to tell."""
    taken_up = dict(partitions)
    folds = [each.fold for each in taken_up.values()]
    now = time.time() * 1000
    horizon_at = max((fold.identities.horizon_at for fold in folds), default=NEVER_AT)
    return _lag(taken_up, assignment, place) | {
        "partitions_taken_up": len(folds),
        "uncommitted_offsets": sum(
            each.folded_offset - each.acknowledged_offset for each in taken_up.values()
        ),
        "identities_held": sum(len(fold.identities) for fold in folds),
        "identities_held_bytes": sum(fold.identities.held_bytes for fold in folds),
        "identities_pending": sum(len(fold.identities.pending) for fold in folds),
        "identity_span_seconds": -1 if horizon_at == NEVER_AT else max(now - horizon_at, 0) / 1000,
        "accounts_held": sum(fold.accounts_held for fold in folds),
        "windows_held": sum(fold.windows_held for fold in folds),
    }


def _lag(
    taken_up: Mapping[int, OwnedPartition], assignment: Assignment, place: Callable[[int], LogPlace]
) -> dict[str, float]:
    """How far behind the log the assigned partitions are, also those of which nothing was folded yet."""
    now, held_seconds = time.time(), time.monotonic() - assignment.since
    records = 0
    age_seconds = 0.0
    for number in assignment.assigned:
        owned, (reads_from, end) = taken_up.get(number), place(number)
        folded = owned.folded_offset + 1 if owned is not None else reads_from
        behind = max(end - folded, 0) if end is not None and folded is not None else 0
        records += behind
        if owned is not None and owned.last_received_at:
            age_seconds = max(age_seconds, now - owned.last_received_at / 1000 if behind else 0)
        elif behind or number not in assignment.owned:
            age_seconds = max(age_seconds, held_seconds)
    figures = {
        "partitions_assigned": float(len(assignment.assigned)),
        "partitions_owned": float(len(assignment.owned)),
    }
    if not assignment.assigned:
        return figures
    return figures | {
        "consumer_lag_offsets": records,
        "consumer_lag_seconds": age_seconds,
        "watermark_timestamp_seconds": now - age_seconds,
    }
