"""An account written down for clarity, not for speed: after the rules, with everything looked up each time.

Amounts are micro-credits, instants epoch milliseconds. A step is `pass_time`, then one thing that happens. What is
usable in the open period is not kept but found: what was used of it and what is left, less what is uncovered.
"""

from collections import Counter

from tests.properties.naive_promises import ask, cut_shares, hold_within_credits
from tests.properties.naive_records import (
    FOREVER,
    HOUR,
    NaiveGrant,
    NaiveHold,
    NaivePeriod,
    NaivePlan,
    NaiveRecharge,
    month_around,
)


class NaiveLedger:
    """One account; no message of it is ahead of the log."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.record = 0
        """The number of the record at hand: tells older grants from newer."""
        self.plans: list[NaivePlan] = []
        self.grants: list[NaiveGrant] = []
        self.periods: list[NaivePeriod] = []
        self.uncovered = 0
        self.shares: dict[str, int] = {}
        self.paid: Counter[str] = Counter()
        """By list: what was taken off the share since it was set."""
        self.holds: list[NaiveHold] = []
        self.recharge = NaiveRecharge()
        self.posted: Counter[tuple[str, str]] = Counter()
        """(kind of entry, grant) to the sum of its entries, but for usage."""
        self.alerts: list[tuple[int, int, int]] = []
        """(period start, arming, level) of open periods, in the order in which they fired."""
        self.requests: list[tuple[int, int]] = []
        """(credits, credits due) of recharges asked for."""

    # What is known.

    @property
    def plan(self) -> NaivePlan:
        """The plan in force."""
        return self.plan_at(self.now)

    def plan_at(self, at: int) -> NaivePlan:
        return max((plan for plan in self.plans if plan.since <= at), key=lambda plan: plan.since)

    @property
    def open(self) -> NaivePeriod:
        return self.periods[-1]

    @property
    def good(self) -> int:
        """The credits that are good now."""
        return sum(grant.left for grant in self.grants if grant.is_good(self.now))

    @property
    def owed(self) -> int:
        return 0 if self.plan.forgives else self.uncovered

    @property
    def held(self) -> int:
        return sum(hold.left for hold in self.holds)

    @property
    def available(self) -> int:
        return self.good - self.held - self.owed

    @property
    def balance(self) -> int:
        return sum(grant.left for grant in self.grants if not grant.is_over) - self.uncovered

    @property
    def limit(self) -> int:
        """What is usable in the open period."""
        left = sum(
            grant.left
            for grant in self.grants
            if not grant.is_over and grant.start < self.open.end and grant.end > self.open.start
        )
        return self.open.used + left - self.open.uncovered

    def post(self, kind: str, grant: str, amount: int) -> None:
        if amount:
            self.posted[kind, grant] += amount

    # Time.

    def pass_time(self, until: int) -> None:
        """Every instant at which something is due has its turn."""
        self.happen()
        while True:
            grace = self.plan.grace
            due = [plan.since for plan in self.plans] + [hold.end for hold in self.holds]
            due += [at for each in self.periods for at in (each.end, each.end + grace)]
            due += [at for each in self.grants for at in (each.start, each.end, each.end + grace)]
            due += [] if self.recharge.is_open else [self.recharge.not_before]
            due = [at for at in due if self.now < at <= until]
            if not due:
                break
            self.now = min(due)
            self.happen()
        self.now = max(self.now, until)

    def happen(self) -> None:
        """What the present instant asks for: what ends, ends first, and shares may count on what is renewed."""
        has_ended = self.end_grants()
        gifts: list[tuple[NaiveGrant, int]] = []
        if not self.periods:
            gifts += self.begin_period(max(self.plan.since, self.now - self.plan.grace))
        while self.open.end <= self.now:
            gifts += self.begin_period(self.now)
        given_before = sum(grant.given for grant in self.grants)
        gifts += (changes := self.bring_allowance_to_plan())
        is_lowered = not changes and sum(grant.given for grant in self.grants) < given_before
        if self.plan.settled_by == "any_grant":
            for grant, _ in gifts:
                self.pay_with(grant)
        has_ended = self.end_grants() or has_ended
        if has_ended or is_lowered:
            cut_shares(self)
        self.close_periods()
        self.follow()

    def end_grants(self) -> bool:
        """Whether credits have ended."""
        ended = [grant for grant in self.grants if grant.end <= self.now and not grant.is_over]
        for grant in ended:
            grant.is_over = True
            self.post("expiry", grant.name, -grant.left)
        return any(grant.left for grant in ended)

    def begin_period(self, at: int) -> list[tuple[NaiveGrant, int]]:
        """The first period contains `at`; any other follows the last."""
        plan = self.plan
        gifts = []
        if self.periods:
            start = self.open.end
            end = month_around(start, plan.zone, plan.anchor)[1]
            if end - start < 15 * 24 * HOUR:  # Less than half a month belongs to the month after it.
                end = month_around(end, plan.zone, plan.anchor)[1]
            gifts += self.roll_over(start) if plan.rolls else []
        else:
            start, end = month_around(at, plan.zone, plan.anchor)
        self.periods.append(NaivePeriod(start, end))
        amount, good_until = plan.allowance_at(start, end)
        return [
            *gifts,
            self.add("allowance", f"allowance:{start}", amount, start, good_until, 100, "allowance"),
        ]

    def roll_over(self, start: int) -> list[tuple[NaiveGrant, int]]:
        """Allowances pass into the period: no more than the cap, no less than the floor."""
        plan = self.plan
        rolled = [
            grant
            for grant in sorted(self.grants, key=lambda each: each.place)
            if grant.kind in ("allowance", "rollover") and grant.start < start < grant.end
        ]
        total = sum(grant.left for grant in rolled)
        too_much = 0 if plan.cap is None else max(total - plan.cap, 0)
        for grant in rolled:
            grant.kind = "rollover"
            cut = min(grant.left, too_much)
            if cut:
                too_much -= cut
                grant.given -= cut
                grant.left -= cut
                self.post("rollover", grant.name, -cut)
                self.add("rollover", f"{grant.name}:until:{start}", cut, grant.start, start, 100, "rollover")
        if total >= plan.floor:
            return []
        until = plan.end_of_rolled(start)
        return [self.add("rollover", f"floor:{start}", plan.floor - total, start, until, 100, "rollover")]

    def bring_allowance_to_plan(self) -> list[tuple[NaiveGrant, int]]:
        """The open period has what the plan gives, less what was burned of it."""
        plan, start, end = self.plan, self.open.start, self.open.end
        amount, good_until = plan.allowance_at(start, end)
        if good_until <= self.now:
            amount = 0
        for grant in self.grants:
            if grant.kind == "allowance" and start <= grant.start < end and not grant.is_over:
                if good_until > self.now:
                    grant.end = good_until
                change = max(amount - (grant.given - grant.left), 0) - grant.left
                grant.given += change
                grant.left += change
                self.post("plan_change", grant.name, change)
                return [(grant, change)] if change > 0 else []
        if not amount:
            return []
        name, begin = f"allowance:{start}:{self.now}", max(start, plan.since)
        return [self.add("allowance", name, amount, begin, good_until, 100, "allowance")]

    def close_periods(self) -> None:
        closed_until = self.now - self.plan.grace
        self.grants = [each for each in self.grants if not each.is_over or each.end > closed_until]
        while len(self.periods) > 1 and self.periods[0].end <= closed_until:
            period = self.periods.pop(0)
            plan = self.plan_at(period.end - 1)
            if plan.policy == "arrears" or plan.forgives:
                self.uncovered -= period.uncovered
                self.post("write_off" if plan.forgives else "arrears", "", period.uncovered)
            self.grants = [
                each for each in self.grants if each.left or not each.was_empty or each.kind == "allowance"
            ]
            for each in self.grants:
                each.was_empty = not each.left

    # Grants.

    def add(
        self, kind: str, name: str, amount: int, start: int, end: int, priority: int, entry: str
    ) -> tuple[NaiveGrant, int]:
        grant = NaiveGrant(name, kind, amount, amount, start, end, priority, self.record)
        self.grants.append(grant)
        self.post(entry, name, amount)
        return grant, amount

    def give(
        self,
        kind: str,
        name: str,
        amount: int,
        start: int,
        end: int = FOREVER,
        priority: int = 500,
        *,
        is_extended: bool = False,
    ) -> None:
        """A grant by a command."""
        grant, _ = self.add(kind, name, amount, start, end, priority, kind)
        grant.is_extended = is_extended
        if is_extended:
            for other in self.grants:
                if other.is_extended and not other.is_over and other.end < end:
                    other.former_end, other.extended_by, other.end = other.end, name, end
        if self.plan.settled_by == "any_grant" or (
            self.plan.settled_by == "purchases" and kind == "purchase"
        ):
            self.pay_with(grant)
        self.follow()

    def pay_with(self, grant: NaiveGrant) -> None:
        paid = min(max(self.uncovered, 0), grant.left)
        grant.left -= paid
        self.post("settlement", grant.name, -paid)
        self.pay("settlement", paid)

    def pay(self, kind: str, paid: int) -> None:
        """What is uncovered is paid off, the oldest first."""
        self.post(kind, "", paid)
        older = self.uncovered - sum(max(each.uncovered, 0) for each in self.periods)
        self.uncovered -= paid
        paid -= min(paid, max(older, 0))
        for period in self.periods:
            part = min(paid, max(period.uncovered, 0))
            period.uncovered -= part
            paid -= part

    def void(self, name: str) -> str:
        for grant in self.grants:
            if grant.name == name:
                if grant.left < grant.given or grant.is_over:
                    return "grant_burned"
                self.grants.remove(grant)
                self.post("void", name, -grant.given)
                for other in self.grants:
                    if other.extended_by == name and not other.is_over:
                        other.end = other.former_end
                cut_shares(self)
                self.follow()
                return ""
        return "grant_unknown"

    # Usage.

    def burn(self, amount: int, at: int, period: NaivePeriod) -> list[tuple[str, int]]:
        taken = []
        for grant in sorted(self.grants, key=lambda each: each.place):
            part = min(amount, grant.left) if grant.is_good(at) else 0
            if part:
                grant.left -= part
                amount -= part
                taken.append((grant.name, part))
        if amount:
            self.uncovered += amount
            period.uncovered += amount
            taken.append(("", amount))
        return taken

    def place(self, at: int) -> tuple[int, NaivePeriod]:
        """Whose grants burn, and where it counts: in its own period, or in the open one now."""
        if at < self.periods[0].start:
            at = self.now
        return at, next(each for each in self.periods if each.start <= at < each.end)

    def charge(self, amount: int, occurred_at: int, listed: str, campaign: str) -> list[tuple[str, int]]:
        """A message; says what it burned."""
        at, period = self.place(occurred_at)
        taken = self.burn(amount, at, period)
        period.used += amount
        if listed in self.shares:
            self.shares[listed] -= amount
            self.paid[listed] += amount
        for hold in self.holds:
            if campaign and hold.campaign == campaign:
                part = min(amount, hold.left)
                hold.left -= part
                amount -= part
        self.follow()
        return taken

    def refund(self, taken: list[tuple[str, int]], occurred_at: int, listed: str) -> None:
        """What a message burned comes back, to grants that are still there."""
        at, period = self.place(occurred_at)
        amount = sum(part for _, part in taken)
        came_back = credits_back = 0
        for name, part in taken:
            back = part
            if not name:
                outstanding = min(part, max(self.uncovered, 0))
                self.uncovered -= outstanding if self.plan.forgives else part
                came_back += outstanding if self.plan.forgives else part
                period.uncovered -= (
                    part if self.plan.policy == "arrears" else min(outstanding, max(period.uncovered, 0))
                )
            for grant in self.grants:
                if grant.name == name:
                    grant.left += back
                    grant.was_empty = False
                    credits_back += 0 if grant.is_over else back
        came_back += credits_back
        if at == occurred_at:
            period.used -= amount
        if listed in self.shares:
            share = min(self.paid[listed], came_back, credits_back + max(-self.shares[listed], 0))
            self.shares[listed] += share
            self.paid[listed] -= share
        self.follow()

    def take(self, kind: str, amount: int) -> None:
        """A command burns credits."""
        for name, part in self.burn(amount, self.now, self.open):
            self.post(kind, name, -part)
        if kind == "commit":
            self.open.used += amount
        cut_shares(self)
        self.follow()

    def adjust(self, amount: int) -> str:
        if amount > self.good and self.plan.policy == "hard_stop":
            return "credits_insufficient"
        self.take("adjustment", amount)
        return ""

    # What follows from any change.

    def follow(self) -> None:
        hold_within_credits(self)
        self.look_at_levels()
        ask(self)

    def look_at_levels(self) -> None:
        """Forgets what is no longer reached and tells what is, of the open period."""
        period, limit = self.open, self.limit
        reached = {level for level in range(1, 101) if 0 < limit * level <= period.used * 100}
        if not period.fired <= reached:
            period.fired &= reached
            period.arming += 1
        for level in self.plan.levels:
            if level in reached - period.fired and period.used > 0:
                period.fired.add(level)
                self.alerts.append((period.start, period.arming, level))
