"""Where instants belong: windows, local days, billing periods, bounds of queries."""

from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from pipeline.core import windows
from pipeline.core.windows import (
    WINDOW_MILLISECONDS,
    bounds,
    day_start,
    is_zone,
    local_day,
    local_time,
    period_of,
    window_start,
)

HOUR = 3_600_000
EPOCH = date(1970, 1, 1)


def at(text: str) -> int:
    """UTC epoch milliseconds of an ISO instant."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def day(text: str) -> int:
    """Days since 1970-01-01 of an ISO date."""
    return (date.fromisoformat(text) - EPOCH).days


def shown(instant: int, zone: str) -> str:
    """What clocks in a zone show, to the minute."""
    return datetime.fromtimestamp(instant // 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


def test_window_starts_on_the_quarter_hour_and_holds_its_first_instant_only() -> None:
    start = at("2026-03-01T10:15")
    assert window_start(start) == start
    assert window_start(start - 1) == start - WINDOW_MILLISECONDS
    assert window_start(start + WINDOW_MILLISECONDS - 1) == start


@pytest.mark.parametrize(
    ("instant", "zone", "expected"),
    [
        ("2026-01-01T00:00", "UTC", "2026-01-01"),
        ("2026-01-01T04:59:59", "America/New_York", "2025-12-31"),
        ("2026-01-01T05:00", "America/New_York", "2026-01-01"),
        ("2026-01-01T18:14:59", "Asia/Kathmandu", "2026-01-01"),
        ("2026-01-01T18:15", "Asia/Kathmandu", "2026-01-02"),
        ("2026-01-01T18:30", "Asia/Kolkata", "2026-01-02"),
        ("2026-01-01T10:15", "Pacific/Chatham", "2026-01-02"),
        ("2026-01-01T10:14:59", "Pacific/Chatham", "2026-01-01"),
        ("2026-01-01T10:00", "Pacific/Kiritimati", "2026-01-02"),
        ("2026-01-01T11:59", "Etc/GMT+12", "2025-12-31"),
    ],
)
def test_local_day_is_the_date_that_clocks_show(instant: str, zone: str, expected: str) -> None:
    assert local_day(at(instant), zone) == day(expected)


def test_local_time_is_what_clocks_show_before_and_after_they_change() -> None:
    """Clocks in New York go from 02:00 to 03:00 at 07:00 UTC; the host's zone files have no say."""
    shown = [
        f"{local_time(at(each), 'America/New_York'):%H:%M %z}"
        for each in ("2026-03-08T06:59Z", "2026-03-08T07:00Z")
    ]
    assert shown == ["01:59 -0500", "03:00 -0400"]
    with pytest.raises(ValueError, match="not an IANA time zone"):
        local_time(0, "localtime")


@pytest.mark.parametrize(
    ("zone", "of", "starts", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", 25),
        # Lord Howe Island moves its clocks by half an hour.
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", 24.5),
        # Midnight is left out: clocks went 00:00 -> 01:00.
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00", 23),
        # 24:00 was set back to 23:00: the repeated hour belongs to the day before.
        ("America/Sao_Paulo", "2018-02-17", "2018-02-17T02:00", 25),
        ("America/Sao_Paulo", "2018-02-18", "2018-02-18T03:00", 24),
        # Midnight comes twice: clocks go 01:00 -> 00:00 of the same day, which starts at the first.
        ("America/Havana", "2025-11-02", "2025-11-02T04:00", 25),
        # Clocks went 00:01 -> 23:01 of the day before: the day starts at the second midnight.
        ("America/St_Johns", "2010-11-06", "2010-11-06T02:30", 25),
        ("America/St_Johns", "2010-11-07", "2010-11-07T03:30", 24),
        # 30 December 2011 never was in Samoa.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00", 0),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00", 24),
        # Half an hour was left out before midnight.
        ("Asia/Pyongyang", "2018-05-05", "2018-05-04T15:00", 24),
        # Clocks went 00:00 -> 21:00 of the day before.
        ("Antarctica/Casey", "2021-03-14", "2021-03-13T16:00", 24),
    ],
)
def test_a_day_starts_when_its_date_comes_to_stay(zone: str, of: str, starts: str, hours: float) -> None:
    assert day_start(day(of), zone) == at(starts)
    assert day_start(day(of) + 1, zone) - day_start(day(of), zone) == int(hours * 2) * HOUR // 2


def test_a_repeated_minute_after_midnight_counts_to_the_day_before() -> None:
    zone = "America/St_Johns"
    assert shown(at("2010-11-07T02:30"), zone) == "2010-11-07 00:00"
    assert shown(at("2010-11-07T02:31"), zone) == "2010-11-06 23:01"
    assert [
        local_day(at(f"2010-11-07T{time}"), zone) - day("2010-11-06") for time in ("02:30", "02:31", "03:29")
    ] == [
        0,
        0,
        0,
    ]
    assert local_day(at("2010-11-07T03:30"), zone) == day("2010-11-07")


