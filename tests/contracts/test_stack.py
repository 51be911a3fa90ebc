"""The stack starts in order, restarts what died, stops in reverse and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pipeline.embedded.owned import OwnedProcess, StartError, free_port
from pipeline.embedded.stack import Command, Stack, State

_RUNNING_SERVERS = {"MSGMETER_KAFKA": "127.0.0.1:1", "MSGMETER_CLICKHOUSE": "http://127.0.0.1:2/default"}


def _program(name, code, **options):
    return Command(name, [sys.executable, "-c", textwrap.dedent(code)], **options)


def _stack(tmp_path, *commands, report=None):
    environment = {**os.environ, **_RUNNING_SERVERS, "NOTES": str(tmp_path / "notes")}
    return Stack(tmp_path / "var", commands, environment=environment, report=report or (lambda _text: None))


def _await(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


_SLEEPS = "import time; time.sleep(600)"
# Notes its name at start and when it is asked to stop.
_NOTES = """
    import os, signal, sys
    def note(word):
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(word + "\\n")
    def stop(*_):
        note("stop {name}")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    note("start {name}")
    while True:
        signal.pause()
"""


def test_commands_start_in_order_and_stop_in_reverse(tmp_path):
    notes = tmp_path / "notes"

    def noting(name):
        def ready():
            return notes.exists() and f"start {name}" in notes.read_text()

        return _program(name, _NOTES.format(name=name), ready=ready)

    stack = _stack(tmp_path, noting("first"), noting("second"))
    with stack:
        assert [each.state for each in stack.processes] == [
            State.EXTERNAL,
            State.EXTERNAL,
            State.RUNNING,
            State.RUNNING,
        ]
    assert notes.read_text().splitlines() == ["start first", "start second", "stop second", "stop first"]
    assert [each.state for each in stack.processes[2:]] == [State.STOPPED, State.STOPPED]


def test_commands_are_told_where_the_servers_are(tmp_path):
    program = _program(
        "tells",
        "import os; print(os.environ['MSGMETER_KAFKA'], os.environ['MSGMETER_CLICKHOUSE'])",
        once=True,
    )
    with _stack(tmp_path, program) as stack:
        assert stack.processes[-1].state is State.DONE
        assert stack.processes[-1].log_path.read_text().split() == list(_RUNNING_SERVERS.values())


def test_a_failed_preparation_stops_what_had_started(tmp_path):
    stack = _stack(
        tmp_path,
        _program("serves", _SLEEPS),
        _program("prepares", "import sys; sys.exit('no such table')", once=True),
        _program("never", "open(__import__('os').environ['NOTES'], 'w')"),
    )
    with pytest.raises(StartError, match=r"(?s)prepares ended with code 1.*no such table"):
        stack.start()
    assert [each.state for each in stack.processes[2:]] == [State.STOPPED, State.STOPPED]
    assert [each.pid for each in stack.processes] == [None] * 4
    assert not (tmp_path / "notes").exists()


def test_a_failure_shows_the_log_of_its_own_run_only(tmp_path):
    for number in (1, 2):
        with pytest.raises(StartError) as failure:
            _stack(
                tmp_path, _program("prepares", f"import sys; sys.exit('fault {number}')", once=True)
            ).start()
    assert "fault 2" in str(failure.value)
    assert "fault 1" not in str(failure.value)


def test_a_dead_process_is_reported_with_its_log_and_restarted(tmp_path):
    reports = []
    runs_again = threading.Event()

    def report(text):
        reports.append(text)
        if "runs again" in text:
            runs_again.set()

    with _stack(
        tmp_path, _program("works", "print('last words', flush=True);" + _SLEEPS), report=report
    ) as stack:
        _await(lambda: "last words" in stack.processes[-1].log_path.read_text())
        os.kill(stack.processes[-1].pid, signal.SIGKILL)
        assert runs_again.wait(60)
        worker = stack.processes[-1]
        assert (worker.state, worker.restarts, _alive(worker.pid)) == (State.RUNNING, 1, True)
    assert reports[0].startswith("works died with exit code -9")
    assert "last words" in reports[0]


def test_a_process_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path):
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);" + _SLEEPS
    )
    stack = _stack(tmp_path, _program("deaf", code))
    stack.start()
    _await(lambda: "deaf" in stack.processes[-1].log_path.read_text())
    stack.stop(deadline_seconds=0.5)
    assert stack.processes[-1].exit_code == -signal.SIGKILL


def test_a_taken_port_is_refused_before_anything_answers_on_it(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stack = Stack(tmp_path, [], environment={}, kafka_port=port)
        with pytest.raises(StartError, match=f"port {port} for the broker is taken"):
            stack.start()


# Runs a stack with its own servers and tells the process ids.
_OWNER = """
    import sys
    from pathlib import Path
    from pipeline.embedded.stack import Command, Stack
    command = Command("worker", [sys.executable, "-c", "import time; time.sleep(600)"])
    stack = Stack(Path(sys.argv[1]), [command], kafka_port=int(sys.argv[2]), clickhouse_port=int(sys.argv[3]))
    original = stack.start
    def start():
        original()
        print(*[process.pid for process in stack.processes], flush=True)
        return stack
    stack.start = start
    stack.run()
"""


@pytest.fixture
def owner(tmp_path, servers):
    """A process that owns a stack, and the ids of the stack's processes."""
    environment = {
        name: value for name, value in os.environ.items() if name not in _RUNNING_SERVERS
    } | servers
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(_OWNER),
        str(tmp_path),
        str(free_port()),
        str(free_port()),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        pids = [int(pid) for pid in running.stdout.readline().split() if pid != "None"]
        yield running, pids
        running.kill()


@pytest.mark.parametrize(
    ("servers", "ending"),
    [({}, signal.SIGTERM), ({}, signal.SIGKILL), (_RUNNING_SERVERS, signal.SIGINT)],
)
def test_nothing_outlives_its_owner(owner, servers, ending):
    running, pids = owner
    assert len(pids) == (1 if servers else 3)
    assert all(_alive(pid) for pid in pids)
    running.send_signal(ending)
    assert running.wait(60) == (0 if ending != signal.SIGKILL else -signal.SIGKILL)
    _await(lambda: not any(_alive(pid) for pid in pids))


def test_the_owners_terminal_does_not_reach_its_processes(tmp_path):
    process = OwnedProcess("sleeps", [sys.executable, "-c", _SLEEPS], tmp_path / "log")
    process.start()
    assert os.getpgid(process.pid) != os.getpgid(0)
    process.kill()
    assert process.exit_code == -signal.SIGKILL


def test_a_free_port_is_none_that_outgoing_connections_are_given():
    assert all(port < 32_768 for port in (free_port() for _ in range(50)))
