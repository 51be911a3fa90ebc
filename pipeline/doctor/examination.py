"""The whole examination, in order: settings, this machine, ClickHouse, Kafka, this machine's worker.

Takes the environment; gives groups of findings, each as soon as it is complete. A service that is away is a finding
like others, and the rest goes on. Connects, asks, and never writes: no topic, row, file or group is made. (A cluster in
which nobody has ever asked for a group's offsets makes its own topic for them then.)
"""

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from pipeline.access import permissions
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.doctor.clickhouse_reading import examine_clickhouse
from pipeline.doctor.clocks import judge_append_clock
from pipeline.doctor.findings import Finding, Group, Status, failure, ok, skipped
from pipeline.doctor.kafka import (
    hidden_topic,
    judge_access,
    judge_broker_config,
    judge_brokers,
    judge_group,
    judge_release,
    judge_topic,
)
from pipeline.doctor.kafka_reading import KafkaQuestions
from pipeline.doctor.listeners import Listener, broker_versions, release_of, who_listens
from pipeline.doctor.machine import examine_machine
from pipeline.doctor.settings import read_settings
from pipeline.doctor.worker import examine_worker
from pipeline.eras import EraError, present_era, settings_in
from pipeline.errors import MsgmeterError, Permanent
from pipeline.kafka_clients import kafka_tls
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW, changelog_names, topics

_REQUEST_SECONDS = 10
_END_IT = "end it with kill -9 or wake its container, and start it again"
_ACLS = "`msgmeter acls` lists the users and what each may do"
_LOGIN = "correct MSGMETER_KAFKA_USER, MSGMETER_KAFKA_PASSWORD and MSGMETER_KAFKA_SASL_MECHANISM"
_KAFKA_LOGINS = {
    "plaintext": "the brokers want another MSGMETER_KAFKA_SECURITY, or do not let this machine in",
    "tls": f"correct MSGMETER_KAFKA_CERTIFICATE and MSGMETER_KAFKA_KEY, or MSGMETER_KAFKA_CA; {_ACLS}",
    "sasl_tls": f"{_LOGIN}, or MSGMETER_KAFKA_CA; {_ACLS}",
    "sasl_plaintext": f"{_LOGIN}; {_ACLS}",
}
"""What to do where brokers are there and refuse us, by how we come."""


def examine() -> Iterator[Group]:
    """Every group of findings, one after the other."""
    settings, findings = read_settings()
    yield Group("settings", findings)
    if settings is None:
        yield Group("all else", [skipped("all", "nothing else is looked at before the settings can be used")])
        return
    yield Group("machine", examine_machine(settings))
    era_settings, findings = _clickhouse(settings)
    yield Group("clickhouse", findings, _shown_url(settings))
    worker = Group("worker", examine_worker(settings.metrics_host, settings.metrics_port))
    kafka = Group("kafka", _kafka(era_settings or settings), settings.kafka)
    # The group loses a worker that stands still: causes come first.
    stands_still = worker.findings[0].status is Status.FAIL
    yield from (worker, kafka) if stands_still else (kafka, worker)


def _clickhouse(settings: Settings) -> tuple[Settings | None, list[Finding]]:
    """Settings of the present era, where ClickHouse knows it, and findings."""
    try:
        client = connect_clickhouse(settings, request_timeout_seconds=_REQUEST_SECONDS)
    except MsgmeterError as error:
        return None, [unreachable_clickhouse(settings, error)]
    found = [ok("connection", "answers, and lets us in")]
    try:
        found += examine_clickhouse(client)
        era = present_era(client, settings)
    except EraError as error:
        return None, [
            *found,
            failure("era", str(error), "do that on every worker, the scheduler and commands"),
        ]
    except MsgmeterError as error:
        return None, [*found, skipped("era", str(error))]
    finally:
        client.close()
    return settings_in(settings, era.number), [*found, ok("era", f"{era.number} of the log")]


