"""What tenants can buy, and how far it reaches: catalogues of packages as data.

A catalogue is written down as JSON: its id, one currency, and packages of credits, each with a price and how long
it is valid. A purchase copies the package into a `grant` command, so that the log alone decides what was bought; a
catalogue that changes later changes nothing bought before.

`reach` answers how many SMS of one segment a package buys, by country. Whole messages: what is left over after the
last one buys none. Never reads files, and never prices anything by itself: the tariff does.

Invariants: a checked catalogue has at least one package, each with its own id, more than zero credits, a price of
zero or more, and a validity of 1 to 120 months or none; a package that extends others has a validity.
"""

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from pipeline.core.amounts import parse_credits
from pipeline.core.rating import ANY, RateCard, RateRule, Tariff, quantity

OTHERS = ""
"""The country of numbers that no rule names, as messages have it where none is known."""

_Id = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class Package(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing to buy."""

    id: _Id
    """Its own among the packages of its catalogue."""
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    credits: str
    """A decimal string above zero."""
    price: str
    """Money in the catalogue's currency, a decimal string, zero or more."""
    valid_months: Annotated[int, Meta(ge=1, le=120)] | None = None
    """Ends at the start of the tenant's local day so many months after it was bought; none for never."""
    is_extended: bool = False
    """Whether buying another such package gives this one the later end."""


class Catalogue(Struct, frozen=True, forbid_unknown_fields=True):
    """The packages offered together."""

    id: _Id
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]
    """ISO 4217, of every price."""
    packages: Annotated[tuple[Package, ...], Meta(min_length=1)]
    """In the order in which they are shown."""

    def find(self, package_id: str) -> Package | None:
        """The package of this id, if it is offered."""
        return next((each for each in self.packages if each.id == package_id), None)


class Reach(NamedTuple):
    """How far credits go in one country."""

    country: str
    """Alpha-2, or `OTHERS`."""
    message_micros: int
    """What one SMS of one segment costs, in micro-credits."""
    messages: int | None
    """How many of them the credits buy; none where they cost nothing."""


def decode_catalogue(document: bytes) -> Catalogue:
    """Read a catalogue from JSON; raise ValueError (msgspec's where the shape is wrong) naming every fault."""
    catalogue = msgspec.json.decode(document, type=Catalogue)
    ids = [package.id for package in catalogue.packages]
    faults = [f"{name}: offered twice" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    faults += [f"{each.id}: {fault}" for each in catalogue.packages for fault in _package_faults(each)]
    if faults:
        raise ValueError(f"catalogue {catalogue.id}: " + "; ".join(faults))
    return catalogue


def named_countries(card: RateCard, own_rates: tuple[RateRule, ...], at: int) -> list[str]:
    """List the countries that a card in force `at`, its zones, or a plan's own rates name; by alphabet."""
    prices = next((each for each in card.price_lists if at >= each.effective_at), card.price_lists[-1])
    places = {key[1] for rules in prices.layers for key in rules.rule_by_key}
    places |= {rule.country for rule in own_rates}
    zones = set(prices.zone_by_country.values())
    return sorted((places - zones - {ANY}) | prices.zone_by_country.keys())


def reach(credits_micros: int, tariff: Tariff, countries: list[str], at: int) -> list[Reach]:
    """Say how many outbound SMS of one segment the credits buy in each country, and at last in all others.

    The prices are those in force `at`, for messages without a category.
    """
    return [_reach_of(credits_micros, tariff, country, at) for country in [*countries, OTHERS]]


def _reach_of(credits_micros: int, tariff: Tariff, country: str, at: int) -> Reach:
    rate = tariff.rate("sms", "outbound", country, "", at)
    message_micros = rate.micros * quantity(rate.per, 1, 1)
    return Reach(country, message_micros, credits_micros // message_micros if message_micros else None)


def _package_faults(package: Package) -> list[str]:
    faults = []
    for name, text, lowest in (("credits", package.credits, 1), ("price", package.price, 0)):
        try:
            amount = parse_credits(text)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            continue
        if amount < lowest:
            faults.append(f"{name} must {'be above zero' if lowest else 'not be negative'}, not {text}")
    if package.is_extended and package.valid_months is None:
        faults.append("what never ends cannot be extended: give valid_months")
    return faults
