"""Writes `pipeline/core/prefixes.py`: which leading digits of an international number mean which country.

Run `python -m pipeline.data.generate_prefixes` after an update of `phonenumbers` (a development dependency)
and review the difference like any other. Takes the library's metadata; gives one prefix list per country.
Nothing imports this module but its test.

The rule is the library's own: a calling code with one country is that country; of a shared calling code the
countries are asked in the library's order (the main one first) whether they own the number, by its leading
digits where the metadata gives them, else by the patterns of its number types. The first country is also
the answer for numbers nobody owns, except under +1, where an unassigned area code belongs to no country.
"""

import re
import sys
from collections.abc import Iterator
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Final, TypeAlias

import phonenumbers
from phonenumbers import PhoneMetadata
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

_TYPES: Final = (
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "personal_number",
    "voip",
    "pager",
    "uan",
    "voicemail",
)
_NORTH_AMERICA: Final = 1
_AREA_CODES: Final = range(200, 1000)
_DEEPEST_DIGITS: Final = 7
"""How far into a national number a country may be decided: further, every prefix is only a few numbers."""

_LINE_CHARACTERS: Final = 100
_DIGITS: Final = "0123456789"
_TOKEN: Final = re.compile(r"\\d|\d|\[[\d-]+\]|\(\?:|[|)]|\{\d+(?:,\d+)?\}|\?")
_TARGET: Final = Path(__file__).parents[1] / "core" / "prefixes.py"
_FILE: Final = '''"""Leading digits of international numbers by country. Generated: do not edit.

Written by `python -m pipeline.data.generate_prefixes` from phonenumbers {version}; read by `numbering`.
Each line: an ISO 3166-1 alpha-2 code (as the library has them, AC, TA and XK included) or 001 for calling
codes of no country, then prefixes that start with the calling code. The longest prefix decides.
"""

from typing import Final

TABLE: Final = """\\
{lines}
"""
'''

Piece: TypeAlias = tuple["frozenset[str] | tuple[Sequence, ...]", int, int]
"""Digits or alternatives, and how often they may stand here at least and at most."""
Sequence: TypeAlias = tuple[Piece, ...]
"""What is still to be matched, in order; () when a match is complete."""
Claim: TypeAlias = frozenset[Sequence]
"""All the ways a country's patterns can go on after some digits; empty when it owns no such number."""


def parsed(pattern: str) -> Claim:
    """Parse a metadata pattern: digits, classes, groups, alternatives, counts and question marks.

    A ValueError says that a release of the library has brought something more.
    """
    tokens = _TOKEN.findall(pattern)
    if "".join(tokens) != pattern:
        raise ValueError(f"a pattern with unknown parts: {pattern}")
    tokens.reverse()
    return frozenset(_alternatives(tokens))


def _alternatives(tokens: list[str]) -> tuple[Sequence, ...]:
    """Take `a|b|c` and the parenthesis that closes it off the end of the reversed tokens."""
    found: list[list[Piece]] = [[]]
    while tokens and (part := tokens.pop()) != ")":
        if part == "|":
            found.append([])
            continue
        what = _alternatives(tokens) if part == "(?:" else frozenset(re.findall(part, _DIGITS))
        found[-1].append((what, *_repeats(tokens)))
    return tuple(tuple(pieces) for pieces in found)


def _repeats(tokens: list[str]) -> tuple[int, int]:
    """Take `?`, `{n}` or `{n,m}` off, if one comes next; both bounds are inclusive."""
    if tokens and tokens[-1] == "?":
        tokens.pop()
        return 0, 1
    if tokens and tokens[-1].startswith("{"):
        bounds = [int(bound) for bound in tokens.pop()[1:-1].split(",")]
        return bounds[0], bounds[-1]
    return 1, 1


def _after_sequence(sequence: Sequence, digit: str) -> Iterator[Sequence]:
    """Give what is left of a sequence once a digit is read, in every way it can be read."""
    if not sequence:
        return
    (what, least, most), rest = sequence[0], sequence[1:]
    again: Sequence = ((what, max(least - 1, 0), most - 1),) if most > 1 else ()
    if isinstance(what, frozenset):
        if digit in what:
            yield again + rest
    else:
        yield from (left + again + rest for each in what for left in _after_sequence(each, digit))
    if least == 0:
        yield from _after_sequence(rest, digit)


def after(claim: Claim, digits: str) -> Claim:
    """Give what is left of a claim once digits are read."""
    return reduce(
        lambda left, digit: frozenset(more for each in left for more in _after_sequence(each, digit)),
        digits,
        claim,
    )


def covers_all(claim: Claim) -> bool:
    """Tell whether any digits may follow: every digit leads to the same rest, until a match is complete."""
    if () in claim:
        return True
    rests = {after(claim, digit) for digit in _DIGITS}
    return len(rests) == 1 and frozenset() not in rests and covers_all(rests.pop())


def claimed(region: str) -> Claim:
    """Give the national numbers a country of a shared calling code owns."""
    metadata = PhoneMetadata.metadata_for_region(region)
    if metadata is None:
        raise KeyError(region)
    if metadata.leading_digits:
        return parsed(metadata.leading_digits)
    patterns = [getattr(metadata, each).national_number_pattern for each in _TYPES if getattr(metadata, each)]
    return frozenset().union(*(parsed(pattern) for pattern in patterns if pattern))


def divided(claims: dict[str, Claim], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give (national prefix, country), prefixes as short as can be; claims are in the library's order."""
    claims = {region: claim for region, claim in claims.items() if claim}
    if not claims:
        return
    first = next(iter(claims))
    if prefix and (len(claims) == 1 or len(prefix) == _DEEPEST_DIGITS or covers_all(claims[first])):
        yield prefix, first
        return
    for digit in _DIGITS:
        yield from divided({region: after(claim, digit) for region, claim in claims.items()}, prefix + digit)


def area_codes(claims: dict[str, Claim]) -> Iterator[tuple[str, str]]:
    """Give (area code, country) for every assigned area code of +1."""
    for code in map(str, _AREA_CODES):
        owner = next((region for region, claim in claims.items() if after(claim, code)), "")
        if owner:
            yield code, owner


def prefixes() -> dict[str, str]:
    """Give prefix -> country for the whole world."""
    table: dict[str, str] = {}
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        if code == _NORTH_AMERICA:
            parts = area_codes({region: claimed(region) for region in regions})
        else:
            table[str(code)] = regions[0]
            shared = regions if len(regions) > 1 else ()
            parts = divided({region: claimed(region) for region in shared})
        table.update((f"{code}{part}", region) for part, region in parts if region != table.get(str(code)))
    return table


def rendered(table: dict[str, str]) -> str:
    """Give the text of the generated module: sorted, one line per country and first digits of the prefix."""
    lines = []
    entries = sorted((region, prefix) for prefix, region in table.items())
    for (region, _), group in groupby(entries, key=lambda entry: (entry[0], entry[1][:2])):
        line = region
        for _, prefix in group:
            if len(line) + 1 + len(prefix) > _LINE_CHARACTERS:
                lines.append(line)
                line = region
            line += " " + prefix
        lines.append(line)
    return _FILE.format(version=phonenumbers.__version__, lines="\n".join(lines))


if __name__ == "__main__":
    _TARGET.write_text(rendered(prefixes()), encoding="utf-8")
    sys.stderr.write(f"{_TARGET.name} written from phonenumbers {phonenumbers.__version__}\n")