def unreachable_clickhouse(settings: Settings, error: MsgmeterError) -> Finding:
    """What to do about a server that is away, refuses us, or is another than is meant."""
    parts = urlsplit(settings.clickhouse)
    try:
        host, port = parts.hostname, parts.port or (8443 if parts.scheme == "https" else 8123)
    except ValueError:
        host, port = None, 0
    found = Listener.NOBODY if host is None else who_listens(host, port)
    if found is Listener.KAFKA:
        text, remedy = found.value, "MSGMETER_CLICKHOUSE names Kafka's port: are the two swapped?"
        return failure("connection", text, remedy)
    if found is Listener.NATIVE or (found is Listener.TLS and parts.scheme == "http"):
        return failure("connection", found.value, "correct the port or the scheme of MSGMETER_CLICKHOUSE")
    if found is Listener.STILL:
        return failure("connection", found.value, f"{_END_IT}: workers wait for it and lose nothing")
    if isinstance(error, Permanent):
        login = "the user in MSGMETER_CLICKHOUSE and MSGMETER_CLICKHOUSE_PASSWORD"
        if settings.clickhouse.startswith("https:"):
            login += ", or MSGMETER_CLICKHOUSE_CERTIFICATE and MSGMETER_CLICKHOUSE_KEY,"
        remedy = f"correct {login} as the error says; the user needs its rights in this database"
        return failure("connection", str(error), remedy)
    return failure(
        "connection", str(error), "see the README, ClickHouse away: workers wait for it and lose nothing"
    )


def _kafka(settings: Settings) -> list[Finding]:
    try:
        questions = KafkaQuestions(settings)
    except MsgmeterError as error:
        return [unreachable_kafka(settings, error)]
    found = [ok("connection", "answers, and lets us in"), *_brokers(settings, questions)]
    try:
        found += _topics_and_group(settings, questions)
    except MsgmeterError as error:
        found.append(skipped("group", str(error)))
    return found


def _brokers(settings: Settings, questions: KafkaQuestions) -> Iterator[Finding]:
    host, port = questions.brokers[0]
    try:
        spans = broker_versions(host, port, kafka_tls(settings))
    except OSError:
        spans = {}
    yield judge_release(release_of(spans)) if spans else skipped("brokers", "their release is not known")
    yield judge_brokers(len(questions.brokers), settings.replication)
    yield from judge_broker_config(questions.broker_config(), settings.replication)


def _topics_and_group(settings: Settings, questions: KafkaQuestions) -> Iterator[Finding]:
    wanted = topics(settings)
    found, allowed = questions.topics([topic.name for topic in wanted])
    needed = {MESSAGES_RAW, *changelog_names(settings.application)}
    for topic in wanted:
        if topic.name in found:
            yield judge_topic(topic, found[topic.name], topic.name in needed)
        else:
            yield hidden_topic(topic)
    operations = {("topic", name): each for name, each in allowed.items()}
    raw = found.get(MESSAGES_RAW)
    if raw is None:
        yield skipped("workers", f"{MESSAGES_RAW} is missing or hidden, so they cannot be looked at")
    else:
        group, of_group = questions.group(raw.partitions)
        if of_group:
            operations["group", settings.application] = of_group
        if group is None:
            yield skipped("workers", "this login may not look at their group")
        else:
            yield from judge_group(group, time.time_ns() // 1_000_000)
        yield judge_append_clock(*questions.append_times(raw.partitions))
    if operations:
        yield from judge_access(permissions(settings), operations)


def unreachable_kafka(settings: Settings, error: MsgmeterError) -> Finding:
    """What to do about brokers that are away, refuse us, or are another server."""
    host, _, port = settings.kafka.split(",")[0].rpartition(":")
    found = who_listens(host.strip("[]"), int(port)) if port.isdigit() else Listener.NOBODY
    if found in (Listener.CLICKHOUSE, Listener.HTTP, Listener.NATIVE):
        text = found.value.partition(", and its")[0]
        return failure("connection", text, "MSGMETER_KAFKA names another server's port: are the two swapped?")
    if found is Listener.STILL:
        return failure("connection", found.value, f"{_END_IT}; gateways wait meanwhile")
    if found is Listener.TLS and not settings.kafka_security.endswith("tls"):
        return failure("connection", found.value, "set MSGMETER_KAFKA_SECURITY to tls or sasl_tls")
    if isinstance(error, Permanent):
        return failure("connection", str(error), _KAFKA_LOGINS[settings.kafka_security])
    return failure(
        "connection", str(error), "start the brokers, or correct what it names; gateways wait meanwhile"
    )


def _shown_url(settings: Settings) -> str:
    """The URL without its login."""
    parts = urlsplit(settings.clickhouse)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
