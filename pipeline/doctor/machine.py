"""Whether this machine has room for a worker: its state directory, its disk and its memory.

Takes settings; gives findings. Looks at directories and creates none, so whether one can be written is what the system
says of its rights.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from pipeline.doctor.clickhouse import judge_room
from pipeline.doctor.findings import Finding, failure, ok, warning
from pipeline.settings import Settings
from pipeline.stream.machine import memory_limit_bytes

_MEBIBYTE = 1 << 20
_BASE_BYTES = 300 * _MEBIBYTE
"""A worker with nothing in it, its libraries and the chunks and epochs on their way."""
_IDENTITY_BYTES = {"memory": 150, "rocksdb": 60}
"""Of a charged identity: 45 in the index, and what of the tables stays in memory (benchmarks/results.md)."""
_PLENTY = 0.8


class FoundDirectory(NamedTuple):
    """The state directory, or where it would be made."""

    path: Path
    exists: bool
    nearest: Path
    """Itself, or the nearest of its parents that is there."""
    is_directory: bool
    is_writable: bool
    is_read_only: bool
    """The file system is mounted so."""
    files: int
    """Of partitions, as rocksdb keeps them."""
    damaged: int
    """Of them, files that a worker found damaged."""


def examine_machine(settings: Settings) -> list[Finding]:
    """What this machine has for a worker of these settings."""
    found = find_directory(settings.state_directory)
    room = shutil.disk_usage(found.nearest)
    remedy = "make room, or name another MSGMETER_STATE_DIRECTORY: a worker whose disk is full ends with 75"
    return [
        judge_directory(found, settings.store),
        judge_room("state disk", room.free, room.total, remedy),
        judge_memory(memory_limit_bytes(), settings.identity_limit, settings.store),
    ]


def find_directory(path: Path) -> FoundDirectory:
    """Look at a directory that may not be there yet."""
    nearest = next((each for each in (path, *path.absolute().parents) if each.exists()), Path("/"))
    files = sum(1 for _ in path.rglob("*.db")) if path.is_dir() else 0
    damaged = sum(1 for _ in path.rglob("*.damaged")) if path.is_dir() else 0
    return FoundDirectory(
        path,
        path.exists(),
        nearest,
        nearest.is_dir(),
        os.access(nearest, os.W_OK | os.X_OK),
        bool(os.statvfs(nearest).f_flag & os.ST_RDONLY),
        files,
        damaged,
    )


def judge_directory(found: FoundDirectory, store: str) -> Finding:
    """Judge whether a worker can keep its files there."""
    subject = "state directory"
    remedy = "name another MSGMETER_STATE_DIRECTORY, or let this user write there"
    if not found.is_directory:
        return failure(subject, f"{found.path} cannot be: {found.nearest} is a file", remedy)
    if found.is_read_only:
        return failure(subject, f"{found.nearest} is on a file system that is mounted read-only", remedy)
    if not found.is_writable:
        return failure(subject, f"this user may not write to {found.nearest}", remedy)
    if found.damaged:
        text = f"{found.path} has {found.damaged} files that were found damaged"
        return warning(subject, text, "start the worker again: it rebuilds them from their changelogs")
    if not found.exists:
        return ok(subject, f"{found.path} is not there yet, and a worker can make it")
    kept = f", {found.files} files of tables" if store == "rocksdb" else ""
    return ok(subject, f"{found.path} can be written{kept}")


def judge_memory(limit_bytes: int, identity_limit: int, store: str) -> Finding:
    """Judge whether as many identities fit as settings allow, in a worker that owns all partitions."""
    needed = _BASE_BYTES + identity_limit * _IDENTITY_BYTES[store]
    asked = f"{needed // _MEBIBYTE:,} MiB for {identity_limit:,} identities, besides accounts"
    found = (
        f"{limit_bytes // _MEBIBYTE:,} MiB may be used; a worker that owns every partition may need {asked}"
    )
    if needed <= limit_bytes * _PLENTY:
        return ok("memory", found)
    remedy = "more memory, more workers, a lower MSGMETER_IDENTITY_LIMIT"
    return warning("memory", found, f"{remedy}, or MSGMETER_STORE=rocksdb" if store == "memory" else remedy)
