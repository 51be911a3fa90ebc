"""What a message costs: effective-dated rate cards, a plan's own rates before them, one rate as the answer.

Takes rate card documents (JSON) and a message's kind, direction, country, category and moment; gives
micro-credits per unit, the unit, and the version that decided. Never looks at balances, never refuses: every
card prices every kind for any country, or it does not compile, so nothing is ever unrated.

Which rule wins, in this order:

1. A plan's own rates are searched first, as a whole; the card is asked only when none of them fits. A
   contract that says "every SMS 1 credit" means it, although the card has a more exact rule for Germany.
2. The more exact place: country, then the zone that holds it, then "*".
3. Then the more exact direction, then the more exact category.

So an inbound rule for "*" loses to a rule for "DE" and either direction. A country is in at most one zone.

The version in force at the message's own moment decides (`effective_at` is inclusive). Before the first
version the first one applies: an old message has to cost something, and the first price ever published
surprises least.

Invariants: amounts are integers of micro-credits; the same arguments give the same rate whatever was asked
before; memory is bounded whatever categories senders invent.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct

from pipeline.core.amounts import MICROS, format_credits, parse_credits

Kind = Literal["sms", "mms", "rcs", "email"]
Direction = Literal["outbound", "inbound"]
Unit = Literal["segment", "message", "recipient"]

KINDS: tuple[Kind, ...] = get_args(Kind)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
UNITS_BY_KIND: dict[Kind, tuple[Unit, ...]] = {
    "sms": ("segment", "message"),
    "mms": ("message",),
    "rcs": ("message", "segment"),
    "email": ("recipient", "message"),
}
"""What a kind may be priced by; an MMS is never multiplied by segments."""

MAX_RATE_MICROS = 1_000_000 * MICROS
"""A rate times the most recipients (one million) stays within an Int64."""

ANY = "*"

_COUNTRY = re.compile(r"[A-Z]{2}")
_ZONE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Every kind, direction and country with one category is 5 408 entries, about 1 MB.
_MAX_RATES_HELD = 8_192


class RateRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One price. A field left at "*" fits everything."""

    kind: Kind
    credits: str
    """Per unit: a decimal string, 0 to 1 000 000, at most 6 decimals."""
    per: Unit
    direction: Direction | Literal["*"] = "*"
    country: str = ANY
    """ISO 3166-1 alpha-2 in capitals, the name of a zone of the card in small letters, or "*"."""
    category: str = ANY

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the rule is for, as `(kind, country, direction, category)`."""
        return self.kind, self.country, self.direction, self.category


class RateVersionDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """The prices of a card from one instant on."""

    effective_at: Annotated[datetime, Meta(tz=True)]
    """RFC 3339 with an offset; inclusive."""
    rates: tuple[RateRule, ...]
    zones: dict[str, tuple[str, ...]] = {}
    """Zone name to the countries in it."""


class RateCardDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """A rate card as it is written down: versions in the order in which they take effect."""

    id: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    versions: Annotated[tuple[RateVersionDocument, ...], Meta(min_length=1)]


class Rate(Struct, frozen=True, gc=False):
    """What one unit of a message costs, and why."""

    micros: int
    """Micro-credits per unit; multiply by `quantity(per, ...)`."""
    per: Unit
    version: str
    """The card and version, such as "standard@2026-01-01"; with "+tenant" where a plan's own rate decided."""
    is_fallback: bool
    """Whether a rule for "*" decided although the same list prices this kind by country."""


class _Rules(NamedTuple):
    """One list of rules made ready for look-up: a card version's, or a plan's own."""

    label: str
    rule_by_key: Mapping[tuple[str, str, str, str], tuple[int, Unit]]
    kinds_by_place: frozenset[str]
    """The kinds whose price depends on the country."""
    categories: frozenset[str]


