"""An account at work: an `Account` with what makes charging it cheap.

`LiveAccount` answers three questions for every message: which plan is in force, which grant burns, and does an
alert fire. The answers stay the same over a stretch of event time, the *slot*: between two neighbouring bounds
of grants and periods. Inside a slot a charge is two comparisons and two additions; anything else takes the slow
way through the ledger and finds the slot anew.

Gives entries and alerts into the `Outcomes` of the fold. The slot is derived, never stored.
"""

from collections.abc import Callable, Mapping

from pipeline.core.ledger import (
    FOREVER_AT,
    UNCOVERED,
    Account,
    Entry,
    Grant,
    Period,
    add_grant,
    burn,
    change_allowance,
    close_periods,
    open_periods,
)
from pipeline.core.outcomes import Outcomes, alert_document
from pipeline.core.plans import PlanTerms
from pipeline.core.records import STATUS_BITS
from pipeline.core.thresholds import NEVER_REACHED, crossed, next_amount, still_fired
from pipeline.core.usage import Split, Window

NO_FURTHER: Mapping[str, int] = {}
"""Shared by all charges that one grant covers: nearly every one."""


class Terms:
    """A plan in force from one instant to another, made ready for messages."""

    __slots__ = ("billable_mask", "effective_at", "effective_until", "plan")

    def __init__(self, plan: PlanTerms, effective_at: int, effective_until: int) -> None:
        self.plan = plan
        self.effective_at = effective_at
        self.effective_until = effective_until
        self.billable_mask = sum(STATUS_BITS[status] for status in plan.billable_statuses)


