"""What a worker looks at before it joins the group, and what it says where it could not keep its promises."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka.admin import AdminClient
from log_topics import create_changelogs

from pipeline.cli import main
from pipeline.clickhouse.client import connect
from pipeline.clickhouse.migrate import SQL_DIRECTORY, MigrationError, apply_migrations, check_migrated
from pipeline.clickhouse_clients import connect_migrated
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW, TopicError, changelog_names, check_topics


@pytest.fixture
def surroundings(
    settings: Settings, clickhouse: EmbeddedClickHouse, database: str, tmp_path: Path
) -> Settings:
    """Settings with topics, a database without tables, and a state directory that is not there yet."""
    return replace(
        settings,
        clickhouse=f"{clickhouse.url}/{database}",
        state_directory=tmp_path / "state",
        metrics_port=0,
    )


@pytest.fixture
def start() -> Callable[[Settings], Result]:
    """`msgmeter worker`, for settings with which it ends by itself."""

    def run(settings: Settings) -> Result:
        environment = {
            f"MSGMETER_{each.name.upper()}": str(getattr(settings, each.name)) for each in fields(Settings)
        }
        return CliRunner().invoke(main, ["worker"], env=environment)

    return run


def a_migration_more(directory: Path) -> str:
    """Copies the migrations and adds one, as the next release might; gives its name."""
    files = sorted(SQL_DIRECTORY.glob("*.sql"))
    for each in files:
        (directory / each.name).write_bytes(each.read_bytes())
    name = f"{len(files) + 1:03d}_next"
    (directory / f"{name}.sql").write_text("CREATE TABLE IF NOT EXISTS next_one (a UInt8) ENGINE = Null")
    return name


def test_a_database_without_the_tables_of_this_program_stops_a_worker(
    surroundings: Settings, start: Callable[[Settings], Result]
) -> None:
    result = start(surroundings)
    assert result.exit_code == 3
    assert "The database lacks 001_schema_migrations, " in result.output
    assert "run `msgmeter migrate` first" in result.output
    assert "Traceback" not in result.output


def test_a_database_of_a_newer_program_stops_a_worker(
    surroundings: Settings, start: Callable[[Settings], Result], tmp_path: Path
) -> None:
    client = connect(surroundings.clickhouse)
    name = a_migration_more(tmp_path)
    apply_migrations(client, tmp_path)
    client.close()
    result = start(surroundings)
    assert result.exit_code == 3
    assert f"{name} was applied, but this program does not know it: it is older" in result.output


def test_only_a_database_with_exactly_its_own_migrations_is_taken(
    surroundings: Settings, tmp_path: Path
) -> None:
    """Also by the client a worker makes later, because ClickHouse was away when it started."""
    client = connect(surroundings.clickhouse)
    with pytest.raises(MigrationError):
        connect_migrated(surroundings)
    apply_migrations(client)
    connect_migrated(surroundings).close()
    name = a_migration_more(tmp_path)
    with pytest.raises(MigrationError, match=f"The database lacks {name}: run `msgmeter migrate` first"):
        check_migrated(client, tmp_path)
    client.close()


def test_a_state_directory_that_cannot_be_written_is_told_with_its_name(
    surroundings: Settings, start: Callable[[Settings], Result], tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    client = connect(surroundings.clickhouse)
    apply_migrations(client)
    client.close()
    result = start(surroundings)
    assert result.exit_code == 2
    assert f"MSGMETER_STATE_DIRECTORY {tmp_path / 'state'} cannot be written" in result.output
    assert "name another one" in result.output


@pytest.fixture
def other(settings: Settings, unique_name: Callable[[str], str]) -> Iterator[Settings]:
    """Settings of an application whose state topics a test makes itself."""
    made = replace(settings, application=unique_name("other"))
    yield made
    AdminClient({"bootstrap.servers": made.kafka}).delete_topics(list(changelog_names(made.application)))


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"cleanup_policy": "delete"}, "has cleanup.policy=delete, not compact"),
        ({"cleanup_policy": "compact,delete"}, "has cleanup.policy=compact,delete, not compact"),
        ({"min_compaction_lag_ms": "1000"}, "has min.compaction.lag.ms=1000, not 86400000"),
        ({"min_compaction_lag_ms": ""}, "has min.compaction.lag.ms=0, not 86400000"),
        ({"delete_retention_ms": "86400000"}, "has delete.retention.ms=86400000, not 604800000"),
        ({"unclean_leader_election_enable": "true"}, "has unclean.leader.election.enable=true, not false"),
    ],
)
def test_changelogs_that_would_lose_state_stop_a_worker(
    config: dict[str, str], fault: str, other: Settings
) -> None:
    create_changelogs(other, **config)
    with pytest.raises(TopicError) as raised:
        check_topics(other)
    for name in changelog_names(other.application):
        assert f"{name} {fault}" in str(raised.value)
    assert MESSAGES_RAW not in str(raised.value)


def test_changelogs_that_keep_more_or_differ_in_what_nothing_leans_on_are_taken(
    other: Settings,
) -> None:
    create_changelogs(
        other,
        min_compaction_lag_ms=str(10 * 86_400_000),
        delete_retention_ms=str(10 * 86_400_000),
        min_insync_replicas="2",
        segment_bytes=str(32 << 20),
    )
    check_topics(other)


def test_topics_that_take_fewer_replicas_than_a_deployment_has_stop_a_worker(other: Settings) -> None:
    create_changelogs(other)
    with pytest.raises(TopicError) as raised:
        check_topics(replace(other, replication=3))
    for name in (MESSAGES_RAW, *changelog_names(other.application)):
        assert f"{name} has min.insync.replicas=1, not 2" in str(raised.value)


def test_a_missing_changelog_is_named(other: Settings) -> None:
    with pytest.raises(Exception, match=f"{changelog_names(other.application)[0]} does not exist.*migrate"):
        check_topics(other)
