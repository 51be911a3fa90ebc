"""Decides which characters an SMS alphabet holds and how many septets each of them takes.

Takes languages of national shift tables. Gives an `Alphabet`: what costs one septet, what costs two,
and how many septets of one SMS are left beside the header that announces the tables. It never counts
a message: that is `segments`. Invariant: an alphabet never contains ESC, so ESC can mark the first
half of an extension character when a text is spelled out as septets.

Source: 3GPP TS 23.038 6.2.1 (alphabet, extension), A.2 (single shift), A.3 (locking shift);
3GPP TS 23.040 9.2.3.24.15 and .16 (the information elements that announce national tables).
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec

ESCAPE: Final = "\x1b"

BASIC: Final = (
    "\n\r !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
    "\u00a1\u00a3\u00a4\u00a5\u00a7\u00bf\u00c4\u00c5\u00c6\u00c7\u00c9\u00d1\u00d6\u00d8\u00dc\u00df"
    "\u00e0\u00e4\u00e5\u00e6\u00e8\u00e9\u00ec\u00f1\u00f2\u00f6\u00f8\u00f9\u00fc"
    "\u0393\u0394\u0398\u039b\u039e\u03a0\u03a3\u03a6\u03a8\u03a9"
)
"""The 127 characters of the default alphabet that take one septet. Source: TS 23.038 6.2.1."""

EXTENSION: Final = "\f^{}\\[~]|\u20ac"
"""The ten characters reached through ESC, two septets each. Source: TS 23.038 6.2.1.1."""

_SINGLE_SHIFT_ADDS: Final = {
    "turkish": "ĞİŞçğış",
    "spanish": "çÁÍÓÚáíóú",
    "portuguese": "êçÔôÁáΦΓΩΠΨΣΘÊÀÍÓÚÃÕÂíóúãõâ",
}
"""What each single shift table has beyond the default extension. Source: TS 23.038 A.2.1 to A.2.3."""

_LOCKING_SHIFT_REPLACES: Final = {
    "turkish": ("èìØøÆæ¡¿", "€ıĞğŞşİç"),
    "portuguese": ("èùìòÇØøÅåΦΓΛΩΠΨΣΘΞÆæß¤¡ÄÖÑ¿äöñ", "êúíóçÔôÁáªÇÀ∞^\\€Ó|ÂâÊºÍÃÕÚ~ãõ`"),
}
"""(characters a locking shift table drops from the default alphabet, characters in their places).

Spanish has no locking shift table. Source: TS 23.038 A.3.1 to A.3.3.
"""

SINGLE_SHIFT_LANGUAGES: Final = tuple(_SINGLE_SHIFT_ADDS)
LOCKING_SHIFT_LANGUAGES: Final = tuple(_LOCKING_SHIFT_REPLACES)


class Alphabet(msgspec.Struct, frozen=True):
    """One way to spell a text in septets."""

    label: str
    """For people: "" for the default alphabet, else the national tables in use."""
    one: str
    """Characters of one septet."""
    two: str
    """Characters of two septets (ESC and a code); disjoint from `one`."""
    header_octets: int
    """Octets of user data header that announce the national tables: 0, 3 or 6, without the length octet."""
    is_narrow: Callable[[str], object]
    """Truthy when every character of a text takes one septet."""
    fits: Callable[[str], object]
    """Truthy when the alphabet holds every character of a text."""
    find_wide: Callable[[str], list[str]]
    """The characters of two septets in a text, in order."""

    def septets(self, text: str) -> int:
        """Count the septets of a text that fits; 0 for an empty one."""
        return len(text) + len(self.find_wide(text))

    def spell(self, text: str) -> str:
        """Spell a text that fits as one character per septet, ESC standing before each wide one."""
        return "".join(ESCAPE + character if character in self.two else character for character in text)


def alphabet(single_shift: str = "", locking_shift: str = "") -> Alphabet:
    """Build the alphabet of a single shift language and a locking shift language, "" meaning the default.

    A character that the locking table offers for one septet is never counted as an extension, because a
    sender has no reason to escape it. Raises KeyError for a language without such a table.
    """
    one, two = BASIC, EXTENSION
    labels = []
    if locking_shift:
        one = one.translate(str.maketrans(*_LOCKING_SHIFT_REPLACES[locking_shift]))
        labels.append(f"{locking_shift.capitalize()} locking shift table")
    if single_shift:
        two += _SINGLE_SHIFT_ADDS[single_shift]
        labels.append(f"{single_shift.capitalize()} single shift table")
    two = "".join(character for character in two if character not in one)
    narrow, wide = re.escape(one), re.escape(two)
    return Alphabet(
        label=" and ".join(labels),
        one=one,
        two=two,
        header_octets=3 * len(labels),
        # A possessive run over one class is the fastest full scan that `re` offers: it never backtracks.
        is_narrow=re.compile(f"[{narrow}]*+").fullmatch,
        fits=re.compile(f"[{narrow}{wide}]*+").fullmatch,
        find_wide=re.compile(f"[{wide}]").findall,
    )


DEFAULT_ALPHABET: Final = alphabet()
