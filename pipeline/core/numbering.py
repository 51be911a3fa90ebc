"""Decides what kind of address a number is, its country, and by which party a message is rated.

Takes addresses as they stand in the event: no spaces, dashes or "00" are understood. Gives a kind, a country
as ISO 3166-1 alpha-2 or "", and how the country was found. Never refuses: what matches nothing has no
country and is rated by the card's fallback zone. Invariants: an explicit country wins over every number;
memory is fixed at import, because the first four digits are looked up in a complete table, not in a cache
that hostile numbers could fill.

Source: ITU-T E.164 6.1 (at most 15 digits); 3GPP TS 23.040 9.1.2.5 (alphanumeric addresses: 11 characters);
the prefixes are those of `prefixes`, generated from phonenumbers.
"""

import re
from typing import Final

import msgspec

from pipeline.core.prefixes import TABLE

E164: Final = "e164"
SHORT_CODE: Final = "short_code"
ALPHANUMERIC: Final = "alphanumeric"
UNKNOWN: Final = "unknown"

VIA_EVENT: Final = "event"
"""The event named the country."""
VIA_COUNTERPARTY: Final = "counterparty"
"""The prefix of the counterparty's number."""
VIA_OTHER_PARTY: Final = "other_party"
"""The counterparty is an alphanumeric sender; the prefix of the tenant's own number."""
VIA_SHORT_CODE: Final = "short_code"
"""The counterparty is a short code and the event names no country: the account's country is meant."""
VIA_NOTHING: Final = "nothing"
"""No prefix matches; the fallback zone is meant."""

_NO_COUNTRY: Final = "001"
_INDEX_DIGITS: Final = 4

_is_e164 = re.compile(r"\+?[1-9][0-9]{6,14}").fullmatch
_is_short_code = re.compile(r"[0-9]{3,8}").fullmatch
# Whatever a handset shows as a name; one letter at least tells it from a mistyped number.
_is_alphanumeric = re.compile(r"(?=.*[^\W\d_])[^\x00-\x1f\x7f]{1,11}").fullmatch


def _parsed(table: str) -> dict[str, str]:
    """Read prefix -> country from the lines of the generated table."""
    return {prefix: country for country, *rest in map(str.split, table.splitlines()) for prefix in rest}


_COUNTRY_BY_PREFIX: Final = _parsed(TABLE)
_LONGEST: Final = max(map(len, _COUNTRY_BY_PREFIX))


def prefix_of(digits: str) -> str:
    """Give the longest prefix of the table that starts `digits` (no plus sign), or "" if none does."""
    for size in range(min(_LONGEST, len(digits)), 0, -1):
        if digits[:size] in _COUNTRY_BY_PREFIX:
            return digits[:size]
    return ""


def _country_by_prefix(digits: str) -> str:
    country = _COUNTRY_BY_PREFIX.get(prefix_of(digits), "")
    return "" if country == _NO_COUNTRY else country


_FOUR_DIGITS: Final = range(10 ** (_INDEX_DIGITS - 1), 10**_INDEX_DIGITS)
_COUNTRY_BY_START: Final = {start: _country_by_prefix(start) for start in map(str, _FOUR_DIGITS)}
"""The country, or "", for each four leading digits, as far as four digits can tell."""

_LONGER_BY_START: Final = {
    start: tuple(prefix for prefix in _COUNTRY_BY_PREFIX if prefix.startswith(start))
    for start in {prefix[:_INDEX_DIGITS] for prefix in _COUNTRY_BY_PREFIX if len(prefix) > _INDEX_DIGITS}
}
"""The longer prefixes under the few beginnings, such as 4477 or 3906, that have any."""


def classify(address: str) -> str:
    """Give the kind of an address: e164, short_code, alphanumeric or unknown, the first that fits.

    E.164 needs 7 to 15 digits and no leading zero, the plus sign is optional; so seven or eight digits are
    E.164 before they are a short code. Only ASCII digits count.
    """
    if _is_e164(address):
        return E164
    if _is_short_code(address):
        return SHORT_CODE
    return ALPHANUMERIC if _is_alphanumeric(address) else UNKNOWN


