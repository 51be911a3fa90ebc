"""In which era a worker works: what `repartition` recorded decides, and whoever may not run is told what to do."""

import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Producer
from log_topics import delete_topics

from pipeline.clickhouse.client import connect
from pipeline.clickhouse.eras import EraState, RecordedEra, record, recorded_eras
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.core.eras import FIRST_ERA, Era
from pipeline.core.identity_deltas import Draft, IdentityDelta, encode_delta
from pipeline.core.kept import STATE_VERSION
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.eras import EraError, check_same_era, present_era, settings_in
from pipeline.errors import MsgmeterError, Permanent
from pipeline.log_groups import LogGroup
from pipeline.repartition import repartition
from pipeline.settings import Settings
from pipeline.stream.agreement import MARK_KEY, AgreementError, mark_of
from pipeline.topics import MESSAGES_RAW, changelog_names, create_topics, state_partitions

FOUR, EIGHT = Settings(partitions=4), Settings(partitions=8)


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    made = connect(f"{clickhouse.url}/{database}")
    apply_migrations(made)
    yield made
    made.close()


def step(
    client: Client, state: EraState, number: int = 1, partitions: int = 8, version: int = 0
) -> RecordedEra:
    return record(client, RecordedEra(Era(number, (5, 6, 7)), partitions, state, version))


def test_the_last_step_of_an_era_is_where_it_stands(client: Client) -> None:
    assert recorded_eras(client) == []
    begun = step(client, "begun")
    ready = record(client, replace(begun, state="ready"))
    second = step(client, "begun", 2, 16)
    assert recorded_eras(client) == [ready, second]
    assert ready == RecordedEra(Era(1, (5, 6, 7)), 8, "ready", 2)


def test_before_any_change_it_is_the_first_era(client: Client) -> None:
    assert present_era(client, FOUR) == FIRST_ERA


@pytest.mark.parametrize("given", [FOUR, EIGHT])
def test_nobody_runs_while_a_change_is_not_finished(client: Client, given: Settings) -> None:
    step(client, "begun")
    with pytest.raises(
        EraError, match=r"run `msgmeter repartition --partitions 8` until .* MSGMETER_PARTITIONS=8"
    ):
        present_era(client, given)


def test_a_change_that_was_withdrawn_leaves_all_as_it_was(client: Client) -> None:
    step(client, "withdrawn")
    assert present_era(client, FOUR) == FIRST_ERA
    ready = step(client, "ready", version=1)
    step(client, "withdrawn", 2, 16)
    assert present_era(client, EIGHT) == ready.era


def test_only_workers_of_the_present_number_of_partitions_run(client: Client) -> None:
    step(client, "ready")
    assert present_era(client, EIGHT) == Era(1, (5, 6, 7))
    with pytest.raises(EraError, match="MSGMETER_PARTITIONS is 4: set it to 8"):
        present_era(client, FOUR)


def test_a_database_without_the_table_is_no_first_era(client: Client) -> None:
    client.command("DROP TABLE log_eras")
    with pytest.raises(Permanent, match="run `msgmeter migrate`"):
        present_era(client, FOUR)


def test_an_era_has_a_group_changelogs_and_files_of_its_own() -> None:
    assert settings_in(FOUR, 0) == FOUR
    later = settings_in(FOUR, 2)
    assert later.application == f"{FOUR.application}-era2"
    assert later.state_directory.parent == FOUR.state_directory


@pytest.mark.parametrize(("partitions", "text"), [(12, "such as 16, not 12"), (4, "not 4")])
def test_partitions_that_are_no_multiple_are_refused_before_anything_is_begun(
    client: Client,
    settings: Settings,
    clickhouse: EmbeddedClickHouse,
    database: str,
    partitions: int,
    text: str,
) -> None:
    told: list[str] = []
    there = replace(settings, clickhouse=f"{clickhouse.url}/{database}")
    with pytest.raises(EraError, match=text):
        repartition(there, partitions, told.append)
    assert (recorded_eras(client), told) == ([], [])


def test_the_number_there_is_already_is_nothing_to_do(
    client: Client, settings: Settings, clickhouse: EmbeddedClickHouse, database: str
) -> None:
    told: list[str] = []
    there = replace(settings, clickhouse=f"{clickhouse.url}/{database}")
    repartition(there, settings.partitions, told.append)
    assert recorded_eras(client) == []
    assert "nothing to do" in told[0]


def test_another_number_than_the_one_begun_is_refused(
    client: Client, settings: Settings, clickhouse: EmbeddedClickHouse, database: str
) -> None:
    step(client, "begun")
    there = replace(settings, clickhouse=f"{clickhouse.url}/{database}")
    with pytest.raises(EraError, match="a change to 8 partitions has begun: finish it first"):
        repartition(there, 12, [].append)


# What is refused before the first offsets of an era are recorded.


@pytest.fixture
def drained(
    client: Client,
    settings: Settings,
    clickhouse: EmbeddedClickHouse,
    database: str,
) -> Iterator[Settings]:
    """A log with two records that are committed, and changelogs that say nothing yet."""
    made = replace(
        settings, clickhouse=f"{clickhouse.url}/{database}", application=f"moved-{uuid.uuid4().hex[:8]}"
    )
    delete_topics(made)
    create_topics(made)
    append(made, MESSAGES_RAW, b"", b"1", b"2")
    LogGroup(made).commit([2, *[0] * (made.partitions - 1)])
    yield made
    delete_topics(made)
    create_topics(settings)


