"""Everything on one machine: broker, ClickHouse, then the commands that use them, supervised.

Decides the order of start and stop, what is restarted after it died, and when. Takes a state
directory, commands and the environment; gives the addresses and the state of each process. Draws
nothing: a terminal view reads `.processes`.

Invariants: a process starts when everything before it is ready and stops before everything it
uses; whatever runs ends with this process, also by `kill -9`; a death is reported with its log.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import OwnedProcess, StartError
from pipeline.errors import MsgmeterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

KAFKA_PORT = 9092
CLICKHOUSE_PORT = 8123
_DATABASE = "default"

_WATCH_SECONDS = 0.2
_BACKOFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
# A process that ran this long before it died begins again with the shortest wait.
_STEADY_SECONDS = 60
_ONCE_SECONDS = 300


class State(enum.Enum):
    """What a process is doing; values are for people."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    DIED = "died"
    STOPPED = "stopped"
    EXTERNAL = "external"


@dataclass(frozen=True)
class Command:
    """A program of the stack, started after the servers, in the order given."""

    name: str
    arguments: Sequence[str]
    """Program and arguments; the program is searched on PATH."""
    once: bool = False
    """Awaited to its end, which must be exit code 0, before the next one starts."""
    ready: Callable[[], bool] | None = None
    """Whether it serves; None: as soon as it runs."""
    ready_seconds: float = 60


class ProcessState(NamedTuple):
    """What is to be shown of a process."""

    name: str
    state: State
    address: str
    """Where its clients find it, empty for those without."""
    pid: int | None
    exit_code: int | None
    """Of the last run that ended, negative for a signal."""
    restarts: int
    log_path: Path | None


class _Service(Protocol):
    """What the supervisor needs of a server or command."""

    @property
    def process(self) -> OwnedProcess | None: ...

    def start(self) -> object: ...

    def stop(self, deadline_seconds: float) -> None: ...


class _Program:
    """A `Command` as a service."""

    def __init__(self, command: Command, directory: Path, environment: Mapping[str, str]) -> None:
        self._command = command
        log_path = directory / f"{command.name}.log"
        self.process = OwnedProcess(command.name, command.arguments, log_path, environment)

    def start(self) -> None:
        command = self._command
        self.process.start()
        if command.once:
            _await_success(self.process)
        elif command.ready is not None:
            self.process.await_ready(command.ready, command.ready_seconds)

    def stop(self, deadline_seconds: float) -> None:
        self.process.stop(deadline_seconds)


class _Supervised:
    """A service with its history."""

    def __init__(self, name: str, service: _Service, *, once: bool = False) -> None:
        self.name = name
        self.service = service
        self.once = once
        self.state = State.WAITING
        self.restarts = 0
        self._failures = 0
        self._started_at = 0.0
        self._restart_at = 0.0

    def start(self) -> None:
        """Start and await it; StartError leaves it DIED."""
        self.state = State.STARTING
        self._started_at = time.monotonic()
        try:
            self.service.start()
        except BaseException:
            self.state = State.DIED
            raise
        self.state = State.DONE if self.once else State.RUNNING

    def died(self) -> bool:
        """Whether it ran and has ended; told once per death."""
        process = self.service.process
        if self.state is not State.RUNNING or process is None or process.running:
            return False
        self.postpone()
        return True

    def postpone(self) -> None:
        """Note a death; the next start is due after a wait that grows with each failure."""
        if time.monotonic() - self._started_at >= _STEADY_SECONDS:
            self._failures = 0
        self._restart_at = time.monotonic() + _BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS) - 1)]
        self._failures += 1
        self.state = State.DIED

    def restart_due(self) -> bool:
        """Whether it is dead and has waited long enough."""
        return self.state is State.DIED and not self.once and time.monotonic() >= self._restart_at

    def stop(self, deadline: float) -> None:
        """End it by `deadline` (monotonic seconds), by force after it."""
        self.service.stop(max(0.1, deadline - time.monotonic()))
        if self.state is not State.DONE:
            self.state = State.STOPPED

    def tail(self) -> str:
        """Give the end of its log."""
        return self.service.process.log_tail() if self.service.process else ""


