"""Data the rules read: the prefix table, rate cards, plan presets and catalogues, read from this package.

Gives checked objects; a faulty file raises ValueError naming the file and its faults. Files are named by what
they hold: `rate_cards/<id>.json`, `plans/<preset>.json`, `packages/<catalogue>.json`.
"""

from importlib import resources

from pipeline.core.packages import Catalogue, decode_catalogue
from pipeline.core.plans import Plan, decode_plan
from pipeline.core.rating import RateCard, decode_card

_SUFFIX = ".json"


def load_rate_cards() -> dict[str, RateCard]:
    """Every rate card of the package by its id. Call once: plans share what a card object remembers."""
    cards = {}
    for name in _names("rate_cards"):
        try:
            card = decode_card(_document("rate_cards", name))
        except ValueError as error:
            raise ValueError(f"rate_cards/{name}{_SUFFIX}: {error}") from error
        if card.id != name:
            raise ValueError(f"rate_cards/{name}{_SUFFIX}: the id is {card.id!r}, the file says {name!r}")
        cards[name] = card
    return cards


def plan_names() -> tuple[str, ...]:
    """List the names of the plan presets, sorted."""
    return _names("plans")


def load_plan(name: str) -> Plan:
    """Read a plan preset; raise ValueError naming the presets there are when it is none of them."""
    if name not in plan_names():
        raise ValueError(f"no plan preset {name!r}: there are {', '.join(plan_names())}")
    try:
        return decode_plan(_document("plans", name))
    except ValueError as error:
        raise ValueError(f"plans/{name}{_SUFFIX}: {error}") from error


def catalogue_names() -> tuple[str, ...]:
    """List the names of the catalogues of packages, sorted."""
    return _names("packages")


def load_catalogue(name: str) -> Catalogue:
    """Read a catalogue; raise ValueError naming the catalogues there are when it is none of them."""
    if name not in catalogue_names():
        raise ValueError(f"no catalogue {name!r}: there are {', '.join(catalogue_names())}")
    try:
        catalogue = decode_catalogue(_document("packages", name))
    except ValueError as error:
        raise ValueError(f"packages/{name}{_SUFFIX}: {error}") from error
    if catalogue.id != name:
        raise ValueError(f"packages/{name}{_SUFFIX}: the id is {catalogue.id!r}, the file says {name!r}")
    return catalogue


def _names(directory: str) -> tuple[str, ...]:
    files = (resources.files(__name__) / directory).iterdir()
    return tuple(sorted(file.name.removesuffix(_SUFFIX) for file in files if file.name.endswith(_SUFFIX)))


def _document(directory: str, name: str) -> bytes:
    return (resources.files(__name__) / directory / f"{name}{_SUFFIX}").read_bytes()
