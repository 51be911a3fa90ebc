"""Records refused for want of a plan are taken up once there is one: each charged once, however often."""

import subprocess
import sys
from dataclasses import fields
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.cli import main
from pipeline.logfile import LogRecord
from pipeline.settings import Settings
from tests.e2e.agreement import read_documents
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System

OCCURRED_AT = "2025-10-09T12:00:00Z"
PLAN = {"name": "small", "zone": "UTC", "anchor_day": 1, "allowance_credits": "10", "rate_card": "standard"}


def message(tenant: str, identity: str, status: str = "sent", **changes: Any) -> LogRecord:
    document = {
        "id": identity, "tenant": tenant, "source": "gateway", "kind": "sms", "direction": "outbound",
        "status": status, "status_at": OCCURRED_AT, "occurred_at": OCCURRED_AT, "to": "+12025550123",
        "from": "12345", "body": "hello", **changes,
    }  # fmt: skip
    return LogRecord(tenant.encode(), orjson.dumps(document))


def plan_for(tenant: str) -> LogRecord:
    document = {
        "type": "set_plan", "id": f"plan of {tenant}", "tenant": tenant, "plan": PLAN,
        "effective_at": "2025-10-01T00:00:00Z",
    }  # fmt: skip
    return LogRecord(tenant.encode(), orjson.dumps(document), is_plain_command=True)


def environment_of(system: System) -> dict[str, str]:
    return {
        f"MSGMETER_{each.name.upper()}": str(getattr(system.settings, each.name)) for each in fields(Settings)
    }


def retry(system: System, *arguments: str) -> dict[str, int]:
    """Run `msgmeter retry` and give its counts."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "retry", "--json", *arguments],
        env=environment_of(system),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return orjson.loads(done.stdout)


def refusals(system: System) -> list[dict[str, Any]]:
    return read_documents(system.settings.kafka, "messages.refused")


def charged(system: System) -> list[tuple[Any, ...]]:
    return system.rows(
        "SELECT tenant, message_id, sum(credits_micros), max(toUnixTimestamp64Milli(received_at))"
        " FROM rated_messages FINAL GROUP BY ALL ORDER BY ALL"
    )


def used(system: System) -> list[tuple[Any, ...]]:
    return system.rows("SELECT tenant, used_micros FROM account_snapshots FINAL ORDER BY tenant")


def test_messages_refused_without_a_plan_are_charged_once_by_a_retry_after_it(
    make_system: MakeSystem,
) -> None:
    system = make_system(default_plan="")
    system.worker().start()
    system.send(
        [
            message("late", "m1"),
            message("late", "m1", "delivered"),
            message("late", "m2"),
            message("other", "m3"),
            LogRecord(b"late", b"not JSON"),
        ]
    )
    system.await_all_committed()
    first = [each for each in refusals(system) if each["reason"] == "plan_missing"]
    assert len(first) == 4
    assert all(each["retryable"] for each in first)

    # Too early: refused again, and the copies do not count as further records.
    assert retry(system) == {"refused": 4, "sent": 4, "gone": 0, "refused_by_broker": 0}
    system.await_all_committed()
    assert len(refusals(system)) == 4 + 1 + 4
    assert charged(system) == []

    system.send([plan_for("late")])
    assert retry(system, "--tenant", "late", "--dry-run")["sent"] == 0
    assert retry(system, "--tenant", "late") == {"refused": 3, "sent": 3, "gone": 0, "refused_by_broker": 0}
    system.await_all_committed()
    received = {each["id"]: each["received_at"] for each in reversed(first)}
    once = [("late", "m1", 1_000_000, received["m1"]), ("late", "m2", 1_000_000, received["m2"])]
    assert charged(system) == once
    assert used(system) == [("late", 2_000_000)]

    assert retry(system, "--tenant", "late")["sent"] == 3
    system.await_all_committed()
    assert charged(system) == once
    assert used(system) == [("late", 2_000_000)]


def test_records_far_apart_in_many_partitions_are_all_found(
    make_system: MakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make_system(default_plan="")
    system.worker().start()
    tenants = [f"tenant {number}" for number in range(6)]
    for identity in ("m1", "m2", "m3"):
        system.send([message(tenant, identity) for tenant in tenants])
        system.send([LogRecord(tenant.encode(), b"not JSON") for tenant in tenants for _ in range(10)])
    system.await_all_committed()
    # So few that each record is a stretch of its own.
    monkeypatch.setattr("pipeline.cli.retry._SEEK_RECORDS", 2)
    done = CliRunner().invoke(main, ["retry", "--json"], env=environment_of(system))
    assert orjson.loads(done.stdout) == {"refused": 18, "sent": 18, "gone": 0, "refused_by_broker": 0}


def test_only_retryable_reasons_can_be_retried(make_system: MakeSystem) -> None:
    system = make_system()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "retry", "--reason", "not_json"],
        env={"MSGMETER_KAFKA": system.settings.kafka},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 2
    assert "is not 'plan_missing'" in done.stderr


def test_a_record_that_retention_took_is_counted_and_the_rest_is_sent(make_system: MakeSystem) -> None:
    system = make_system(default_plan="")
    system.worker().start()
    system.send([message("late", "m1")])
    system.await_all_committed()
    [lost] = refusals(system)
    end = TopicPartition("messages.raw", lost["partition"], lost["offset"] + 1)
    admin = AdminClient({"bootstrap.servers": system.settings.kafka})
    admin.delete_records([end])[end].result(30)
    system.send([plan_for("late"), message("other", "m2")])
    system.await_all_committed()
    assert retry(system) == {"refused": 2, "sent": 1, "gone": 1, "refused_by_broker": 0}
