"""A worker as production runs it: a process of its own, which a test may kill, pause, stop and look at.

Takes an environment; gives metrics, memory and the log. Every wait is for a condition, and ends with the log's
tail when the worker has died or the deadline has passed.
"""

import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.embedded.owned import OwnedProcess

_POLL_SECONDS = 0.1
# In JSON a quotation mark follows.
_METRICS_ADDRESS = re.compile(r'metrics on (http://[^\s"]+)')
_READY = "worker ready:"
_ASSIGNED = re.compile(rf"{_READY} (\d+) partitions")


class WorkerProcess:
    """`python -m pipeline worker`; started, killed and started again under the same name and directory.

    `module` is run in its place, and `prefix` goes before the command, such as `ip netns exec`. Another long-running
    command may be named instead of `worker`; of what is asked here, that which tells of partitions says nothing then.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        environment: Mapping[str, str],
        *,
        module: str = "pipeline",
        prefix: Sequence[str] = (),
        command: Sequence[str] = ("worker",),
    ) -> None:
        self.name = name
        command = [*prefix, sys.executable, "-m", module, *command]
        self._process = OwnedProcess(name, command, directory / f"{name}.log", environment)
        self._life_begins = 0

    def start(self) -> "WorkerProcess":
        """Starts it; returns at once."""
        log = self._process.log_path
        self._life_begins = log.stat().st_size if log.exists() else 0
        self._process.start()
        return self

    def kill(self) -> None:
        """`kill -9`; returns when it is gone."""
        self._process.kill()

    def stop(self, deadline_seconds: float = 60) -> int:
        """SIGTERM; gives the exit code, and fails where it does not end by itself."""
        self.tell_to_stop()
        code = self._process.wait(deadline_seconds)
        assert code is not None, f"{self.name} did not stop in {deadline_seconds} s\n{self.log_tail()}"
        return code

    def tell_to_stop(self) -> None:
        """SIGTERM; returns at once."""
        self._signal(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: the process stands still, as on a frozen machine."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def wait(self, deadline_seconds: float = 60) -> int | None:
        """The exit code once it has ended; none when it still runs at the deadline."""
        return self._process.wait(deadline_seconds)

    @property
    def pid(self) -> int:
        """Of the present or last life."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still, as after SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].startswith("T")

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process.running

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal."""
        return self._process.exit_code

    def log(self) -> str:
        """What the present life has logged."""
        path = self._process.log_path
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(self._life_begins)
            return log.read().decode("utf-8", "replace")

    def log_tail(self) -> str:
        """The end of the log, for people."""
        return self._process.log_tail()

    def metrics_url(self) -> str:
        """Where /metrics is served; empty before it is."""
        found = _METRICS_ADDRESS.search(self.log())
        return found[1] if found else ""

    def metrics_text(self) -> str:
        """What /metrics says; nothing before it is served."""
        url = self.metrics_url()
        if not url:
            return ""
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def metrics(self) -> dict[str, float]:
        """All metrics by their full names with labels; nothing before they are served."""
        lines = self.metrics_text().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def metric(self, name: str) -> float:
        """One metric without labels; 0 where there is none yet."""
        return self.metrics().get(f"msgmeter_{name}", 0.0)

    def command_line(self) -> str:
        """What everybody on the machine sees of it."""
        return Path(f"/proc/{self._process.pid}/cmdline").read_text()

    def memory_bytes(self) -> int:
        """Resident memory."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def rebalances(self) -> int:
        """How often partitions were assigned to the present life."""
        return self.log().count(_READY)

    def assigned(self) -> int:
        """Partitions it was given at the last rebalance of the present life, and has recovered."""
        return int((_ASSIGNED.findall(self.log()) or ["0"])[-1])

    def await_ready(self, deadline_seconds: float = 120) -> None:
        """Returns when partitions were assigned and tables are recovered."""
        self.await_condition(lambda: self.rebalances() > 0, "was ready", deadline_seconds)

    def await_work(self, deadline_seconds: float = 120) -> None:
        """Returns when the present life has folded a first chunk."""
        self.await_condition(lambda: self.metric("partitions_taken_up") > 0, "took a chunk", deadline_seconds)

    def await_later(self, seconds: float) -> None:
        """Lets the worker work on, so that a kill meets it at a random moment; fails when it dies by itself."""
        time.sleep(seconds)
        assert self.is_running, f"{self.name} ended with {self.exit_code}\n{self.log_tail()}"

    def await_condition(self, holds: Callable[[], object], what: str, deadline_seconds: float = 120) -> None:
        """Returns when `holds()`; fails when the worker has died or the deadline has passed."""
        deadline = time.monotonic() + deadline_seconds
        while not holds():
            assert self.is_running, (
                f"{self.name} ended with {self.exit_code} before it {what}\n{self.log_tail()}"
            )
            assert time.monotonic() < deadline, (
                f"{self.name}: not {what} in {deadline_seconds} s\n{self.log_tail()}"
            )
            time.sleep(_POLL_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
