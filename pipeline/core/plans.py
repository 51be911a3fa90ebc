"""What a tenant agreed to: a plan as a document, and the same plan made ready for the hot path.

`Plan` is what is written, travels inside signed commands and is stored: JSON, strings for amounts, unknown
fields refused. `PlanTerms` is what the folds use: integers, a tariff, sets. `compile_plan` turns one into the
other or says everything that is wrong. Callers keep the terms by the document's bytes (`encode_plan`), since
compiling costs some 30 us and looking up costs nothing.

Shape and words of closed lists (types, statuses, units) are checked when a document is decoded; ranges and
what depends on other data (rate cards, zones, alphabets) are checked here, so that one answer names every
fault.

Invariants: every field but the first five has a default, so that documents written before a field existed
still decode; encoding is deterministic; terms are never changed.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from pipeline.core.alphabets import LOCKING_SHIFT_LANGUAGES, SINGLE_SHIFT_LANGUAGES
from pipeline.core.amounts import format_credits, parse_credits
from pipeline.core.bounds import MAX_PLAN_MICROS
from pipeline.core.rating import Kind, RateCard, RateRule, Tariff
from pipeline.core.segments import Profile, profile
from pipeline.core.windows import is_zone

Status = Literal[
    "accepted",
    "queued",
    "sending",
    "sent",
    "received",
    "delivered",
    "undelivered",
    "failed",
    "unknown",
    "read",
]

MAX_ALERT_LEVELS = 16
MAX_OWN_RATES = 1_000
MAX_LATE_GRACE_HOURS = 31 * 24
"""One period: a message later than that would reopen a period that has been invoiced twice over."""

MAX_DAYS = 3_660
MAX_MONTHS = 120
MAX_INCLUDED = 10**12
"""Units of a quota, or contacts."""

_MILLISECONDS_PER_HOUR = 3_600_000
_MILLISECONDS_PER_MINUTE = 60_000


class SegmentRule(Struct, frozen=True, forbid_unknown_fields=True):
    """How a gateway cuts bodies into segments, for messages whose segments it does not report."""

    reference_bits: Literal[8, 16] = 8
    """The size of the concatenation reference: 16 bits leave one septet or unit less in each part."""
    single_shift: str = ""
    """The language of the single shift table it uses; "" for none."""
    locking_shift: str = ""
    """The language of the locking shift table it uses; "" for none."""


class Rollover(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of the allowance that is left when its period ends: it stays, within these bounds."""

    valid_months: int = 0
    """Each allowance ends so many months after its period began, however often it rolls over; 0 for never."""
    cap_credits: str | None = None
    """At most this much rolls over at a period's end, what would expire first being given up; none for all."""
    floor_credits: str = "0"
    """At least this much: what is missing is given for the new period."""


