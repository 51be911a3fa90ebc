"""Everything that can die: brokers, ClickHouse, the network before it, and workers, with who starts them again.

Takes a directory; gives `System`'s deployment on three brokers of its own. Workers are supervised as an operator
would have it: one that has ended is started again, whatever ended it, and its exit code is remembered.
"""

import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.cluster import EmbeddedCluster
from pipeline.settings import Settings
from tests.e2e.system import System
from tests.e2e.worker_process import WorkerProcess
from tests.faults.proxy import FaultProxy

SESSION_SECONDS = 6
_START_SECONDS = 180
"""A node answers only once there is a majority, and everything here shares its cores."""
_SETTINGS = {
    "partitions": 8,
    "replication": 3,
    "session_seconds": SESSION_SECONDS,
    "epoch_rows": 2_000,
    "epoch_milliseconds": 250,
    "checkpoint_rows": 6_000,
    "checkpoint_milliseconds": 1_500,
    "application": "chaos",
    "command_key": "signs commands of tests",
    "counterparty_key": "hashes counterparties of tests",
}
"""Epochs and checkpoints so small that a kill often falls between two effects of one."""

_LEADERS_MOVE_BACK = {
    "leader.imbalance.check.interval.seconds": "5",
    "leader.imbalance.per.broker.percentage": "0",
}
"""So that each kill of a broker moves the leaders of its partitions twice: away, and back while all is well."""

_ADDRESS = re.compile(r"127\.0\.0\.1:\d+(/bootstrap)?(,127\.0\.0\.1:\d+)*")


@dataclass
class Supervised:
    """A worker that is started again whenever it has ended, unless it is not wanted."""

    process: WorkerProcess
    wanted: bool = False
    is_paused: bool = False
    start_at: float = 0.0
    """Of the monotonic clock: not started before."""
    was_running: bool = False
    was_told: bool = False
    """To stop, in this life."""


