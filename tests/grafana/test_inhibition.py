"""A known cause leaves out what follows from it, in a real Alertmanager: one page per cause, and none too few."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from tests.monitoring import CONFIGURATION, Alertmanager, Pager

_LABELS = {
    (rule["alert"], rule["labels"]["severity"]): rule["labels"]
    for group in yaml.safe_load((CONFIGURATION / "rules" / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
}
"""As the rules set them, by name and severity."""

WORKER_1 = {"job": "msgmeter-worker", "instance": "worker-1:9464"}
WORKER_2 = {"job": "msgmeter-worker", "instance": "worker-2:9464"}
SCHEDULER = {"job": "msgmeter-scheduler", "instance": "scheduler:9465"}


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    with Pager() as pager, Alertmanager(tmp_path_factory.mktemp("alertmanager"), pager.url) as running:
        yield running


def alert(name: str, severity: str = "critical", **of_series: str) -> dict[str, Any]:
    """An alert as the rules make it of a series with these labels."""
    return {"labels": {"alertname": f"Msgmeter{name}", **of_series, **_LABELS[f"Msgmeter{name}", severity]}}


@contextmanager
def firing(alertmanager: Alertmanager, *alerts: dict[str, Any]) -> Iterator[None]:
    """The alerts fire, and are over afterwards."""
    alertmanager.post(*alerts)
    yield
    # Alertmanager takes no end in the very moment of the beginning.
    began, ended = (datetime.now(UTC) - timedelta(seconds=age) for age in (20, 10))
    over = {"startsAt": began.isoformat(), "endsAt": ended.isoformat()}
    alertmanager.post(*(each | over for each in alerts))


CLICKHOUSE_AWAY = alert("ClickHouseAway", **SCHEDULER)
CLICKHOUSE_AWAY_OF_WORKER = alert("ClickHouseAway", **WORKER_1)
ACCESS_REFUSED = alert("AccessRefused", "warning", server="Kafka", **SCHEDULER)
KNOWN_OUTAGE = alert("KnownOutage", "info")
TARGET_DOWN = alert("TargetDown", "warning", **WORKER_1)
KAFKA_AWAY = alert("KafkaAway", **SCHEDULER)
OF_SERVERS = [
    alert("FreshnessBurningFast"),
    alert("FreshnessBurningSlow", "warning"),
    alert("LagGrowing", "warning"),
    alert("TenantsUnalerted"),
    alert("FleetFiguresStale", "warning", **SCHEDULER),
    alert("ReconcileStale", "warning"),
    alert("ReconcileAbsent", "warning"),
]
OF_EPOCHS = [alert("EpochNotClosing", **WORKER_1), alert("CheckpointNotClosing", **WORKER_1)]
SLOW = alert("ClickHouseSlow", "warning", table="rated_messages")
OF_WORKERS = [
    *(each for each in OF_SERVERS if each["labels"]["family"] in {"freshness", "lag", "tenants"}),
    *OF_EPOCHS,
]
LEFT_OUT = [
    *((CLICKHOUSE_AWAY, effect) for effect in OF_SERVERS),
    *((KAFKA_AWAY, effect) for effect in OF_SERVERS),
    *((CLICKHOUSE_AWAY_OF_WORKER, effect) for effect in [*OF_EPOCHS, SLOW, alert("FreshnessBurningFast")]),
    (ACCESS_REFUSED, alert("FleetFiguresStale", "warning", **SCHEDULER)),
    (KNOWN_OUTAGE, alert("LagGrowing", "warning")),
    (KNOWN_OUTAGE, alert("FreshnessBurningFast")),
    *((alert("WorkerAbsent"), effect) for effect in [*OF_WORKERS, alert("PartitionsUnowned")]),
    (alert("WorkerAbsent"), alert("TargetDown", "warning", **WORKER_1)),
    (alert("SchedulerAbsent"), alert("TargetDown", "warning", **SCHEDULER)),
    (alert("SchedulerAbsent"), alert("FreshnessBurningFast")),
    (alert("ReconcileAbsent", "warning"), alert("ReconcileStale", "warning")),
    (alert("FreshnessBurningFast"), alert("FreshnessBurningSlow", "warning")),
]
HEARD = [
    (CLICKHOUSE_AWAY, KAFKA_AWAY),
    (CLICKHOUSE_AWAY, alert("Drift", subject="facts")),
    (CLICKHOUSE_AWAY, alert("MessagesGoneUnread", **WORKER_1)),
    (CLICKHOUSE_AWAY, alert("PartitionsUnowned")),
    (CLICKHOUSE_AWAY, alert("Watchdog", "info")),
    (alert("WorkerAbsent"), CLICKHOUSE_AWAY),
    (alert("WorkerAbsent"), alert("TargetDown", "warning", **SCHEDULER)),
    (alert("SchedulerAbsent"), alert("EpochNotClosing", **WORKER_1)),
    *((source, effect) for source in (CLICKHOUSE_AWAY, KAFKA_AWAY) for effect in OF_EPOCHS),
    (KAFKA_AWAY, alert("PartitionsUnowned")),
    (ACCESS_REFUSED, alert("FreshnessBurningFast")),
    (ACCESS_REFUSED, OF_EPOCHS[0]),
    (CLICKHOUSE_AWAY_OF_WORKER, alert("EpochNotClosing", **WORKER_2)),
    (CLICKHOUSE_AWAY_OF_WORKER, alert("CheckpointNotClosing", **WORKER_2)),
    (KNOWN_OUTAGE, alert("FreshnessBurningSlow", "warning")),
    (KNOWN_OUTAGE, OF_EPOCHS[0]),
    (TARGET_DOWN, OF_EPOCHS[0]),
    (TARGET_DOWN, alert("PartitionsUnowned")),
    (alert("FreshnessBurningFast"), alert("LagGrowing", "warning")),
]


def _pair(each: dict[str, Any]) -> str:
    return each["labels"]["alertname"].removeprefix("Msgmeter")


@pytest.mark.parametrize(("cause", "effect"), LEFT_OUT, ids=_pair)
def test_what_follows_from_a_known_cause_is_left_out(
    alertmanager: Alertmanager, cause: dict[str, Any], effect: dict[str, Any]
) -> None:
    with firing(alertmanager, cause, effect):
        alertmanager.await_inhibited(effect["labels"])
        assert not alertmanager.inhibits(cause["labels"])


@pytest.mark.parametrize(("cause", "effect"), HEARD, ids=_pair)
def test_what_does_not_follow_from_it_is_heard(
    alertmanager: Alertmanager, cause: dict[str, Any], effect: dict[str, Any]
) -> None:
    known, follows = next((pair for pair in LEFT_OUT if pair[0] == cause), LEFT_OUT[0])
    with firing(alertmanager, cause, effect, known, follows):
        # By then Alertmanager has taken the cause into account.
        alertmanager.await_inhibited(follows["labels"])
        assert not alertmanager.inhibits(effect["labels"])
