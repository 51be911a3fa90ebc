"""What docker-compose.yml starts, started without Docker: its commands, environments, secrets, users and checks.

Host names, ports and paths are this machine's; everything else is what the file says.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from compose_servers import ComposeClickHouse, ComposeKafka, container, health_check
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from declared import IN_CONTAINER, OURS, environment
from docker_files import DOCKERFILE, ROOT, script

from pipeline.embedded.owned import LOOPBACK, OwnedProcess, free_port
from pipeline.kafka_clients import kafka_configuration
from pipeline.settings import load_settings

make_secrets = script("make_secrets")
_HEALTHCHECK = re.search(r"HEALTHCHECK[^\[]*\[(.*)\]", DOCKERFILE.replace("\\\n", " "))
assert _HEALTHCHECK is not None
README = (ROOT / "README.md").read_text("utf-8")
EXECUTED = re.findall(r"^docker compose exec (\w+) msgmeter (.+?) *(?:#.*)?$", README, re.MULTILINE)
"""(service, arguments) of what the README has people type inside of containers."""
WORKERS_CHECK = re.findall(r'"([^"]*)"', _HEALTHCHECK[1])


class Deployment:
    """Servers, secrets, and the processes that a test starts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.secrets = directory / "secrets"
        make_secrets.make(self.secrets)
        self.kafka = ComposeKafka(directory / "kafka").start()
        (directory / "clickhouse").mkdir()
        self.clickhouse = ComposeClickHouse(directory / "clickhouse", self.secrets)
        self._started: list[OwnedProcess] = []
        self._port_by_service: dict[str, int] = {}

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a service of ours, its servers and files being here."""
        changes = {
            "MSGMETER_KAFKA": self.kafka.admin if name == "kafka-access" else self.kafka.client,
            "MSGMETER_METRICS_PORT": str(self._port_by_service.setdefault(name, free_port())),
            "MSGMETER_STATE_DIRECTORY": str(self._directory / name),
            "MSGMETER_PARTITIONS": "2",
            "MSGMETER_SESSION_SECONDS": "6",
            "MSGMETER_CHECKPOINT_MILLISECONDS": "1000",
        }
        variables = environment(name, self.secrets, changes)
        if clickhouse := variables.get("MSGMETER_CLICKHOUSE"):
            here = f"{LOOPBACK}:{self.clickhouse.port}"
            variables["MSGMETER_CLICKHOUSE"] = clickhouse.replace("clickhouse:8123", here)
        return variables

    def start(self, name: str) -> OwnedProcess:
        """Start a service of ours."""
        variables = self.environment(name)
        command = [
            each.replace(IN_CONTAINER.rstrip("/"), str(self.secrets)) for each in OURS[name]["command"]
        ]
        if "--metrics-port" in command:
            command[command.index("--metrics-port") + 1] = str(self._port_by_service[name])
        process = container(name, command, self._directory / f"{name}.log", variables)
        process.start()
        self._started.append(process)
        return process

    def run(self, name: str) -> str:
        """Run a service that ends by itself; what it said."""
        process = self.start(name)
        assert process.wait(60) == 0, process.log_tail()
        return process.log_tail()

    def is_healthy(self, name: str) -> bool:
        """Whether Docker would call it so."""
        test = OURS[name].get("healthcheck", {}).get("test", WORKERS_CHECK)
        port = self._port_by_service[name]
        return health_check(test, lambda each: re.sub(r"127\.0\.0\.1:\d+", f"{LOOPBACK}:{port}", each)) == 0

    def metrics(self, name: str) -> dict[str, float]:
        """What a service says of itself."""
        with urlopen(f"http://{LOOPBACK}:{self._port_by_service[name]}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return {
            figure: float(value)
            for figure, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    def execute(self, name: str, arguments: list[str]) -> str:
        """What `docker compose exec` does: a command in the environment of a service; what it said."""
        log_path = self._directory / f"{name}-{'-'.join(arguments)}.log"
        process = container(arguments[0], arguments, log_path, self.environment(name))
        process.start()
        assert process.wait(60) == 0, process.log_tail()
        return process.log_tail()

    def stop(self) -> None:
        """End everything."""
        for process in reversed(self._started):
            process.kill()
        self.clickhouse.stop()
        self.kafka.stop()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.stop()


def await_condition(holds: Callable[[], object], process: OwnedProcess, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.running, f"{process.name} ended with {process.exit_code}\n{process.log_tail()}"
        assert time.monotonic() < deadline, f"{process.name}: not in {seconds} s\n{process.log_tail()}"
        time.sleep(0.2)


def test_every_process_works_with_the_users_and_rights_that_it_is_given(deployment: Deployment) -> None:
    for place in (deployment.kafka.client, deployment.kafka.host):
        # Nobody gets in there without a login.
        with pytest.raises(KafkaException):
            AdminClient({"bootstrap.servers": place}, logger=None).list_topics(timeout=3)
    assert "users: alerts, gateway, migrate, operator, scheduler, worker" in deployment.run("kafka-access")
    # Of what nothing is said nobody is permitted anything.
    settings = load_settings(deployment.environment("gateway"))
    gateways = AdminClient(kafka_configuration(settings))
    (refused,) = gateways.create_topics([NewTopic("own", 1, 1)]).values()
    with pytest.raises(KafkaException) as error:
        refused.result(30)
    assert error.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED

    deployment.clickhouse.start_as("migrate")
    assert "up to date" in deployment.run("migrate")

    deployment.clickhouse.start_as("sink")
    worker = deployment.start("worker")
    await_condition(lambda: deployment.is_healthy("worker"), worker)
    gateway = deployment.start("gateway")
    await_condition(
        lambda: deployment.metrics("worker").get("msgmeter_messages_accepted_total", 0) > 100, worker
    )
    gateway.stop(20)
    await_condition(lambda: deployment.metrics("worker")["msgmeter_consumer_lag_offsets"] == 0, worker)
    said = {line: deployment.execute(name, line.split()) for name, line in EXECUTED}
    assert " FAIL" not in said["doctor"]
    assert "total" in said["usage tenant-00001 --by day"]
    worker.stop(40)
    assert worker.exit_code == 0

    deployment.clickhouse.start_as("reader")
    # Each sees all that it looks at from outside.
    seen = {"msgmeter_kafka_up": 1, "msgmeter_clickhouse_up": 1, "msgmeter_group_lag_offsets": 0}
    scheduler = deployment.start("scheduler")
    await_condition(lambda: deployment.is_healthy("scheduler"), scheduler)
    await_condition(lambda: seen.items() <= deployment.metrics("scheduler").items(), scheduler)
    await_condition(lambda: deployment.metrics("scheduler").get("msgmeter_tenants", 0) > 0, scheduler)
    scheduler.stop(20)
    assert not deployment.is_healthy("scheduler")
    reconcile = deployment.start("reconcile")
    await_condition(lambda: deployment.is_healthy("reconcile"), reconcile)
    agrees = 'msgmeter_reconcile_runs_total{result="agrees"}'
    await_condition(lambda: deployment.metrics("reconcile")[agrees] == 1, reconcile)
    assert deployment.is_healthy("reconcile")