class Deployment:
    """The processes of one run."""

    def __init__(
        self,
        directory: Path,
        cluster: EmbeddedCluster,
        clickhouse: EmbeddedClickHouse,
        proxy: FaultProxy,
        changes: Mapping[str, Any],
    ) -> None:
        self.cluster = cluster
        self.clickhouse = clickhouse
        self.proxy = proxy
        settings = Settings(
            kafka=cluster.bootstrap_servers, clickhouse=f"{proxy.url}/default", **{**_SETTINGS, **changes}
        )
        self.system = System(settings, directory)
        self.system.migrate()
        self.direct_url = f"{clickhouse.url}/default"
        """Round the proxy, for whoever judges."""
        self.workers = [
            Supervised(self.system.worker(f"worker-{number}", store=store))
            for number, store in enumerate(("memory", "rocksdb", "memory", "rocksdb"), 1)
        ]
        self.endings: Counter[str] = Counter()
        """How workers ended that nobody had told to."""
        self.peak_memory_bytes = 0
        self._starting = ThreadPoolExecutor(4, "starting")
        self._starts: list[Future[Any]] = []
        self._down: list[EmbeddedBroker | EmbeddedClickHouse] = []
        self._due: list[tuple[float, Callable[[], object]]] = []

    # What time brings.

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Does something after a while, during `pass_time`."""
        self._due.append((time.monotonic() + seconds, action))

    @property
    def servers_up(self) -> list[EmbeddedBroker | EmbeddedClickHouse]:
        """Brokers and ClickHouse, those that run and are not about to."""
        return [each for each in (*self.cluster.nodes, self.clickhouse) if each not in self._down]

    def kill_server(self, server: EmbeddedBroker | EmbeddedClickHouse, restart_seconds: float) -> None:
        """`kill -9`, and a start after a while, beside everything else; `settle` raises where that fails."""
        server.kill()
        self._down.append(server)
        self.later(restart_seconds, lambda: self._starts.append(self._starting.submit(self._restart, server)))

    def _restart(self, server: EmbeddedBroker | EmbeddedClickHouse) -> None:
        server.start(_START_SECONDS)
        self._down.remove(server)

    def pass_time(self, seconds: float) -> None:
        """Lets everything work, does what is due, and starts again what has ended."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for due in [due for due in self._due if due[0] <= now]:
                self._due.remove(due)
                due[1]()
            for worker in self.workers:
                self._supervise(worker, now)
            if now >= until:
                return
            time.sleep(min(0.1, until - now))

    def settle(self) -> None:
        """Everything is up again: servers, the network, frozen workers; raises what could not be started."""
        while self._due:
            self.pass_time(0.1)
        for start in self._starts:
            start.result(_START_SECONDS)
        self._starts.clear()
        self.proxy.back()

    def _supervise(self, worker: Supervised, now: float) -> None:
        process = worker.process
        if process.is_running:
            worker.was_running = True
            with contextlib.suppress(OSError):  # It has ended just now.
                self.peak_memory_bytes = max(self.peak_memory_bytes, process.memory_bytes())
        elif worker.was_running:
            if not worker.was_told:
                self.endings[_ending(process)] += 1
            worker.was_running = worker.was_told = False
        if worker.wanted and not process.is_running and now >= worker.start_at:
            process.start()

    # Workers.

    @property
    def wanted(self) -> list[Supervised]:
        """The workers there should be."""
        return [worker for worker in self.workers if worker.wanted]

    def scale(self, count: int) -> None:
        """Has so many workers from now on; those that leave are told to."""
        for number, worker in enumerate(self.workers):
            if worker.wanted and number >= count:
                self.tell_to_stop(worker)
            worker.wanted = number < count

    def tell_to_stop(self, worker: Supervised) -> None:
        """SIGTERM; a wanted one comes back."""
        if worker.process.is_running and not worker.is_paused:
            worker.process.tell_to_stop()
            worker.was_told = True

    def kill(self, worker: Supervised, restart_seconds: float) -> None:
        """`kill -9`, also of a frozen one."""
        worker.process.kill()
        worker.was_running = worker.was_told = worker.is_paused = False
        worker.start_at = time.monotonic() + restart_seconds

    def freeze(self, worker: Supervised, seconds: float) -> None:
        """SIGSTOP for so long; a worker that was killed meanwhile stays what it is."""
        worker.process.pause()
        worker.is_paused = True
        self.later(seconds, lambda: self._thaw(worker))

    def _thaw(self, worker: Supervised) -> None:
        if worker.is_paused:
            worker.process.resume()
            worker.is_paused = False

    def close(self) -> None:
        """Ends every worker."""
        self.system.close()
        self._starting.shutdown()


def _ending(process: WorkerProcess) -> str:
    """The exit code or the signal, and what was said of it."""
    code = process.exit_code or 0
    if code < 0:
        return signal.Signals(-code).name
    said = [
        line for line in process.log_tail().splitlines() if "CRITICAL" in line or line.startswith("msgmeter:")
    ]
    text = said[-1].rpartition("): ")[2] if said and code > 3 else "".join(said[-1:])
    return f"exit {code} {_ADDRESS.sub('a broker', text)[:160]}".rstrip()


@contextlib.contextmanager
def deployed(directory: Path, **changes: Any) -> Iterator[Deployment]:
    """A deployment of one's own, with changes of its settings; ends with the block."""
    with (
        EmbeddedCluster(directory / "kafka", configuration=_LEADERS_MOVE_BACK) as cluster,
        EmbeddedClickHouse(directory / "clickhouse") as clickhouse,
        FaultProxy(clickhouse.host, clickhouse.port) as proxy,
    ):
        deployment = Deployment(directory, cluster, clickhouse, proxy, changes)
        try:
            yield deployment
        finally:
            deployment.close()
            for node in cluster.nodes:
                node.kill()
            clickhouse.kill()