class Overage(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of usage that no grant covers; it is metered whatever this says."""

    policy: Literal["hard_stop", "negative", "arrears"] = "hard_stop"
    """`hard_stop`: not authorised; sent all the same, it is written off with its period unless a grant settles it.
    `negative`: authorised; the balance is below zero until something is paid.
    `arrears`: authorised; billed at `price` when its period closes."""
    price: str = "0"
    """Money per credit, a decimal string; at most 6 decimals."""
    settled_by: Literal["nothing", "purchases", "any_grant"] = "nothing"
    """Which later grants pay off first what is uncovered."""


class AutoRecharge(Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for a block of credits when what is available falls below a level, or something is owed."""

    level_credits: str
    """Below this, and not at it. May be "0": asks when something is owed."""
    block_credits: str
    price: str
    """Money for the block."""
    delay_minutes: int = 0
    """Asks so long after the level was passed, so that one request covers all that a sending went below it."""
    cool_down_minutes: int = 60
    """From one request to the next, at least."""
    daily_cap: int = 3
    """Requests in one local day of the tenant, at most."""
    back_off_minutes: int = 60
    """After a decline; doubles with each further one in a row, up to a day."""


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """A plan as it is written down."""

    name: str
    zone: str
    """IANA name; its midnights bound days and periods."""
    anchor_day: int
    """1 to 31: the local day of the month on which a period begins, clamped to the month's last."""
    allowance_credits: str
    """What each period grants: a decimal string, zero to a billion, at most 6 decimals; so are all credits here."""
    rate_card: str
    """The id of a rate card."""
    rates: tuple[RateRule, ...] = ()
    """The tenant's own rates, searched as a whole before the card's."""
    alert_levels: tuple[int, ...] = (80, 85, 90, 95)
    """Percent of what is usable in the period: 1 to 100, ascending, at most 16; empty for no alerts."""
    billable_statuses: tuple[Status, ...] = (
        "sent",
        "delivered",
        "undelivered",
        "unknown",
        "received",
        "read",
    )
    """A message is charged once any of these was seen, whatever else was."""
    late_grace_hours: int = 72
    """For so long after a period's end a message that occurred in it still counts in it: 0 to 744."""
    overage: Overage = Overage()
    segments: SegmentRule = SegmentRule()
    segments_by_source: dict[str, SegmentRule] = {}
    """Source to its own rule, where it differs from `segments`."""
    rollover: Rollover | None = None
    """None where what is left of an allowance ends with its period."""
    recharge: AutoRecharge | None = None
    refunded_statuses: tuple[Literal["undelivered", "failed"], ...] = ()
    """A charged message that reached one of these is refunded, once, to the grants it burned."""
    quotas: dict[Kind, int] = {}
    """Kind to the units included in each period: emails, for instance, that cost no credits but are counted."""
    licensed_contacts: int = 0
    contact_active_days: int = 60
    """For so long after its last message a contact counts as active, whatever it is marked as."""
    ends_after_days: int = 0
    """A trial: the plan ends so many local days after it began, its one allowance with it; 0 for never."""
    currency: str = ""
    """ISO 4217, of all money in the plan."""
    credit_value: str = "0"
    """Money one credit of the allowance stands for, to show its value."""
    catalogue: str = ""
    """The packages that are offered to tenants of the plan."""


class MoneyTerms(Struct, frozen=True):
    """The money in a plan, in micro-units of its currency."""

    currency: str
    credit_value_micros: int
    overage_price_micros: int


class RolloverTerms(Struct, frozen=True):
    """A `Rollover` made ready."""

    valid_months: int
    cap_micros: int | None
    floor_micros: int


class RechargeTerms(Struct, frozen=True):
    """An `AutoRecharge` made ready."""

    level_micros: int
    block_micros: int
    price_micros: int
    delay_milliseconds: int
    cool_down_milliseconds: int
    daily_cap: int
    back_off_milliseconds: int


class PlanTerms(Struct, frozen=True):
    """A plan made ready: what `compile_plan` gives and nothing else makes."""

    name: str
    zone: str
    anchor_day: int
    allowance_micros: int
    alert_levels: tuple[int, ...]
    tariff: Tariff
    billable_statuses: frozenset[str]
    late_grace_milliseconds: int
    overage: Literal["hard_stop", "negative", "arrears"]
    settled_by: Literal["nothing", "purchases", "any_grant"]
    profile: Profile
    """How segments are counted, for sources that `profile_by_source` does not name."""
    profile_by_source: Mapping[str, Profile]
    rollover: RolloverTerms | None
    recharge: RechargeTerms | None
    refunded_statuses: frozenset[str]
    quotas: Mapping[str, int]
    licensed_contacts: int
    contact_active_days: int
    ends_after_days: int
    money: MoneyTerms
    catalogue: str

    @property
    def is_written_off(self) -> bool:
        """Whether nothing ever pays what no grant covered: it ends with its period."""
        return self.overage == "hard_stop" and self.settled_by == "nothing"


_decode = msgspec.json.Decoder(Plan).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def decode_plan(document: bytes) -> Plan:
    """Read a plan from JSON; raise `msgspec.ValidationError`, a ValueError that names the place."""
    return _decode(document)


def encode_plan(plan: Plan) -> bytes:
    """Write a plan as JSON with every field, in one order: equal plans give equal bytes in one release."""
    return _encode(plan)


def compile_plan(plan: Plan, cards: Mapping[str, RateCard]) -> PlanTerms:
    """Make the terms of a plan under the rate cards there are; raise ValueError naming every fault."""
    faults = _faults(plan)
    allowance_micros = _credits("allowance_credits", plan.allowance_credits, faults)
    tariff = _tariff(plan, cards, faults)
    money = MoneyTerms(
        plan.currency,
        _amount("credit_value", plan.credit_value, faults),
        _amount("overage.price", plan.overage.price, faults),
    )
    rollover = None if plan.rollover is None else _rollover(plan.rollover, faults)
    recharge = None if plan.recharge is None else _recharge(plan.recharge, faults)
    if faults or tariff is None:
        raise ValueError(f"plan {plan.name[:64]!r}: " + "; ".join(faults))
    return PlanTerms(
        name=plan.name,
        zone=plan.zone,
        anchor_day=plan.anchor_day,
        allowance_micros=allowance_micros,
        alert_levels=plan.alert_levels,
        tariff=tariff,
        billable_statuses=frozenset(plan.billable_statuses),
        late_grace_milliseconds=plan.late_grace_hours * _MILLISECONDS_PER_HOUR,
        overage=plan.overage.policy,
        settled_by=plan.overage.settled_by,
        profile=_profile(plan.segments),
        profile_by_source={source: _profile(rule) for source, rule in plan.segments_by_source.items()},
        rollover=rollover,
        recharge=recharge,
        refunded_statuses=frozenset(plan.refunded_statuses),
        quotas={str(kind): units for kind, units in plan.quotas.items()},
        licensed_contacts=plan.licensed_contacts,
        contact_active_days=plan.contact_active_days,
        ends_after_days=plan.ends_after_days,
        money=money,
        catalogue=plan.catalogue,
    )


def _faults(plan: Plan) -> list[str]:
    """List the faults that the document shows by itself."""
    levels = plan.alert_levels
    checks = {
        "name must have 1 to 64 characters": 1 <= len(plan.name) <= 64,
        f"zone {plan.zone[:64]!r} is not in the IANA database": is_zone(plan.zone),
        f"anchor_day {plan.anchor_day} is not 1 to 31": 1 <= plan.anchor_day <= 31,
        f"alert_levels must be at most {MAX_ALERT_LEVELS}": len(levels) <= MAX_ALERT_LEVELS,
        "alert_levels must be percentages from 1 to 100": all(1 <= level <= 100 for level in levels),
        "alert_levels must ascend, each once": list(levels) == sorted(set(levels)),
        "billable_statuses must name at least one, each once": (
            0 < len(plan.billable_statuses) == len(set(plan.billable_statuses))
        ),
        f"late_grace_hours {plan.late_grace_hours} is not 0 to {MAX_LATE_GRACE_HOURS}": (
            0 <= plan.late_grace_hours <= MAX_LATE_GRACE_HOURS
        ),
        f"rates must be at most {MAX_OWN_RATES}": len(plan.rates) <= MAX_OWN_RATES,
        f"licensed_contacts must be 0 to {MAX_INCLUDED}": 0 <= plan.licensed_contacts <= MAX_INCLUDED,
        "contact_active_days must be 1 to 3660": 1 <= plan.contact_active_days <= MAX_DAYS,
        f"ends_after_days must be 0 to {MAX_DAYS}": 0 <= plan.ends_after_days <= MAX_DAYS,
        f"quotas must be 0 to {MAX_INCLUDED}": all(0 <= n <= MAX_INCLUDED for n in plan.quotas.values()),
        f"currency {plan.currency[:8]!r} is not three capitals": not plan.currency
        or _is_currency(plan.currency),
        "money needs a currency": bool(plan.currency) or not _has_money(plan),
    }
    faults = [fault for fault, holds in checks.items() if not holds]
    if plan.recharge is not None:
        faults += _recharge_faults(plan.recharge)
    if plan.rollover is not None and not 0 <= plan.rollover.valid_months <= MAX_MONTHS:
        faults.append(f"rollover.valid_months must be 0 to {MAX_MONTHS}")
    for rule in {plan.segments: None, **dict.fromkeys(plan.segments_by_source.values())}:
        faults += _segment_faults(rule)
    return faults


def _segment_faults(rule: SegmentRule) -> list[str]:
    tables = {
        "single_shift": (rule.single_shift, SINGLE_SHIFT_LANGUAGES),
        "locking_shift": (rule.locking_shift, LOCKING_SHIFT_LANGUAGES),
    }
    return [
        f"{table} {language[:64]!r} is none of: {', '.join(languages)}"
        for table, (language, languages) in tables.items()
        if language and language not in languages
    ]


def _profile(rule: SegmentRule) -> Profile:
    return profile(rule.reference_bits, rule.single_shift, rule.locking_shift)


def _is_currency(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isalpha() and text.isupper()


def _has_money(plan: Plan) -> bool:
    prices = (plan.credit_value, plan.overage.price, plan.recharge.price if plan.recharge else "0")
    return any(price.strip("0.") for price in prices)


def _recharge_faults(recharge: AutoRecharge) -> list[str]:
    bounds = {
        "recharge.cool_down_minutes": recharge.cool_down_minutes,
        "recharge.back_off_minutes": recharge.back_off_minutes,
    }
    faults = [f"{name} must be 1 to 1440" for name, minutes in bounds.items() if not 1 <= minutes <= 1440]
    if not 0 <= recharge.delay_minutes <= 1440:
        faults.append("recharge.delay_minutes must be 0 to 1440")
    if not 1 <= recharge.daily_cap <= 1000:
        faults.append("recharge.daily_cap must be 1 to 1000")
    return faults


def _recharge(recharge: AutoRecharge, faults: list[str]) -> RechargeTerms:
    block_micros = _credits("recharge.block_credits", recharge.block_credits, faults)
    if not block_micros:
        faults.append("recharge.block_credits must be above zero")
    return RechargeTerms(
        level_micros=_credits("recharge.level_credits", recharge.level_credits, faults),
        block_micros=block_micros,
        price_micros=_amount("recharge.price", recharge.price, faults),
        delay_milliseconds=recharge.delay_minutes * _MILLISECONDS_PER_MINUTE,
        cool_down_milliseconds=recharge.cool_down_minutes * _MILLISECONDS_PER_MINUTE,
        daily_cap=recharge.daily_cap,
        back_off_milliseconds=recharge.back_off_minutes * _MILLISECONDS_PER_MINUTE,
    )


def _rollover(rollover: Rollover, faults: list[str]) -> RolloverTerms:
    cap, floor = rollover.cap_credits, rollover.floor_credits
    return RolloverTerms(
        rollover.valid_months,
        None if cap is None else _credits("rollover.cap_credits", cap, faults),
        _credits("rollover.floor_credits", floor, faults),
    )


def _amount(name: str, text: str, faults: list[str]) -> int:
    """Read credits or money in millionths; add a fault, and give 0, where the text is no such amount."""
    try:
        micros = parse_credits(text)
    except ValueError as error:
        faults.append(f"{name}: {error}")
        return 0
    if micros < 0:
        faults.append(f"{name} must not be negative")
    return micros


def _credits(name: str, text: str, faults: list[str]) -> int:
    """Read credits that the plan gives or keeps: every period until 2100 may, so each amount is bounded."""
    micros = _amount(name, text, faults)
    if micros > MAX_PLAN_MICROS:
        faults.append(f"{name} must be at most {format_credits(MAX_PLAN_MICROS)}")
    return micros


def _tariff(plan: Plan, cards: Mapping[str, RateCard], faults: list[str]) -> Tariff | None:
    """Make the plan's tariff; add faults, and give None, where its card or its own rates are wrong."""
    card = cards.get(plan.rate_card)
    if card is None:
        faults.append(f"rate_card {plan.rate_card[:64]!r} is none of: {', '.join(sorted(cards))}")
        return None
    try:
        return Tariff(card, plan.rates)
    except ValueError as error:
        faults.append(f"rates: {error}")
        return None