class Stack:
    """Broker, ClickHouse and `commands` on one machine, data and logs under `directory`.

    `environment` is the one the commands get; where it names MSGMETER_KAFKA or
    MSGMETER_CLICKHOUSE, those running servers are used and none is started. `report` is told of
    deaths and restarts, from another thread.
    """

    def __init__(
        self,
        directory: Path,
        commands: Sequence[Command],
        *,
        environment: Mapping[str, str] | None = None,
        kafka_port: int = KAFKA_PORT,
        clickhouse_port: int = CLICKHOUSE_PORT,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self._commands = tuple(commands)
        self._environment = dict(os.environ if environment is None else environment)
        self._report = report or _to_stderr
        self.kafka = self._environment.get("MSGMETER_KAFKA", "")
        self.clickhouse = self._environment.get("MSGMETER_CLICKHOUSE", "")
        self._broker = None if self.kafka else EmbeddedBroker(self.directory / "kafka", kafka_port)
        self._engine = (
            None if self.clickhouse else EmbeddedClickHouse(self.directory / "clickhouse", clickhouse_port)
        )
        self._supervised: list[_Supervised] = []
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def processes(self) -> list[ProcessState]:
        """Give every process in the order of start; safe from any thread."""
        external = [
            ProcessState(name, State.EXTERNAL, address, None, None, 0, None)
            for name, address, own in (
                ("broker", self.kafka, self._broker),
                # Without the user's name and password, because it is shown.
                ("clickhouse", self.clickhouse.rpartition("@")[2], self._engine),
            )
            if own is None
        ]
        addresses = {"broker": self.kafka, "clickhouse": self.clickhouse}
        return external + [_shown(each, addresses.get(each.name, "")) for each in tuple(self._supervised)]

    def start(self) -> Self:
        """Start everything in order and return when the last is ready.

        Raises StartError or MissingPrerequisiteError; what had started is stopped by then.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            if self._broker is not None:
                self._start(_Supervised("broker", self._broker))
                self.kafka = self._broker.bootstrap_servers
            if self._engine is not None:
                self._start(_Supervised("clickhouse", self._engine))
                self.clickhouse = f"{self._engine.url}/{_DATABASE}"
            servers = {"MSGMETER_KAFKA": self.kafka, "MSGMETER_CLICKHOUSE": self.clickhouse}
            environment = {**self._environment, **servers}
            for command in self._commands:
                program = _Program(command, self.directory, environment)
                self._start(_Supervised(command.name, program, once=command.once))
        except BaseException:
            self.stop()
            raise
        self._watcher = threading.Thread(target=self._watch, name="stack-watcher", daemon=True)
        self._watcher.start()
        return self

    def _start(self, supervised: _Supervised) -> None:
        self._supervised.append(supervised)
        supervised.start()

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_SECONDS):
            for each in self._supervised:
                if each.died():
                    code = each.service.process.exit_code if each.service.process else None
                    self._report(f"{each.name} died with exit code {code}; its log ends:\n{each.tail()}")
                if each.restart_due() and not self._stopping.is_set():
                    self._restart(each)

    def _restart(self, supervised: _Supervised) -> None:
        supervised.restarts += 1
        try:
            supervised.start()
        except MsgmeterError as failure:
            supervised.postpone()
            self._report(f"{supervised.name} could not be restarted: {failure}")
        else:
            self._report(f"{supervised.name} runs again")

    def stop(self, deadline_seconds: float = 30) -> None:
        """Stop everything in reverse order within the deadline, by force where it passes."""
        self._stopping.set()
        deadline = time.monotonic() + deadline_seconds
        if self._watcher is not None:
            # A restart in progress would start what has just been stopped.
            self._watcher.join(deadline_seconds / 2)
        for each in reversed(self._supervised):
            each.stop(deadline)

    def run(self) -> None:
        """Start, wait for SIGINT or SIGTERM, stop. Only in the main thread."""
        with interrupted_by_sigterm(), contextlib.suppress(KeyboardInterrupt), self:
            threading.Event().wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does, so that both stop the stack in order."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _await_success(process: OwnedProcess) -> None:
    if process.wait(_ONCE_SECONDS) is None:
        process.kill()
    if process.exit_code != 0:
        raise StartError(f"{process.name} ended with code {process.exit_code}\n{process.log_tail()}")


def _shown(supervised: _Supervised, address: str) -> ProcessState:
    process = supervised.service.process
    return ProcessState(
        name=supervised.name,
        state=supervised.state,
        address=address,
        pid=process.pid if process and process.running else None,
        exit_code=process.exit_code if process else None,
        restarts=supervised.restarts,
        log_path=process.log_path if process else None,
    )


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
