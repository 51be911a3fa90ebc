"""Kafka behind TLS, logins, certificates and ACLs: everything works over it, and nobody may do more than is listed."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest
from certificates import Authority
from click.testing import CliRunner, Result
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic
from secured_kafka import DOORS, SecuredKafka, assert_no_secret, bindings_of, environment_of, message

from pipeline.access import acl_command, permissions
from pipeline.cli import main
from pipeline.clickhouse.client import connect
from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.errors import Permanent
from pipeline.granting import acl_bindings
from pipeline.group_lag import GroupWatch
from pipeline.kafka_clients import kafka_configuration
from pipeline.logfile import write_log
from pipeline.settings import Settings
from pipeline.stream.exits import ExitCode
from pipeline.topics import create_topics, topics
from tests.e2e.worker_process import WorkerProcess

ROLES = sorted({permission.role for permission in permissions(Settings())})


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    secured = SecuredKafka(tmp_path_factory.mktemp("secured"))
    secured.start()
    secured.grant(Settings())
    yield secured
    secured.broker.kill()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Give `worker(settings, name)`, a process that is started and ends with the test."""
    started: list[WorkerProcess] = []

    def start(settings: Settings, name: str = "worker") -> WorkerProcess:
        environment = environment_of(settings) | {"MSGMETER_STATE_DIRECTORY": str(tmp_path / name)}
        started.append(WorkerProcess(name, tmp_path, environment))
        return started[-1].start()

    yield start
    for each in started:
        each.kill()


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment_of(settings))


