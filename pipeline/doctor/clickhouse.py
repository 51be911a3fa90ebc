"""What a ClickHouse server and database must be like for the promises to hold: judgements, and nothing else.

Takes what was read of the server's settings, tables, parts and disks (`clickhouse_reading`); gives findings. Pure:
nobody is asked here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.doctor.findings import Finding, failure, ok, warning

TESTED_RELEASE = (26, 9)
"""Of the engine that every test runs on."""
_LEAST_WINDOW = 1_000
"""Inserts of which a table remembers the tokens, as sql/ makes them."""
_LOW_PARTS, _GIBIBYTE = 0.8, 1 << 30
LOW_SHARE, FULL_SHARE = 0.10, 0.03
"""Of a disk that is free: below these it is filling up, and full."""
_SHOWN = 4
_SLOW_MILLISECONDS = 500
"""A server that is well needs some 3; the age of what is shown grows by several such answers per epoch."""
_WINDOW = re.compile(r"\b(?:non_)?replicated_deduplication_window = (\d+)")


class ServerSetting(NamedTuple):
    """A setting as this login has it."""

    value: str
    is_fixed: bool
    """The login may not change it."""


class Disk(NamedTuple):
    """One disk of a server."""

    name: str
    free_bytes: int
    size_bytes: int


def judge_release(version: str) -> Finding:
    """Judge the server's release, as `version()` tells it: "26.9.2.1"."""
    numbers = tuple(int(each) for each in re.findall(r"\d+", version)[:2])
    if numbers < TESTED_RELEASE:
        tested = ".".join(map(str, TESTED_RELEASE))
        return warning(
            "server", f"is ClickHouse {version}; this was tested with {tested}", f"use {tested} or later"
        )
    return ok("server", f"is ClickHouse {version}")


def judge_speed(milliseconds: int) -> Finding:
    """Judge how long the least of all questions took, there and back."""
    found = f"a question that needs nothing was answered in {milliseconds} ms"
    if milliseconds <= _SLOW_MILLISECONDS:
        return ok("speed", found)
    remedy = "look at system.processes and system.merges, its CPU and disk, and the network to it"
    return warning("speed", found, remedy)


def judge_settings(settings: Mapping[str, ServerSetting]) -> list[Finding]:
    """Judge the settings that inserts lean on; each insert asks for what it needs, where it may."""
    findings = []
    if settings.get("readonly", ServerSetting("0", False)).value != "0":
        findings.append(
            warning(
                "login",
                "may only read",
                "right for queries; workers and `msgmeter migrate` need another user",
            )
        )
    asynchronous = settings.get("async_insert", ServerSetting("0", False))
    if asynchronous.value != "0" and asynchronous.is_fixed and not findings:
        findings.append(
            failure(
                "async_insert",
                "is 1, and this login may not change it: rows would count as stored while they are only buffered",
                "take the constraint off, or set async_insert to 0 in the profile of this user",
            )
        )
    repeats = settings.get("insert_deduplicate", ServerSetting("1", False))
    newer = settings.get("deduplicate_insert", ServerSetting("enable", False))
    if repeats.value == "0" or newer.value == "disable":
        findings.append(
            warning(
                "insert_deduplicate",
                "is off: an insert that is repeated stores its rows twice, until a merge",
                "set insert_deduplicate to 1 in the profile of this user; queries say FINAL and stay right",
            )
        )
    return findings or [
        ok("settings", "an insert is stored when it is answered, and a repeated one stores nothing")
    ]


def judge_windows(engine_by_table: Mapping[str, str]) -> list[Finding]:
    """Judge how many inserts each table remembers; takes each table's engine as `system.tables` spells it in full."""
    short = [
        name
        for name, engine in sorted(engine_by_table.items())
        if int((_WINDOW.search(engine) or ["", "0"])[1]) < _LEAST_WINDOW
    ]
    if not short:
        return [ok("tables", "remember the last inserts, so a repeated one stores nothing")]
    return [
        warning(
            "tables",
            f"{', '.join(short)} remember fewer than {_LEAST_WINDOW} inserts: a repeated one may be there twice",
            "ALTER TABLE ... MODIFY SETTING non_replicated_deduplication_window = 1000"
            " (replicated_deduplication_window of replicated tables)",
        )
    ]


def judge_parts(most: int, table: str, throws_at: int) -> Finding:
    """Judge the parts of the table partition that has most of them; at `throws_at` inserts are refused."""
    found = f"{most} active parts at the most, in {table}; inserts are refused at {throws_at}"
    if most >= throws_at:
        return failure("parts", found, "look at system.merges and at the disk: merges do not keep up")
    if most >= throws_at * _LOW_PARTS:
        return warning("parts", found, "look at system.merges and at the disk: merges do not keep up")
    return ok("parts", found if most else "none yet")


def judge_readonly(tables: Sequence[str]) -> list[Finding]:
    """Judge replicated tables that take no insert at present."""
    if not tables:
        return []
    text = f"{', '.join(tables[:_SHOWN])} take no inserts, because their replica has lost Keeper"
    return [
        failure(
            "replicas", text, "look at Keeper (system.zookeeper, system.replicas): inserts wait until then"
        )
    ]


def judge_disks(disks: Sequence[Disk]) -> list[Finding]:
    """Judge the room on each disk."""
    return [
        judge_room(
            f"disk {disk.name}",
            disk.free_bytes,
            disk.size_bytes,
            "make room, or drop months of rated_messages that nobody needs: when it is full, nothing is stored",
        )
        for disk in disks
        if disk.size_bytes
    ]


def judge_room(subject: str, free_bytes: int, size_bytes: int, remedy: str) -> Finding:
    """Judge the free share of a disk, also of one of a worker."""
    share = free_bytes / size_bytes
    found = f"{free_bytes / _GIBIBYTE:,.1f} GiB of {size_bytes / _GIBIBYTE:,.1f} GiB are free"
    if share < FULL_SHARE:
        return failure(subject, found, remedy)
    return warning(subject, found, remedy) if share < LOW_SHARE else ok(subject, found)
