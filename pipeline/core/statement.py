"""An account's history over one span of time as a statement: what there was, what came and went, what is left.

Takes an account's ledger entries and the span `[starts_at, ends_at)`, usually a billing period; gives a `Statement`,
which `statement_document` shows as JSON. An entry belongs to the span that holds its `effective_at`: what lapses, is
billed or is written off with a period is effective in its last millisecond.

Usage, refunds and corrected expiries have an entry for every 15 minutes or message; a statement has one line for
each day, kind and grant, with the instant of the last of its entries, unless every entry is asked for. The usage of a
window stands at the window's last millisecond, so that it follows what was bought in the same quarter of an hour.

Invariants
- The opening balance and the amounts of the lines sum to the closing balance, and every line says the sum so far.
- The same holds for each grant, and the grants sum to the whole. Under "" stands what no grant covered: below zero.
- Lines stand in the order of their instants, those of one instant in the order of the log.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct

from pipeline.core.account import UNCOVERED, Entry
from pipeline.core.windows import WINDOW_MILLISECONDS, local_day

Section = Literal["added", "used", "refunded", "lapsed", "corrected", "settled"]

SECTION_BY_KIND: dict[str, Section] = {
    "allowance": "added",
    "purchase": "added",
    "promotion": "added",
    "adjustment": "added",
    "plan_change": "added",
    "rollover": "added",
    "extension": "added",
    "usage": "used",
    "late_usage": "used",
    "commit": "used",
    "refund": "refunded",
    "expiry": "lapsed",
    "expiry_correction": "corrected",
    "void": "corrected",
    "settlement": "settled",
    "payment": "settled",
    "arrears": "settled",
    "write_off": "settled",
}
"""Where a statement sums an entry; `settled` is how what was used beyond all grants has ended."""
SECTIONS: tuple[Section, ...] = ("added", "used", "refunded", "lapsed", "corrected", "settled")

_SUMMED_BY_DAY = frozenset({"usage", "late_usage", "refund", "expiry_correction"})
_SHOWN_AS = {"late_usage": "usage"}
"""Which of the two an entry is depends on whether its window was still held, which concerns nobody but us."""
_NOTHING: Mapping[str, int] = {}


class Line(Struct, frozen=True):
    """One line of a statement. Credits are micro-credits, money is in micro-units of `currency`."""

    at: int
    """When it took effect; of several entries, the last; of a window, its last millisecond."""
    day: int
    """The local day that holds it, as days since 1970-01-01."""
    kind: str
    """Of the entry; late usage is usage."""
    grant_id: str
    """Empty for what no grant covered."""
    amount: int
    balance: int
    """After the line."""
    money_micros: int
    currency: str
    cause: str
    """The command's id, or empty when time or messages caused it."""
    is_late: bool
    """The messages occurred before the span, and came too late to count in the one before."""
    entries: int
    """How many entries it sums."""

    @property
    def section(self) -> Section:
        """Where it is summed."""
        return SECTION_BY_KIND[self.kind]


class GrantMovement(Struct):
    """What became of one grant in the span, in micro-credits; it begins and ends with what remained of it."""

    grant_id: str
    opening: int = 0
    added: int = 0
    used: int = 0
    refunded: int = 0
    lapsed: int = 0
    corrected: int = 0
    settled: int = 0

    @property
    def closing(self) -> int:
        """What remained at the end."""
        moved: tuple[int, ...] = tuple(getattr(self, section) for section in SECTIONS)
        return self.opening + sum(moved)


class UsageSum(Struct):
    """What was used for one sort of messages, all of which count in the span."""

    kind: str
    direction: str
    country: str
    is_late: bool
    """They occurred before the span."""
    messages: int = 0
    segments: int = 0
    quantity: int = 0
    credits: int = 0
    """Micro-credits charged, before refunds."""
    refunded: int = 0
    """Micro-credits given back."""