def append(settings: Settings, topic: str, key: bytes, *values: bytes) -> None:
    """Records in the topic's first partition."""
    producer = Producer({"bootstrap.servers": settings.kafka})
    for value in values:
        producer.produce(topic, value, key, 0)
    assert producer.flush(30) == 0


def keep(settings: Settings, *, written: tuple[int, int, int] = (2, 2, 2)) -> None:
    """What a worker writes behind records: here, marks alone."""
    for name, mark in zip(changelog_names(settings.application), written, strict=True):
        append(settings, name, MARK_KEY, mark_of(mark))


def refusal(settings: Settings, error: type[MsgmeterError]) -> str:
    """What `repartition` says, which leaves the topics alone."""
    with pytest.raises(error) as raised:
        repartition(settings, 2 * settings.partitions, [].append)
    assert state_partitions(settings) == settings.partitions
    return str(raised.value)


def test_state_that_was_lost_is_not_moved(drained: Settings, client: Client) -> None:
    """Its new marks would say that it is complete."""
    assert "nothing is kept of accounts, windows, ids" in refusal(drained, AgreementError)
    assert recorded_eras(client) == []


def test_state_that_ends_before_what_is_committed_is_not_moved(drained: Settings, client: Client) -> None:
    keep(drained, written=(1, 2, 2))
    assert "accounts ends at 1: the records between" in refusal(drained, AgreementError)
    assert recorded_eras(client) == []


def test_a_try_that_is_taken_up_and_refused_is_withdrawn_whatever_refuses(
    drained: Settings, client: Client
) -> None:
    """Else no worker could start, and nobody mend what is refused."""
    begun = record(client, RecordedEra(Era(1), 2 * drained.partitions, "begun"))
    refusal(drained, AgreementError)
    assert recorded_eras(client) == [replace(begun, state="withdrawn", version=2)]
    record(client, replace(begun, version=2))
    accounts, *_ = changelog_names(drained.application)
    append(drained, accounts, b"acme", bytes([0] * 8 + [STATE_VERSION + 1]))
    assert "written by a newer msgmeter" in refusal(drained, EraError)
    assert present_era(client, drained) == FIRST_ERA


def test_state_that_is_damaged_while_it_is_moved_is_told_with_what_to_do(
    drained: Settings, client: Client
) -> None:
    keep(drained)
    *_, ids = changelog_names(drained.application)
    append(drained, ids, bytes(8), bytes([*bytes(8), STATE_VERSION, 0xC1]))
    first_offsets = (2, *[0] * (2 * drained.partitions - 1))
    record(client, RecordedEra(Era(1, first_offsets), 2 * drained.partitions, "begun"))
    with pytest.raises(EraError) as raised:
        repartition(drained, 2 * drained.partitions, [].append)
    assert "the state of partition 0 cannot be copied: a value of table ids" in str(raised.value)
    assert f"Put the changelogs of {drained.application} back" in str(raised.value)


def test_until_when_messages_wait_that_cannot_be_placed_is_said_as_an_instant(drained: Settings) -> None:
    keep(drained)
    draft = Draft(first_received_at=1_770_113_700_001, first_offset=0, fingerprint=0)
    delta = IdentityDelta(
        0, 0, 0, (b"", b"", b"", b""), (b"", b""), {b"waits": draft}, {}, 0, 0, 0
    )  # fmt: skip
    *_, ids = changelog_names(drained.application)
    append(drained, ids, bytes(6), encode_delta(delta))
    waiting = replace(drained, pending_hours=24)
    assert "They have ended at 2026-02-04T10:15:01Z: let workers run" in refusal(waiting, EraError)


# What happens to workers and groups meanwhile.


def never() -> bool:
    return False


def test_a_worker_that_joins_behind_the_beginning_of_a_change_ends(drained: Settings, client: Client) -> None:
    check_same_era(drained, FIRST_ERA, never)
    begun = record(client, RecordedEra(Era(1), 2 * drained.partitions, "begun"))
    with pytest.raises(EraError, match="has begun and is not finished: run"):
        check_same_era(drained, FIRST_ERA, never)
    record(client, replace(begun, state="ready"))
    with pytest.raises(EraError, match="in era 1 since `msgmeter repartition`, and this worker in era 0"):
        check_same_era(replace(drained, partitions=begun.partitions), FIRST_ERA, never)


def test_a_group_that_went_on_before_partitions_were_added_withdraws_the_era(
    drained: Settings, client: Client
) -> None:
    first_offsets = (1, *[0] * (2 * drained.partitions - 1))
    record(client, RecordedEra(Era(1, first_offsets), 2 * drained.partitions, "begun"))
    said = refusal(drained, EraError)
    assert f"{MESSAGES_RAW}:0 --reset-offsets --to-offset 1 --execute" in said
    assert "No partition was added yet, so all is as before" in said
    assert present_era(client, drained) == FIRST_ERA