def country_of(number: str) -> str:
    """Give the country of an E.164 number, with or without plus sign; "" for all else or if none matches.

    Agrees with `phonenumbers` for every number of an unshared calling code, whether assigned or not.
    """
    digits = number[1:] if number[:1] == "+" else number
    # The bounds of E.164 again, at a third of the pattern's price; a leading zero is not in the index.
    if not 7 <= len(digits) <= 15 or not digits.isdigit() or not digits.isascii():
        return ""
    start = digits[:_INDEX_DIGITS]
    longer = _LONGER_BY_START.get(start)
    if longer is not None and digits.startswith(longer):
        return _country_by_prefix(digits)
    return _COUNTRY_BY_START.get(start, "")


def locate(direction: str, to: str, from_: str, country: str | None) -> tuple[str, str]:
    """Give (country, via) for a message: where it is rated and how that was found; `via` is a VIA_ value.

    The counterparty is `to` of an outbound and `from_` of an inbound message. In order: an explicit country
    wins as it stands; the prefix of the counterparty; for an alphanumeric counterparty the prefix of the
    other party; for a short code "", which the caller replaces by the account's country if it knows one.
    """
    if country:
        return country, VIA_EVENT
    counterparty, other = (to, from_) if direction == "outbound" else (from_, to)
    found = country_of(counterparty)
    if found:
        return found, VIA_COUNTERPARTY
    kind = classify(counterparty)
    if kind == ALPHANUMERIC:
        found = country_of(other)
        return (found, VIA_OTHER_PARTY) if found else ("", VIA_NOTHING)
    return "", VIA_SHORT_CODE if kind == SHORT_CODE else VIA_NOTHING


class Location(msgspec.Struct, frozen=True):
    """What there is to say about one address."""

    kind: str
    country: str
    """ISO 3166-1 alpha-2, or ""."""
    prefix: str
    """The digits that decided, starting with the calling code; "" if none did."""
    reasons: tuple[str, ...]
    """Sentences for a person, the verdict first; never empty."""


def explain_number(address: str) -> Location:
    """Say what kind of address this is, where it belongs and why. For people: it is not the hot path."""
    kind = classify(address)
    if kind != E164:
        return Location(kind, "", "", (_REASON_BY_KIND[kind],))
    digits = address.removeprefix("+")
    prefix = prefix_of(digits)
    return Location(kind, country_of(address), prefix, tuple(_prefix_reasons(digits, prefix)))


_REASON_BY_KIND: Final = {
    SHORT_CODE: "a short code of 3 to 8 digits: its country comes from the event or from the account",
    ALPHANUMERIC: "an alphanumeric sender: the message is rated by its other party",
    UNKNOWN: (
        "neither an E.164 number (7 to 15 digits, no leading zero, no spaces), nor a short code"
        " (3 to 8 digits), nor a sender name (up to 11 characters): rated by the fallback zone"
    ),
}


def _prefix_reasons(digits: str, prefix: str) -> list[str]:
    """Say why a prefix decided, or why none did; digits are those of an E.164 number."""
    country = _COUNTRY_BY_PREFIX.get(prefix, "")
    if country == _NO_COUNTRY:
        return [f"calling code {prefix} belongs to no country: rated by the fallback zone"]
    if country:
        general = _country_by_prefix(prefix[:-1])
        if general and general != country:
            return [
                f"+{prefix} is {country} although +{prefix_of(prefix[:-1])} is {general}: the longest wins"
            ]
        return [f"+{prefix} is {country}"]
    if digits.startswith("1"):
        return [f"+1 {digits[1:4]} is not an assigned area code: rated by the fallback zone"]
    return [f"no country has a calling code that +{digits[:3]} could start: rated by the fallback zone"]
