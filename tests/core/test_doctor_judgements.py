"""What `msgmeter doctor` makes of what it reads: settings, clocks, topics, groups, rights, tables, disks, workers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.access import permissions
from pipeline.cli import main
from pipeline.cli.doctor import FAULTY
from pipeline.doctor import clickhouse as server
from pipeline.doctor import kafka as brokers
from pipeline.doctor.clickhouse import Disk, ServerSetting
from pipeline.doctor.clocks import judge_append_clock, judge_clock
from pipeline.doctor.examination import unreachable_clickhouse, unreachable_kafka
from pipeline.doctor.findings import Finding, Group, Status, failure, ok, skipped, warning, worst
from pipeline.doctor.kafka import FoundGroup, FoundTopic, Member
from pipeline.doctor.listeners import ApiSpan, release_of
from pipeline.doctor.machine import FoundDirectory, judge_directory, judge_memory
from pipeline.doctor.settings import read_settings
from pipeline.doctor.worker import judge_worker
from pipeline.embedded.owned import free_port
from pipeline.errors import MsgmeterError, Permanent, Transient
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW, topics

OK, WARN, FAIL, SKIP = Status.OK, Status.WARN, Status.FAIL, Status.SKIP
NOW = 1_770_000_000_000
GIB = 1 << 30


def says(finding: Finding, status: Status, *words: str) -> None:
    """The status is that, and what is said, remedy included, has these words."""
    text = f"{finding.found} -> {finding.remedy}"
    assert (finding.status, [word for word in words if word not in text]) == (status, []), text


# The report.


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([], OK),
        ([skipped("a", "x")], OK),
        ([ok("a", "x"), warning("b", "x", "y"), skipped("c", "x")], WARN),
        ([failure("a", "x", "y"), warning("b", "x", "y")], FAIL),
    ],
)
def test_the_verdict_is_the_gravest_of_all(findings: list[Finding], verdict: Status) -> None:
    assert worst([Group("one", findings), Group("two", [ok("z", "x")])]) is verdict


# Settings.


def test_every_fault_of_the_settings_is_a_finding_and_no_secret_is_shown() -> None:
    settings, findings = read_settings({"MSGMETER_COMMAND_KEY": "too short", "MSGMETER_KAFKAA": "x"})
    assert settings is None
    assert len(findings) == 2
    assert {finding.status for finding in findings} == {FAIL}
    assert "too short" not in str(findings)


def test_keys_that_everybody_knows_are_warned_of_and_own_ones_are_not_shown() -> None:
    _, findings = read_settings({"MSGMETER_COMMAND_KEY": "nobody knows this one"})
    by_subject = {finding.subject: finding for finding in findings}
    says(by_subject["MSGMETER_COMMAND_KEY"], OK, "is set")
    says(by_subject["MSGMETER_COUNTERPARTY_KEY"], WARN, "development key", "MSGMETER_COUNTERPARTY_KEY_FILE")
    assert "nobody knows this one" not in str(findings)


@pytest.mark.parametrize(("plan", "words"), [("", "wait until"), ("starter", "starter: tenants without")])
def test_the_default_plan_is_named_because_all_need_the_same(plan: str, words: str) -> None:
    _, findings = read_settings({"MSGMETER_DEFAULT_PLAN": plan})
    [finding] = [each for each in findings if each.subject == "default plan"]
    says(finding, OK, words, "reconcile need the same")


def test_one_replica_is_warned_of_away_from_this_machine() -> None:
    def subjects(kafka: str) -> set[str]:
        return {each.subject for each in read_settings({"MSGMETER_KAFKA": kafka})[1]}

    assert "replication" in subjects("kafka-1:9092")
    assert "replication" not in subjects("127.0.0.1:9092")


def test_settings_that_cannot_be_used_end_the_examination_with_its_exit_code() -> None:
    result = CliRunner().invoke(main, ["doctor"], env={"MSGMETER_METRICS_PORT": "none"})
    assert result.exit_code == FAULTY
    assert "FAIL" in result.output
    assert "nothing else is looked at" in result.output


# Clocks.


@pytest.mark.parametrize(
    ("said_at", "status", "words"),
    [
        (NOW + 5, OK, "agree"),
        (NOW + 1_010, OK, "agree"),
        (NOW + 1_011, WARN, "1.0 s ahead of"),
        (NOW - 1_001, WARN, "1.0 s behind"),
        (NOW + 60_010, WARN, "60.0 s ahead of"),
        (NOW + 60_011, FAIL, "NTP"),
        (NOW - 60_001, FAIL, "60.0 s behind"),
    ],
)
def test_a_clock_must_lie_between_question_and_answer(said_at: int, status: Status, words: str) -> None:
    says(judge_clock("clock", "their clock", said_at, NOW, NOW + 10), status, words)


@pytest.mark.parametrize(
    ("before", "after", "status", "words"),
    [
        (None, None, SKIP, "nothing was appended"),
        (NOW - 9_000, NOW - 9_000, SKIP, "nothing was appended"),
        (NOW - 9_000, NOW + 100, OK, "agree"),
        (NOW - 9_000, NOW - 5_000, WARN, "5.0 s behind"),
        (NOW + 7_000, NOW + 7_000, WARN, "6.8 s ahead of"),
        (NOW + 7_000, NOW + 90_000, FAIL, "ahead of"),
    ],
)
def test_an_old_record_shows_a_clock_that_is_ahead_and_a_new_one_any(
    before: int | None, after: int | None, status: Status, words: str
) -> None:
    says(judge_append_clock(before, NOW, after, NOW + 200), status, words)


# Kafka.

RAW = next(topic for topic in topics(Settings(partitions=8, replication=3)) if topic.name == MESSAGES_RAW)
GOOD = FoundTopic(partitions=8, replicas=3, in_sync=3, leaderless=0, config=RAW.config)


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (GOOD, OK, "8 partitions, 3 replicas"),
        (None, FAIL, "msgmeter migrate"),
        (replace(GOOD, partitions=4), FAIL, "set MSGMETER_PARTITIONS to 4, or see `msgmeter repartition`"),
        (replace(GOOD, partitions=16), FAIL, "set MSGMETER_PARTITIONS to 16"),
        (replace(GOOD, leaderless=1), FAIL, "have no leader"),
        (replace(GOOD, in_sync=1), FAIL, "nothing is acknowledged"),
        (replace(GOOD, in_sync=2), WARN, "only 2 have all records"),
        (replace(GOOD, replicas=2, in_sync=2), WARN, "MSGMETER_REPLICATION is 3"),
        (replace(GOOD, config=None), SKIP, "may not describe"),
        (
            replace(GOOD, config=RAW.config | {"message.timestamp.type": "CreateTime"}),
            FAIL,
            "--topic messages.raw --add-config message.timestamp.type=LogAppendTime",
        ),
        (replace(GOOD, config=RAW.config | {"retention.ms": "1"}), WARN, "retention.ms=1, not 1209600000"),
        (replace(GOOD, config=RAW.config | {"min.insync.replicas": "3"}), OK, "as needed"),
    ],
)
def test_a_topic_must_be_as_migrate_makes_it(found: FoundTopic | None, status: Status, words: str) -> None:
    says(brokers.judge_topic(RAW, found, workers_need_it=True), status, words)


def test_what_workers_do_not_lean_on_does_not_stop_them() -> None:
    found = replace(GOOD, config=RAW.config | {"unclean.leader.election.enable": "true"})
    says(brokers.judge_topic(RAW, found, workers_need_it=True), FAIL, "workers refuse to start")
    says(brokers.judge_topic(RAW, found, workers_need_it=False), WARN, "unclean.leader.election.enable")


@pytest.mark.parametrize(
    ("keys", "release"),
    [
        ({1: ApiSpan(0, 11)}, (0, 0)),
        ({1: ApiSpan(0, 12), 65: ApiSpan(0, 0)}, (3, 0)),
        ({1: ApiSpan(0, 16), 65: ApiSpan(0, 0), 71: ApiSpan(0, 0)}, (3, 7)),
        ({1: ApiSpan(4, 17), 65: ApiSpan(0, 0), 71: ApiSpan(0, 0), 75: ApiSpan(0, 0)}, (4, 0)),
    ],
)
def test_a_broker_is_as_new_as_the_requests_it_takes(
    keys: dict[int, ApiSpan], release: tuple[int, int]
) -> None:
    assert release_of(keys) == release
    says(brokers.judge_release(release), OK if release >= (3, 0) else FAIL)


@pytest.mark.parametrize(
    ("config", "replication", "statuses"),
    [
        (None, 3, [SKIP]),
        ({"auto.create.topics.enable": "false", "offsets.topic.replication.factor": "3"}, 3, [OK]),
        ({"auto.create.topics.enable": "true"}, 1, [WARN]),
        ({"auto.create.topics.enable": "true", "offsets.topic.replication.factor": "1"}, 3, [WARN, WARN]),
    ],
)
def test_brokers_must_keep_offsets_as_safely_as_topics_and_make_none(
    config: Mapping[str, str | None] | None, replication: int, statuses: list[Status]
) -> None:
    assert [each.status for each in brokers.judge_broker_config(config, replication)] == statuses


def test_fewer_brokers_than_replicas_are_too_few() -> None:
    says(brokers.judge_brokers(2, 3), FAIL, "2 up, 3 replicas")
    says(brokers.judge_brokers(3, 3), OK)


def test_a_partition_whose_log_begins_at_what_was_committed_has_lost_nothing() -> None:
    assert "offsets" not in statuses_of(replace(GROUP, bounds={0: (100, 100), 1: (0, 5)}))


GROUP = FoundGroup(
    "STABLE",
    [Member("10.0.0.1", frozenset({0})), Member("10.0.0.2", frozenset({1}))],
    committed={0: 100, 1: None},
    bounds={0: (0, 100), 1: (0, 0)},
)


def statuses_of(group: FoundGroup) -> dict[str, tuple[Status, str]]:
    return {each.subject: (each.status, each.found) for each in brokers.judge_group(group, NOW)}


def test_a_group_that_has_metered_everything_is_well() -> None:
    found = statuses_of(GROUP)
    assert {status for status, _ in found.values()} == {OK}
    assert found["workers"][1] == "2 in the group (at 10.0.0.1, 10.0.0.2), state stable"


@pytest.mark.parametrize(("age", "status"), [(60_000, OK), (60_001, WARN), (600_000, WARN), (600_001, FAIL)])
def test_what_lies_uncommitted_for_long_is_told_with_its_partition_and_worker(
    age: int, status: Status
) -> None:
    behind = replace(GROUP, bounds={0: (0, 350), 1: (0, 0)}, oldest_at={0: NOW - age})
    assert statuses_of(behind)["lag"] == (
        status,
        f"250 offsets, the oldest record {age // 1000} s old; partition 0 (250 records, at 10.0.0.1)",
    )


@pytest.mark.parametrize(
    ("change", "subject", "status", "words"),
    [
        (lambda group: replace(group, members=[]), "workers", WARN, "nobody is in the group"),
        (
            lambda group: replace(group, members=[], bounds={0: (0, 101), 1: (0, 0)}, oldest_at={0: NOW}),
            "workers",
            FAIL,
            "nobody is in the group",
        ),
        (lambda group: replace(group, members=group.members[:1]), "workers", WARN, "nobody has partition 1"),
        (
            lambda group: replace(group, members=[*group.members, Member("10.0.0.3", frozenset())]),
            "workers",
            OK,
            "1 of them have nothing to do",
        ),
        (lambda group: replace(group, committed={0: 101, 1: None}), "offsets", FAIL, "has lost its end"),
        (
            lambda group: replace(group, bounds={0: (200, 300), 1: (0, 0)}),
            "offsets",
            WARN,
            "partition 0 begins behind what was committed: what was deleted there was never read, be it messages or",
        ),
        (
            lambda group: replace(group, bounds={0: (0, 100), 1: (7, 7)}),
            "offsets",
            WARN,
            "nothing was committed of partition 1, and its first records were deleted: whether",
        ),
    ],
)
def test_a_group_that_loses_something_says_what(
    change: Callable[[FoundGroup], FoundGroup], subject: str, status: Status, words: str
) -> None:
    found = statuses_of(change(GROUP))[subject]
    assert found[0] is status
    assert words in found[1]


def test_a_login_is_held_against_the_roles_it_is_nearest_to() -> None:
    needed = permissions(Settings())
    everything = frozenset({"Read", "Write", "Create", "Describe", "DescribeConfigs"})
    names = [("topic", topic.name) for topic in topics(Settings())] + [("group", "msgmeter-v2")]
    [finding] = brokers.judge_access(needed, dict.fromkeys(names, everything))
    says(finding, OK, "worker", "operator", "migrate")

    as_worker = {
        (resource, name): frozenset(operation for each in needed if each.role == "worker" and each.resource == resource
                                    and (name in each.names or (each.is_prefix and name.startswith(each.names[0])))
                                    for operation in each.operations)
        for resource, name in names
    }  # fmt: skip
    found = brokers.judge_access(needed, as_worker)
    says(found[0], OK, "worker")
    as_worker["topic", "usage.alerts"] = frozenset()
    found = brokers.judge_access(needed, as_worker)
    assert "worker" not in found[0].found
    assert any("as worker this login lacks Write on topic usage.alerts" in each.found for each in found)


def test_a_login_that_may_do_nothing_is_told() -> None:
    [finding] = brokers.judge_access(
        permissions(Settings()), {("topic", MESSAGES_RAW): frozenset({"Describe"})}
    )
    says(finding, FAIL, "msgmeter acls")


REFUSED, AWAY = Permanent("refuses the login"), Transient("nobody answers", retry_after_seconds=1.0)


@pytest.mark.parametrize(
    ("scheme", "error", "words"),
    [
        ("http", AWAY, ["nobody answers", "workers wait for it"]),
        (
            "http",
            REFUSED,
            ["refuses the login", "user", "MSGMETER_CLICKHOUSE_PASSWORD", "rights in this database"],
        ),
        ("https", REFUSED, ["MSGMETER_CLICKHOUSE_CERTIFICATE and MSGMETER_CLICKHOUSE_KEY"]),
    ],
)
def test_a_clickhouse_that_refuses_us_is_not_one_that_is_away(
    scheme: str, error: MsgmeterError, words: list[str]
) -> None:
    settings = Settings(clickhouse=f"{scheme}://127.0.0.1:{free_port()}/default")
    found = unreachable_clickhouse(settings, error)
    says(found, FAIL, *words)
    assert ("workers wait" in found.remedy) is (error is AWAY)


@pytest.mark.parametrize(
    ("security", "error", "words"),
    [
        ("plaintext", AWAY, ["nobody answers", "start the brokers"]),
        ("plaintext", REFUSED, ["MSGMETER_KAFKA_SECURITY"]),
        ("tls", REFUSED, ["MSGMETER_KAFKA_CERTIFICATE and MSGMETER_KAFKA_KEY", "MSGMETER_KAFKA_CA", "acls"]),
        (
            "sasl_tls",
            REFUSED,
            ["MSGMETER_KAFKA_USER", "MSGMETER_KAFKA_PASSWORD", "MSGMETER_KAFKA_CA", "acls"],
        ),
    ],
)
def test_brokers_that_refuse_us_need_not_be_started(
    security: str, error: MsgmeterError, words: list[str]
) -> None:
    login = {"kafka_user": "worker", "kafka_password": "secret"} if security.startswith("sasl") else {}
    settings = Settings(kafka=f"127.0.0.1:{free_port()}", kafka_security=security, **login)
    found = unreachable_kafka(settings, error)
    says(found, FAIL, *words)
    assert ("start the brokers" in found.remedy) is (error is AWAY)


# ClickHouse.


@pytest.mark.parametrize(
    ("version", "status"), [("26.9.2.1", OK), ("27.1.1.1", OK), ("26.8.9.9", WARN), ("24.8.1.1", WARN)]
)
def test_an_older_server_than_the_tested_one_is_warned_of(version: str, status: Status) -> None:
    says(server.judge_release(version), status, version)


@pytest.mark.parametrize(("milliseconds", "status"), [(0, OK), (500, OK), (501, WARN)])
def test_a_server_that_answers_slowly_is_warned_of(milliseconds: int, status: Status) -> None:
    says(server.judge_speed(milliseconds), status, f"in {milliseconds} ms")


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        (
            {"async_insert": ("1", False), "insert_deduplicate": ("1", False), "readonly": ("0", False)},
            OK,
            "",
        ),
        ({"async_insert": ("1", True)}, FAIL, "only buffered"),
        ({"async_insert": ("0", True)}, OK, ""),
        ({"insert_deduplicate": ("0", False)}, WARN, "insert_deduplicate to 1"),
        ({"deduplicate_insert": ("disable", False)}, WARN, "stores its rows twice"),
        ({"readonly": ("1", True), "async_insert": ("1", True)}, WARN, "may only read"),
    ],
)
def test_an_insert_must_be_stored_when_it_is_answered(
    settings: dict[str, tuple[str, bool]], status: Status, words: str
) -> None:
    [finding] = server.judge_settings({name: ServerSetting(*each) for name, each in settings.items()})
    says(finding, status, words)


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        (
            "ReplacingMergeTree(v) SETTINGS non_replicated_deduplication_window = 1000, index_granularity = 8192",
            OK,
        ),
        ("ReplicatedReplacingMergeTree(v) SETTINGS replicated_deduplication_window = 10000", OK),
        ("ReplacingMergeTree(v) SETTINGS non_replicated_deduplication_window = 100", WARN),
        ("ReplacingMergeTree(v) SETTINGS index_granularity = 8192", WARN),
    ],
)
def test_a_table_must_remember_its_last_inserts(engine: str, status: Status) -> None:
    [finding] = server.judge_windows({"alerts": engine})
    says(finding, status, "" if status is OK else "alerts remember fewer than 1000")


@pytest.mark.parametrize(("parts", "status"), [(0, OK), (2399, OK), (2400, WARN), (2999, WARN), (3000, FAIL)])
def test_parts_near_the_limit_are_told_before_inserts_are_refused(parts: int, status: Status) -> None:
    says(server.judge_parts(parts, "rated_messages", 3000), status)


def test_replicas_without_their_keeper_take_no_inserts() -> None:
    assert server.judge_readonly([]) == []
    says(server.judge_readonly(["alerts"])[0], FAIL, "alerts take no inserts", "Keeper")


@pytest.mark.parametrize(
    ("free", "status"), [(10 * GIB, OK), (9 * GIB, WARN), (3 * GIB, WARN), (2 * GIB, FAIL)]
)
def test_a_disk_that_fills_up_is_told_before_it_is_full(free: int, status: Status) -> None:
    [finding] = server.judge_disks([Disk("default", free, 100 * GIB), Disk("remote", 0, 0)])
    says(finding, status, "of 100.0 GiB are free")


# This machine, and its worker.

DIRECTORY = FoundDirectory(
    Path("var/worker"), exists=True, nearest=Path("var/worker"), is_directory=True, is_writable=True,
    is_read_only=False, files=0, damaged=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (DIRECTORY, OK, "can be written"),
        (DIRECTORY._replace(exists=False, nearest=Path("var")), OK, "not there yet"),
        (DIRECTORY._replace(is_directory=False), FAIL, "is a file"),
        (DIRECTORY._replace(is_writable=False), FAIL, "may not write"),
        (DIRECTORY._replace(is_read_only=True), FAIL, "mounted read-only"),
        (DIRECTORY._replace(files=24, damaged=1), WARN, "rebuilds"),
    ],
)
def test_a_worker_must_be_able_to_keep_its_files(found: FoundDirectory, status: Status, words: str) -> None:
    says(judge_directory(found, "rocksdb"), status, words)


@pytest.mark.parametrize(
    ("limit", "store", "status", "words"),
    [
        (8 * GIB, "memory", OK, "20,000,000 identities"),
        (2 * GIB, "memory", WARN, "MSGMETER_STORE=rocksdb"),
        (2 * GIB, "rocksdb", OK, ""),
        (GIB, "rocksdb", WARN, "MSGMETER_IDENTITY_LIMIT"),
    ],
)
def test_the_identities_that_settings_allow_must_fit_into_memory(
    limit: int, store: str, status: Status, words: str
) -> None:
    says(judge_memory(limit, 20_000_000, store), status, words)


def page(**figures: float) -> str:
    lines = [
        'msgmeter_build_info{process="worker",version="1.0"} 1',
        *(f"msgmeter_{name} {value}" for name, value in figures.items()),
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("figures", "status", "words"),
    [
        ({"partitions_owned": 4}, OK, "no epoch was stored yet"),
        ({"epoch_last_success_timestamp_seconds": 990, "consumer_lag_offsets": 7}, OK, "10 s ago"),
        ({"partitions_owned": 4, "epoch_last_success_timestamp_seconds": 500}, OK, "500 s ago"),
        ({"epoch_last_success_timestamp_seconds": 900, "consumer_lag_offsets": 7}, FAIL, "may be away"),
        ({"epoch_last_success_timestamp_seconds": 900, "uncommitted_offsets": 7}, FAIL, "may be away"),
    ],
)  # fmt: skip
def test_a_worker_that_has_work_must_store_epochs(
    figures: dict[str, float], status: Status, words: str
) -> None:
    release, work = judge_worker("http://here/metrics", page(**figures), "1.0", 1_000)
    says(release, OK, "1.0")
    says(work, status, words)


def test_a_worker_of_another_release_and_a_stranger_on_its_port_are_told() -> None:
    release, _ = judge_worker("http://here/metrics", page(), "1.1", 1_000)
    says(release, WARN, "runs release 1.0, and this is 1.1")
    for text in ("<html>", page().replace("worker", "scheduler")):
        [stranger] = judge_worker("http://here/metrics", text, "1.1", 1_000)
        says(stranger, WARN, "no worker")