@pytest.mark.parametrize(
    ("anchor", "instant", "starts", "ends"),
    [
        (1, "2026-02-14T12:00", "2026-02-01", "2026-03-01"),
        (15, "2026-02-14T23:59:59", "2026-01-15", "2026-02-15"),
        (15, "2026-02-15T00:00", "2026-02-15", "2026-03-15"),
        (31, "2026-02-27T12:00", "2026-01-31", "2026-02-28"),
        (31, "2026-02-28T00:00", "2026-02-28", "2026-03-31"),
        (30, "2028-02-29T00:00", "2028-02-29", "2028-03-30"),
        (29, "2026-03-28T12:00", "2026-02-28", "2026-03-29"),
        (29, "2028-03-28T12:00", "2028-02-29", "2028-03-29"),
        (31, "2026-05-30T12:00", "2026-04-30", "2026-05-31"),
        (31, "2025-12-31T00:00", "2025-12-31", "2026-01-31"),
        (10, "2026-01-05T00:00", "2025-12-10", "2026-01-10"),
        (10, "2026-12-10T00:00", "2026-12-10", "2027-01-10"),
    ],
)
def test_period_starts_on_the_anchor_or_the_last_day_of_a_shorter_month(
    anchor: int, instant: str, starts: str, ends: str
) -> None:
    assert period_of(at(instant), "UTC", anchor) == (at(starts), at(ends))


@pytest.mark.parametrize(
    ("zone", "anchor", "instant", "starts", "ends"),
    [
        ("America/New_York", 1, "2026-03-15T12:00", "2026-03-01T05:00", "2026-04-01T04:00"),
        ("Asia/Kathmandu", 1, "2026-03-15T12:00", "2026-02-28T18:15", "2026-03-31T18:15"),
        # A period that starts on a day without midnight starts at that day's first instant.
        ("America/Sao_Paulo", 4, "2018-11-04T03:00", "2018-11-04T03:00", "2018-12-04T02:00"),
        ("America/Sao_Paulo", 4, "2018-11-04T02:59:59", "2018-10-04T03:00", "2018-11-04T03:00"),
        # A period that starts on a day with two midnights starts at the first of them.
        ("America/Havana", 2, "2025-11-02T04:00", "2025-11-02T04:00", "2025-12-02T05:00"),
        # A period that would start on a date that never was starts with the next.
        ("Pacific/Apia", 30, "2011-12-30T10:00", "2011-12-30T10:00", "2012-01-29T10:00"),
    ],
)
def test_period_is_a_run_of_local_days(zone: str, anchor: int, instant: str, starts: str, ends: str) -> None:
    assert period_of(at(instant), zone, anchor) == (at(starts), at(ends))


def test_period_of_alternating_instants_is_that_of_each_alone() -> None:
    before, after = at("2026-03-31T23:59:59"), at("2026-04-01T00:00")
    answers = [period_of(instant, "UTC", 1) for instant in (before, after, before, after)]
    assert answers[:2] == answers[2:]
    assert answers[0][1] == answers[1][0] == after


@pytest.mark.parametrize("anchor", [0, 32, -1])
def test_anchor_outside_a_month_is_an_error(anchor: int) -> None:
    with pytest.raises(ValueError, match="1 to 31"):
        period_of(0, "UTC", anchor)


@pytest.mark.parametrize(
    ("granularity", "first", "last", "expected"),
    [
        ("day", "2026-03-28", "2026-03-29", ["2026-03-28", "2026-03-29", "2026-03-30"]),
        ("day", "2026-03-28", "2026-03-28", ["2026-03-28", "2026-03-29"]),
        # 1 January 2026 is a Thursday; its ISO week starts in 2025.
        ("week", "2026-01-01", "2026-01-05", ["2025-12-29", "2026-01-05", "2026-01-12"]),
        ("week", "2026-01-05", "2026-01-11", ["2026-01-05", "2026-01-12"]),
        ("month", "2025-11-30", "2026-01-01", ["2025-11-01", "2025-12-01", "2026-01-01", "2026-02-01"]),
    ],
)
def test_bounds_are_those_of_whole_spans(
    granularity: str, first: str, last: str, expected: list[str]
) -> None:
    found = bounds(granularity, date.fromisoformat(first), date.fromisoformat(last), "Europe/Berlin")
    assert [shown(bound, "Europe/Berlin") for bound in found] == [f"{text} 00:00" for text in expected]


def test_a_date_that_never_was_is_an_empty_span() -> None:
    found = bounds("day", date(2011, 12, 29), date(2011, 12, 31), "Pacific/Apia")
    assert [later - earlier for earlier, later in pairwise(found)] == [
        24 * HOUR,
        0,
        24 * HOUR,
    ]


@pytest.mark.parametrize(
    ("first", "last"),
    [("2026-01-02", "2026-01-01"), ("1999-12-31", "2000-01-01"), ("2999-12-31", "3000-01-01")],
)
def test_bounds_of_no_range_are_an_error(first: str, last: str) -> None:
    with pytest.raises(ValueError, match="range of dates"):
        bounds("day", date.fromisoformat(first), date.fromisoformat(last), "UTC")


@pytest.mark.parametrize(
    "name", ["UTC", "Europe/Kyiv", "Asia/Calcutta", "America/Argentina/Buenos_Aires", "Etc/GMT-14"]
)
def test_names_of_the_zone_database_are_zones(name: str) -> None:
    assert is_zone(name)


@pytest.mark.parametrize(
    "name", ["", "europe/berlin", "+05:30", "../zones", "/etc/localtime", "Europe", "Europe/\0"]
)
def test_other_names_are_no_zones_and_open_no_file(name: str) -> None:
    assert not is_zone(name)
    with pytest.raises(ValueError, match="not an IANA time zone"):
        local_day(0, name)


def test_remembered_days_are_bounded_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_MAX_DAYS_HELD", 8)
    monkeypatch.setattr(windows, "_days", {})
    for number in range(1_000):
        assert local_day(number * WINDOW_MILLISECONDS, "UTC") == number // 96
        assert len(windows._days) <= 8
