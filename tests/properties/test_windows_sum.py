"""Windows sum into the days of every zone, whatever its clocks do."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from io import BytesIO
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.windows import WINDOW_MILLISECONDS, bounds, day_start, local_day, period_of, window_start

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = datetime(2000, 1, 1, tzinfo=UTC)
ZONE_NAMES = tuple((resources.files("tzdata") / "zones").read_text(encoding="ascii").split())
RULES = {name: (resources.files("tzdata.zoneinfo") / name).read_bytes() for name in ZONE_NAMES}
ZONES = {name: ZoneInfo.from_file(BytesIO(rules), key=name) for name, rules in RULES.items()}
# Links carry the rules of another name: one name stands for each set of rules.
DISTINCT_NAMES = sorted({rules: name for name, rules in RULES.items()}.values())
# Whole and half hours, three quarters, clock changes at midnight and one minute after it, a date left out.
TELLING_ZONES = [
    *("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Chatham"),
    *("Australia/Lord_Howe", "Australia/Eucla", "America/St_Johns", "America/Sao_Paulo", "America/Havana"),
    *("Asia/Beirut", "Asia/Gaza", "Africa/Casablanca", "Africa/Cairo", "Pacific/Apia", "Antarctica/Casey"),
    *("Antarctica/Troll", "Asia/Pyongyang", "America/Caracas", "Asia/Tehran", "Pacific/Kiritimati"),
]

zones = st.sampled_from(TELLING_ZONES) | st.sampled_from(ZONE_NAMES)
instants = st.integers(946_684_800_000, 2_145_916_800_000)
dates = st.dates(date(2000, 1, 1), date(2037, 12, 31))


def changes(zone: ZoneInfo) -> list[datetime]:
    """Every instant from 2000 to 2037 at which a zone's offset changes, to the second.

    The shortest pause of summer time, Ramadan in Morocco, lasts a month, so a look every week misses none.
    """
    found = []
    looks = [FIRST + timedelta(days=7 * count) for count in range(38 * 52)]
    offsets = [look.astimezone(zone).utcoffset() for look in looks]
    for (earlier, before), (later, after) in pairwise(zip(looks, offsets, strict=True)):
        if before != after:
            low, high = earlier, later
            while high - low > timedelta(seconds=1):
                middle = (low + (high - low) / 2).replace(microsecond=0)
                low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
            found.append(high)
    return found


def dates_that_stay(at: int, zone: ZoneInfo) -> date:
    """The earliest date that clocks show from `at` to four hours later: no clock goes back further."""
    moments = [EPOCH + timedelta(milliseconds=at + step * WINDOW_MILLISECONDS) for step in range(17)]
    return min(moment.astimezone(zone).date() for moment in moments)


@given(zones, instants)
@example("America/St_Johns", 1_289_097_000_000 + 59_999)
@example("America/Sao_Paulo", 1_518_922_800_000 - 1)
@example("Pacific/Apia", 1_325_239_200_000)
def test_local_day_is_the_date_that_comes_to_stay(zone: str, at: int) -> None:
    assert EPOCH.date() + timedelta(days=local_day(at, zone)) == dates_that_stay(at, ZONES[zone])


@given(zones, dates, st.integers(0, 12), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), max_size=40))
def test_sums_of_windows_between_bounds_equal_grouping_by_day(
    zone: str, first: date, more_days: int, usage: list[tuple[float, int]]
) -> None:
    last = first + timedelta(days=more_days)
    edges = bounds("day", first, last, zone)
    messages = [(edges[0] + int(share * (edges[-1] - edges[0] - 1)), count) for share, count in usage]
    by_window: Counter[int] = Counter()
    by_day: Counter[int] = Counter()
    for at, count in messages:
        by_window[window_start(at)] += count
        by_day[local_day(at, zone)] += count
    first_day = (first - EPOCH.date()).days
    for offset, (start, end) in enumerate(pairwise(edges)):
        between = sum(count for window, count in by_window.items() if start <= window < end)
        assert between == by_day[first_day + offset]


@given(zones, dates, st.integers(0, 70), st.sampled_from(["day", "week", "month"]))
def test_bounds_are_gapless_ordered_and_on_windows(
    zone: str, first: date, more_days: int, granularity: str
) -> None:
    last = first + timedelta(days=more_days)
    edges = bounds(granularity, first, last, zone)
    assert edges == sorted(edges)
    assert all(edge % WINDOW_MILLISECONDS == 0 for edge in edges)
    days = bounds("day", first, last, zone)
    assert edges[0] <= days[0]
    assert edges[-1] >= days[-1]
    outer = (
        bounds("day", first - timedelta(days=31), last + timedelta(days=31), zone)
        if first.year > 2000
        else edges
    )
    assert set(edges) <= set(outer)


@given(zones, instants, st.integers(1, 31))
def test_periods_hold_their_instants_and_follow_each_other(zone: str, at: int, anchor_day: int) -> None:
    start, end = period_of(at, zone, anchor_day)
    assert start <= at < end
    assert period_of(start, zone, anchor_day) == period_of(end - 1, zone, anchor_day) == (start, end)
    assert period_of(end, zone, anchor_day)[0] == end
    assert period_of(start - 1, zone, anchor_day)[1] == start
    assert {start, end} <= {day_start(local_day(edge, zone), zone) for edge in (start, end)}


@pytest.mark.parametrize("name", DISTINCT_NAMES)
def test_every_clock_change_since_2000_leaves_days_on_window_bounds(name: str) -> None:
    zone = ZONES[name]
    for change in changes(zone):
        assert change.astimezone(zone).utcoffset() % timedelta(minutes=15) == timedelta(0)
        day = change.astimezone(zone).toordinal() - EPOCH.toordinal()
        starts = [day_start(day + offset, name) for offset in range(-2, 3)]
        assert starts == sorted(starts)
        assert all(start % WINDOW_MILLISECONDS == 0 for start in starts)
