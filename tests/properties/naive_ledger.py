"""The ledger written down for clarity, not for speed: whole credits, plain lists, everything looked up each time."""

from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

HOUR = 3_600_000
FOREVER = 1 << 53


@dataclass
class NaivePlan:
    """What of a plan the ledger goes by."""

    since: int
    allowance: int
    zone: str = "UTC"
    anchor: int = 1
    grace_hours: int = 72
    levels: tuple[int, ...] = (80, 85, 90, 95)


@dataclass
class NaiveGrant:
    """Credits that are good in [start, end)."""

    name: str
    given: int
    left: int
    start: int
    end: int
    priority: int
    is_paid: bool
    number: int


@dataclass
class NaivePeriod:
    """[start, end)."""

    start: int
    end: int
    limit: int
    used: int = 0
    arming: int = 1
    fired: set[int] = field(default_factory=set)


def local_midnight(year: int, month: int, day: int, zone: str) -> int:
    """The instant at which a date begins."""
    years, months = divmod(month - 1, 12)
    year, month = year + years, months + 1
    day = min(day, monthrange(year, month)[1])
    return round(datetime(year, month, day, tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def month_end(at: int, zone: str, anchor: int) -> tuple[int, int]:
    """The billing month that contains an instant."""
    year = datetime.fromtimestamp(at / 1000, UTC).year
    starts = [local_midnight(year, month, anchor, zone) for month in range(-1, 16)]
    start = max(each for each in starts if each <= at)
    return start, min(each for each in starts if each > at)


class NaiveLedger:
    """One account."""

    def __init__(self) -> None:
        self.now = 0
        self.plans: list[NaivePlan] = []
        self.grants: list[NaiveGrant] = []
        self.periods: list[NaivePeriod] = []
        self.uncovered = 0
        self.alerts: list[tuple[int, int, int]] = []
        """(period start, arming, level), in the order in which they fired."""

    def plan_at(self, at: int) -> NaivePlan:
        """The plan in force."""
        return max((plan for plan in self.plans if plan.since <= at), key=lambda plan: plan.since)

    def pass_time(self, until: int) -> None:
        """Every instant at which something is due has its turn."""
        while self.plans:
            grace = self.plan_at(self.now).grace_hours * HOUR
            due = [plan.since for plan in self.plans]
            due += [period.end + wait for period in self.periods for wait in (0, grace)]
            due += [grant.end + grace for grant in self.grants]
            due = [at for at in due if self.now < at <= until]
            if not due:
                break
            self.now = min(due)
            self.happen()
        self.now = max(self.now, until)

    def happen(self) -> None:
        """What the present instant asks for."""
        plan = self.plan_at(self.now)
        grace = plan.grace_hours * HOUR
        if not self.periods:
            self.begin_period(max(plan.since, self.now - grace))
        while self.periods[-1].end <= self.now:
            self.begin_period(self.now)
        current = next(period for period in self.periods if period.start <= self.now < period.end)
        for grant in self.grants:
            if grant.name == f"allowance:{current.start}":
                burned = grant.given - grant.left
                change = max(plan.allowance - burned, 0) - grant.left
                grant.given += change
                grant.left += change
                current.limit += change
        self.grants = [grant for grant in self.grants if grant.end + grace > self.now]
        while len(self.periods) > 1 and self.periods[0].end + grace <= self.now:
            del self.periods[0]
            self.grants = [each for each in self.grants if each.left or each.name.startswith("allowance")]
        self.look_at_levels()

    def begin_period(self, at: int) -> None:
        """The first period contains `at`; any other follows the last."""
        plan = self.plan_at(max(at, self.now) if self.periods else at)
        start, end = month_end(self.periods[-1].end if self.periods else at, plan.zone, plan.anchor)
        if self.periods:
            start = self.periods[-1].end
        carried = sum(grant.left for grant in self.grants if grant.start < end and grant.end > start)
        self.periods.append(NaivePeriod(start, end, carried + plan.allowance))
        number = len(self.grants)
        self.grants.append(
            NaiveGrant(f"allowance:{start}", plan.allowance, plan.allowance, start, end, 100, False, number)
        )

    def set_plan(self, plan: NaivePlan) -> None:
        """Puts the account under a plan, from then on."""
        self.plans = [each for each in self.plans if each.since != plan.since] + [plan]
        self.happen()

    def give(
        self, name: str, amount: int, start: int, end: int, priority: int, *, is_paid: bool, number: int
    ) -> None:
        """Adds a grant."""
        self.grants.append(NaiveGrant(name, amount, amount, start, end, priority, is_paid, number))
        for period in self.periods:
            if start < period.end and end > period.start:
                period.limit += amount
        self.look_at_levels()

    def charge(self, amount: int, at: int) -> None:
        """Burns credits one by one."""
        while at >= self.periods[-1].end:
            self.begin_period(at)
        if at < self.periods[0].start:
            at = self.now
        period = next(period for period in self.periods if period.start <= at < period.end)
        period.used += amount
        for _ in range(amount):
            good = [grant for grant in self.grants if grant.left and grant.start <= at < grant.end]
            if good:
                first = min(
                    good,
                    key=lambda each: (
                        each.priority,
                        each.end,
                        each.is_paid,
                        each.start,
                        each.number,
                        each.name,
                    ),
                )
                first.left -= 1
            else:
                self.uncovered += 1
        self.look_at_levels()

    def look_at_levels(self) -> None:
        """Forgets what is no longer reached and tells what is."""
        for period in self.periods:
            at = min(max(self.now, period.start), period.end - 1)
            reached = [level for level in range(1, 101) if 0 < period.limit * level <= period.used * 100]
            if not period.fired <= set(reached):
                period.fired &= set(reached)
                period.arming += 1
            for level in self.plan_at(at).levels:
                if level in reached and level not in period.fired:
                    period.fired.add(level)
                    self.alerts.append((period.start, period.arming, level))
