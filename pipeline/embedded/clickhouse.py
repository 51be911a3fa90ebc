"""The ClickHouse front as a process of its owner: started, awaited, stopped, killed.

Takes a directory and a port; gives `.url` and `.port` once `/ping` answers. What was acknowledged
is there after `kill()` and `start()` in the same directory.
"""

from __future__ import annotations

import http.client
import socket
import sys
from typing import TYPE_CHECKING, Self

from pipeline.embedded.owned import LOOPBACK, OwnedProcess, require_free_port, start_on_port

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class EmbeddedClickHouse:
    """A ClickHouse engine with its HTTP interface, data in `directory`.

    `port` 0 takes a free one at the first start and keeps it over restarts of this object; `users`
    is a JSON file of passwords by user name, without it everybody is let in. `tls` is the server's
    certificate and key, and `client_ca` who certifies clients, where they must show certificates.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        host: str = LOOPBACK,
        memory_mebibytes: int = 1536,
        users: Path | None = None,
        tls: tuple[Path, Path] | None = None,
        client_ca: Path | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.host = host
        self.port = port
        self._memory_mebibytes = memory_mebibytes
        self._users = users
        self._tls = tls
        self._client_ca = client_ca
        self.process: OwnedProcess | None = None

    @property
    def url(self) -> str:
        """`http://host:port`, or https; valid once started."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def start(self, deadline_seconds: float = 60) -> Self:
        """Start the front and return when it answers; StartError with the log's tail."""
        try:
            self.port = start_on_port(
                self.port, lambda port: self._start_once(port, deadline_seconds), self.host
            )
        except BaseException:
            self.kill()
            raise
        return self

    def _start_once(self, port: int, deadline_seconds: float) -> None:
        require_free_port(port, "ClickHouse", "MSGMETER_CLICKHOUSE", self.host)
        command = [sys.executable, "-m", "pipeline.embedded.clickhouse_http"]
        command += ["--directory", str(self.directory), "--host", self.host, "--port", str(port)]
        command += ["--memory-mebibytes", str(self._memory_mebibytes)]
        command += ["--users", str(self._users)] if self._users else []
        if self._tls is not None:
            command += ["--certificate", str(self._tls[0]), "--key", str(self._tls[1])]
            command += ["--client-ca", str(self._client_ca)] if self._client_ca else []
        self.process = OwnedProcess("clickhouse", command, self.directory / "clickhouse.log")
        self.process.start()
        # With TLS it would ask for a certificate; it listens when it can serve.
        answers = _answers_ping if self._tls is None else _listens
        self.process.await_ready(lambda: answers(self.host, port), deadline_seconds)

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


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers_ping(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().read() == b"Ok.\n"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