def succeed(settings: Settings, *arguments: str) -> str:
    result = run(settings, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


# Everything works, and what is refused is said.


@pytest.mark.parametrize("door", DOORS)
def test_every_part_works_with_its_own_login_or_certificate_and_no_more_than_its_acls(
    kafka: SecuredKafka,
    clickhouse: EmbeddedClickHouse,
    database: str,
    worker: Callable[..., WorkerProcess],
    tmp_path: Path,
    door: str,
) -> None:
    # A server without users takes any password.
    url = f"{clickhouse.url.replace('//', '//meter:the%20password%20of%20meter@')}/{database}"
    gateway, scheduler, operator, metering, migrate = (
        kafka.settings(role, door, clickhouse=url)
        for role in ("gateway", "scheduler", "operator", "worker", "migrate")
    )
    assert "up to date" in succeed(migrate, "migrate")
    process = worker(metering)
    tenant = f"tenant of {door}"
    write_log(tmp_path / "log.jsonl", [message(tenant, identity) for identity in ("m1", "m2", "m3")])
    succeed(gateway, "send", str(tmp_path / "log.jsonl"))
    process.await_condition(
        lambda: process.metrics().get('msgmeter_messages_refused_total{reason="plan_missing"}') == 3,
        "refused messages of a tenant without a plan",
    )
    answer = succeed(
        operator,
        "account",
        "plan",
        "set",
        tenant,
        "--preset",
        "starter",
        "--effective-at",
        "2025-10-01T00:00:00Z",
        "--wait-seconds",
        "90",
    )
    assert "accepted" in answer
    # Their refusals are published with their epoch.
    process.await_condition(
        lambda: orjson.loads(succeed(operator, "retry", "--json", "--tenant", tenant))["sent"] == 3,
        "published its refusals",
    )
    rows = connect(url)
    count = "SELECT count() FROM rated_messages FINAL"
    process.await_condition(lambda: rows.command(count) == 3, "stored what was sent again")
    rows.close()
    succeed(scheduler, "schedule", "--once")
    with closing(GroupWatch(scheduler)) as watch:
        process.await_condition(lambda: watch.lag(watch.partitions()) == (1, 0, 0), "committed all there is")
    shown = process.command_line() + str(process.metrics())
    assert process.stop() == 0
    assert_no_secret(shown + process.log(), metering)


def refused_settings(
    kafka: SecuredKafka, clickhouse: str, directory: Path
) -> dict[str, tuple[Settings, str]]:
    """Settings that get nobody in, and what must be said of each."""
    stranger = Authority(directory / "stranger")
    certificate, key = stranger.certify("worker")
    others_ca = str(stranger.file)
    settings = partial(kafka.settings, clickhouse=clickhouse)
    return {
        "password": (
            settings("worker", kafka_password="hunter2 is wrong"),
            "refuses the login of worker",
        ),
        "user": (settings("worker", kafka_user="nobody"), "refuses the login of nobody"),
        "CA": (settings("worker", kafka_ca=others_ca), "No TLS connection to Kafka at "),
        "no certificate": (
            settings("worker", "tls", kafka_certificate="", kafka_key=""),
            "No TLS connection to Kafka at ",
        ),
        "a stranger's certificate": (
            settings("worker", "tls", kafka_certificate=str(certificate), kafka_key=str(key)),
            "No TLS connection to Kafka at ",
        ),
    }


WORKERS_REFUSED = {"password", "CA", "no certificate"}


def test_whoever_is_refused_is_told_so_in_one_line_without_a_secret(
    kafka: SecuredKafka,
    clickhouse: EmbeddedClickHouse,
    database: str,
    worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    url = f"{clickhouse.url.replace('//', '//meter:the%20password%20of%20meter@')}/{database}"
    # A worker looks at both.
    succeed(kafka.settings("migrate", clickhouse=url), "migrate")
    cases = refused_settings(kafka, url, tmp_path)
    # Beside each other, because a worker takes a second to say anything.
    workers = {
        name: worker(settings, name) for name, (settings, _) in cases.items() if name in WORKERS_REFUSED
    }
    write_log(tmp_path / "log.jsonl", [message("t", "m")])
    for name, (settings, said) in cases.items():
        result = run(settings, "send", str(tmp_path / "log.jsonl"))
        assert (result.exit_code, result.stdout) == (3, ""), name
        (line,) = result.stderr.splitlines()
        assert line.startswith(
            f"msgmeter: {said}" if " to " in said else f"msgmeter: Kafka at {settings.kafka} {said}"
        )
        shown = line
        if name in workers:
            assert workers[name].wait() == 3, workers[name].log()
            assert workers[name].log().count(line) == 1
            shown += workers[name].log()
        assert_no_secret(shown, settings)


def test_a_topic_that_one_may_not_use_is_named_with_the_user(kafka: SecuredKafka) -> None:
    create_topics(kafka.settings("migrate"))
    result = run(kafka.settings("alerts"), "account", "grant", "t", "5")
    assert result.exit_code == 3
    assert "does not permit alerts this use of account.results: `msgmeter acls`" in result.stderr


@pytest.mark.parametrize(
    ("role", "unseen"),
    [
        ("worker", {"broker settings", "topic account.results"}),
        (
            "operator",
            {"broker settings", "topic messages.raw", "topic account.results", "topic usage.alerts"},
        ),
        ("gateway", {"broker settings", "topic messages.raw", "topic usage.alerts", "workers"}),
    ],
)
def test_a_doctor_skips_what_its_login_may_not_see_and_says_which_role_that_is(
    kafka: SecuredKafka, role: str, unseen: set[str]
) -> None:
    settings = kafka.settings(role, clickhouse="http://127.0.0.1:9/away")
    create_topics(kafka.settings("migrate"))
    result = run(settings, "doctor", "--output", "json")
    assert_no_secret(result.output, settings)
    checks = [check for check in orjson.loads(result.stdout)["checks"] if check["group"] == "kafka"]
    assert unseen <= {check["subject"] for check in checks if check["status"] == "skip"}
    assert {check["status"] for check in checks if check["subject"].startswith("topic ")} <= {"ok", "skip"}
    [access] = [check for check in checks if check["subject"] == "access"]
    assert access["status"] == "ok"
    assert role in access["found"]


def test_a_doctor_says_what_to_do_where_its_login_is_refused(kafka: SecuredKafka) -> None:
    settings = kafka.settings(
        "worker", kafka_password="hunter2 is wrong", clickhouse="http://127.0.0.1:9/away"
    )
    result = run(settings, "doctor", "--output", "json")
    assert_no_secret(result.output, settings)
    [found] = [check for check in orjson.loads(result.stdout)["checks"] if check["group"] == "kafka"]
    assert "refuses the login of worker" in found["found"]
    assert "correct MSGMETER_KAFKA_USER, MSGMETER_KAFKA_PASSWORD" in found["remedy"]


def test_a_group_that_one_may_not_ask_about_is_named_with_the_user(kafka: SecuredKafka) -> None:
    create_topics(kafka.settings("migrate"))
    watch = GroupWatch(kafka.settings("scheduler", application="somebody-elses"))
    with closing(watch), pytest.raises(Permanent, match=r"does not permit scheduler .* group somebody-elses"):
        watch.lag(watch.partitions())


def test_a_password_is_changed_without_losing_a_message(
    kafka: SecuredKafka,
    clickhouse: EmbeddedClickHouse,
    database: str,
    worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    """Whoever is connected works on; at the next rebalance it ends, and who has the new password takes over."""
    url = f"{clickhouse.url}/{database}"
    succeed(kafka.settings("migrate", clickhouse=url), "migrate")
    settings = kafka.settings("worker", clickhouse=url, default_plan="starter")
    rows = connect(url)

    def send_and_await(identity: str, count: int, process: WorkerProcess) -> None:
        write_log(tmp_path / "log.jsonl", [message("changing", identity)])
        succeed(kafka.settings("gateway"), "send", str(tmp_path / "log.jsonl"))
        query = "SELECT count() FROM rated_messages FINAL WHERE tenant = 'changing'"
        process.await_condition(lambda: rows.command(query) == count, f"stored {count} messages")

    first = worker(settings, "first")
    send_and_await("m1", 1, first)
    kafka.set_password("worker", "a new password of worker")
    try:
        send_and_await("m2", 2, first)
        second = worker(replace(settings, kafka_password="a new password of worker"), "second")
        # It reads changelogs at a rebalance, over a connection of its own.
        assert first.wait() == ExitCode.RECOVERY_FAILED
        assert "Kafka does not let this worker in any more" in first.log()
        assert kafka.password("worker") not in first.log()
        send_and_await("m3", 3, second)
    finally:
        kafka.set_password("worker", kafka.password("worker"))
        rows.close()


# Nobody may do more than is listed.


@pytest.fixture(scope="module")
def other(kafka: SecuredKafka) -> Settings:
    """Another deployment's state topics, with its ACLs: what is written there is nobody's state."""
    settings = kafka.settings("migrate", application="other-v1")
    kafka.grant(settings)
    create_topics(settings)
    return settings


def listed(role: str, operation: str, resource: str, names: Iterable[str], settings: Settings) -> set[str]:
    return {
        name
        for permission in permissions(settings)
        if (permission.role, permission.resource) == (role, resource) and operation in permission.operations
        for given in permission.names
        for name in names
        if name == given or (permission.is_prefix and name.startswith(given))
    }


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_and_writes_the_topics_that_are_listed_and_no_others(
    kafka: SecuredKafka, other: Settings, role: str
) -> None:
    settings = kafka.settings(role, application=other.application)
    names = [topic.name for topic in topics(settings)]
    assert writable(settings, names) == listed(role, "Write", "topic", names, settings)
    assert readable(settings, names) == listed(role, "Read", "topic", names, settings)


def test_a_gateway_writes_messages_and_does_nothing_else_and_a_reader_of_alerts_reads_them_alone(
    kafka: SecuredKafka, other: Settings
) -> None:
    """What matters most, whatever is listed."""
    names = [topic.name for topic in topics(other)]
    for role, writes, reads in (("gateway", {"messages.raw"}, set()), ("alerts", set(), {"usage.alerts"})):
        settings = kafka.settings(role, application=other.application)
        assert (writable(settings, names), readable(settings, names)) == (writes, reads)
        assert not joins(settings, other.application)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_joins_the_groups_that_are_listed_and_no_others(
    kafka: SecuredKafka, other: Settings, role: str
) -> None:
    settings = kafka.settings(role, application=other.application)
    groups = [settings.application, "alerts-mailer", "anybody"]
    joined = {group for group in groups if joins(settings, group)}
    assert joined == listed(role, "Read", "group", groups, settings)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_creates_other_topics_or_deletes_any(kafka: SecuredKafka, other: Settings, role: str) -> None:
    admin = AdminClient(kafka_configuration(kafka.settings(role)))
    futures = [
        *admin.create_topics([NewTopic("of.ones.own", 1, 1)]).values(),
        *admin.delete_topics(["messages.raw"]).values(),
    ]
    for future in futures:
        with pytest.raises(KafkaException) as refused:
            future.result(30)
        assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def writable(settings: Settings, names: Iterable[str]) -> set[str]:
    """The topics that a record could be written to."""
    done: dict[str, KafkaError | None] = {}

    def note(error: KafkaError | None, sent: Message) -> None:
        done[sent.topic()] = error

    producer = Producer(kafka_configuration(settings))
    for name in names:
        producer.produce(name, b"value", b"key", partition=0, on_delivery=note)
    assert producer.flush(30) == 0
    errors = {error.code() for error in done.values() if error is not None}
    assert errors <= {KafkaError.TOPIC_AUTHORIZATION_FAILED}
    return {name for name, error in done.items() if error is None}


def readable(settings: Settings, names: list[str]) -> set[str]:
    """The topics whose end could be read."""
    options = {"group.id": "never-joined", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({**kafka_configuration(settings), **options})
    read: set[str] = set()
    with closing(consumer):
        seen = {name: consumer.list_topics(name, timeout=30).topics[name].error for name in names}
        # A consumer says nothing of a topic that it may not even see.
        open_ones = {name for name, error in seen.items() if error is None}
        assert {error.code() for error in seen.values() if error} <= {KafkaError.TOPIC_AUTHORIZATION_FAILED}
        # A place of one's own: stored ones belong to a group.
        consumer.assign([TopicPartition(name, 0, OFFSET_END) for name in open_ones])
        deadline = time.monotonic() + 30
        while open_ones:
            assert time.monotonic() < deadline, f"nothing was said of {open_ones}"
            answer = consumer.poll(1)
            if answer is None or answer.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue
            assert answer.error().code() in {KafkaError._PARTITION_EOF, KafkaError.TOPIC_AUTHORIZATION_FAILED}
            open_ones.discard(answer.topic())
            if answer.error().code() == KafkaError._PARTITION_EOF:
                read.add(answer.topic())
    return read


def joins(settings: Settings, group: str) -> bool:
    """Whether the group takes one as a member."""
    assigned: list[TopicPartition] = []
    consumer = Consumer({**kafka_configuration(settings), "group.id": group, "session.timeout.ms": 6_000})
    with closing(consumer):
        consumer.subscribe(
            ["usage.alerts", "messages.raw"], on_assign=lambda _, given: assigned.extend(given)
        )
        deadline = time.monotonic() + 30
        while not assigned:
            assert time.monotonic() < deadline, f"group {group} says nothing"
            answer = consumer.poll(1)
            error = answer.error() if answer is not None else None
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                return False
    return True


# `msgmeter acls` says it and does it.


def test_the_calls_that_are_listed_and_what_is_applied_are_the_same() -> None:
    for permission in permissions(Settings()):
        listed_ones = bindings_of(acl_command(permission, "kafka:9092"))
        assert set(map(str, acl_bindings(permission))) == set(map(str, listed_ones))


def test_a_broker_without_an_authorizer_is_told_of(broker: EmbeddedBroker) -> None:
    result = run(Settings(kafka=broker.bootstrap_servers), "acls", "--apply")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "does not take permissions: No Authorizer is configured" in result.stderr


def test_who_is_no_administrator_gives_nobody_anything(kafka: SecuredKafka) -> None:
    result = run(kafka.settings("worker"), "acls", "--apply")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "does not take permissions" in result.stderr


def test_passwords_are_all_there_before_any_is_set(kafka: SecuredKafka, tmp_path: Path) -> None:
    (tmp_path / "kafka_alerts").write_text("the password of nobody\n")
    result = run(
        Settings(kafka=kafka.broker.bootstrap_servers), "acls", "--apply", "--passwords", str(tmp_path)
    )
    assert result.exit_code == 2
    assert "kafka_gateway cannot be read: No such file" in result.stderr
    # Its login is what it was.
    assert AdminClient(kafka_configuration(kafka.settings("alerts"))).list_topics(timeout=30).brokers
