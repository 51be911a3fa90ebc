"""Decides what a character outside GSM-7 is called, and what a writer could put in its place.

Takes a text; gives its offending characters by kind (`offences`) and the text without them (`plain`).
A suggestion for people: no text is ever changed on its way through the meter. Invariant: `plain` gives
only characters of the default alphabet.

Source: 3GPP TS 23.038 6.2.1 (the alphabet); Unicode NFC, NFKC and NFKD of the standard library.
"""

import unicodedata
from collections.abc import Iterator
from typing import Final

import msgspec

from pipeline.core.alphabets import DEFAULT_ALPHABET, Alphabet

_KEPT: Final = frozenset(DEFAULT_ALPHABET.one + DEFAULT_ALPHABET.two)


class Kind(msgspec.Struct, frozen=True):
    """A family of characters that writers use for one purpose."""

    singular: str
    plural: str
    remedy: str
    """What to do about one of them, as in "with a straight quote"; "" if nothing can be done."""
    remedies: str
    """The same for several."""


class Offence(msgspec.Struct, frozen=True):
    """The characters of one kind in a text."""

    singular: str
    plural: str
    remedy: str
    """What to do about these, one or several; "" if nothing can be done."""
    count: int
    """Occurrences."""
    characters: tuple[str, ...]
    """The distinct ones, in order of appearance."""


_REPLACEABLE: Final = (
    ("\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", "curly quote", "a straight quote", "''''\"\"\"\""),
    ("\u00ab\u00bb\u2039\u203a", "angle quote", "a straight quote", "\"\"''"),
    ("`", "backtick", "a straight quote", "'"),
    ("\u2032\u2033\u00b4", "prime", "a straight quote", "'\"'"),
    ("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "dash", "a hyphen", "-------"),
    ("\u2022\u00b7\u2023\u25cf\u25aa", "bullet", "a hyphen", "-----"),
    ("\u2026", "ellipsis", "three full stops", ("...",)),
    ("\t", "tab", "a space", " "),
    ("\u00a0\u202f\u2007", "no-break space", "an ordinary space", "   "),
    ("\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
     "Greek capital that looks Latin", "a Latin capital", "ABEZHIKMNOPTYX"),
    ("\u0141\u0142\u0110\u0111\u0131\u0152\u0153", "special Latin letter", "a plain letter",
     ("L", "l", "D", "d", "i", "OE", "oe")),
)  # fmt: skip
"""(characters, what one is called, what to write instead, the replacement of each)."""

_PLURALS: Final = {
    "ellipsis": "ellipses",
    "dash": "dashes",
    "Greek capital that looks Latin": "Greek capitals that look Latin",
}
_PLURAL_BY_REMEDY: Final = {"three full stops": "three full stops each"}


def _plural(phrase: str) -> str:
    """Give "straight quotes" for "a straight quote"."""
    noun = phrase.removeprefix("an ").removeprefix("a ")
    return _PLURAL_BY_REMEDY.get(phrase) or f"{noun}s"


def _with(singular: str, replacement: str) -> Kind:
    return Kind(
        singular,
        _PLURALS.get(singular) or f"{singular}s",
        f"with {replacement}",
        f"with {_plural(replacement)}",
    )


def _without(singular: str, plural: str) -> Kind:
    return Kind(singular, plural, f"without the {singular}", f"without the {plural}")


_REPLACEMENT: Final[dict[str, str]] = {
    character: replacement
    for characters, _, _, replacements in _REPLACEABLE
    for character, replacement in zip(characters, replacements, strict=True)
}
_KIND_BY_CHARACTER: Final[dict[str, Kind]] = {
    character: _with(name, instead)
    for characters, name, instead, _ in _REPLACEABLE
    for character in characters
}
_ACCENTED: Final = Kind(
    "accented letter", "accented letters", "with an unaccented letter", "with unaccented letters"
)
_COMBINING: Final = Kind(
    "combining mark", "combining marks", "with a composed or plain letter", "with composed or plain letters"
)
_STYLED: Final = Kind("styled character", "styled characters", "with a plain one", "with plain ones")
_SPACE: Final = Kind("unusual space", "unusual spaces", "with an ordinary space", "with ordinary spaces")
_INVISIBLE: Final = _without("invisible character", "invisible characters")
_CONTROL: Final = _without("control character", "control characters")
_HALF: Final = _without("unpaired surrogate", "unpaired surrogates")
_EMOJI: Final = _without("emoji", "emoji")
_SYMBOL: Final = _without("symbol", "symbols")
_NUMERAL: Final = _without("numeral", "numerals")


_KIND_BY_CATEGORY: Final = {
    "Zs": _SPACE,
    "Cs": _HALF,
    "Cc": _CONTROL,
    "Cf": _INVISIBLE,
    "Zl": _INVISIBLE,
    "Zp": _INVISIBLE,
    "Mn": _COMBINING,
    "Mc": _COMBINING,
    "Me": _COMBINING,
}


def kind_of(character: str) -> Kind:
    """Give the family of a character that the default alphabet lacks."""
    if "\ufe00" <= character <= "\ufe0f":
        # Variation selectors are marks by category, yet part of how emoji are written and seen by nobody.
        return _INVISIBLE
    category = unicodedata.category(character)
    known = _KIND_BY_CHARACTER.get(character) or _KIND_BY_CATEGORY.get(category)
    if known:
        return known
    if _decomposed(character):
        return _ACCENTED if unicodedata.normalize("NFD", character) != character else _STYLED
    if category[0] == "L":
        return _letter(character)
    if category[0] == "N":
        return _NUMERAL
    return _EMOJI if category in {"So", "Sk"} and character >= "\u2600" else _SYMBOL


def _letter(character: str) -> Kind:
    """Name a letter after its script, as the first word of its Unicode name has it."""
    script = unicodedata.name(character, "unknown").split()[0]
    word = script if script == "CJK" else script.capitalize()
    return Kind(f"{word} character", f"{word} characters", "", "")


def _decomposed(character: str) -> str:
    """Give the characters of the alphabet that a compatibility decomposition leaves; "" if it leaves none."""
    whole = unicodedata.normalize("NFKC", character)
    if set(whole) <= _KEPT:
        return whole
    parts = unicodedata.normalize("NFKD", character)
    bare = "".join(part for part in parts if unicodedata.category(part)[0] != "M")
    return bare if bare and set(bare) <= _KEPT else ""


def plain(text: str) -> str:
    """Give the text with every offending character replaced, or left out where nothing can replace it.

    Combining marks are composed first, so that an e and an acute accent become the e acute of the alphabet.
    """
    composed = unicodedata.normalize("NFC", text)
    return "".join(
        character if character in _KEPT else _REPLACEMENT.get(character) or _substitute(character)
        for character in composed
    )


def _substitute(character: str) -> str:
    """Give a space for any kind of space, the plain form of what has one, else nothing."""
    return " " if unicodedata.category(character) == "Zs" else _decomposed(character)


def offences(text: str, widest: Alphabet) -> Iterator[Offence]:
    """Give the characters of a text that `widest`, the largest alphabet the sender may use, does not hold.

    By kind, in order of first appearance.
    """
    found: dict[Kind, list[str]] = {}
    for character in text:
        if not widest.fits(character):
            found.setdefault(kind_of(character), []).append(character)
    for kind, characters in found.items():
        yield Offence(
            singular=kind.singular,
            plural=kind.plural,
            remedy=kind.remedy if len(characters) == 1 else kind.remedies,
            count=len(characters),
            characters=tuple(dict.fromkeys(characters)),
        )
