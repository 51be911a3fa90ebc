"""Two sides that must say the same, row by row: how many each has, which differ, and both sums by tenant and day.

Takes rows of one part (facts, windows, accounts and so on) from the one side and the other; gives a `Tally`. Where a
side lacks a row it is none, but for parts whose missing rows mean zero. Counts and sums are of every row that was
compared; of the differences themselves only so many are kept as are to be shown. Reads no log and no database, and
never decides which side is right.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import UNSET

from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.windows import local_day

Key = tuple[Any, ...]
"""What names a row within its part; the tenant comes first, "" where there is none."""
Values = tuple[Any, ...]
"""What a row says; UNSET where it says nothing of a field, which differs from no value."""


class Part(NamedTuple):
    """One kind of rows that is compared."""

    name: str
    fields: tuple[str, ...]
    """Names of a row's values. Amounts end in `_micros` where they are micro-credits."""
    sides: tuple[str, str] = ("log", "stored")
    """What people call the one side and the other."""
    summed: tuple[str, ...] = ()
    """Fields whose sums are shown by tenant and day."""
    ignored: frozenset[str] = frozenset()
    """Fields that may differ."""
    at: str = ""
    """The field with the instant whose local day is the row's."""
    is_zero_when_absent: bool = False


_USED = ("messages", "segments", "quantity", "credits_micros")

FACTS = Part(
    "facts",
    FACT_COLUMNS,
    summed=_USED,
    # A hash under a key that may have changed since; nothing is charged by it.
    ignored=frozenset({"counterparty_hash"}),
)
"""Key: (tenant, message key, kind, occurred_at). A refund is a row of its own."""
WINDOWS = Part("windows", (*_USED, "window_start"), summed=_USED, at="window_start", is_zero_when_absent=True)
"""Key: (tenant, window start in milliseconds, kind, direction, country, category)."""
ACCOUNTS = Part(
    "accounts",
    (
        "organization", "plan", "zone", "period_start", "period_end", "limit_micros", "used_micros",
        "balance_micros", "uncovered_micros", "available_micros", "reserved_micros", "unassigned_micros",
        "remaining_micros",
    ),
    summed=("balance_micros", "uncovered_micros"),
)  # fmt: skip
"""Key: (tenant,). `remaining_micros` is a mapping by grant."""
ENTRIES = Part(
    "entries",
    (
        "kind", "grant_id", "window_start", "amount_micros", "balance_after_micros", "money_micros", "currency",
        "cause", "effective_at", "posted_at",
    ),
    summed=("amount_micros",),
    at="effective_at",
)  # fmt: skip
"""Key: (tenant, entry id)."""
_ALERT_FIELDS = (
    "period_start", "period_end", "level", "arming", "used", "limit", "remaining", "run_out_at", "occurred_at",
)  # fmt: skip
ALERTS = Part("alerts", _ALERT_FIELDS, at="occurred_at")
"""Key: (tenant, alert id); credits are decimal strings, as in all documents."""
PUBLISHED_ALERTS = Part("published alerts", _ALERT_FIELDS, at="occurred_at")
RESULTS = Part("results", ("type", "outcome", "reason", "balance", "effective_at"), at="effective_at")
"""Key: (tenant, command id, offset): a repeated command is answered again."""
RECHARGES = Part(
    "recharges",
    ("credits", "due_credits", "currency", "due", "top_up", "charge", "occurred_at"),
    at="occurred_at",
)
"""Key: (tenant, request id)."""
REFUSALS = Part("refusals", ("source", "id", "size_bytes", "digest", "received_at"), at="received_at")
"""Key: (tenant, offset, reason). `source` is UNSET, and not compared, where a release before it made the document."""


FACTS_AND_WINDOWS = Part("windows of facts", WINDOWS.fields, sides=("facts", "windows"), at="window_start")
"""Key: as of `WINDOWS`. Of this and the two below only rows that differ are given, so there are no sums."""
FACTS_AND_ENTRIES = Part(
    "usage of facts", ("burned_micros", "window_start"), sides=("facts", "entries"), at="window_start"
)
"""Key: (tenant, window start in milliseconds, grant id)."""
ENTRIES_AND_BALANCES = Part(
    "balances",
    ("balance_micros", "grants_less_uncovered_micros", "least_remaining_micros"),
    sides=("entries", "accounts"),
)
"""Key: (tenant,)."""


