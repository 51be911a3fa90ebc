"""An account at work: an `Account` with what makes charging it cheap.

`LiveAccount` answers three questions for every message: which plan is in force, which grant burns, and does
anything follow from it (an alert, a request to recharge). The answers stay the same over a stretch of event time,
the *slot*: between two neighbouring bounds of grants and periods. Inside a slot a charge is two comparisons and
two additions; anything else takes the slow way through the ledger and finds the slot anew.

Gives entries, alerts and recharge requests into the `Outcomes` of the fold. The slot is derived, never stored.
"""

from collections.abc import Callable, Mapping

from pipeline.core.account import UNCOVERED, Account, Entry, Grant, Period
from pipeline.core.allocations import cut_shares, spend, unspend
from pipeline.core.burning import Taken, burn, give_back, settle, settle_with, taken_entries
from pipeline.core.due import next_due
from pipeline.core.ledger import (
    add_grant,
    begin_those_ahead,
    change_allowance,
    close_periods,
    expire,
    extend_grants,
    left_from,
    open_periods,
    shift_limits_from,
)
from pipeline.core.outcomes import Outcomes, alert_document
from pipeline.core.plans import PlanTerms
from pipeline.core.recharge import ask
from pipeline.core.reservations import expire_reservations, hold_within_credits, settle_campaign, unheld
from pipeline.core.terms import Terms, find_terms
from pipeline.core.thresholds import NEVER_REACHED, fire, next_amount, rearm
from pipeline.core.usage import Window

NO_FURTHER: Mapping[str, int] = {}
"""Shared by all charges that one grant covers: nearly every one."""

Charge = tuple[str, int, Mapping[str, int], Mapping[str, int], int]
"""The first grant burned, the micro-credits taken from it, the same for further ones; the part that an expiry had
been posted for, by grant; and the start of the period it counts in. Grant "" is uncovered."""


