"""What `msgmeter up` serves of its processes: those that run, those that died, and none that are not its own."""

import os
from pathlib import Path

from pipeline.cli.stack_figures import stack_figures
from pipeline.embedded.stack import ProcessState, State


def process(name: str, state: State, pid: int | None, restarts: int = 0) -> ProcessState:
    return ProcessState(name, state, "", pid, None, restarts, None)


def test_a_process_that_died_is_down_and_takes_no_memory(tmp_path: Path) -> None:
    processes = [
        process("worker", State.DIED, None, 2),
        process("gateway", State.RUNNING, os.getpid()),
        process("scheduler", State.STARTING, os.getpid()),
    ]
    figures = stack_figures(processes, tmp_path)
    assert figures["stack_process_up"] == {"worker": 0, "gateway": 1, "scheduler": 1}
    assert figures["stack_process_restarts"] == {"worker": 2, "gateway": 0, "scheduler": 0}
    resident = figures["stack_process_resident_bytes"]
    assert isinstance(resident, dict)
    assert set(resident) == {"gateway", "scheduler"}
    assert resident["gateway"] > 1_000_000


def test_servers_of_others_and_work_that_is_done_are_left_out(tmp_path: Path) -> None:
    processes = [process("clickhouse", State.EXTERNAL, None), process("migrate", State.DONE, None)]
    figures = stack_figures(processes, tmp_path)
    assert figures["stack_process_up"] == figures["stack_process_restarts"] == {}


def test_a_process_that_ends_while_it_is_looked_at_is_no_error(tmp_path: Path) -> None:
    # Larger than any process id can be.
    figures = stack_figures([process("worker", State.RUNNING, 1 << 22 | 1)], tmp_path / "gone")
    assert figures["stack_process_resident_bytes"] == {}
    assert "stack_disk_free_bytes" not in figures