class PriceList:
    """The rules in force from one instant on, in the order in which they are searched, and what they gave."""

    __slots__ = ("categories", "effective_at", "layers", "rate_by_key", "zone_by_country")

    def __init__(
        self, effective_at: int, zone_by_country: Mapping[str, str], layers: tuple[_Rules, ...]
    ) -> None:
        self.effective_at = effective_at
        self.zone_by_country = zone_by_country
        self.layers = layers
        self.categories = frozenset[str]().union(*(rules.categories for rules in layers))
        self.rate_by_key: dict[tuple[str, str, str, str], Rate] = {}

    def find(self, key: tuple[str, str, str, str]) -> Rate:
        """Search the rate for `(kind, direction, country, category)` and remember it."""
        if len(self.rate_by_key) >= _MAX_RATES_HELD:
            self.rate_by_key.clear()
        rate = self.rate_by_key[key] = self._search(*key)
        return rate

    def _search(self, kind: str, direction: str, country: str, category: str) -> Rate:
        places = (country, self.zone_by_country.get(country, ANY), ANY)
        for rules in self.layers:
            for place in places:
                for way in (direction, ANY):
                    for name in (category, ANY):
                        found = rules.rule_by_key.get((kind, place, way, name))
                        if found is not None:
                            is_fallback = place == ANY and kind in rules.kinds_by_place
                            return Rate(found[0], found[1], rules.label, is_fallback)
        raise AssertionError(f"no rate for {kind} {direction}, which compiling a card rules out")


class RateCard:
    """A checked rate card: its id and its price lists, newest first."""

    __slots__ = ("id", "price_lists")

    def __init__(self, card_id: str, price_lists: tuple[PriceList, ...]) -> None:
        self.id = card_id
        self.price_lists = price_lists


class Tariff:
    """A rate card with a plan's own rates before it. Tariffs without any share what the card remembers."""

    __slots__ = ("_newest_first",)

    def __init__(self, card: RateCard, own_rates: Iterable[RateRule] = ()) -> None:
        """Raise ValueError, naming every fault, for faulty own rates and zones that the card lacks."""
        own_rates = tuple(own_rates)
        self._newest_first = _with_own_rates(card, own_rates) if own_rates else card.price_lists

    def rate(self, kind: str, direction: str, country: str, category: str, at: int) -> Rate:
        """Give the rate of a message that occurred `at` (UTC epoch milliseconds).

        `country` is the counterparty's, alpha-2, or "" where none is known; `category` is the sender's word
        or "". The rules of precedence and time are the module's.
        """
        for prices in self._newest_first:
            if at >= prices.effective_at:
                break
        # A category that no rule names cannot change the price, so senders' own words are not remembered.
        if category and category not in prices.categories:
            category = ""
        key = (kind, direction, country, category)
        try:
            return prices.rate_by_key[key]
        except KeyError:
            return prices.find(key)


def quantity(per: Unit, segments: int, recipients: int) -> int:
    """Count the billed units of a message: its segments, one message, or its recipients; at least 1.

    It is what a rate is multiplied with. `segments` and `recipients` that do not apply to the kind may be 0.
    """
    if per == "segment":
        return segments or 1
    return 1 if per == "message" else recipients or 1


def decode_card(document: bytes) -> RateCard:
    """Read a rate card from JSON; raise ValueError (msgspec's where the shape is wrong)."""
    return compile_card(msgspec.json.decode(document, type=RateCardDocument))


def compile_card(document: RateCardDocument) -> RateCard:
    """Make a card that can price; raise ValueError naming every fault of every version."""
    faults = [fault for version in document.versions for fault in _version_faults(version)]
    instants = [version.effective_at for version in document.versions]
    if any(earlier >= later for earlier, later in pairwise(instants)):
        faults.append("versions must follow each other in time, each later than the one before")
    if faults:
        raise ValueError(f"rate card {document.id}: " + "; ".join(faults))
    lists = (_price_list(document.id, version) for version in document.versions)
    return RateCard(document.id, tuple(lists)[::-1])