class LiveAccount:
    """One tenant's account while its partition is owned here."""

    __slots__ = (
        "_compile", "_default", "_partition", "_slot_alert_at", "_slot_from", "_slot_grant", "_slot_id",
        "_slot_period", "_slot_until", "account", "changed_windows", "due_at", "is_dirty", "tenant", "terms",
        "windows",
    )  # fmt: skip

    def __init__(
        self,
        account: Account,
        partition: int,
        compile_terms: Callable[[bytes], PlanTerms],
        default: Terms | None,
    ) -> None:
        self.account = account
        self.tenant = account.tenant
        self.is_dirty = False
        self.windows: dict[int, Window] = {}
        """Windows taken up, by start."""
        self.changed_windows: dict[int, Window] = {}
        """Those of them that a message was added to since the last checkpoint."""
        self._partition = partition
        self._compile = compile_terms
        self._default = default
        self._slot_grant: Grant | None = None
        self._slot_period: Period | None = None
        self.plans_changed()

    # Plans and time.

    def plans_changed(self) -> None:
        """Forgets what was derived from plans, periods and grants."""
        self.terms: Terms | None = None
        self.due_at = 0
        self._forget_slot()

    def terms_at(self, at: int) -> Terms | None:
        """The plan in force at an instant: the tenant's, else the default one, else none."""
        terms = self.terms
        if terms is not None and terms.effective_at <= at < terms.effective_until:
            return terms
        until = FOREVER_AT
        for plan in reversed(self.account.plans):
            if plan.effective_at <= at:
                self.terms = Terms(self._compile(plan.document), plan.effective_at, until)
                return self.terms
            until = plan.effective_at
        if self._default is not None:
            own = until < FOREVER_AT
            self.terms = Terms(self._default.plan, -FOREVER_AT, until) if own else self._default
            return self.terms
        return None

    def advance(self, at: int, offset: int, outcomes: Outcomes, cause: str = "") -> None:
        """Lets the time of the log reach `at`.

        Renewals, expiries and plan changes happen at their own instants, in order, as if a tick had come for
        each: what an account holds does not depend on how often its tenant is heard of.
        """
        account = self.account
        now = account.clock_at
        if at > now:
            now = at
        if now >= self.due_at:
            self._catch_up(now, offset, outcomes, cause)
        account.clock_at = now

    def _catch_up(self, until: int, offset: int, outcomes: Outcomes, cause: str) -> None:
        account = self.account
        self.is_dirty = True
        if not account.clock_at:
            account.clock_at = until
        while self.due_at <= until:
            account.clock_at = max(account.clock_at, self.due_at)
            terms = self.terms_at(account.clock_at)
            grace = terms.plan.late_grace_milliseconds if terms else 0
            entries = self._renew(terms, grace, offset, cause) if terms else []
            entries += close_periods(account, grace, offset)
            outcomes.entries += [(self.tenant, entry) for entry in entries]
            self.due_at = self._next_due(grace)
            self._forget_slot()
            for period in account.periods:
                self._levels_changed(period, offset, outcomes)

    def _renew(self, terms: Terms, grace: int, offset: int, cause: str) -> list[Entry]:
        """Begins the periods that have come, and brings the allowance to the plan in force."""
        account = self.account
        now = account.clock_at
        entries = []
        if not account.periods:
            entries += open_periods(account, max(terms.effective_at, now - grace), terms.plan, offset)
        entries += open_periods(account, now, terms.plan, offset)
        entry = change_allowance(account, terms.plan, cause, terms.effective_at, offset)
        return [*entries, entry] if entry else entries

    def _next_due(self, grace: int) -> int:
        """The next instant of the log at which something happens by itself."""
        account = self.account
        instants = [plan.effective_at for plan in account.plans]
        instants += [period.ends_at for period in account.periods]
        instants += [period.ends_at + grace for period in account.periods]
        instants += [grant.expires_at + grace for grant in account.grants]
        return min((at for at in instants if at > account.clock_at), default=FOREVER_AT)

    # Charging.

    def charge(self, amount: int, occurred_at: int, offset: int, outcomes: Outcomes) -> Split:
        """Burns `amount` micro-credits for a message; says from which grants."""
        self.is_dirty = True
        if self._slot_from <= occurred_at < self._slot_until:
            grant = self._slot_grant
            if grant is None:
                self.account.uncovered += amount
            elif 0 < amount < grant.remaining:
                grant.remaining -= amount
            else:
                return self._charge_slowly(amount, occurred_at, offset, outcomes)
            period = self._slot_period
            assert period is not None
            period.used += amount
            if period.used >= self._slot_alert_at:
                self._fire(period, offset, outcomes)
            return self._slot_id, amount, NO_FURTHER
        return self._charge_slowly(amount, occurred_at, offset, outcomes)

    def _charge_slowly(self, amount: int, occurred_at: int, offset: int, outcomes: Outcomes) -> Split:
        account = self.account
        at = occurred_at
        if not account.periods or at >= account.periods[-1].ends_at:
            self._open_ahead(at, offset, outcomes)
        elif at < account.periods[0].starts_at:
            # Its own period is closed: it counts in the open one.
            at = account.clock_at
        period = account.period_at(at)
        split = burn(account, amount, at)
        period.used += amount
        self._find_slot(at, period)
        if period.used >= self._slot_alert_at:
            self._fire(period, offset, outcomes)
        (grant_id, micros), *further = split or ((UNCOVERED, 0),)
        return grant_id, micros, dict(further) if further else NO_FURTHER

    def _open_ahead(self, at: int, offset: int, outcomes: Outcomes) -> None:
        """Begins the period of a message that occurred, by its gateway's clock, after the time of the log.

        Also where the plan itself is yet to come into force. The first period is never later than the log.
        """
        account = self.account
        terms = self.terms_at(at)
        assert terms is not None, "a message is charged only under a plan"
        entries = (
            [] if account.periods else open_periods(account, min(at, account.clock_at), terms.plan, offset)
        )
        entries += open_periods(account, at, terms.plan, offset)
        outcomes.entries += [(self.tenant, entry) for entry in entries]
        self.due_at = 0

    def _find_slot(self, at: int, period: Period) -> None:
        bounds = [period.starts_at, period.ends_at]
        for grant in self.account.grants:
            bounds += (grant.starts_at, grant.expires_at)
        self._slot_from = max(bound for bound in bounds if bound <= at)
        self._slot_until = min(bound for bound in bounds if bound > at)
        self._slot_period = period
        self._slot_grant = next(
            (
                grant
                for grant in self.account.grants
                if grant.remaining and grant.starts_at <= at < grant.expires_at
            ),
            None,
        )
        self._slot_id = self._slot_grant.id if self._slot_grant else UNCOVERED
        self._slot_alert_at = self._next_alert(period)

    def _forget_slot(self) -> None:
        self._slot_from = self._slot_until = 0
        self._slot_grant = None
        self._slot_period = None
        self._slot_id = UNCOVERED
        self._slot_alert_at = NEVER_REACHED

    # Grants and alerts.

    def add(self, grant: Grant, cause: str, offset: int, outcomes: Outcomes) -> None:
        """Adds a grant; what becomes usable in a held period raises its limit and may arm levels again."""
        self.is_dirty = True
        outcomes.entries.append((self.tenant, add_grant(self.account, grant, cause)))
        self.due_at = 0
        self._forget_slot()
        for period in self.account.periods:
            if grant.starts_at < period.ends_at and grant.expires_at > period.starts_at:
                period.limit += grant.amount
                self._levels_changed(period, offset, outcomes)

    def _levels(self, period: Period) -> tuple[int, ...]:
        terms = self.terms_at(min(max(self.account.clock_at, period.starts_at), period.ends_at - 1))
        return terms.plan.alert_levels if terms else ()

    def _next_alert(self, period: Period) -> int:
        return next_amount(period.limit, self._levels(period), period.fired)

    def _levels_changed(self, period: Period, offset: int, outcomes: Outcomes) -> None:
        """Arms again the levels that usage no longer reaches, and fires those it reaches now."""
        kept = tuple(still_fired(period.used, period.limit, period.fired))
        if kept != period.fired:
            period.fired = kept
            period.arming += 1
        if period.used:
            self._fire(period, offset, outcomes)

    def _fire(self, period: Period, offset: int, outcomes: Outcomes) -> None:
        for level in crossed(period.used, period.limit, self._levels(period), period.fired):
            outcomes.alerts.append(
                alert_document(self.tenant, period, level, self.account.clock_at, self._partition, offset)
            )
            period.fired = (*period.fired, level)
        if period is self._slot_period:
            self._slot_alert_at = self._next_alert(period)