class Difference(NamedTuple):
    """One row that the two sides do not agree on."""

    part: Part
    key: Key
    day: int | None
    """Days since 1970-01-01 in the tenant's zone; none where the row has no day."""
    one: Mapping[str, Any] | None
    """The values that differ, as the first side has them; all where the other lacks the row; none where it does."""
    other: Mapping[str, Any] | None
    about: str = ""
    """What the row is called by people, where its key does not say."""


@dataclass
class Sums:
    """What both sides say of one tenant and day."""

    one: list[int]
    other: list[int]
    differing: int = 0
    """Rows."""


@dataclass(frozen=True)
class Scope:
    """What is compared: all tenants and days unless some are named."""

    tenants: frozenset[str] = frozenset()
    first_day: int | None = None
    """Inclusive, as `last_day`; days since 1970-01-01 in each tenant's zone."""
    last_day: int | None = None

    def has_tenant(self, tenant: str) -> bool:
        """Whether the tenant's rows are compared."""
        return not self.tenants or tenant in self.tenants

    def has_day(self, day: int | None) -> bool:
        """Whether rows of the day are; those without a day are compared always."""
        return day is None or (
            (self.first_day is None or self.first_day <= day)
            and (self.last_day is None or day <= self.last_day)
        )


@dataclass
class Tally:
    """What came of comparing one part."""

    part: Part
    scope: Scope = Scope()
    most_kept: int = 20
    one_rows: int = 0
    other_rows: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    """The first `most_kept` of them."""
    one_only: Counter[str] = field(default_factory=Counter)
    """Rows that the other side lacks: of refusals by reason, of all other parts under the empty name."""
    other_only: Counter[str] = field(default_factory=Counter)
    """Rows that the one side lacks, likewise."""
    by_day: dict[tuple[str, int | None], Sums] = field(init=False)

    def __post_init__(self) -> None:
        """Sets up what depends on the part."""
        part, width = self.part, len(self.part.summed)
        self.by_day = defaultdict(lambda: Sums([0] * width, [0] * width))
        self._summed = [part.fields.index(name) for name in part.summed]
        self._at = part.fields.index(part.at) if part.at else None
        self._day = part.fields.index("local_date") if part is FACTS else None

    def compare(self, key: Key, one: Values | None, other: Values | None, zone: str) -> None:
        """Compares one row; `zone` is that of the tenant's days."""
        known = one or other
        if known is None:
            return
        day = self._day_of(known, zone)
        if not self.scope.has_day(day):
            return
        self.one_rows += one is not None
        self.other_rows += other is not None
        sums = self.by_day[key[0], day]
        for into, values in ((sums.one, one), (sums.other, other)):
            if values is not None:
                for position, at in enumerate(self._summed):
                    into[position] += values[at]
        if one == other:
            return
        told = self._told(one, other)
        if told is not None:
            sums.differing += 1
            self.differing += 1
            if one is None or other is None:
                lonely = self.one_only if other is None else self.other_only
                lonely[key[-1] if self.part is REFUSALS else ""] += 1
            if len(self.differences) < self.most_kept:
                self.differences.append(Difference(self.part, key, day, *told, _about(self.part, known)))

    def agree(self, rows: int) -> None:
        """Counts rows that were compared elsewhere and are the same on both sides."""
        self.one_rows += rows
        self.other_rows += rows

    def _day_of(self, values: Values, zone: str) -> int | None:
        if self._day is not None:
            day: int = values[self._day]
            return day
        return None if self._at is None else local_day(values[self._at], zone)

    def _told(
        self, one: Values | None, other: Values | None
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] | None:
        """What differs, by field; none where nothing that matters does."""
        part = self.part
        names = (
            part.summed
            if part.is_zero_when_absent
            else [each for each in part.fields if each not in part.ignored]
        )
        absent: dict[str, Any] | None = dict.fromkeys(names, 0) if part.is_zero_when_absent else None
        mine, theirs = (absent if side is None else _some(part, side, names) for side in (one, other))
        if mine is None or theirs is None:
            return mine, theirs
        differing = [
            name
            for name in mine
            if mine[name] != theirs[name] and mine[name] is not UNSET and theirs[name] is not UNSET
        ]
        if not differing:
            return None
        return {name: mine[name] for name in differing}, {name: theirs[name] for name in differing}


def _some(part: Part, values: Values, names: Sequence[str]) -> dict[str, Any]:
    return {name: values[part.fields.index(name)] for name in names}


def _about(part: Part, values: Values) -> str:
    """A message by source and id."""
    if part is not FACTS:
        return ""
    named = _some(part, values, ("source", "message_id", "messages"))
    return f"{named['source']} {named['message_id']}{'' if named['messages'] else ' (refund)'}"
