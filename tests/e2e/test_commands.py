# ruff: noqa: T201 - measured latencies are shown when a test fails, or with -s.
"""Account commands through the command line, the log and a worker that meters traffic meanwhile."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from statistics import median
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, TopicPartition

from pipeline.cli import main
from pipeline.settings import Settings
from pipeline.topics import ACCOUNT_RESULTS, MESSAGES_RAW
from pipeline.traffic import Traffic
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now

Command = Callable[..., tuple[int, dict[str, Any]]]


def command_line(system: System) -> Command:
    """`msgmeter` in this deployment; gives the exit code and what it printed as JSON."""
    environment = {
        f"MSGMETER_{each.name.upper()}": str(getattr(system.settings, each.name)) for each in fields(Settings)
    }

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(main, [*arguments, "--json", "--wait-seconds", "100"], env=environment)
        assert result.exit_code in (0, 1), result.output + result.stderr
        return result.exit_code, json.loads(result.stdout)

    return run


@pytest.mark.timeout(300)
def test_a_command_signed_with_another_key_is_told_why_it_is_refused(make_system: MakeSystem):
    system = make_system()
    system.worker().start().await_ready()
    other = replace(system.settings, command_key="another key of sixteen")
    environment = {
        f"MSGMETER_{each.name.upper()}": str(getattr(other, each.name)) for each in fields(Settings)
    }
    result = CliRunner().invoke(main, ["account", "grant", "acme", "5", "--wait-seconds", "100"], env=environment)
    assert result.exit_code == 1, result.output
    assert "refused: signature_wrong: The signature does not fit the key and the value." in result.output


def appended_at(kafka: str, topic: str) -> dict[tuple[int, int], tuple[int, bytes]]:
    """When the broker appended each record of a topic, with its value, by (partition, offset)."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "times", "log_level": 2})
    times = {}
    for partition in consumer.list_topics(topic, 30).topics[topic].partitions:
        place = TopicPartition(topic, partition, 0)
        _, end = consumer.get_watermark_offsets(place, 30)
        consumer.assign([place])
        for _ in range(end):
            record = consumer.poll(30)
            assert record is not None
            assert record.error() is None
            times[partition, record.offset()] = (record.timestamp()[1], record.value())
    consumer.close()
    return times


@pytest.mark.timeout(300)
def test_commands_are_answered_once_and_for_all_while_messages_flow(make_system: MakeSystem):
    # A checkpoint far longer than the wait: answers do not wait for it.
    system = make_system(epoch_milliseconds=1_000, checkpoint_milliseconds=30_000)
    run = command_line(system)
    log = log_now(Traffic(start_at=0, seed=6, messages=8_000, tenants=100))
    worker = system.worker().start()
    worker.await_ready()
    gateway = system.gateway(log, records_per_second=1_000)

    code, plan = run("account", "plan", "set", "acme", "--preset", "starter", "--id", "plan-1")
    assert (code, plan["outcome"], plan["command_id"]) == (0, "accepted", "plan-1")
    code, granted = run("account", "grant", "acme", "100", "--id", "grant-1", "--effective-at", "2026-01-01T00:00:00Z")
    assert (code, granted["outcome"]) == (0, "accepted")
    assert float(granted["balance"]) == float(plan["balance"]) + 100

    code, again = run("account", "grant", "acme", "100", "--id", "grant-1", "--effective-at", "2026-01-01T00:00:00Z")
    assert (code, {**again, "offset": 0}) == (0, {**granted, "offset": 0})
    code, other = run("account", "grant", "acme", "200", "--id", "grant-1", "--effective-at", "2026-01-01T00:00:00Z")
    assert (code, other["reason"]) == (1, "command_conflict")
    code, ticked = run("account", "tick", "acme")
    assert (code, ticked["outcome"], ticked["balance"]) == (0, "accepted", granted["balance"])
    gateway.join()

    sent = appended_at(system.settings.kafka, MESSAGES_RAW)
    answered = appended_at(system.settings.kafka, ACCOUNT_RESULTS).values()
    latencies = sorted(
        at - sent[result["partition"], result["offset"]][0]
        for at, result in ((at, orjson.loads(value)) for at, value in answered)
        if result["tenant"] == "acme"
    )
    assert len(latencies) == 5
    print(f"command appended to result appended: median {median(latencies)} ms, all {latencies}")
    assert worker.stop() == 0
    assert system.uncommitted() == 0
    assert system.rows(
        "SELECT grant_id, amount_micros FROM ledger_entries FINAL WHERE tenant = 'acme' AND cause = 'grant-1'"
    ) == [("purchase:grant-1", 100_000_000)]
