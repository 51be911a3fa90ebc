"""Where an instant belongs: its 15-minute UTC window, its tenant's local day, its billing period.

Takes instants as UTC epoch milliseconds, from the year 2 to 9998 (decoding bounds them closer), and zones by
their IANA names; gives half-open spans `[start, end)`.
Never reads a clock. Zone rules are reference data: they are read from the `tzdata` package, each zone once,
when it is first asked for. The host's own zone files are never used, so two hosts agree.

Invariants:

- A local day is one span, and days follow each other without gap or overlap. It starts at the first instant
  from which on the local date is never earlier::

      clocks go 00:00 -> 01:00     the day starts at 01:00, the first instant it has (23 hours)
      clocks go 01:00 -> 00:00     at the first 00:00 (25 hours)
      clocks go 00:00 -> 23:00     at the 00:00 after the repeated hour; the day before has 25 hours
      clocks go 00:01 -> 23:01     at the second 00:00; the minute after the first belongs to the day before
      a date is left out           that day is empty: it starts and ends where the next one starts

  The fourth was the rule of Newfoundland and Labrador until 2011; read literally it would split a day in two.
- Every local day since 2000 starts on a window bound, in every zone: no offset since then is other than a
  multiple of 15 minutes (Liberia's was the last, until 1972). A few clock changes fall inside a window
  (Newfoundland's, Gaza's and Casey's at 00:01), but none of them moves the start of a day. So windows sum
  exactly into days, days into weeks, months and billing periods. A test walks all zones.
- A billing period is a run of local days, so what is said of midnight holds for it too.

Source: https://data.iana.org/time-zones/theory.html; a test compares with `zoneinfo` read directly.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from typing import Literal
from zoneinfo import ZoneInfo

Granularity = Literal["day", "week", "month"]

WINDOW_MILLISECONDS = 900_000
"""15 minutes: the largest span that sums into the days of every zone."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = _EPOCH.toordinal()
_MILLISECOND = timedelta(milliseconds=1)
_FIRST_DATE = date(2000, 1, 1)
_LAST_DATE = date(2999, 12, 31)

# 65 536 windows are about 10 MB: 200 zones with three days of late messages each. Instants spread over the
# years, which a sender can do, cost time (5 us each), never memory.
_MAX_DAYS_HELD = 65_536
_days: dict[tuple[str, int], int] = {}
# At most one entry for each zone and each of 31 anchors, because both are checked before they get here.
_periods: dict[tuple[str, int], tuple[int, int]] = {}


def window_start(at: int) -> int:
    """Give the start of the window that holds `at`."""
    return at - at % WINDOW_MILLISECONDS


def is_zone(name: str) -> bool:
    """Whether `name` is a zone of the IANA database, spelled as there (links such as "Navajo" included)."""
    return name in _zone_names()


