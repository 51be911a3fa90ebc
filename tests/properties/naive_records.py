"""The records of the naive ledger, and the dates it goes by.

Amounts are micro-credits, instants epoch milliseconds, spans [start, end).
"""

from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

HOUR, DAY = 3_600_000, 86_400_000
FOREVER = 1 << 53


@dataclass
class NaivePlan:
    """What of a plan the ledger goes by."""

    since: int
    allowance: int
    zone: str = "UTC"
    anchor: int = 1
    grace: int = 72 * HOUR
    levels: tuple[int, ...] = (80, 85, 90, 95)
    policy: str = "hard_stop"
    settled_by: str = "nothing"
    rolls: bool = False
    months: int = 0
    cap: int | None = None
    floor: int = 0
    trial_days: int = 0
    level: int | None = None
    """Recharges below this; none for never."""
    block: int = 0
    cool_down: int = 0
    delay: int = 0
    daily_cap: int = 1
    back_off: int = 0

    @property
    def forgives(self) -> bool:
        """Whether nobody ever pays what is uncovered."""
        return self.policy == "hard_stop" and self.settled_by == "nothing"

    def allowance_at(self, start: int, end: int) -> tuple[int, int]:
        """What the period gets, and until when it is good."""
        if self.trial_days:
            over = days_later(self.since, self.trial_days, self.zone)
            return (self.allowance if start <= self.since < end else 0), over
        return self.allowance, self.end_of_rolled(start) if self.rolls else end

    def end_of_rolled(self, start: int) -> int:
        return months_later(start + 12 * HOUR, self.months, self.zone) if self.months else FOREVER


@dataclass
class NaiveGrant:
    """Credits that are good in [start, end)."""

    name: str
    kind: str
    given: int
    left: int
    start: int
    end: int
    priority: int
    number: int
    is_extended: bool = False
    is_over: bool = False
    was_empty: bool = False
    former_end: int = 0
    extended_by: str = ""

    def is_good(self, at: int) -> bool:
        return self.left > 0 and self.start <= at < self.end

    @property
    def place(self) -> tuple[object, ...]:
        return (self.priority, self.end, self.kind == "purchase", self.start, self.number, self.name)


@dataclass
class NaivePeriod:
    """[start, end)."""

    start: int
    end: int
    used: int = 0
    uncovered: int = 0
    arming: int = 1
    fired: set[int] = field(default_factory=set)


@dataclass
class NaiveHold:
    """Credits held until an instant."""

    name: str
    left: int
    end: int
    campaign: str
    listed: str = ""


@dataclass
class NaiveRecharge:
    """The last request."""

    number: int = 0
    is_open: bool = False
    due: int = 0
    block: int = 0
    not_before: int = 0
    declines: int = 0
    below_since: int = 0
    day: date | None = None
    of_day: int = 0


def local_midnight(year: int, month: int, day: int, zone: str) -> int:
    """The instant at which a date begins; a day the month does not have is its last."""
    years, months = divmod(month - 1, 12)
    year, month = year + years, months + 1
    day = min(day, monthrange(year, month)[1])
    return round(datetime(year, month, day, tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def local_date(at: int, zone: str) -> date:
    return datetime.fromtimestamp(at / 1000, UTC).astimezone(ZoneInfo(zone)).date()


def days_later(at: int, days: int, zone: str) -> int:
    day = local_date(at, zone) + timedelta(days=days)
    return local_midnight(day.year, day.month, day.day, zone)


def months_later(at: int, months: int, zone: str) -> int:
    day = local_date(at, zone)
    return local_midnight(day.year, day.month + months, day.day, zone)


def month_around(at: int, zone: str, anchor: int) -> tuple[int, int]:
    """The billing month that contains an instant."""
    year = datetime.fromtimestamp(at / 1000, UTC).year
    starts = [local_midnight(year, month, anchor, zone) for month in range(-1, 16)]
    return max(each for each in starts if each <= at), min(each for each in starts if each > at)
