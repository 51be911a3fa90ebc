"""Processes that cannot outlive the process that started them.

Decides how a child is started, watched, stopped and killed. Takes a command, an environment and
a log file; gives its process id, exit code and the tail of its log. Never restarts anything and
never interprets what the child does; `stack.py` does.

Invariants:
- the child runs in its own session, so Ctrl-C in a terminal reaches the owner only, who stops its
  children in order;
- when the owner dies, also by `kill -9`, the kernel kills the child (Linux; elsewhere the child
  is only stopped by an orderly exit of the owner).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipeline.errors import MsgmeterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# Runs in the child before the command replaces it. PR_SET_PDEATHSIG is 1 (source: prctl(2)); it
# survives execve. The parent is compared afterwards, because one that died before the call sends
# nothing. Python ignores SIGPIPE and execve keeps it ignored, so it is restored.
_TIE_TO_OWNER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        os._exit(125)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""

# The kernel watches the *thread* that forked, not the process. Everything is therefore forked
# from one thread that lives as long as the process does.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-spawner")

_POLL_SECONDS = 0.05
_TAIL_BYTES = 6_000
_PORT_ATTEMPTS = 3
LOOPBACK = "127.0.0.1"
# Ports below what Linux (32768) and macOS (49152) give to outgoing connections. A server that is down for
# a while would else find its port taken by some client, even by one that tried to reach it and reached
# itself.
_FREE_PORTS = range(15_000, 32_000)


class MissingPrerequisiteError(MsgmeterError):
    """The machine lacks a program; the text says which and how to install it."""


class StartError(MsgmeterError):
    """A process died or was not ready by its deadline; the text holds its log's tail."""


class OwnedProcess:
    """One child process.

    `command` is searched on PATH; `log_path` receives stdout and stderr, appended; `environment`
    is added to the owner's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log_path = log_path
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id of the last start, None before the first."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs or before the first start."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the command; returns before it is ready. Must not be running."""
        assert not self.running, f"{self.name} runs already"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self._process = _SPAWNER.submit(
                subprocess.Popen,
                [sys.executable, "-I", "-S", "-c", _TIE_TO_OWNER, str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            ).result()

    def await_ready(self, probe: Callable[[], bool], deadline_seconds: float) -> None:
        """Return once `probe()` is true; StartError when the child dies or the deadline passes."""
        deadline = time.monotonic() + deadline_seconds
        while not probe():
            if not self.running:
                raise StartError(f"{self.name} ended with code {self.exit_code}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} not ready in {deadline_seconds} s\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def wait(self, deadline_seconds: float) -> int | None:
        """Give its exit code once it has ended; None when it still runs at the deadline."""
        assert self._process is not None, f"{self.name} never ran"
        try:
            return self._process.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, deadline_seconds: float) -> int | None:
        """Ask it to end (SIGTERM), kill it at the deadline; gives the exit code."""
        if self._process is None:
            return None
        if self.running:
            self._process.terminate()
            if self.wait(deadline_seconds) is None:
                self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """`kill -9` it and whatever it started; returns when it is gone."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log_tail(self) -> str:
        """Give the last lines of the log since the last start, empty where there is none."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, log.tell() - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace").strip()


class DirectoryLock:
    """Holds a directory for this process, created where absent; StartError when another holds it.

    The kernel releases it with the process, so a killed one leaves nothing to clean up.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            owner = os.read(self._descriptor, 32).decode().strip()
            os.close(self._descriptor)
            raise StartError(f"process {owner} uses {directory} already") from taken
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


def require_free_port(port: int, service: str, setting: str, host: str = LOOPBACK) -> None:
    """Raise StartError when somebody listens on a port that was asked for.

    Without this the readiness probe would be answered by that other server.
    """
    with socket.socket() as listener:
        # A port whose last connections are only fading out is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as taken:
            raise StartError(
                f"port {port} for {service} is taken; stop what listens there, or set {setting} to use it"
            ) from taken


def start_on_port(port: int, start: Callable[[int], None], host: str = LOOPBACK) -> int:
    """Run `start(port)`, on a free port of `host` where `port` is 0; gives the port.

    A free port may be taken before the server binds it, so such a failure is tried again.
    """
    if port:
        start(port)
        return port
    attempts_left = _PORT_ATTEMPTS
    while True:
        attempts_left -= 1
        chosen = free_port(host)
        try:
            start(chosen)
        except StartError as failure:
            if attempts_left == 0 or "already in use" not in str(failure):
                raise
        else:
            return chosen


def free_port(host: str = LOOPBACK) -> int:
    """Give a TCP port that nobody used a moment ago; another process may still take it.

    OSError where `host` is no address of this machine.
    """
    while True:
        port = _FREE_PORTS.start + secrets.randbelow(len(_FREE_PORTS))
        with socket.socket() as listener:
            try:
                listener.bind((host, port))
            except OSError as refused:
                if refused.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
