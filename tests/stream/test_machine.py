"""What a worker says of the memory it may take: the least of all limits that hold for it."""

import os
from pathlib import Path

import pytest

from pipeline.stream.machine import disk_bytes, memory_limit_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
NO_LIMIT_OF_VERSION_1 = str((1 << 63) - 4096)


def limit(directory: Path, own_groups: str, files: dict[str, str]) -> int:
    """The limit with these control groups; `own_groups` is what /proc/self/cgroup says."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"{content}\n")
    own = directory / "own"
    own.write_text(own_groups)
    return memory_limit_bytes(directory, own)


LIMITS = [
    ("0::/\n", {"memory.max": "1000000"}, 1_000_000),
    ("0::/\n", {"memory.max": "max"}, MACHINE),
    ("0::/a.slice/b.service\n", {"a.slice/memory.max": "2000000", "a.slice/b.service/memory.max": "max"}, 2_000_000),
    ("0::/a/b\n", {"a/memory.max": "2000000", "a/b/memory.max": "1000000"}, 1_000_000),
    ("0::/of/the/host\n", {"memory.max": "1000000"}, 1_000_000),
    ("3:cpu,memory:/a\n2:pids:/a\n", {"memory/a/memory.limit_in_bytes": "1000000"}, 1_000_000),
    ("3:memory:/of/the/host\n", {"memory/memory.limit_in_bytes": "1000000"}, 1_000_000),
    ("3:memory:/\n", {"memory/memory.limit_in_bytes": NO_LIMIT_OF_VERSION_1}, MACHINE),
    ("2:pids:/a\n", {"a/memory.max": "1000000"}, MACHINE),
    ("", {"memory.max": "1000000"}, MACHINE),
]  # fmt: skip


@pytest.mark.parametrize(("own_groups", "files", "expected"), LIMITS, ids=str)
def test_the_least_limit_of_its_groups_and_the_machine_holds(
    own_groups: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert limit(tmp_path, own_groups, files) == expected


def test_where_there_are_no_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path, tmp_path / "none") == MACHINE


def test_the_disk_of_a_directory_that_is_gone_is_left_out(tmp_path: Path) -> None:
    told = disk_bytes(tmp_path)
    assert 0 < told["state_disk_free_bytes"] <= told["state_disk_size_bytes"]
    assert disk_bytes(tmp_path / "gone") == {}
