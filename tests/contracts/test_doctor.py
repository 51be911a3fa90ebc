"""`msgmeter doctor` on a real broker and a real engine: it finds what was broken, says what to do, changes nothing."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from log_topics import create_changelogs, delete_topics
from secured_kafka import assert_no_secret, environment_of

from pipeline.cli import main
from pipeline.cli.doctor import FAULTY
from pipeline.clickhouse.client import ask_whole, connect
from pipeline.clickhouse.migrate import SQL_DIRECTORY, apply_migrations, read_migrations
from pipeline.doctor.findings import Status
from pipeline.doctor.listeners import Listener, who_listens
from pipeline.doctor.worker import examine_worker
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import LOOPBACK, free_port
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW, changelog_names, create_topics
from tests.e2e.worker_process import WorkerProcess

Checks = dict[str, dict[str, str]]
_TWICE = ("connection", "clock")
DATABASE_PASSWORD = "the password of the database"


@pytest.fixture
def deployment(
    broker: EmbeddedBroker,
    clickhouse: EmbeddedClickHouse,
    database: str,
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Iterator[Settings]:
    """A deployment without a fault and without a worker."""
    # A server without users takes any password.
    url = clickhouse.url.replace("//", f"//meter:{DATABASE_PASSWORD.replace(' ', '%20')}@")
    made = Settings(
        kafka=broker.bootstrap_servers,
        clickhouse=f"{url}/{database}",
        application=unique_name("doctor"),
        partitions=2,
        session_seconds=6,
        metrics_port=free_port(),
        state_directory=tmp_path / "state",
        command_key="signs commands of tests",
        counterparty_key="hashes counterparties of tests",
    )
    delete_topics(made)
    create_topics(made)
    client = connect(made.clickhouse)
    apply_migrations(client)
    client.close()
    yield made
    delete_topics(made)


def examined(settings: Settings, exit_code: int = FAULTY) -> Checks:
    """Every check by its subject, those of which there are two by group and subject; fails where a secret is shown."""
    result = CliRunner().invoke(main, ["doctor", "--output", "json"], env=environment_of(settings))
    assert result.exit_code == exit_code, result.output
    assert_no_secret(result.output, settings)
    checks = orjson.loads(result.stdout)["checks"]
    return {check["subject"]: check for check in checks} | {
        f"{check['group']} {check['subject']}": check for check in checks if check["subject"] in _TWICE
    }


def faults(checks: Checks) -> dict[str, str]:
    """What was found of the checks that failed, with the remedy."""
    return {
        subject: f"{each['found']} -> {each['remedy']}"
        for subject, each in checks.items()
        if each["status"] == "fail"
    }


def surroundings(settings: Settings) -> list[Any]:
    """Everything that a doctor might leave behind."""
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    found = admin.list_topics(timeout=10).topics
    groups = admin.list_consumer_groups(request_timeout=10).result(10).valid
    client = connect(settings.clickhouse)
    tables = ask_whole(
        client, "SELECT name, total_rows FROM system.tables WHERE database = currentDatabase() ORDER BY name"
    )
    client.close()
    return [
        # The brokers make one of their own when a group is first asked about.
        sorted((name, len(topic.partitions)) for name, topic in found.items() if not name.startswith("__")),
        sorted(group.group_id for group in groups),
        sorted(tables),
        sorted(str(path) for path in settings.state_directory.parent.rglob("*")),
    ]


def test_a_deployment_without_faults_is_well_and_is_left_as_it_was(deployment: Settings) -> None:
    before = surroundings(deployment)
    checks = examined(deployment, exit_code=0)
    assert surroundings(deployment) == before
    assert {each["status"] for each in checks.values()} <= {"ok", "warn", "skip"}
    assert checks["workers"]["status"] == "warn", "there is no worker, and nothing to meter"
    assert checks["brokers"]["found"].endswith("4.0 or later")
    for subject in (
        f"topic {MESSAGES_RAW}",
        "migrations",
        "settings",
        "tables",
        "parts",
        "clock",
        "era",
        "access",
    ):
        assert checks[subject]["status"] == "ok" or subject == "clock", checks[subject]


def test_a_table_says_in_a_line_what_was_found_and_what_to_do(deployment: Settings) -> None:
    result = CliRunner().invoke(main, ["doctor"], env=environment_of(replace(deployment, partitions=4)))
    assert result.exit_code == FAULTY
    assert_no_secret(result.output, deployment)
    [line] = [line for line in result.stdout.splitlines() if f"topic {MESSAGES_RAW}" in line]
    assert line.startswith("  FAIL  ")
    assert "has 2 partitions, and MSGMETER_PARTITIONS is 4  -> set MSGMETER_PARTITIONS to 2" in line


def test_changelogs_that_would_lose_state_are_found(
    deployment: Settings, unique_name: Callable[[str], str]
) -> None:
    other = replace(deployment, application=unique_name("other"))
    try:
        create_changelogs(other, cleanup_policy="delete")
        found = faults(examined(other))
    finally:
        AdminClient({"bootstrap.servers": other.kafka}).delete_topics(
            list(changelog_names(other.application))
        )
    assert set(found) == {f"topic {name}" for name in changelog_names(other.application)}
    assert all(
        "cleanup.policy=delete, not compact; workers refuse to start" in each for each in found.values()
    )


def test_topics_tables_and_a_directory_that_are_missing_are_found(
    deployment: Settings, unique_name: Callable[[str], str]
) -> None:
    last, client = read_migrations(SQL_DIRECTORY)[-1], connect(deployment.clickhouse)
    client.command(
        f"ALTER TABLE schema_migrations DELETE WHERE version = {last.version} SETTINGS mutations_sync = 1"
    )
    client.command("ALTER TABLE alerts MODIFY SETTING non_replicated_deduplication_window = 5")
    client.close()
    deployment.state_directory.write_text("a file where the directory should be")
    directory = deployment.state_directory / "below"
    checks = examined(replace(deployment, application=unique_name("nobody"), state_directory=directory))
    found = faults(checks)
    assert f"{deployment.state_directory} is a file" in found["state directory"]
    assert found["migrations"] == f"The database lacks {last.name} -> run `msgmeter migrate` first"
    assert sum(each == "is missing -> run `msgmeter migrate`" for each in found.values()) == 3
    assert checks["tables"]["found"].startswith("alerts remember fewer than 1000")


def test_a_service_that_is_away_is_told_and_the_rest_is_looked_at(deployment: Settings) -> None:
    away = f"{LOOPBACK}:{free_port()}"
    without_database = examined(replace(deployment, clickhouse=f"http://{away}/default"))
    assert f"No ClickHouse answers at http://{away}" in faults(without_database)["clickhouse connection"]
    assert without_database["access"]["group"] == "kafka"
    without_broker = examined(replace(deployment, kafka=away))
    assert f"No broker answers at {away}" in faults(without_broker)["kafka connection"]
    assert without_broker["migrations"]["status"] == "ok"


def test_swapped_ports_are_recognised(deployment: Settings, clickhouse: EmbeddedClickHouse) -> None:
    servers = f"{clickhouse.host}:{clickhouse.port}"
    swapped = replace(deployment, kafka=servers, clickhouse=f"http://{deployment.kafka}/default")
    result = CliRunner().invoke(main, ["doctor"], env=environment_of(swapped))
    assert result.exit_code == FAULTY
    assert (
        "a Kafka broker answers there  -> MSGMETER_CLICKHOUSE names Kafka's port: are the two swapped?"
        in result.output
    )
    assert "ClickHouse's HTTP interface answers there  -> MSGMETER_KAFKA names another" in result.output


def test_who_listens_is_told_apart(broker: EmbeddedBroker, clickhouse: EmbeddedClickHouse) -> None:
    host, _, port = broker.bootstrap_servers.rpartition(":")
    assert who_listens(host, int(port)) is Listener.KAFKA
    assert who_listens(clickhouse.host, clickhouse.port) is Listener.CLICKHOUSE
    assert who_listens(LOOPBACK, free_port()) is Listener.NOBODY


def test_a_service_that_takes_connections_and_is_silent_stands_still(
    deployment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.doctor.listeners._SECONDS", 0.3)
    monkeypatch.setattr("pipeline.doctor.examination._REQUEST_SECONDS", 1)
    with socket.create_server((LOOPBACK, 0)) as silent:
        found = faults(
            examined(replace(deployment, clickhouse=f"http://{LOOPBACK}:{silent.getsockname()[1]}/default"))
        )
    assert found["clickhouse connection"].startswith(
        "it takes connections and does not answer: it stands still -> end it"
    )


def test_a_worker_that_stands_still_is_found_and_what_it_leaves_lying(
    deployment: Settings, tmp_path: Path
) -> None:
    worker = WorkerProcess("worker", tmp_path, environment_of(deployment)).start()
    producer = Producer({"bootstrap.servers": deployment.kafka})
    try:
        worker.await_ready()
        well = examined(deployment, exit_code=0)
        assert well["workers"]["found"].startswith("1 in the group (at 127.0.0.1)")
        assert (well["worker here"]["status"], well["its work"]["status"]) == ("ok", "ok")
        worker.pause()
        producer.produce(MESSAGES_RAW, value=b"{", key=b"acme", partition=0)
        producer.flush(10)
        result = CliRunner().invoke(main, ["doctor"], env=environment_of(deployment))
        assert result.stdout.index("FAIL  worker here") < result.stdout.index("\nkafka ")
        checks = examined(deployment)
        assert "it stands still -> end it with kill -9" in faults(checks)["worker here"]
        assert "partition 0 (1 records" in checks["lag"]["found"]
    finally:
        worker.kill()


def test_a_worker_that_stands_still_while_others_ask_it_takes_no_more_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.doctor.worker._SECONDS", 0.3)
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        # As many as the queue holds, and more.
        for _ in range(4):
            asking = opened.enter_context(socket.socket())
            asking.setblocking(False)
            asking.connect_ex(address)
        [finding] = examine_worker(*address)
    assert finding.status is Status.FAIL
    assert "it stands still" in finding.found


def test_the_brokers_clock_shows_in_what_is_appended_meanwhile(deployment: Settings) -> None:
    producer = Producer({"bootstrap.servers": deployment.kafka, "linger.ms": 0})
    ended = Event()

    def append() -> None:
        # Several times while a record is waited for.
        while not ended.wait(0.2):
            producer.produce(MESSAGES_RAW, value=b"{", key=b"acme", partition=0)
            producer.poll(0)

    thread = Thread(target=append)
    thread.start()
    try:
        result = CliRunner().invoke(main, ["doctor"], env=environment_of(deployment))
    finally:
        ended.set()
        thread.join()
    assert "the brokers' clock and this machine's agree" in result.stdout