def local_day(at: int, zone: str) -> int:
    """Give the local day that holds `at`, as days since 1970-01-01; constant within a window. Memoised.

    Raise ValueError for a zone that does not exist.
    """
    key = (zone, at // WINDOW_MILLISECONDS)
    try:
        return _days[key]
    except KeyError:
        return _remember_day(key)


def local_time(at: int, zone: str) -> datetime:
    """Give what clocks in a zone show at an instant, with their offset.

    Raise ValueError for a zone that does not exist.
    """
    return (_EPOCH + timedelta(milliseconds=at)).astimezone(_zone(zone))


def day_start(day: int, zone: str) -> int:
    """Give the first instant of a local day, which is given as days since 1970-01-01.

    Raise ValueError for a zone that does not exist.
    """
    return _day_start(day + _EPOCH_ORDINAL, zone)


def period_of(at: int, zone: str, anchor_day: int) -> tuple[int, int]:
    """Give the monthly billing period `[start, end)` that holds `at`.

    It starts with local day `anchor_day` (1 to 31) of a month, or with the month's last day where the month
    is shorter: anchor 31 gives 31 January, 28 February, 31 March. Memoised: the last period of each zone and
    anchor costs two comparisons.

    Raise ValueError for a zone that does not exist or an anchor that is not 1 to 31.
    """
    period = _periods.get((zone, anchor_day))
    if period is not None and period[0] <= at < period[1]:
        return period
    if not 1 <= anchor_day <= 31:
        raise ValueError(f"anchor day {anchor_day} is not 1 to 31")
    period = _period_of_day(local_day(at, zone), zone, anchor_day)
    _periods[zone, anchor_day] = period
    return period


def days_after(at: int, days: int, zone: str) -> int:
    """Give the start of the local day `days` after the one that holds `at`."""
    return day_start(local_day(at, zone) + days, zone)


def months_after(at: int, months: int, zone: str) -> int:
    """Give the start of the local day `months` after the one that holds `at`, clamped to that month's last.

    31 January and one month give 28 or 29 February.
    """
    day = date.fromordinal(local_day(at, zone) + _EPOCH_ORDINAL)
    years, month = divmod(day.month - 1 + months, 12)
    return _day_start(_anchor(day.year + years, month + 1, day.day).toordinal(), zone)


def bounds(granularity: Granularity, first: date, last: date, zone: str) -> list[int]:
    """Bound the whole local days, ISO weeks (from Monday) or months from `first` to `last`, inclusive.

    n spans give n + 1 instants in order; span i is `[bounds[i], bounds[i + 1])`. The first span is the one
    that holds `first`, even where it starts before, so that a week is the same week in every answer. A date
    that a zone left out gives an empty span.

    Raise ValueError for a zone that does not exist, for `last` before `first`, and for dates before 2000 or
    after 2999.
    """
    if not _FIRST_DATE <= first <= last <= _LAST_DATE:
        raise ValueError(
            f"{first} to {last} is not a range of dates in order, from {_FIRST_DATE} to {_LAST_DATE}"
        )
    start = _span_start(granularity, first)
    edges = [start]
    while start <= last:
        start = _next_start(granularity, start)
        edges.append(start)
    return [_day_start(edge.toordinal(), zone) for edge in edges]


def _span_start(granularity: Granularity, day: date) -> date:
    if granularity == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if granularity == "month" else day


def _next_start(granularity: Granularity, start: date) -> date:
    if granularity == "month":
        return _anchor(start.year, start.month + 1, 1)
    return start + timedelta(days=7 if granularity == "week" else 1)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset((resources.files("tzdata") / "zones").read_text(encoding="ascii").split())


@cache
def _zone(name: str) -> ZoneInfo:
    """Read the rules of a zone; `ZoneInfo(name)` would prefer the host's file to the package's."""
    if not is_zone(name):
        raise ValueError(f"{name!r} is not an IANA time zone: write one such as 'Europe/Paris' or 'UTC'")
    with (resources.files("tzdata.zoneinfo") / name).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _remember_day(key: tuple[str, int]) -> int:
    zone, window = key
    at = window * WINDOW_MILLISECONDS
    ordinal = _date_ordinal(at, zone)
    if at < _day_start(ordinal, zone):  # The minute of a day that the clocks took back: see the fourth case.
        ordinal -= 1
    if len(_days) >= _MAX_DAYS_HELD:
        _days.clear()
    _days[key] = ordinal - _EPOCH_ORDINAL
    return ordinal - _EPOCH_ORDINAL


def _date_ordinal(at: int, zone: str) -> int:
    """Give the ordinal of the date that clocks in `zone` show at `at`."""
    return local_time(at, zone).toordinal()


@lru_cache(maxsize=16_384)
def _day_start(ordinal: int, zone: str) -> int:
    midnight = datetime.fromordinal(ordinal).replace(tzinfo=_zone(zone))
    # Where midnight is shown twice these are its two instants, in order; where it is left out they are out
    # of order, and the clock change lies between them (PEP 495).
    early, late = _instant(midnight), _instant(midnight.replace(fold=1))
    if early > late:
        return _first_instant_of(ordinal, late, early, zone)
    return early if _date_ordinal(late - 1, zone) >= ordinal else late


def _first_instant_of(ordinal: int, before: int, after: int, zone: str) -> int:
    """Bisect to the first instant in `(before, after]` whose date is not earlier than `ordinal`."""
    while after - before > 1:
        middle = (before + after) // 2
        if _date_ordinal(middle, zone) >= ordinal:
            after = middle
        else:
            before = middle
    return after


def _instant(local: datetime) -> int:
    return (local - _EPOCH) // _MILLISECOND


@lru_cache(maxsize=16_384)
def _period_of_day(day: int, zone: str, anchor_day: int) -> tuple[int, int]:
    today = date.fromordinal(day + _EPOCH_ORDINAL)
    month = today.month if today >= _anchor(today.year, today.month, anchor_day) else today.month - 1
    start = _anchor(today.year, month, anchor_day)
    end = _anchor(today.year, month + 1, anchor_day)
    return _day_start(start.toordinal(), zone), _day_start(end.toordinal(), zone)


def _anchor(year: int, month: int, day: int) -> date:
    """Day `day` of a month, clamped to its last; months 0 and 13 belong to the years before and after."""
    years, months = divmod(month - 1, 12)
    year, month = year + years, months + 1
    return date(year, month, min(day, monthrange(year, month)[1]))
