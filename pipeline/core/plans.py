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
from pipeline.core.amounts import parse_credits
from pipeline.core.rating import RateCard, RateRule, Tariff
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

_MILLISECONDS_PER_HOUR = 3_600_000


class SegmentRule(Struct, frozen=True, forbid_unknown_fields=True):
    """How a gateway cuts bodies into segments, for messages whose segments it does not report."""

    reference_bits: Literal[8, 16] = 8
    """The size of the concatenation reference: 16 bits leave one septet or unit less in each part."""
    single_shift: str = ""
    """The language of the single shift table it uses; "" for none."""
    locking_shift: str = ""
    """The language of the locking shift table it uses; "" for none."""


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """A plan as it is written down."""

    name: str
    zone: str
    """IANA name; its midnights bound days and periods."""
    anchor_day: int
    """1 to 31: the local day of the month on which a period begins, clamped to the month's last."""
    allowance_credits: str
    """What each period grants: a decimal string, zero or more, at most 6 decimals."""
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
    overage: Literal["uncovered"] = "uncovered"
    """What happens to usage that no grant covers: it is metered and booked as uncovered."""
    segments: SegmentRule = SegmentRule()
    segments_by_source: dict[str, SegmentRule] = {}
    """Source to its own rule, where it differs from `segments`."""


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
    overage: Literal["uncovered"]
    profile: Profile
    """How segments are counted, for sources that `profile_by_source` does not name."""
    profile_by_source: Mapping[str, Profile]


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
    allowance_micros = _allowance(plan.allowance_credits, faults)
    tariff = _tariff(plan, cards, faults)
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
        overage=plan.overage,
        profile=_profile(plan.segments),
        profile_by_source={source: _profile(rule) for source, rule in plan.segments_by_source.items()},
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
    }
    faults = [fault for fault, holds in checks.items() if not holds]
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


def _allowance(text: str, faults: list[str]) -> int:
    """Read the allowance in micro-credits; add a fault, and give 0, where the text is no allowance."""
    try:
        micros = parse_credits(text)
    except ValueError as error:
        faults.append(f"allowance_credits: {error}")
        return 0
    if micros < 0:
        faults.append("allowance_credits must not be negative")
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