def rule_faults(rules: Iterable[RateRule], zone_names: Iterable[str]) -> list[str]:
    """List what is wrong with rules under a card with these zones."""
    zone_names = frozenset(zone_names)
    faults = []
    seen = set()
    for rule in rules:
        faults += [f"{'/'.join(rule.key)}: {fault}" for fault in _faults_of_one(rule, zone_names)]
        if rule.key in seen:
            faults.append(f"{'/'.join(rule.key)}: priced twice")
        seen.add(rule.key)
    return faults


def _faults_of_one(rule: RateRule, zone_names: frozenset[str]) -> list[str]:
    faults = []
    if rule.country != ANY and rule.country not in zone_names and not _COUNTRY.fullmatch(rule.country):
        faults.append('the country is no alpha-2 code in capitals, no zone of the card and not "*"')
    if rule.category == "":
        faults.append('an empty category: write "*" for any')
    if rule.per not in UNITS_BY_KIND[rule.kind]:
        faults.append(
            f"{rule.kind} is priced per {' or '.join(UNITS_BY_KIND[rule.kind])}, not per {rule.per}"
        )
    try:
        micros = parse_credits(rule.credits)
    except ValueError as error:
        return [*faults, str(error)]
    if not 0 <= micros <= MAX_RATE_MICROS:
        faults.append(f"{rule.credits} credits are not within 0 to {format_credits(MAX_RATE_MICROS)}")
    return faults


def _version_faults(version: RateVersionDocument) -> list[str]:
    faults = _zone_faults(version.zones) + rule_faults(version.rates, version.zones)
    keys = {rule.key for rule in version.rates}
    for kind in KINDS:
        faults += [
            f'{kind} {direction} has no rate for country "*" and category "*"'
            for direction in DIRECTIONS
            if keys.isdisjoint({(kind, ANY, direction, ANY), (kind, ANY, ANY, ANY)})
        ]
    return [f"version of {_label_of_instant(version.effective_at)}: {fault}" for fault in faults]


def _zone_faults(zones: Mapping[str, tuple[str, ...]]) -> list[str]:
    faults = []
    zone_by_country: dict[str, str] = {}
    for name, countries in zones.items():
        if not _ZONE.fullmatch(name):
            faults.append(f"zone {name!r}: a name is small letters, digits and underscores")
        for country in countries:
            if not _COUNTRY.fullmatch(country):
                faults.append(f"zone {name}: {country!r} is no alpha-2 code in capitals")
            elif country in zone_by_country:
                faults.append(f"zone {name}: {country} is in zone {zone_by_country[country]} already")
            zone_by_country[country] = name
    return faults


def _price_list(card_id: str, version: RateVersionDocument) -> PriceList:
    zone_by_country = {country: name for name, countries in version.zones.items() for country in countries}
    rules = _rules(f"{card_id}@{_label_of_instant(version.effective_at)}", version.rates)
    effective_at = (version.effective_at - _EPOCH) // timedelta(milliseconds=1)
    return PriceList(effective_at, zone_by_country, (rules,))


def _with_own_rates(card: RateCard, own_rates: tuple[RateRule, ...]) -> tuple[PriceList, ...]:
    lists = []
    faults: dict[str, None] = {}  # A fault is the same in every version mostly; told once, in order.
    for prices in card.price_lists:
        faults.update(dict.fromkeys(rule_faults(own_rates, prices.zone_by_country.values())))
        if not faults:
            own = _rules(f"{prices.layers[0].label}+tenant", own_rates)
            lists.append(PriceList(prices.effective_at, prices.zone_by_country, (own, *prices.layers)))
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(lists)


def _rules(label: str, rules: Iterable[RateRule]) -> _Rules:
    rules = tuple(rules)
    return _Rules(
        label,
        {rule.key: (parse_credits(rule.credits), rule.per) for rule in rules},
        frozenset(rule.kind for rule in rules if rule.country != ANY),
        frozenset(rule.category for rule in rules) - {ANY},
    )


def _label_of_instant(instant: datetime) -> str:
    """Write the date where the instant is a UTC midnight, else the whole instant."""
    utc = instant.astimezone(UTC)
    text = utc.isoformat().replace("+00:00", "Z")
    return text.removesuffix("T00:00:00Z")
