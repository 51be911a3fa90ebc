"""What a worker says of its lag: never less than it knows, and nothing where it knows nothing."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer

from pipeline.core.process import PartitionFold
from pipeline.core.rules import Rules
from pipeline.stream.app import _log_place
from pipeline.stream.figures import Assignment, LogPlace, read_state
from pipeline.stream.log_ends import LogEnds
from pipeline.stream.partitions import OwnedPartition
from pipeline.topics import MESSAGES_RAW
from tests.builders import rules


def owned(number: int, folded_offset: int, age_seconds: float, of: Rules) -> OwnedPartition:
    """A partition whose last folded record was appended so long ago; nothing of it is acknowledged."""
    each = OwnedPartition(PartitionFold(number, of), 1, -1)
    each.folded_offset = folded_offset
    each.last_received_at = int((time.time() - age_seconds) * 1000)
    return each


def told(
    *, assigned: set[int], recovered: set[int], partitions: dict[int, Any], places: dict[int, tuple[Any, Any]]
) -> dict[str, float]:
    """The figures 30 seconds after an assignment."""
    assignment = Assignment(frozenset(assigned), frozenset(recovered), time.monotonic() - 30)
    return read_state(cast("Any", partitions), assignment, lambda number: LogPlace(*places[number]))


def lag(figures: dict[str, float]) -> tuple[float, int]:
    """Offsets, and seconds in tens."""
    return figures["consumer_lag_offsets"], int(figures["consumer_lag_seconds"]) // 10 * 10


def test_the_partition_furthest_behind_says_how_old_the_figures_are() -> None:
    partitions = {0: owned(0, 9, 500, rules()), 1: owned(1, 4, 60, rules()), 2: owned(2, 8, 20, rules())}
    figures = told(
        assigned={0, 1, 2},
        recovered={0, 1, 2},
        partitions=partitions,
        places={0: (0, 10), 1: (0, 10), 2: (0, 10)},
    )
    assert lag(figures) == (6, 60), "the first is at the end of its log, however old that is"
    assert time.time() - figures["watermark_timestamp_seconds"] == pytest.approx(60, abs=5)
    assert figures["uncommitted_offsets"] == 10 + 5 + 9


def test_a_worker_at_the_end_of_its_log_is_not_behind() -> None:
    figures = told(
        assigned={0}, recovered={0}, partitions={0: owned(0, 9, 500, rules())}, places={0: (0, 10)}
    )
    assert lag(figures) == (0, 0)
    assert time.time() - figures["watermark_timestamp_seconds"] == pytest.approx(0, abs=5)


def test_a_partition_in_which_nothing_was_folded_yet_is_behind_since_its_assignment() -> None:
    figures = told(assigned={0}, recovered={0}, partitions={}, places={0: (40, 100)})
    assert lag(figures) == (60, 30)
    assert (figures["partitions_owned"], figures["partitions_taken_up"]) == (1, 0)


def test_an_idle_partition_that_was_never_taken_up_is_owned_and_not_behind() -> None:
    figures = told(assigned={0}, recovered={0}, partitions={}, places={0: (40, 40)})
    assert (figures["partitions_owned"], lag(figures)) == (1, (0, 0))


def test_a_partition_whose_tables_are_not_recovered_is_behind_though_nobody_knows_how_far() -> None:
    figures = told(assigned={0}, recovered=set(), partitions={}, places={0: (None, None)})
    assert (figures["partitions_assigned"], figures["partitions_owned"], lag(figures)) == (1, 0, (0, 30))


def test_a_worker_without_partitions_says_nothing_of_lag() -> None:
    figures = told(assigned=set(), recovered=set(), partitions={}, places={})
    assert (figures["partitions_assigned"], figures["partitions_owned"]) == (0, 0)
    assert not [name for name in figures if "lag" in name or "watermark" in name]


def test_the_end_of_a_partition_that_a_rebalance_has_taken_away_is_not_known() -> None:
    async def place() -> LogPlace:
        consumer = AIOKafkaConsumer()
        try:
            app: Any = SimpleNamespace(
                consumer=SimpleNamespace(reads_from={}.__getitem__, highwater=consumer.highwater)
            )
            app.log_ends = LogEnds(app, MESSAGES_RAW)
            return _log_place(app, 0)
        finally:
            await consumer.stop()

    assert asyncio.run(place()) == LogPlace(None, None)