class Statement(Struct):
    """An account's history over the span `[starts_at, ends_at)`."""

    starts_at: int
    ends_at: int
    opening: int
    closing: int
    lines: list[Line]
    grants: list[GrantMovement]
    """Those that began with something or moved, by their ids; "" comes first."""

    def sums(self, of: Callable[[Line], str]) -> dict[str, int]:
        """The lines' micro-credits by their section, kind or whatever else; none that came to nothing."""
        sums: dict[str, int] = defaultdict(int)
        for line in self.lines:
            sums[of(line)] += line.amount
        return {name: amount for name, amount in sums.items() if amount}

    def uncovered(self) -> dict[str, int]:
        """What became of what no grant covered: micro-credits by kind of line, below zero where it grew."""
        sums: dict[str, int] = defaultdict(int)
        for line in self.lines:
            if line.grant_id == UNCOVERED:
                sums[line.kind] += line.amount
        return {kind: amount for kind, amount in sums.items() if amount}

    def money(self) -> dict[tuple[str, str], int]:
        """What was paid or billed, in micro-units of money, by kind of line and currency."""
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for line in self.lines:
            if line.money_micros:
                sums[line.kind, line.currency] += line.money_micros
        return dict(sums)

    def money_by_currency(self, *, is_billed: bool) -> dict[str, int]:
        """What is to be paid for arrears (`is_billed`), or what was paid, less what was taken back."""
        sums: dict[str, int] = defaultdict(int)
        for (kind, currency), micros in self.money().items():
            if (kind == "arrears") == is_billed:
                sums[currency] += micros
        return dict(sums)

    def rolled_over(self) -> int:
        """What was left of earlier allowances when the span began, in micro-credits."""
        kinds = ("allowance", "rollover")
        return sum(each.opening for each in self.grants if grant_kind(each.grant_id) in kinds)


def grant_kind(grant_id: str) -> str:
    """The kind of grant an id speaks of: allowance, purchase, promotion, rollover, adjustment; or uncovered."""
    if grant_id == UNCOVERED:
        return "uncovered"
    kind = grant_id.partition(":")[0]
    return "rollover" if kind == "floor" else kind


def make_statement(
    entries: Iterable[Entry],
    starts_at: int,
    ends_at: int,
    *,
    zone: str = "UTC",
    opening: Mapping[str, int] = _NOTHING,
    is_by_entry: bool = False,
) -> Statement:
    """Sum the entries of one account into its statement for `[starts_at, ends_at)`.

    `opening` holds micro-credits by grant of whatever entries are left out: all of those before the span, or none.
    Entries before the span open it, those after it are passed over; each is given once, in any order.
    """
    grants = {grant_id: GrantMovement(grant_id, amount) for grant_id, amount in opening.items() if amount}
    own = []
    for entry in entries:
        if entry.effective_at >= ends_at:
            continue
        movement = grants.setdefault(entry.grant_id, GrantMovement(entry.grant_id))
        if entry.effective_at < starts_at:
            movement.opening += entry.amount
        else:
            own.append(entry)
            section = SECTION_BY_KIND[entry.kind]
            setattr(movement, section, getattr(movement, section) + entry.amount)
    own.sort(key=_order)
    moved = {entry.grant_id for entry in own}
    opened = sum(each.opening for each in grants.values())
    lines = _lines(own, starts_at, opened, zone, is_by_entry=is_by_entry)
    closing = sum(each.closing for each in grants.values())
    assert closing == opened + sum(line.amount for line in lines), "every entry is in one line, and once"
    assert closing == (lines[-1].balance if lines else opened), "the last line says what is left"
    kept = [grants[name] for name in sorted(grants) if grants[name].opening or name in moved]
    return Statement(starts_at, ends_at, opened, closing, lines, kept)


def _shown_at(entry: Entry) -> int:
    at = entry.effective_at
    return at + WINDOW_MILLISECONDS - 1 if at == entry.window_start else at


def _order(entry: Entry) -> tuple[int, bool, bool, int, str]:
    # What a late message burned of a grant comes later in the log than the grant's expiry, but is not after it. And
    # what no grant covered in a window comes after what grants did.
    is_usage = entry.kind in _SUMMED_BY_DAY
    is_beyond = is_usage and entry.grant_id == UNCOVERED
    return _shown_at(entry), not is_usage, is_beyond, entry.offset, entry.entry_id


def _lines(
    entries: Iterable[Entry], starts_at: int, balance: int, zone: str, *, is_by_entry: bool
) -> list[Line]:
    """The lines of entries that are in order, those that came to nothing left out, but for extensions."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        kind, day = _SHOWN_AS.get(entry.kind, entry.kind), local_day(entry.effective_at, zone)
        is_late = 0 < entry.window_start < starts_at
        is_summed = entry.kind in _SUMMED_BY_DAY and not is_by_entry
        key = (kind, is_late, day, entry.grant_id if is_summed else "", "" if is_summed else entry.entry_id)
        # Taken out and put back, so that a group stands where its last entry does.
        group = groups[key] = groups.pop(key, [])
        group.append(entry)
    lines = []
    for (kind, is_late, day, *_), group in groups.items():
        amount, last = sum(entry.amount for entry in group), group[-1]
        if not amount and kind != "extension" and not last.money_micros:
            continue
        balance += amount
        lines.append(
            Line(
                _shown_at(last), day, kind, last.grant_id, amount, balance, last.money_micros, last.currency,
                last.cause, is_late, len(group),
            )
        )  # fmt: skip
    return lines
