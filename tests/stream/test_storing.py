"""Rows of accounts, entries and contacts, made of what the core gives."""

from typing import Any

import orjson

from pipeline.clickhouse.client import Table
from pipeline.clickhouse.snapshots import ACCOUNTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.contacts import contact_hash
from pipeline.core.outcomes import Outcomes
from pipeline.core.process import PartitionFold
from pipeline.stream.storing import (
    account_columns,
    contact_columns,
    entry_columns,
    snapshots,
    unstorable_refusal,
)
from tests.builders import DAY, HOUR, Log, instant, plan, rules


def rows(table: Table, columns: list[list[Any]]) -> list[dict[str, Any]]:
    assert len(columns) == len(table.columns)
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def folded(log: Log) -> tuple[list[dict[str, Any]], Outcomes]:
    """The snapshots of all accounts at the log's end, and what else was decided."""
    given = rules()
    fold = PartitionFold(0, given)
    fold.fold(fold.admit(log.records))
    fold.applied(log.records[-1].offset)
    outcomes = fold.take_outcomes()
    accounts = [(3, account, given.plan_at(account)) for account in fold.checkpoint().changed_accounts]
    return rows(ACCOUNTS, account_columns(accounts)), outcomes


def test_a_snapshot_shows_what_is_available_reserved_and_assigned() -> None:
    log = Log()
    log.set_plan(plan("1000"))
    log.command("set_organization", organization="ward")
    log.command("allocate", list="north", credits="100")
    log.command("reserve", credits="60", expires_at=log.now + DAY)
    log.messages(5)
    ((row,), _) = folded(log)
    assert (row["organization"], row["plan"], row["zone"]) == ("ward", "test", "UTC")
    assert row["balance_micros"] == 995_000_000
    assert row["available_micros"] == 935_000_000
    assert row["reserved_micros"] == 60_000_000
    assert row["unassigned_micros"] == 895_000_000
    assert orjson.loads(row["details"])["assigned_micros"] == 100_000_000
    assert (row["kafka_partition"], row["version"]) == (3, 8)


def test_a_fact_that_is_not_taken_is_refused_under_its_record_and_gateway() -> None:
    log = Log()
    log.set_plan()
    log.message("m1", source="gateway-tr")
    _, outcomes = folded(log)
    refusal = unstorable_refusal(outcomes.facts[0])
    assert (refusal["reason"], refusal["partition"], refusal["offset"]) == ("unstorable", 0, 1)
    assert (refusal["tenant"], refusal["source"], refusal["id"]) == ("acme", "gateway-tr", "m1")


def test_snapshots_show_the_checkpoint_whatever_is_folded_before_they_are_made() -> None:
    given = rules()
    fold = PartitionFold(0, given)
    log = Log()
    log.set_plan(plan("1000"))
    log.messages(5)
    fold.fold(fold.admit(log.records))
    fold.applied(5)
    changes = fold.checkpoint()
    log.messages(7)
    fold.fold(fold.admit(log.records[6:]))
    made = {table.name: rows(table, columns) for table, columns in snapshots([(0, changes)], given.plan_at)}
    assert [row["messages"] for row in made[USAGE.name]] == [5]
    assert [(row["entry_id"][:5], row["amount_micros"]) for row in made[ENTRIES.name]] == [
        ("usage", -5_000_000)
    ]
    assert [(row["used_micros"], row["version"]) for row in made[ACCOUNTS.name]] == [(5_000_000, 5)]


def test_the_balance_is_the_sum_of_entries_below_zero_too() -> None:
    log = Log()
    log.set_plan(plan("2", overage={"policy": "negative"}))
    log.messages(5)
    ((row,), _) = folded(log)
    assert (row["balance_micros"], row["uncovered_micros"], row["available_micros"]) == (
        -3_000_000,
        3_000_000,
        -3_000_000,
    )


def test_an_account_is_due_when_something_happens_first() -> None:
    log = Log()
    log.set_plan(plan("1000"))
    ((row,), _) = folded(log)
    assert row["due_at"] == row["period_end"] == instant("2026-03-01T00:00")
    log.command("reserve", credits="60", expires_at=log.now + HOUR)
    ((row,), _) = folded(log)
    assert row["due_at"] == log.now + HOUR


def test_a_plan_that_is_yet_to_come_is_waited_for_in_an_empty_period() -> None:
    log = Log()
    log.set_plan(effective_at=log.now + DAY)
    ((row,), _) = folded(log)
    assert (row["plan"], row["limit_micros"], row["due_at"]) == ("", 0, log.now + DAY)
    assert row["period_start"] == row["period_end"] == log.now


def test_credits_without_a_plan_are_an_account_and_are_never_due() -> None:
    log = Log()
    log.grant("5")
    ((row,), _) = folded(log)
    assert (row["balance_micros"], row["due_at"]) == (5_000_000, None)


def test_a_command_for_nobody_leaves_no_account() -> None:
    log = Log()
    log.command("reserve", credits="60", expires_at=log.now + HOUR)
    assert folded(log)[0] == []


def test_entries_carry_money_and_its_currency() -> None:
    log = Log()
    log.set_plan(plan("10"))
    log.grant("50", cost="4.5", currency="EUR")
    _, outcomes = folded(log)
    stored = rows(ENTRIES, entry_columns((0, tenant, entry) for tenant, entry in outcomes.entries))
    assert [(row["kind"], row["money_micros"], row["currency"]) for row in stored] == [
        ("allowance", 0, ""),
        ("purchase", 4_500_000, "EUR"),
    ]


def test_marks_are_stored_by_hash_with_the_offset_as_version() -> None:
    log = Log()
    log.set_plan()
    log.command("mark_contacts", contacts=["+14155550100", "ann@example.com"], state="inactive")
    _, outcomes = folded(log)
    expected = {
        "tenant": "acme",
        "state": "inactive",
        "effective_at": log.now,
        "kafka_partition": 0,
        "version": 1,
    }
    assert rows(CONTACTS, contact_columns(outcomes.contacts)) == [
        expected | {"contact_hash": contact_hash(b"hashes", address)}
        for address in ("+14155550100", "ann@example.com")
    ]
