# ruff: noqa: T201 - measured latencies are shown when a test fails, or with -s.
"""Account commands through the command line, the log and a worker that meters traffic meanwhile."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, TopicPartition

from pipeline.cli import main
from pipeline.core.instructions import Command as AnyCommand
from pipeline.data import load_plan
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
    result = CliRunner().invoke(
        main, ["account", "grant", "acme", "5", "--wait-seconds", "100"], env=environment
    )
    assert result.exit_code == 1, result.output
    assert "refused: signature_wrong: The signature does not fit the key and the value." in result.output


def large_plan(path: Path) -> Path:
    """A plan that can be compiled, and is too large for an account to hold."""
    rates = [
        {"kind": "sms", "credits": "1", "per": "segment", "category": f"category-{number:04d}-{'x' * 40}"}
        for number in range(1_000)
    ]
    document = json.loads(msgspec.json.encode(load_plan("starter"))) | {"rates": rates}
    path.write_text(json.dumps(document))
    return path


ACCEPTED = ""
UNTIL = "2090-01-01T00:00:00Z"
STEPS: list[tuple[str, str]] = [
    # A tenant that nothing is known of yet, but that may pay first.
    ("allocate acme news 5", "tenant_unknown"),
    ("contacts mark acme active +14155550100", "tenant_unknown"),
    ("grant acme 100 --id paid-first", ACCEPTED),
    ("organization acme north", ACCEPTED),
    ("organization acme south --effective-at 1999-12-31T23:59:59Z", "date_too_early"),
    # 500 credits of allowance and 100 granted.
    ("plan set acme --file {plan}", "plan_invalid"),
    ("plan set acme --preset allowance_plus_purchased", ACCEPTED),
    ("grant acme 5 --expires-at 2025-01-01T00:00:00Z", "expiry_invalid"),
    ("purchase acme block-500 --catalogue blocks --id bought", ACCEPTED),
    ("void acme purchase:bought", ACCEPTED),
    ("void acme purchase:bought", "grant_unknown"),
    ("adjust acme -10", ACCEPTED),
    ("void acme allowance:1", "grant_unknown"),
    ("adjust acme -591", "credits_insufficient"),
    ("adjust acme 10", ACCEPTED),
    # Shares and reservations of 600 credits.
    ("allocate acme news 50", ACCEPTED),
    ("allocate acme offers 551", "credits_insufficient"),
    ("allocate acme news --free", ACCEPTED),
    ("reserve acme 601 --until {until}", "credits_insufficient"),
    ("reserve acme 5 --until 2025-01-01T00:00:00Z", "expiry_invalid"),
    ("reserve acme 40 --until {until} --campaign may --id held", ACCEPTED),
    ("commit acme held 41", "reservation_exceeded"),
    ("commit acme held 15", ACCEPTED),
    ("release acme held 5", ACCEPTED),
    ("release acme held 21", "reservation_exceeded"),
    ("release acme held", ACCEPTED),
    ("release acme held", "reservation_unknown"),
    ("contacts mark acme inactive +14155550100 +14155550101", ACCEPTED),
    ("authorise acme 100xUS --body {body}", "too_many_segments"),
    ("authorise acme 100xUS", ACCEPTED),
    # 585 credits: below 100 the plan asks for a block.
    ("recharge confirm acme recharge-1", "recharge_unknown"),
    ("adjust acme -500", ACCEPTED),
    ("recharge decline acme recharge-2", "recharge_unknown"),
    ("recharge confirm acme recharge-1", ACCEPTED),
    ("adjust acme -500", ACCEPTED),
    ("tick acme", ACCEPTED),
    ("tick acme --effective-at {until}", "date_in_future"),
    # Another tenant's request is declined.
    ("plan set bolt --preset allowance_plus_purchased", ACCEPTED),
    ("adjust bolt -450", ACCEPTED),
    ("recharge decline bolt recharge-1", ACCEPTED),
    ("recharge confirm bolt recharge-1", "recharge_unknown"),
]
"""What is typed after `msgmeter account`, and why it is refused."""


@pytest.mark.timeout(300)
def test_every_command_is_accepted_and_refused_for_its_reason(make_system: MakeSystem, tmp_path: Path):
    system = make_system()
    run = command_line(system)
    worker = system.worker().start()
    worker.await_ready()
    words = {"plan": large_plan(tmp_path / "plan.json"), "until": UNTIL, "body": "ş" * 20_000}
    outcomes: dict[str, set[bool]] = {}
    answers = []
    for step, reason in STEPS:
        code, answer = run("account", *step.format(**words).split())
        answers.append(answer)
        assert (answer["reason"] or "", code) == (reason, 1 if reason else 0), f"{step}: {answer}"
        command_type = answer.get("type", step.split()[0])
        outcomes.setdefault(command_type, set()).add(not reason)
    assert outcomes.pop("organization") == {False}, "refused unread, so that its type is not known"
    outcomes["set_organization"].add(False)
    assert {name for name, both in outcomes.items() if both != {True, False}} == set()
    assert outcomes.keys() == {each.__struct_config__.tag for each in AnyCommand.__args__}

    # 585 - 500 + 500 - 500, and 500 - 450.
    last = {answer["tenant"]: answer["balance"] for answer in answers if "balance" in answer}
    assert last == {"acme": "85", "bolt": "50"}
    assert worker.stop() == 0
    assert system.rows(
        "SELECT tenant, sum(amount_micros) FROM ledger_entries FINAL GROUP BY tenant ORDER BY tenant"
    ) == [("acme", 85_000_000), ("bolt", 50_000_000)]
    assert system.rows(
        "SELECT tenant, organization, balance_micros FROM account_snapshots FINAL ORDER BY tenant"
    ) == [("acme", "north", 85_000_000), ("bolt", "", 50_000_000)]
    assert system.rows(
        "SELECT count(), uniqExact(contact_hash) FROM contact_marks FINAL WHERE state = 'inactive'"
    ) == [(2, 2)]


@pytest.mark.timeout(300)
def test_a_campaign_is_authorised_reserved_and_shown_what_it_costs(make_system: MakeSystem):
    system = make_system()
    run = command_line(system)
    system.worker().start().await_ready()
    run("account", "plan", "set", "acme", "--preset", "kind_credits", "--allowance", "4500")
    code, answer = run("account", "authorise", "acme", "5000xUS", "--reserve-until", UNTIL, "--id", "may")
    assert code == 1
    assert answer["details"] == {
        "decision": "partial", "reason": "credits_insufficient", "requested": 5000, "allowed": 4500,
        "segments": None, "cost": "4500", "cost_requested": "5000", "remaining": "0",
        "alerts": [80, 85, 90, 95], "reservation": "may", "available": "0",
    }  # fmt: skip
    code, none = run("account", "authorise", "acme", "--to", "+14155550100", "--body", "x" * 161)
    assert code == 1
    assert none["details"].items() >= {"decision": "refuse", "segments": 2, "cost_requested": "2"}.items()
    assert run("account", "release", "acme", "may", "3")[1]["details"]["available"] == "3"
    code, cost = run("account", "authorise", "acme", "--to", "+14155550100", "--body", "x" * 161)
    assert code == 0
    assert cost["details"].items() >= {"decision": "allow", "cost": "2", "remaining": "1"}.items()


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
    code, granted = run(
        "account", "grant", "acme", "100", "--id", "grant-1", "--effective-at", "2026-01-01T00:00:00Z"
    )
    assert (code, granted["outcome"]) == (0, "accepted")
    assert float(granted["balance"]) == float(plan["balance"]) + 100

    code, again = run(
        "account", "grant", "acme", "100", "--id", "grant-1", "--effective-at", "2026-01-01T00:00:00Z"
    )
    assert (code, {**again, "offset": 0}) == (0, {**granted, "offset": 0})
    code, other = run(
        "account", "grant", "acme", "200", "--id", "grant-1", "--effective-at", "2026-01-01T00:00:00Z"
    )
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
