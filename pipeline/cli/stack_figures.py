"""What `msgmeter up` serves of the processes it started, for its own /metrics.

Takes their states and the directory of data and logs; gives figures by the names of `pipeline.metrics.stack`. Never
changes anything. Servers that ran before, and what has done its work and ended, are not among them.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pipeline.embedded.stack import ProcessState, State
from pipeline.metrics.registry import Values

_PROC = Path("/proc")


def stack_figures(processes: Iterable[ProcessState], directory: Path) -> Values:
    """Figures of the processes at this moment; resident memory only where the system tells it (Linux)."""
    ours = [each for each in processes if each.state not in (State.EXTERNAL, State.DONE)]
    resident: dict[str, float] = {}
    for each in ours:
        if each.pid is not None:
            with suppress(OSError):  # It has ended since, or this is no Linux.
                resident[each.name] = resident_bytes(each.pid)
    figures: dict[str, float | dict[str, float]] = {
        "stack_process_up": {each.name: float(each.pid is not None) for each in ours},
        "stack_process_restarts": {each.name: float(each.restarts) for each in ours},
        "stack_process_resident_bytes": resident,
    }
    with suppress(OSError):
        figures["stack_disk_free_bytes"] = shutil.disk_usage(directory).free
    return figures


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; raises OSError where it has ended. Source: proc_pid_statm(5)."""
    pages = (_PROC / str(pid) / "statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
