"""What is known of one tenant besides identities and windows: the account's state, as records.

Gives shapes, decides nothing: `ledger`, `allocations`, `reservations` and `recharge` hold the rules. Amounts are
integer micro-credits, money is integer micro-units of a currency, instants are epoch milliseconds.

Fields are added at the end and with a default, because kept values are arrays: an older value still decodes.
"""

from msgspec import Struct

FOREVER_AT = 1 << 53
"""The end of a grant that does not expire."""
ALLOWANCE_PRIORITY = 100
UNCOVERED = ""
"""The grant id under which usage beyond all grants is booked."""
MAX_PLANS = 64
MAX_ANSWERS = 1_000
ANSWERS_KEPT = 32
"""Answers kept however old they are; up to `MAX_ANSWERS` are kept for `ANSWER_MILLISECONDS`."""
ANSWER_MILLISECONDS = 48 * 3_600_000
INQUIRIES_KEPT = 8
"""Answers to questions without an effect, apart, so that asking does not push out what has happened."""
MAX_GRANTS = 1_000
MAX_LISTS = 1_000
MAX_RESERVATIONS = 1_000
"""An account has to fit into one record of its changelog."""


class Grant(Struct, gc=False, array_like=True):
    """A block of credits, valid in [starts_at, expires_at)."""

    id: str
    kind: str
    """allowance, purchase, promotion, rollover or adjustment. An allowance becomes a rollover when its period ends."""
    amount: int
    remaining: int
    starts_at: int
    expires_at: int
    priority: int
    created_offset: int
    cost_micros: int = 0
    """What was paid for it, in micro-units of `currency`."""
    currency: str = ""
    is_extended: bool = False
    """Whether a later grant with a later end extends it."""
    is_expired: bool = False
    """Its expiry is posted: what remains is no balance, but late messages of its time still burn it."""
    is_spent: bool = False
    """Nothing remained when a period closed; dropped when the next one closes, as refunds may come until then."""

    former_end_at: int = 0
    """Before the last extension, which the grant of `extended_offset` has given."""
    extended_offset: int = -1

    @property
    def burn_order(self) -> tuple[int, int, bool, int, int, str]:
        """Grants burn, and expire, in ascending order of this."""
        return (
            self.priority,
            self.expires_at,
            self.kind == "purchase" or self.cost_micros > 0,
            self.starts_at,
            self.created_offset,
            self.id,
        )


class Period(Struct, gc=False, array_like=True):
    """One billing period [starts_at, ends_at) that still takes charges."""

    starts_at: int
    ends_at: int
    limit: int
    """What is usable in it: the allowance, what was carried into it and what was added during it."""
    used: int = 0
    fired: tuple[int, ...] = ()
    """Alert levels fired and not armed again, ascending."""
    arming: int = 1
    uncovered: int = 0
    """What no grant covered in it and nothing has settled since; its closing bills it or writes it off."""
    units: dict[str, int] = {}
    """By kind: billed units of kinds the plan includes a quota of."""
    is_ahead: bool = False
    """Begun by a message of its time before the log reached its start: what rolls over has yet to."""


class PlanInForce(Struct, gc=False, array_like=True):
    """A plan document and the instant from which it holds."""

    effective_at: int
    document: bytes


class Answer(Struct, gc=False, array_like=True):
    """What a command was answered, kept so that its repetition gets the same."""

    command_id: str
    digest: bytes
    reason: str
    """The refusal, or empty when the command was accepted."""
    balance: int
    details: bytes = b""
    """What else the result says, as JSON; empty for nothing."""
    answered_at: int = 0
    is_inquiry: bool = False
    """The command had no effect, and a later question would only be answered anew."""


class Allocation(Struct, gc=False, array_like=True):
    """The share of the credits assigned to one list; a list without one draws freely."""

    left: int
    """What the list may still spend; below zero by what was sent beyond its share."""
    spent: int = 0
    """Since the share was set."""


class Reservation(Struct, gc=False, array_like=True):
    """Credits held for something scheduled; they reduce what is available, not the balance."""

    amount: int
    left: int
    """What is still held."""
    expires_at: int
    campaign: str = ""
    """Its messages settle the reservation; empty for none."""
    list: str = ""
    created_offset: int = 0


