"""The ClickHouse front as a process of its owner: started, awaited, stopped, killed.

Takes a directory and a port; gives `.url` and `.port` once `/ping` answers. What was acknowledged
is there after `kill()` and `start()` in the same directory.
"""

from __future__ import annotations

import http.client
import sys
from typing import TYPE_CHECKING, Self

from pipeline.embedded.owned import OwnedProcess, StartError, free_port, require_free_port

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_START_ATTEMPTS = 3


class EmbeddedClickHouse:
    """A ClickHouse engine with its HTTP interface, data in `directory`.

    `port` 0 takes a free one at the first start and keeps it over restarts of this object; `users`
    is a JSON file of passwords by user name, without it everybody is let in.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        memory_mebibytes: int = 1536,
        users: Path | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.host = "127.0.0.1"
        self.port = port
        self._port_is_ours_to_choose = port == 0
        self._memory_mebibytes = memory_mebibytes
        self._users = users
        self.process: OwnedProcess | None = None

    @property
    def url(self) -> str:
        """`http://host:port`; valid once started."""
        return f"http://{self.host}:{self.port}"

    def start(self, deadline_seconds: float = 60) -> Self:
        """Start the front and return when it answers; StartError with the log's tail."""
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self._port_is_ours_to_choose and (attempt > 1 or self.port == 0):
                self.port = free_port()
            require_free_port(self.port, "ClickHouse", "MSGMETER_CLICKHOUSE")
            self.process = OwnedProcess("clickhouse", self._command(), self.directory / "clickhouse.log")
            self.process.start()
            try:
                self.process.await_ready(self._answers, deadline_seconds)
            except StartError as failure:
                self.process.kill()
                # A port that was free a moment ago may be gone: only then another try can help.
                if attempt == _START_ATTEMPTS or "already in use" not in str(failure):
                    raise
            else:
                break
        return self

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "pipeline.embedded.clickhouse_http"]
        command += ["--directory", str(self.directory), "--host", self.host, "--port", str(self.port)]
        command += ["--memory-mebibytes", str(self._memory_mebibytes)]
        return command + (["--users", str(self._users)] if self._users else [])

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=1)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() == b"Ok.\n"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self, deadline_seconds: float = 20) -> None:
        """End it in order (SIGTERM), by force at the deadline; no effect when not running."""
        if self.process is not None:
            self.process.stop(deadline_seconds)

    def kill(self) -> None:
        """`kill -9` it."""
        if self.process is not None:
            self.process.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
