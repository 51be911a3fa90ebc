"""More partitions for a log that is in use: `msgmeter repartition`, step by step.

Takes settings and the number of partitions; changes topics and state so that workers go on in a new era of the log
(core/eras.py), and records it. Nothing of the era before is changed or deleted but the number of partitions of the
topics, which only grows. Each step may be repeated, so after a kill the procedure is just started again:

1. nobody may be in the group, and what lies in the log must be committed: then no effect of an open epoch is left over
   that would be done again under other positions. State must be complete up to there, as a worker would ask of it;
2. the new era is recorded as *begun*: from here on no worker starts, and one that joins ends. That nobody has been in
   the group is asked once more. What is refused until here leaves all as before, the era *withdrawn*;
3. the committed offsets are recorded: the first of the new era. What gateways append from here on belongs to it;
4. topics get their partitions, and the new era changelogs of its own;
5. values are copied into them, each to the partition its tenant lives in now (core/moving.py);
6. the first offsets are committed for the new era's group, and it is recorded as *ready*.

A worker of the settings before never runs again: at its start it is refused by the record, from step 4 on also by the
topics' partitions (one that was frozen meanwhile, at the rebalance that it wakes up to), and it knows other groups and
changelogs. What it still writes to ClickHouse is older than what the new era writes.
"""

from collections.abc import Callable
from dataclasses import replace

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.eras import RecordedEra, record, recorded_eras
from pipeline.clickhouse_clients import connect_migrated
from pipeline.core.eras import FIRST_ERA, MAX_ERA, Era
from pipeline.core.kept import KeptValueError
from pipeline.eras import EraError, last_ready, settings_in
from pipeline.errors import MsgmeterError
from pipeline.log_groups import LogGroup
from pipeline.moved_state import check_state, copy_partition
from pipeline.reading import TopicReader
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW, add_partitions, create_topics, state_partitions

Tell = Callable[[str], None]


def repartition(settings: Settings, partitions: int, tell: Tell) -> None:
    """Brings the log to so many partitions; `tell` is called before each step that changes something.

    Raises EraError where that is not possible, or not now, and what Kafka's and ClickHouse's clients raise.
    """
    client = connect_migrated(settings)
    before, begun = _eras(client, settings, partitions)
    if before.partitions == partitions:
        tell(f"messages.raw has {partitions} partitions, and its state too: nothing to do")
        return
    old = settings_in(replace(settings, partitions=before.partitions), before.era.number)
    new = settings_in(replace(settings, partitions=partitions), begun.era.number)
    group = LogGroup(old)
    if not begun.era.first_offsets:
        begun = _begin(client, begun, old, group, tell)
    first_offsets = begun.era.first_offsets
    _check_left(client, begun, old, group)
    tell(f"adding partitions: {before.partitions} to {partitions}")
    add_partitions(old, partitions)
    tell("creating the state topics of the new era")
    create_topics(new)
    for partition in range(before.partitions):
        tell(f"copying the state of partition {partition}")
        end_position = before.era.first_position + first_offsets[partition]
        try:
            copy_partition(old, new, partition, end_position, begun.era)
        except KeptValueError as error:
            raise EraError(
                f"the state of partition {partition} cannot be copied: {error}. Put the changelogs of"
                f" {old.application} back as they were when this began, and start it again"
            ) from error
    group.check_left(first_offsets)
    tell("committing where the new era begins")
    LogGroup(new).commit(first_offsets)
    tell("recording that the new era is ready")
    record(client, replace(begun, state="ready"))


def _eras(client: Client, settings: Settings, partitions: int) -> tuple[RecordedEra, RecordedEra]:
    """The era that workers were in last, and the one to be made; raises EraError where it cannot be."""
    eras = recorded_eras(client)
    before = last_ready(eras) or RecordedEra(FIRST_ERA, state_partitions(settings), "ready")
    last = eras[-1] if eras else before
    if last.state == "begun":
        if last.partitions != partitions:
            raise EraError(f"a change to {last.partitions} partitions has begun: finish it first")
        return before, last
    if partitions < before.partitions or partitions % before.partitions:
        raise EraError(
            f"messages.raw has {before.partitions} partitions and can get a multiple of them, such as"
            f" {2 * before.partitions}, not {partitions}: only then do the tenants of each new one come from one other"
        )
    if before.era.number == MAX_ERA:
        raise EraError(f"messages.raw was changed {MAX_ERA} times, the most that positions can tell apart")
    version = last.version if last.state == "withdrawn" else 0
    return before, RecordedEra(Era(before.era.number + 1), partitions, "begun", version)


def _begin(client: Client, begun: RecordedEra, old: Settings, group: LogGroup, tell: Tell) -> RecordedEra:
    """Steps 1 to 3; gives the era with its first offsets. What is refused here leaves all as it was."""
    try:
        create_topics(old)  # What `migrate` refuses is refused before anything is begun.
        committed = group.check_drained()
        check_state(old, _first_position(begun), committed)
        tell(f"beginning era {begun.era.number}: no worker starts from here on")
        begun = record(client, begun)
        if group.check_drained() != committed:
            raise EraError("a worker has been in the group while its state was checked: try again")
    except (MsgmeterError, KeptValueError) as error:
        if begun.version:  # It was recorded, now or in an earlier try, perhaps as begun.
            record(client, replace(begun, state="withdrawn"))
        if isinstance(error, KeptValueError):
            raise EraError(f"the state cannot be moved: {error}") from error
        raise
    first_offsets = (*committed, *[0] * (begun.partitions - old.partitions))
    tell("everything is metered; recording where the new era begins")
    return record(client, replace(begun, era=Era(begun.era.number, first_offsets)))


def _check_left(client: Client, begun: RecordedEra, old: Settings, group: LogGroup) -> None:
    """Raises where somebody has been in the group; withdraws the era while the log has its partitions of before."""
    try:
        group.check_left(begun.era.first_offsets)
    except EraError as error:
        with TopicReader(old, MESSAGES_RAW) as reader:
            if reader.partitions != old.partitions:
                raise
        record(client, replace(begun, state="withdrawn"))
        raise EraError(
            f"{error}\nNo partition was added yet, so all is as before: let workers run until everything is metered,"
            " stop them, and try again"
        ) from error


def _first_position(begun: RecordedEra) -> int:
    """Of the era before."""
    return Era(begun.era.number - 1).first_position
