"""The servers of docker-compose.yml without Docker: Kafka as its image starts it, and the ClickHouse engine as a user.

Kafka's image runs `KafkaDockerWrapper`, which is in the jars: it copies the mounted server.properties, appends KAFKA_*
variables and formats the storage. So this is the file that Compose mounts, and only addresses and directories are
others. Of ClickHouse there is the engine behind our HTTP front, with users.d as Compose mounts it, for one user at a
time (clickhouse_users.py says why).
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from clickhouse_users import engine_configuration
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from declared import ROOT, SERVICES

from pipeline.embedded.kafka_jars import java, kafka_jars
from pipeline.embedded.owned import LOOPBACK, OwnedProcess, free_port

_FRONT = """
import sys
from pipeline.embedded import clickhouse_engine, clickhouse_http
users = f"<users_config>{sys.argv.pop(1)}</users_config>"
clickhouse_engine._ENGINE_CONFIGURATION = clickhouse_engine._ENGINE_CONFIGURATION.replace("</click", users + "</click")
clickhouse_http.main()
"""


class ComposeKafka:
    """The broker; `client`, `host` and `admin` are where its listeners are found."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ports = {name: free_port() for name in ("CLIENT", "HOST", "ADMIN", "CONTROLLER")}
        self.client, self.host, self.admin = (
            f"{LOOPBACK}:{ports[name]}" for name in ("CLIENT", "HOST", "ADMIN")
        )
        listeners = {name: f"{name}://{LOOPBACK}:{port}" for name, port in ports.items()}
        advertised = ",".join(each for name, each in listeners.items() if name != "CONTROLLER")
        self._environment = {
            **SERVICES["kafka"]["environment"],
            "KAFKA_LISTENERS": ",".join(listeners.values()),
            "KAFKA_ADVERTISED_LISTENERS": advertised,
            "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@{LOOPBACK}:{ports['CONTROLLER']}",
            "KAFKA_LOG_DIRS": str(directory / "data"),
        }

    def start(self) -> "ComposeKafka":
        """Start it as the image does; returns when it answers the request of the health check."""
        # A directory of the image's defaults and one that is empty, as the tmpfs is.
        defaults, final = self._directory / "defaults", self._directory / "final"
        for each in (defaults, final):
            each.mkdir(parents=True)
        jvm = [java(), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_jars()}/*"]
        mounted = ROOT / SERVICES["kafka"]["volumes"][0].split(":")[0]
        directories = ("-D", str(defaults), "-M", str(mounted), "-F", str(final))
        done = subprocess.run(
            [*jvm, "kafka.docker.KafkaDockerWrapper", "setup", *directories],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        command = [*jvm, "kafka.Kafka", str(final / "server.properties")]
        self._process = OwnedProcess("kafka", command, self._directory / "kafka.log")
        self._process.start()
        self._process.await_ready(self._answers, 60)
        return self

    def _answers(self) -> bool:
        host, _, port = self.admin.partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return bool(AdminClient({"bootstrap.servers": self.admin}).list_topics(timeout=5).brokers)
        except (OSError, KafkaException):
            return False

    def stop(self) -> None:
        """End it at once; nobody needs its data any more."""
        self._process.kill()


class ComposeClickHouse:
    """The engine, whose one user is `user` with its rights and its password out of the secrets."""

    def __init__(self, directory: Path, secrets: Path) -> None:
        self._directory = directory
        self._secrets = secrets
        self._process: OwnedProcess | None = None
        self.port = free_port()

    def start_as(self, user: str) -> None:
        """Start it, or start it again as another user."""
        self.stop()
        configuration = engine_configuration(self._directory / "users", user, self._secrets)
        passwords = self._directory / f"{user}.json"
        passwords.write_text(json.dumps({user: (self._secrets / f"clickhouse_{user}").read_text().strip()}))
        command = [sys.executable, "-c", _FRONT, str(configuration.with_name("users.xml"))]
        command += ["--directory", str(self._directory), "--port", str(self.port), "--users", str(passwords)]
        self._process = OwnedProcess("clickhouse", command, self._directory / "clickhouse.log")
        self._process.start()
        self._process.await_ready(self._listens, 60)

    def _listens(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.stop(20)


def container(name: str, command: list[str], log_path: Path, environment: Mapping[str, str]) -> OwnedProcess:
    """A process of ours as Compose would start it."""
    return OwnedProcess(name, [sys.executable, "-m", "pipeline", *command], log_path, environment)


def health_check(test: list[str], replaced: Callable[[str], str]) -> int:
    """Run a check of ours as Docker would; the exit code."""
    script = ROOT / "docker" / "healthy.py"
    command = [sys.executable, str(script), *(replaced(each) for each in test[test.index("python") + 2 :])]
    return subprocess.run(command, capture_output=True, check=False).returncode
