"""What ClickHouse says of itself: release, settings, tables, parts, disks and clock.

Takes a client; gives what `clickhouse` judges, as findings. Only selects. What this login may not see is skipped by
name; raises `Transient` where the server goes away meanwhile.
"""

import time
from collections.abc import Callable

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import ask
from pipeline.clickhouse.migrate import LEDGER, check_migrated
from pipeline.doctor.clickhouse import (
    Disk,
    ServerSetting,
    judge_disks,
    judge_parts,
    judge_readonly,
    judge_release,
    judge_settings,
    judge_speed,
    judge_windows,
)
from pipeline.doctor.clocks import judge_clock
from pipeline.doctor.findings import Finding, failure, ok, skipped
from pipeline.errors import MsgmeterError, Permanent

_SETTINGS = """
SELECT name, value, readonly FROM system.settings
WHERE name IN ('async_insert', 'insert_deduplicate', 'deduplicate_insert', 'readonly')
"""
_ENGINES = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
_PARTS = """
SELECT count() AS parts, table FROM system.parts WHERE active AND database = currentDatabase()
GROUP BY table, partition ORDER BY parts DESC LIMIT 1
"""
_THROWS_AT = "SELECT value FROM system.merge_tree_settings WHERE name = 'parts_to_throw_insert'"
_READONLY = (
    "SELECT table FROM system.replicas WHERE is_readonly AND database = currentDatabase() ORDER BY table"
)
_DISKS = "SELECT name, free_space, total_space FROM system.disks ORDER BY name"


def examine_clickhouse(client: Client) -> list[Finding]:
    """Every finding about a server that answers, in a fixed order."""
    checks: list[tuple[str, Callable[[Client], list[Finding]]]] = [
        ("server", lambda each: [judge_release(ask(each, "SELECT version()")[0][0])]),
        ("migrations", _migrations),
        ("settings", _settings),
        ("tables", _windows),
        ("parts", _parts),
        ("replicas", lambda each: judge_readonly([table for (table,) in ask(each, _READONLY)])),
        ("disks", lambda each: judge_disks([Disk(*row) for row in ask(each, _DISKS)])),
        ("clock", _clock),
    ]
    findings: list[Finding] = []
    for subject, check in checks:
        try:
            findings += check(client)
        except Permanent as error:
            findings.append(skipped(subject, f"this login may not look at it ({error})"))
    return findings


def _migrations(client: Client) -> list[Finding]:
    try:
        check_migrated(client)
    except Permanent:
        raise
    except MsgmeterError as error:
        found, _, remedy = str(error).partition(": run ")
        instead = "run the release that the database is of, here and everywhere"
        return [failure("migrations", found, f"run {remedy}" if remedy else instead)]
    return [ok("migrations", "the tables are those of this release")]


def _settings(client: Client) -> list[Finding]:
    found = ask(client, _SETTINGS)
    return judge_settings({name: ServerSetting(value, bool(fixed)) for name, value, fixed in found})


def _windows(client: Client) -> list[Finding]:
    # The record of migrations is written by token too, but one at a time: it remembers none.
    engines = {name: engine for name, engine in ask(client, _ENGINES) if name != LEDGER.name}
    return judge_windows(engines) if engines else [skipped("tables", "there are none yet")]


def _parts(client: Client) -> list[Finding]:
    [(throws_at,)] = ask(client, _THROWS_AT)
    most = ask(client, _PARTS)
    parts, table = most[0] if most else (0, "")
    return [judge_parts(parts, table, int(throws_at))]


def _clock(client: Client) -> list[Finding]:
    asked_at = time.time_ns() // 1_000_000
    [(said_at,)] = ask(client, "SELECT toUnixTimestamp64Milli(now64(3))")
    answered_at = time.time_ns() // 1_000_000
    clock = judge_clock("clock", "ClickHouse's clock", said_at, asked_at, answered_at)
    return [clock, judge_speed(answered_at - asked_at)]
