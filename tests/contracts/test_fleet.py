"""How the whole looks from outside: both sources, one of them away, and what is not shown when nobody knows it."""

import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_rows import columns_of
from cluster_clients import until
from confluent_kafka import Producer
from log_topics import PARTITIONS, ends

from pipeline import fleet
from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.eras import RecordedEra, record
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS
from pipeline.core.account_details import AccountDetails, PlanDetails, RechargeDetails, encode_details
from pipeline.core.eras import Era
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.eras import settings_in
from pipeline.errors import Permanent, Transient
from pipeline.fleet import Fleet, Watch
from pipeline.log_groups import LogGroup
from pipeline.metrics.registry import Values
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

HOUR = 3_600_000
EVERY_SECONDS = 0.1
OF_KAFKA = {"partitions", "group_members", "group_lag_offsets", "group_lag_seconds"}
OF_CLICKHOUSE = {
    "tenants", "tenants_over_level", "tenants_unalerted", "recharges_unanswered", "recharge_oldest_unanswered_seconds",
}  # fmt: skip


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    made = connect(f"{clickhouse.url}/{database}")
    apply_migrations(made)
    yield made
    made.close()


@pytest.fixture
def deployment(settings: Settings, client: Client, clickhouse: EmbeddedClickHouse, database: str) -> Settings:
    """A group that has committed everything, beside a database without accounts."""
    url = f"{clickhouse.url}/{database}"
    made = replace(settings, clickhouse=url, application=f"meter-{uuid.uuid4().hex[:8]}")
    LogGroup(made).commit(ends(made, MESSAGES_RAW))
    return made


def values_of(settings: Settings) -> Values:
    """What is known once both sources have been asked."""
    with Fleet(settings, EVERY_SECONDS) as watched:
        until(lambda: {"kafka_up", "clickhouse_up"} <= watched.values().keys())
        return watched.values()


def append(settings: Settings, partition: int) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka})
    producer.produce(MESSAGES_RAW, b"value", b"key", partition)
    assert producer.flush(30) == 0


def test_an_idle_deployment_has_everything_at_nought(deployment: Settings) -> None:
    values = dict(values_of(deployment))
    assert time.time() - values.pop("fleet_last_success_timestamp_seconds") < 60
    assert values == {
        "kafka_up": 1,
        "clickhouse_up": 1,
        "kafka_refuses": 0,
        "clickhouse_refuses": 0,
        "partitions": PARTITIONS,
        **dict.fromkeys(OF_KAFKA - {"partitions"} | OF_CLICKHOUSE, 0),
        "tenants_over_level": {"80": 0, "85": 0, "90": 0, "95": 0},
    }


def test_what_waits_who_is_near_the_limit_and_who_was_not_told_is_seen(
    deployment: Settings, client: Client
) -> None:
    now = time.time_ns() // 1_000_000
    span = {"period_start": now - HOUR, "period_end": now + HOUR}
    recharge = RechargeDetails(in_flight="recharge-1", asked_at=now - HOUR)
    levels = encode_details(AccountDetails(plan=PlanDetails(alert_levels=(80, 95)), alert_arming=1))
    rows = [
        {"tenant": "untold", "used_micros": 96, "limit_micros": 100, "details": levels, **span},
        {"tenant": "told", "used_micros": 95, "limit_micros": 100, "details": levels, **span},
        {"tenant": "waits", "details": encode_details(AccountDetails(recharge=recharge))},
    ]
    insert(client, ACCOUNTS, columns_of(ACCOUNTS, *rows), "accounts")
    insert(client, ALERTS, columns_of(ALERTS, {"tenant": "told", "level": 95, **span}), "alerts")
    append(deployment, 1)
    append(deployment, 6)
    values = values_of(deployment)
    assert {name: values[name] for name in OF_CLICKHOUSE - {"recharge_oldest_unanswered_seconds"}} == {
        "tenants": 3,
        "tenants_over_level": {"80": 2, "85": 2, "90": 2, "95": 2},
        "tenants_unalerted": 1,
        "recharges_unanswered": 1,
    }
    assert 3600 <= values["recharge_oldest_unanswered_seconds"] < 3700
    assert (values["group_lag_offsets"], values["group_members"]) == (2, 0)
    assert 0 < values["group_lag_seconds"] < 100