class RechargeState(Struct, gc=False, array_like=True):
    """Where automatic recharging stands."""

    asked_count: int = 0
    """Requests so far; numbers their ids."""
    in_flight: str = ""
    """The id of the request that waits for its answer; empty for none."""
    credits: int = 0
    """The block of the request in flight."""
    due_credits: int = 0
    """What was uncovered when it was asked: the payment settles it."""
    top_up_micros: int = 0
    due_micros: int = 0
    currency: str = ""
    next_at: int = 0
    """No further request before this instant."""
    declined_count: int = 0
    """In a row, for the back-off."""
    day: int = 0
    """The tenant's local day (days since 1970-01-01) that `day_count` counts."""
    day_count: int = 0
    below_since_at: int = 0
    """When the level was passed, while the plan's delay runs; 0 otherwise."""


class Entry(Struct, gc=False):
    """One immutable line of the ledger, except usage and its corrections, which are absolute per window and grant."""

    entry_id: str
    kind: str
    """allowance, purchase, promotion, adjustment, plan_change, rollover, extension, expiry, expiry_correction,
    settlement, payment, arrears, write_off, void, commit, usage, late_usage or refund."""
    grant_id: str
    amount: int
    """Signed micro-credits: grants are positive, usage and expiry negative."""
    cause: str
    """The command's id, or empty when time or a message caused it."""
    effective_at: int
    posted_at: int
    offset: int
    balance_after: int | None = None
    window_start: int = 0
    money_micros: int = 0
    """What is paid or owed for it, in micro-units of `currency`."""
    currency: str = ""


class Account(Struct, array_like=True):
    """All that the meter knows of one tenant besides identities and windows."""

    tenant: str
    applied_offset: int = -1
    clock_at: int = 0
    """The latest time of the log this account has seen."""
    plans: list[PlanInForce] = []
    """Ascending by `effective_at`."""
    grants: list[Grant] = []
    """In burn order."""
    periods: list[Period] = []
    """The open one last but for those already begun ahead of the log's time; closed ones are dropped."""
    uncovered: int = 0
    """What was used beyond all grants and nothing has settled; below zero where a refund came after the bill."""
    answers: list[Answer] = []
    organization: str = ""
    allocations: dict[str, Allocation] = {}
    """By list."""
    reservations: dict[str, Reservation] = {}
    """By id, which is that of the command that made it; oldest first."""
    recharge: RechargeState | None = None
    is_uncovered_owed: bool = True
    """Whether the plan in force lets something pay off what is uncovered; else it is written off with its period."""

    @property
    def credits(self) -> int:
        """What remains of all grants whose end has not come, in micro-credits."""
        return sum(grant.remaining for grant in self.grants if not grant.is_expired)

    @property
    def balance(self) -> int:
        """The sum of the account's entries: its credits less what is uncovered."""
        return self.credits - self.uncovered

    @property
    def reserved(self) -> int:
        """What all reservations hold."""
        return sum(reservation.left for reservation in self.reservations.values())

    @property
    def assigned(self) -> int:
        """What lists with a share may still spend."""
        return sum(max(allocation.left, 0) for allocation in self.allocations.values())

    @property
    def unassigned(self) -> int:
        """The credits that belong to no list's share, never below zero."""
        return max(self.credits_at(self.clock_at) - self.assigned, 0)

    @property
    def available(self) -> int:
        """What can be spent now: the credits valid at the account's time, less what is reserved or owed."""
        return self.credits_at(self.clock_at) - self.reserved - self.owed

    @property
    def owed(self) -> int:
        """What of the uncovered usage is still to be paid, by a grant or by a bill."""
        return self.uncovered if self.is_uncovered_owed else 0

    def credits_at(self, at: int) -> int:
        """What remains of the grants valid at an instant."""
        return sum(
            grant.remaining
            for grant in self.grants
            if grant.starts_at <= at < grant.expires_at and not grant.is_expired
        )

    def left_in(self, period: Period) -> int:
        """What remains of grants for messages of a period, less what is uncovered of it.

        A grant that has ended since is still there for the late messages of a period that ended before it.
        """
        return (
            sum(
                grant.remaining
                for grant in self.grants
                if grant.starts_at < period.ends_at
                and grant.expires_at > period.starts_at
                and (not grant.is_expired or grant.expires_at >= period.ends_at)
            )
            - period.uncovered
        )

    def period_at(self, at: int) -> Period:
        """The period that contains `at`; the first or last held where none does."""
        for period in self.periods:
            if at < period.ends_at:
                return period
        return self.periods[-1]