class LiveAccount:
    """One tenant's account while its partition is owned here."""

    __slots__ = (
        "_compile", "_default", "_has_shares", "_partition", "_slot_from", "_slot_grant", "_slot_id", "_slot_period",
        "_slot_period_start", "_slot_until", "_slot_watch_at", "account", "changed_windows", "due_at", "is_dirty",
        "tenant", "terms", "windows",
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
        self.windows: dict[int, Window] = {}
        """Windows taken up, by start."""
        self.changed_windows: dict[int, Window] = {}
        """Those of them that a message was added to since the last checkpoint."""
        self._partition = partition
        self._compile = compile_terms
        self._default = default
        self.changed()
        self.is_dirty = False

    # Plans and time.

    def changed(self) -> None:
        """Forgets what was derived: to be called when plans, grants, shares or reservations have changed."""
        self.is_dirty = True
        self.terms: Terms | None = None
        self.due_at = 0
        self._has_shares = bool(self.account.allocations or self.account.reservations)
        self._forget_slot()

    def terms_at(self, at: int) -> Terms | None:
        """The plan in force at an instant: the tenant's, else the default one, else none."""
        terms = self.terms
        if terms is not None and terms.effective_at <= at < terms.effective_until:
            return terms
        found = self.terms = find_terms(self.account.plans, at, self._compile, self._default)
        return found

    def _plan_at(self, at: int) -> PlanTerms | None:
        terms = self.terms_at(at)
        return terms.plan if terms else None

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
            account.is_uncovered_owed = terms is None or not terms.plan.is_written_off
            # What ends at an instant ends before what begins at it, so nothing of it is carried over; what is cut
            # off in the renewal ends then too.
            expired = expire(account, offset)
            renewed = self._renew(terms, grace, offset, cause) if terms else []
            cut = expire(account, offset)
            closed = close_periods(account, grace, self._plan_at, offset)
            entries = [*expired, *renewed, *cut, *closed]
            outcomes.entries += [(self.tenant, entry) for entry in entries]
            if any(entry.kind in ("expiry", "plan_change") and entry.amount < 0 for entry in entries):
                cut_shares(account)
            self._hold_reservations(terms)
            self.due_at = next_due(account, grace)
            self._forget_slot()
            for period in account.periods:
                self._levels_changed(period, offset, outcomes)
            self._ask(offset, outcomes)

    def _hold_reservations(self, terms: Terms | None) -> None:
        """Lets go of reservations that have ended, or that the credits no longer cover."""
        account = self.account
        if account.reservations:
            expire_reservations(account)
            if terms is None or terms.plan.overage == "hard_stop":
                hold_within_credits(account)
        self._has_shares = bool(account.allocations or account.reservations)

    def _renew(self, terms: Terms, grace: int, offset: int, cause: str) -> list[Entry]:
        """Begins the periods that have come, and brings the allowance to the plan in force."""
        account = self.account
        now, began_at = account.clock_at, terms.effective_at
        entries = begin_those_ahead(account, terms.plan, offset)
        if not account.periods:
            entries += open_periods(account, max(began_at, now - grace), terms.plan, began_at, offset)
        entries += open_periods(account, now, terms.plan, began_at, offset)
        entry = change_allowance(account, terms.plan, cause, began_at, offset)
        if entry:
            entries.append(entry)
        return entries + settle_with(account, entries, terms.plan)

    # Charging.

    def charge(
        self,
        amount: int,
        occurred_at: int,
        offset: int,
        outcomes: Outcomes,
        listed: str = "",
        campaign: str = "",
    ) -> Charge:
        """Burns `amount` micro-credits for a message of a list and a campaign; says from which grants."""
        self.is_dirty = True
        if self._slot_from <= occurred_at < self._slot_until:
            grant = self._slot_grant
            period = self._slot_period
            assert period is not None
            if grant is None:
                self.account.uncovered += amount
                period.uncovered += amount
            elif 0 < amount < grant.remaining:
                grant.remaining -= amount
            elif not amount:
                return UNCOVERED, 0, NO_FURTHER, NO_FURTHER, self._slot_period_start
            else:
                return self._charge_slowly(amount, occurred_at, offset, outcomes, listed, campaign)
            period.used += amount
            is_let_go = self._has_shares and self._settle_shares(amount, listed, campaign)
            if is_let_go or period.used >= self._slot_watch_at:
                self._watch(period, offset, outcomes)
            return self._slot_id, amount, NO_FURTHER, NO_FURTHER, self._slot_period_start
        return self._charge_slowly(amount, occurred_at, offset, outcomes, listed, campaign)

    def _charge_slowly(
        self, amount: int, occurred_at: int, offset: int, outcomes: Outcomes, listed: str, campaign: str
    ) -> Charge:
        at, period = self._place(occurred_at, offset, outcomes)
        taken, lapsed = burn(self.account, amount, at, period)
        period.used += amount
        if self._has_shares:
            self._settle_shares(amount, listed, campaign)
        self._find_slot(at, period)
        self._watch(period, offset, outcomes)
        for later in self.account.periods:
            if later.starts_at > period.starts_at:
                self._levels_changed(later, offset, outcomes)
        (grant_id, micros), *further = taken or ((UNCOVERED, 0),)
        return grant_id, micros, dict(further) or NO_FURTHER, dict(lapsed) or NO_FURTHER, period.starts_at

    def _place(self, occurred_at: int, offset: int, outcomes: Outcomes) -> tuple[int, Period]:
        """The instant whose grants a message burns, and the period it counts in: its own, or the open one."""
        account = self.account
        at = occurred_at
        if not account.periods or at >= account.periods[-1].ends_at:
            self._open_ahead(at, offset, outcomes)
        elif at < account.periods[0].starts_at:
            # Its own period is closed: it counts in the open one.
            at = account.clock_at
        return at, account.period_at(at)

    def _settle_shares(self, amount: int, listed: str, campaign: str) -> bool:
        """Says whether something may have been let go of that was reserved, and a recharge hangs on what is left."""
        if listed:
            spend(self.account, listed, amount)
        if campaign and self.account.reservations:
            settle_campaign(self.account, campaign, amount)
            terms = self.terms_at(self.account.clock_at)
            return self.account.recharge is not None or (
                terms is not None and terms.plan.recharge is not None
            )
        return False

    def count_units(self, kind: str, units: int, period_start: int) -> None:
        """Counts units of a kind that the plan includes a quota of, in a period held.

        Those of a refund are negative, and may never have been counted, where the quota is newer than the message.
        """
        period = self.account.period_at(period_start)
        period.units[kind] = max(period.units.get(kind, 0) + units, 0)

    def _open_ahead(self, at: int, offset: int, outcomes: Outcomes) -> None:
        """Begins the period of a message that occurred, by its gateway's clock, after the time of the log.

        Also where the plan itself is yet to come into force. The first period is never later than the log.
        """
        account = self.account
        terms = self.terms_at(at)
        assert terms is not None, "a message is charged only under a plan"
        began_at = terms.effective_at
        entries = []
        if not account.periods:
            entries += open_periods(account, min(at, account.clock_at), terms.plan, began_at, offset)
        entries += open_periods(account, at, terms.plan, began_at, offset)
        entries += settle_with(account, entries, terms.plan)
        outcomes.entries += [(self.tenant, entry) for entry in entries]
        self.due_at = 0

    def _forget_slot(self) -> None:
        self._slot_from = self._slot_until = 0
        self._slot_grant: Grant | None = None
        self._slot_period: Period | None = None
        self._slot_period_start = 0
        self._slot_id = UNCOVERED
        self._slot_watch_at = NEVER_REACHED

    def _find_slot(self, at: int, period: Period) -> None:
        account = self.account
        bounds = [period.starts_at, period.ends_at]
        for grant in account.grants:
            bounds += (grant.starts_at, grant.expires_at)
        self._slot_from = max(bound for bound in bounds if bound <= at)
        self._slot_until = min(bound for bound in bounds if bound > at)
        self._slot_period = period
        self._slot_period_start = period.starts_at
        burning = self._slot_grant = next(
            (each for each in account.grants if each.remaining and each.starts_at <= at < each.expires_at),
            None,
        )
        self._slot_id = burning.id if burning else UNCOVERED
        # What a later period was begun with changes, or a posted expiry: the ledger's affair.
        is_shared = period is not account.periods[-1] and burning and burning.expires_at > period.ends_at
        if burning and (is_shared or burning.is_expired):
            self._slot_until = self._slot_from

    # Refunds and commands.

    def refund(
        self, burned: Taken, occurred_at: int, listed: str, offset: int, outcomes: Outcomes
    ) -> tuple[Mapping[str, int], int]:
        """Gives back what a message burned; says what of it lapses at once, and the period it counts in."""
        at, period = self._place(occurred_at, offset, outcomes)
        terms = self.terms_at(self.account.clock_at)
        left = left_from(self.account, period.starts_at)
        lapsed = give_back(self.account, burned, period, terms.plan if terms else None)
        shift_limits_from(self.account, period.starts_at, left)
        amount = sum(micros for _, micros in burned)
        if at == occurred_at:
            # What comes back to be used was in the limit already.
            period.used -= amount
            period.limit -= amount
        if listed:
            unspend(self.account, listed, burned, lapsed)
        # Where the plan has taken from the allowance meanwhile, it takes what came back of that, too.
        self.due_at = 0
        self._forget_slot()
        for each in self.account.periods:
            self._levels_changed(each, offset, outcomes)
        self._ask(offset, outcomes)
        return dict(lapsed) or NO_FURTHER, period.starts_at

    def add(self, grant: Grant, cause: str, offset: int, outcomes: Outcomes) -> None:
        """Adds a grant; what becomes usable in a held period raises its limit and may arm levels again."""
        account = self.account
        terms = self.terms_at(account.clock_at)
        entries = [add_grant(account, grant, cause)]
        if grant.is_extended:
            entries += extend_grants(account, grant, cause)
        settled_by = terms.plan.settled_by if terms else "nothing"
        if settled_by == "any_grant" or (settled_by == "purchases" and grant.kind == "purchase"):
            entries += settle(account, grant, entries[0])
        outcomes.entries += [(self.tenant, entry) for entry in entries]
        for period in account.periods:
            if grant.starts_at < period.ends_at and grant.expires_at > period.starts_at:
                period.limit += grant.amount
        self.changed()
        self.reconsider(offset, outcomes)

    def take(self, amount: int, kind: str, cause: str, offset: int, outcomes: Outcomes) -> None:
        """Burns credits for a command, with an entry of `kind` per grant."""
        period = self.account.period_at(self.account.clock_at)
        taken, _ = burn(self.account, amount, self.account.clock_at, period)
        if kind == "adjustment":
            period.limit -= amount
        else:
            period.used += amount
        outcomes.entries += [
            (self.tenant, entry) for entry in taken_entries(self.account, taken, kind, cause, offset)
        ]
        cut_shares(self.account)
        self.changed()
        self.reconsider(offset, outcomes)

    def reconsider(self, offset: int, outcomes: Outcomes) -> None:
        """Looks at reservations, alert levels and recharging anew, after a command has changed the account."""
        self._hold_reservations(self.terms_at(self.account.clock_at))
        for period in self.account.periods:
            self._levels_changed(period, offset, outcomes)
        self._ask(offset, outcomes)

    # What follows.

    def _levels(self, period: Period) -> tuple[int, ...]:
        terms = self.terms_at(min(max(self.account.clock_at, period.starts_at), period.ends_at - 1))
        return terms.plan.alert_levels if terms else ()

    def _next_watch(self, period: Period) -> int:
        """The usage of a period at which an alert fires, what is reserved is short, or a recharge may be wanted."""
        watch_at = next_amount(period.limit, self._levels(period), period.fired)
        account = self.account
        terms = self.terms_at(account.clock_at)
        if account.reservations and (terms is None or terms.plan.overage == "hard_stop"):
            watch_at = min(watch_at, period.used + max(unheld(account), 0) + 1)
        recharge, state = terms.plan.recharge if terms else None, account.recharge
        if recharge is None or (state is not None and (state.in_flight or account.clock_at < state.next_at)):
            return watch_at
        spare = account.available - recharge.level_micros if self._slot_grant else 0  # Or it is owed.
        return min(watch_at, period.used + max(spare, 0) + 1)

    def _watch(self, period: Period, offset: int, outcomes: Outcomes) -> None:
        """Does what usage has led to, and says when to look again."""
        self._hold_reservations(self.terms_at(self.account.clock_at))
        self._fire(period, offset, outcomes)
        self._ask(offset, outcomes)
        if period is self._slot_period:
            self._slot_watch_at = self._next_watch(period)

    def _ask(self, offset: int, outcomes: Outcomes) -> None:
        terms = self.terms_at(self.account.clock_at)
        if terms is None or (terms.plan.recharge is None and self.account.recharge is None):
            return
        before_at = self.account.recharge.next_at if self.account.recharge else 0
        request = ask(self.account, terms.plan, self._partition, offset)
        if request is not None:
            outcomes.recharges.append(request)
        if self.account.recharge is not None and self.account.recharge.next_at != before_at:
            self.due_at = 0

    def _levels_changed(self, period: Period, offset: int, outcomes: Outcomes) -> None:
        """Arms again the levels that usage no longer reaches, and fires those it reaches now."""
        rearm(period)
        if period.used > 0:
            self._fire(period, offset, outcomes)
        if period is self._slot_period:
            self._slot_watch_at = self._next_watch(period)

    def _fire(self, period: Period, offset: int, outcomes: Outcomes) -> None:
        at, levels = self.account.clock_at, self._levels(period)
        outcomes.alerts += [
            alert_document(self.tenant, period, level, at, self._partition, offset)
            for level in fire(period, levels)
        ]