def test_the_group_is_that_of_the_present_era(deployment: Settings, client: Client) -> None:
    append(deployment, 2)
    assert values_of(deployment)["group_lag_offsets"] == 1
    record(client, RecordedEra(Era(1, (0,) * PARTITIONS), PARTITIONS, "ready"))
    LogGroup(settings_in(deployment, 1)).commit(ends(deployment, MESSAGES_RAW))
    assert values_of(deployment)["group_lag_offsets"] == 0


# One source is away.


def test_without_kafka_the_tenants_are_watched_all_the_same(deployment: Settings) -> None:
    values = values_of(replace(deployment, kafka="127.0.0.1:1"))
    assert (values["kafka_up"], values["clickhouse_up"], values["tenants"]) == (0, 1, 0)
    assert not OF_KAFKA & values.keys()
    assert "fleet_last_success_timestamp_seconds" not in values


def test_without_clickhouse_from_the_start_nobody_knows_which_group_it_is(
    deployment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_ERA_SECONDS", 0.1)
    values = values_of(replace(deployment, clickhouse="http://127.0.0.1:1/default"))
    assert values == {
        "kafka_up": 1,
        "clickhouse_up": 0,
        "kafka_refuses": 0,
        "clickhouse_refuses": 0,
        "partitions": PARTITIONS,
    }


def test_when_clickhouse_refuses_its_figures_go_and_the_group_is_watched_all_the_same(
    deployment: Settings, client: Client
) -> None:
    with Fleet(deployment, EVERY_SECONDS) as watched:
        until(lambda: watched.values().keys() >= OF_KAFKA | OF_CLICKHOUSE)
        client.command("DROP TABLE account_snapshots")
        until(lambda: watched.values()["clickhouse_refuses"] == 1)
        assert watched.values()["clickhouse_up"] == 1, "it answers"
        seen_at = watched.values()["fleet_last_success_timestamp_seconds"]
        append(deployment, 3)
        until(lambda: watched.values()["group_lag_offsets"] == 1)
        assert not OF_CLICKHOUSE & watched.values().keys()
        # What is shown is as old as its oldest part.
        assert watched.values()["fleet_last_success_timestamp_seconds"] == seen_at
        apply_account_snapshots(client)
        until(lambda: watched.values()["clickhouse_refuses"] == 0)
        assert watched.values().keys() >= OF_CLICKHOUSE


def apply_account_snapshots(client: Client) -> None:
    client.command("DROP TABLE schema_migrations")
    apply_migrations(client)


# What is no longer known is not shown.


def test_an_answer_that_does_not_come_again_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"tenants": 5}])

    def ask() -> Values:
        try:
            return next(answers)
        except StopIteration:
            raise Transient("away", retry_after_seconds=1) from None

    watch = Watch("a source", ask, EVERY_SECONDS)
    assert (watch.is_up, watch.values) == (None, None)
    watch.ask_once()
    success_at = watch.success_at
    assert (watch.is_up, watch.values) == (True, {"tenants": 5})
    # Its next answer takes too long.
    monkeypatch.setattr(fleet, "FORGOTTEN_SECONDS", -EVERY_SECONDS - 1)
    assert (watch.is_up, watch.values) == (False, None)
    monkeypatch.undo()
    assert watch.is_up
    watch.ask_once()
    assert (watch.is_up, watch.values, watch.success_at) == (False, None, success_at)


def test_a_fault_that_nobody_foresaw_is_told_once_and_asked_past(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Values | None] = [None, None, {"tenants": 5}]

    def ask() -> Values:
        answer = answers.pop(0)
        assert answer is not None, "not foreseen"
        return answer

    # Whatever another test made of the levels of logging.
    caplog.set_level(logging.INFO, "msgmeter.fleet")
    watch = Watch("a source", ask, EVERY_SECONDS)
    for is_up in (None, None, True):
        watch.ask_once()
        assert (watch.is_up, watch.refuses) == (is_up, False), "a fault of ours is none of the source's"
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO"]
    assert "not foreseen" in caplog.text


@pytest.mark.parametrize(
    ("error", "is_up", "refuses"),
    [
        (Transient("away", retry_after_seconds=1), False, False),
        (TimeoutError(), False, False),
        (Permanent("not permitted"), True, True),
    ],
)
def test_a_source_that_refuses_is_up(error: Exception, is_up: bool, refuses: bool) -> None:
    def ask() -> Values:
        raise error

    watch = Watch("a source", ask, EVERY_SECONDS)
    watch.ask_once()
    assert (watch.is_up, watch.refuses, watch.values) == (is_up, refuses, None)
