"""What the epochs of a worker say to its metrics, and of rows that are not stored to its log.

Takes outcomes and the partitions owned; changes metrics, logs, and nothing else. `read_state` runs in the metrics
server's thread while the event loop goes on, so it only reads single numbers of things it has listed first.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from pipeline.core.charging import LATE_ACTIONS, UNRATED_REASONS
from pipeline.core.identity_deltas import NEVER_AT
from pipeline.core.outcomes import FACT_COLUMNS, Document, Outcomes
from pipeline.metrics import worker as metrics
from pipeline.stream.partitions import OwnedPartition

_log = logging.getLogger(__name__)

_RECEIVED, _MESSAGES, _CREDITS = (
    FACT_COLUMNS.index(name) for name in ("received_at", "messages", "credits_micros")
)

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


def observe_epoch(of_partitions: Iterable[Outcomes], seconds: float) -> None:
    """Count what an epoch brought, once it is stored and published."""
    facts = messages = 0
    for outcomes in of_partitions:
        facts += len(outcomes.facts)
        messages += sum(fact[_MESSAGES] for fact in outcomes.facts)
        _count(outcomes)
        if outcomes.facts:
            oldest_at = min(fact[_RECEIVED] for fact in outcomes.facts)
            metrics.STORED_SECONDS.observe(time.time() - oldest_at / 1000)
    metrics.ACCEPTED.inc(messages)
    metrics.EPOCH_ROWS.observe(facts)
    metrics.EPOCH_SECONDS.observe(seconds)
    metrics.LAST_EPOCH.set_to_current_time()


def observe_results(results: Iterable[Document]) -> None:
    """Count commands by what they are answered, once they are folded."""
    for result in results:
        metrics.COMMANDS.labels(result["outcome"]).inc()


def _count(outcomes: Outcomes) -> None:
    # A counter only grows, so it counts what was charged and leaves refunds out.
    metrics.CREDITS.inc(sum(fact[_CREDITS] for fact in outcomes.facts if fact[_MESSAGES]) / 1_000_000)
    metrics.REROUTED.inc(len(outcomes.forwards))
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


def read_state(
    partitions: Mapping[int, OwnedPartition], end_offset: Callable[[int], int | None]
) -> dict[str, float]:
    """Give the figures of `metrics.STATE`; `end_offset` gives a partition's end in the log, where known."""
    owned = dict(partitions)
    folds = [each.fold for each in owned.values()]
    behind = {
        number: max((end_offset(number) or 0) - each.folded_offset - 1, 0) for number, each in owned.items()
    }
    oldest_at = min((owned[number].last_received_at for number, lag in behind.items() if lag), default=0)
    now = time.time() * 1000
    horizon_at = max((fold.identities.horizon_at for fold in folds), default=NEVER_AT)
    return {
        "partitions_owned": len(folds),
        "consumer_lag_offsets": sum(behind.values()),
        "consumer_lag_seconds": max(now - oldest_at, 0) / 1000 if oldest_at else 0,
        "uncommitted_offsets": sum(each.folded_offset - each.acknowledged_offset for each in owned.values()),
        "identities_held": sum(len(fold.identities) for fold in folds),
        "identities_held_bytes": sum(fold.identities.held_bytes for fold in folds),
        "identities_pending": sum(len(fold.identities.pending) for fold in folds),
        "identity_span_seconds": -1 if horizon_at == NEVER_AT else max(now - horizon_at, 0) / 1000,
        "accounts_held": sum(fold.accounts_held for fold in folds),
    }
