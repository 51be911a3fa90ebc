"""What the machine gives a worker: room on the disk of its tables, and memory. For metrics.

Takes where to look; gives bytes. Never decides anything, and leaves out what cannot be found out: `disk.py` ends the
process where there is no room.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def disk_bytes(directory: Path) -> dict[str, float]:
    """Room for this user and size of the file system a directory is on, as `metrics.STATE` names them."""
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return {}
    return {"state_disk_free_bytes": usage.free, "state_disk_size_bytes": usage.total}


def memory_limit_bytes(groups: Path = _GROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """The least of the machine's memory and the limits of this process's control groups, of either version.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, "memory.max"; cgroup-v1/memory.rst. A version 1 group
    without a limit says a number far above any machine's memory.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(groups, own_groups)])


def _limits(groups: Path, own_groups: Path) -> Iterator[int]:
    """The limits of the groups this process is in and of all that they are in, as far as they can be seen."""
    try:
        lines = own_groups.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
        group = root / path.lstrip("/")
        # A container sees its own group as the root, wherever it is outside.
        for each in (group, *group.parents):
            if each.is_relative_to(root):
                # "max", or no such file.
                with suppress(OSError, ValueError):
                    yield int((each / name).read_text("ascii"))
