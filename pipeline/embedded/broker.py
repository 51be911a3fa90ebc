"""One Apache Kafka node (KRaft, broker and controller in one) for one machine and for the tests.

Decides the node's configuration and its JVM's. Takes a directory and a port; gives
`bootstrap_servers` once a metadata request was answered. Never creates topics: auto-creation is
off, `msgmeter migrate` creates them.

Invariants: what was acknowledged is there after `kill()` and `start()` in the same directory
(the node's own log recovery); the node ends with its owner; one node per directory.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.embedded.kafka_jars import java, kafka_jars
from pipeline.embedded.owned import (
    LOOPBACK,
    DirectoryLock,
    OwnedProcess,
    StartError,
    free_port,
    require_free_port,
    start_on_port,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_SILENT = logging.getLogger("pipeline.embedded.broker.silent")
_SILENT.disabled = True
_LOG4J = Path(__file__).with_name("log4j2.xml")
_MEBIBYTE = 1024 * 1024

# Worker, engine and broker share two cores: few threads, and small buffers for few partitions.
_CONFIGURATION = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    # received_at is the broker's append time; bounds on a client's own time would only refuse
    # records of topics that keep it (an hour ahead is the default bound).
    "log.message.timestamp.type": "LogAppendTime",
    "log.message.timestamp.before.max.ms": 2**63 - 1,
    "log.message.timestamp.after.max.ms": 2**63 - 1,
    "message.max.bytes": 4 * _MEBIBYTE,
    "replica.fetch.max.bytes": 4 * _MEBIBYTE,
    "socket.request.max.bytes": 100 * _MEBIBYTE,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 2,
    "log.cleaner.threads": 1,
    "log.cleaner.dedupe.buffer.size": 16 * _MEBIBYTE,
    "log.cleaner.io.buffer.size": 256 * 1024,
    # Index files are preallocated and mapped, two per partition: 2 MiB each covers a segment of
    # 256 MiB at one entry per 4 KiB, where the default reserves 10 MiB.
    "log.segment.bytes": 256 * _MEBIBYTE,
    "log.index.size.max.bytes": 2 * _MEBIBYTE,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 2,
    "offsets.topic.segment.bytes": 16 * _MEBIBYTE,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 2,
    "transaction.state.log.segment.bytes": 16 * _MEBIBYTE,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    # After `kill -9` the controller refuses the node until its old session has run out (9 s by
    # default); shorter still, a starved machine would fence a healthy node.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "group.initial.rebalance.delay.ms": 0,
    # Tests want a dead member noticed in a second; production brokers say 6 s.
    "group.min.session.timeout.ms": 1000,
}


class EmbeddedBroker:
    """A broker whose data lives in `directory`.

    `port` 0 takes a free one at the first start and keeps it over restarts of this object;
    `controller_port` 0 takes one at each start. `host` is the address it listens on and tells its clients.
    `configuration` goes over ours, in Kafka's own words; `listeners` in it leaves out the controller's,
    which is added, and keeps a plain one on `port`, where readiness is asked. `cluster_id` is what the
    nodes of one cluster share, random where empty. `cache` overrides where the jars are kept.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        host: str = LOOPBACK,
        controller_port: int = 0,
        configuration: Mapping[str, str] | None = None,
        cluster_id: str = "",
        heap_mebibytes: int = 512,
        cache: Path | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.host = host
        self.port = port
        self._controller_port = controller_port
        self._configuration = dict(configuration or {})
        self._cluster_id = cluster_id or random_cluster_id()
        self._heap_mebibytes = heap_mebibytes
        self._cache = cache
        self._lock: DirectoryLock | None = None
        self.process: OwnedProcess | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` for clients; valid once started."""
        return f"{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its process runs; it may not answer yet."""
        return self.process is not None and self.process.running

    def known_nodes(self) -> int:
        """Give how many brokers this node tells its clients of, itself among them; 0 without an answer."""
        return _brokers_seen(self.host, self.port)

    def start(self, deadline_seconds: float = 60) -> Self:
        """Start the node and return when it answers a metadata request.

        Raises MissingPrerequisiteError (no Java, no Maven) or StartError (directory or port taken,
        or the log's tail); nothing runs then.
        """
        classpath = f"{kafka_jars(self._cache)}/*"
        java_path = java()
        if self._lock is None:
            # Kafka locks its data too, but only after our files beside it were overwritten.
            self._lock = DirectoryLock(self.directory)
        try:
            self.port = start_on_port(
                self.port,
                lambda port: self._start_once(port, [java_path, "-cp", classpath], deadline_seconds),
                self.host,
            )
        except BaseException:
            self.kill()
            raise
        return self

    def _start_once(self, port: int, java: list[str], deadline_seconds: float) -> None:
        require_free_port(port, "the broker", "MSGMETER_KAFKA", self.host)
        self._write_configuration(port)
        jvm = [*java, *self._jvm_options()]
        if not (self.directory / "data" / "meta.properties").exists():
            self._format_storage(jvm)
        command = [*jvm, "kafka.Kafka", str(self.directory / "server.properties")]
        self.process = OwnedProcess("broker", command, self.directory / "broker.log")
        self.process.start()
        self.process.await_ready(lambda: _brokers_seen(self.host, port) > 0, deadline_seconds)

    def _write_configuration(self, port: int) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        controller = f"{self.host}:{self._controller_port or free_port(self.host)}"
        listeners = self._configuration.get("listeners", f"PLAINTEXT://{self.host}:{port}")
        lines = {
            **_CONFIGURATION,
            "advertised.listeners": listeners,
            "controller.quorum.voters": f"{_CONFIGURATION['node.id']}@{controller}",
            "log.dirs": self.directory / "data",
            **self._configuration,
            "listeners": f"{listeners},CONTROLLER://{controller}",
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        (self.directory / "server.properties").write_text(text, encoding="utf-8")

    def _jvm_options(self) -> list[str]:
        # The codecs' native libraries are unpacked into tmpdir and stay there after a kill.
        unpacked = self.directory / "tmp"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        return [
            f"-Xmx{self._heap_mebibytes}m",
            f"-Xms{self._heap_mebibytes // 2}m",
            # Measured on two shared cores, 300 000 records of 300 bytes: the serial collector holds
            # 235 MB where G1 holds 353; the first compiler alone halves the start (2.6 s of
            # processor time for 4.3) and takes 0.5 us a record, where the second one is still
            # compiling at 1.2 us after a million records.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            f"-Djava.io.tmpdir={unpacked}",
            f"-Dmsgmeter.log={self.directory / 'broker.log'}",
            f"-Dlog4j2.configurationFile={_LOG4J}",
        ]

    def _format_storage(self, jvm: list[str]) -> None:
        properties = str(self.directory / "server.properties")
        done = subprocess.run(  # noqa: S603 - our own command line
            [*jvm, "kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", properties],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ},
        )
        if done.returncode != 0:
            raise StartError(f"the broker's storage could not be formatted:\n{done.stdout}{done.stderr}")

    def stop(self, deadline_seconds: float = 20) -> None:
        """End the node in order (SIGTERM), by force at the deadline; no effect when not running."""
        if self.process is not None:
            self.process.stop(deadline_seconds)
        self._unlock()

    def kill(self) -> None:
        """`kill -9` the node, as a power cut of the process would."""
        if self.process is not None:
            self.process.kill()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def random_cluster_id() -> str:
    """Give a name for a new cluster, as Kafka writes them."""
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    # A leading dash would be read as an option.
    return cluster_id.replace("-", "m", 1) if cluster_id.startswith("-") else cluster_id


def _brokers_seen(host: str, port: int) -> int:
    try:
        # Asked first, because librdkafka logs every connection that is refused.
        socket.create_connection((host, port), timeout=1).close()
        admin = AdminClient({"bootstrap.servers": f"{host}:{port}"}, logger=_SILENT)
        return len(admin.list_topics(timeout=5).brokers)
    except (OSError, KafkaException):
        return 0
