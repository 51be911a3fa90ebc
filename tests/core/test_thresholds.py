"""When usage has reached a share of what is usable, when a level is armed again, and how long the rest lasts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.thresholds import NEVER_REACHED, crossed, next_amount, reached, run_out_at, still_fired

LEVELS = (80, 85, 90, 95)
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("used", "limit", "level", "is_reached"),
    [
        (79, 100, 80, False),
        (80, 100, 80, True),
        (81, 100, 80, True),
        (7_999_999, 10_000_000, 80, False),
        (8_000_000, 10_000_000, 80, True),
        (0, 100, 1, False),
        (1, 100, 1, True),
        (99, 100, 100, False),
        (100, 100, 100, True),
        (5, 3, 100, True),
        (2, 3, 66, True),
        (2, 3, 67, False),
        (0, 0, 80, False),
        (5, 0, 80, False),
    ],
)
def test_a_level_is_reached_at_its_share_exactly(used: int, limit: int, level: int, is_reached: bool) -> None:
    assert reached(used, limit, level) is is_reached


@pytest.mark.parametrize(
    ("used", "fired", "fires"),
    [
        (79, (), []),
        (80, (), [80]),
        (89, (), [80, 85]),
        (100, (), [80, 85, 90, 95]),
        (100, (80, 85), [90, 95]),
        (100, LEVELS, []),
        (400, (80,), [85, 90, 95]),
    ],
)
def test_every_level_passed_fires_once_in_order(used: int, fired: tuple[int, ...], fires: list[int]) -> None:
    assert crossed(used, 100, LEVELS, fired) == fires


@pytest.mark.parametrize(
    ("limit", "kept"), [(100, [80, 85, 90]), (106, [80]), (112, [80]), (113, []), (1000, []), (0, [])]
)
def test_a_higher_limit_arms_what_is_no_longer_reached(limit: int, kept: list[int]) -> None:
    assert still_fired(90, limit, (80, 85, 90)) == kept


def test_without_levels_or_limit_nothing_is_next() -> None:
    assert next_amount(100, (), ()) == NEVER_REACHED
    assert next_amount(100, LEVELS, LEVELS) == NEVER_REACHED
    assert next_amount(0, LEVELS, ()) == NEVER_REACHED


@given(st.integers(1, 10**13), st.sets(st.integers(1, 100), min_size=1), st.integers(0, 3))
def test_the_next_amount_is_the_least_that_fires(limit: int, levels: set[int], fired_count: int) -> None:
    ascending = sorted(levels)
    fired = ascending[:fired_count]
    amount = next_amount(limit, ascending, fired)
    if amount == NEVER_REACHED:
        assert not crossed(10**18, limit, ascending, fired)
    else:
        assert crossed(amount, limit, ascending, fired)
        assert not crossed(amount - 1, limit, ascending, fired)


@pytest.mark.parametrize(
    ("used", "elapsed_hours", "runs_out_after_hours"),
    [
        (50, 10, 10),
        (80, 8, 2),
        (10, 1, 9),
        (100, 10, 0),
        (250, 10, 0),
        (0, 10, None),
        (50, 0, None),
        (50, -1, None),
    ],
)
def test_what_is_left_lasts_as_long_as_it_would_at_the_pace_so_far(
    used: int, elapsed_hours: int, runs_out_after_hours: int | None
) -> None:
    start = 1_770_000_000_000
    at = start + elapsed_hours * HOUR
    expected = None if runs_out_after_hours is None else at + runs_out_after_hours * HOUR
    assert run_out_at(used, 100, start, at) == expected
