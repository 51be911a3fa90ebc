"""Decides the coding of an SMS body and how many segments it takes.

Takes the text and a `Profile` (the sender's habits: reference length, national tables). Gives the coding's
name and the number of segments. Never keeps, quotes or logs the text. Invariants:

- an escape pair or a surrogate pair is never cut, everything else may be, grapheme clusters too;
- an empty body that was sent is one segment;
- the count is honest above `MAX_SEGMENTS`: such a body cannot be sent as one message, and the caller
  refuses it (`segments > MAX_SEGMENTS`) as `too_many_segments`;
- any text can be counted, unpaired surrogates included, so nothing here raises on a body.

`measure` is the hot path; `segment_reasons.explain_segments` says why.

Source: 3GPP TS 23.038 4 and 6.2 (codings); 3GPP TS 23.040 9.2.3.24 (user data header, concatenation).
"""

from functools import lru_cache
from typing import Final, Literal

import msgspec

from pipeline.core.alphabets import DEFAULT_ALPHABET, ESCAPE, Alphabet, alphabet

Encoding = Literal["GSM-7", "UCS-2", "8-bit"]

GSM_7: Final = "GSM-7"
UCS_2: Final = "UCS-2"
EIGHT_BIT: Final = "8-bit"

MAX_SEGMENTS: Final = 255
"""The total in a concatenation header is one octet. Source: TS 23.040 9.2.3.24.1."""

USER_DATA_OCTETS: Final = 140
"""What one SMS carries, its header included. Source: TS 23.040 9.2.3.24."""

_CONCATENATION_OCTETS: Final = {8: 5, 16: 6}
"""Reference bits -> octets of the concatenation element. Source: TS 23.040 9.2.3.24.1 and .8."""

_HIGH_SURROGATE: Final = range(0xD8, 0xDC)
_LOW_SURROGATE: Final = range(0xDC, 0xE0)


class Limits(msgspec.Struct, frozen=True):
    """How many units (septets, octets or UTF-16 units) fit; both bounds inclusive."""

    single: int
    """In a message of one segment."""
    part: int
    """In each segment of a longer one, beside the concatenation header."""


def limits(unit_bits: int, reference_bits: int, header_octets: int = 0) -> Limits:
    """Room for units of `unit_bits` (7, 8 or 16) beside `header_octets` of national elements.

    A header costs one octet more for its own length, and septets start at the next septet boundary.
    Source: TS 23.040 9.2.3.24; 160/153/152, 140/134/133, 70/67/66, 155/149/148 and 152/146/145 follow.
    """

    def room(octets: int) -> int:
        return (USER_DATA_OCTETS - (octets + 1 if octets else 0)) * 8 // unit_bits

    return Limits(room(header_octets), room(header_octets + _CONCATENATION_OCTETS[reference_bits]))


class Profile(msgspec.Struct, frozen=True):
    """How a source sends; built by `profile` and passed to every count."""

    alphabets: tuple[tuple[Alphabet, Limits], ...]
    """The alphabets the sender may choose from, the default first, in the order that breaks ties."""
    octets: Limits
    utf16: Limits
    reference_bits: int


@lru_cache(maxsize=64)
def profile(reference_bits: Literal[8, 16] = 8, single_shift: str = "", locking_shift: str = "") -> Profile:
    """Build a profile; languages are those of `alphabets`, "" for none.

    With tables the sender takes whatever gives the fewest segments, and of equals the one with the smallest
    header: default, single shift, locking shift, both. UCS-2 stays the last resort: even a text of nothing
    but two-septet characters packs at least 72 of them into a segment with both tables, against 67 units.
    Raises KeyError for an unknown language or reference length.
    """
    choices = [("", ""), (single_shift, ""), ("", locking_shift), (single_shift, locking_shift)]
    alphabets = [DEFAULT_ALPHABET, *(alphabet(*choice) for choice in dict.fromkeys(choices) if any(choice))]
    return Profile(
        alphabets=tuple((each, limits(7, reference_bits, each.header_octets)) for each in alphabets),
        octets=limits(8, reference_bits),
        utf16=limits(16, reference_bits),
        reference_bits=reference_bits,
    )


DEFAULT_PROFILE: Final = profile()

_is_narrow = DEFAULT_ALPHABET.is_narrow
_SINGLE_SEPTETS: Final = DEFAULT_PROFILE.alphabets[0][1].single
_SINGLE_UTF16: Final = DEFAULT_PROFILE.utf16.single
_ONE_GSM_7: Final = (GSM_7, 1)
_ONE_UCS_2: Final = (UCS_2, 1)


def measure(body: str, how: Profile = DEFAULT_PROFILE) -> tuple[str, int]:
    """Give (coding, segments) of a body whose coding the body decides.

    The count is at least 1 and may exceed `MAX_SEGMENTS`. The two tuples of the commonest answers are
    shared constants, and short bodies are answered before anything is encoded: this runs for every message.
    """
    length = len(body)
    if _is_narrow(body):
        # One septet each without a header: no national table can do better, no pair can be cut.
        return _ONE_GSM_7 if length <= _SINGLE_SEPTETS else (GSM_7, -(-length // how.alphabets[0][1].part))
    segments = 0
    for spelling, room in how.alphabets:
        if spelling.fits(body):
            count = _septet_segments(body, spelling, room)
            if not segments or count < segments:
                segments = count
    if segments:
        return GSM_7, segments
    # No character takes more than two units, so up to 35 of them fit one segment whatever they are.
    return _ONE_UCS_2 if 2 * length <= _SINGLE_UTF16 else (UCS_2, _utf16_segments(body, how.utf16))


def measure_as(encoding: str, body: str, how: Profile = DEFAULT_PROFILE) -> tuple[str, int]:
    """Give (coding, segments) of a body whose coding the event names; the coding is `encoding` itself.

    "UCS-2" holds everything. "8-bit" counts the octets of `octets`. "GSM-7" believes the gateway: what the
    alphabets lack was replaced on the way, one septet for each such character, as gateways with a "smart"
    coding do. Raises ValueError for another coding: decoding has refused it before.
    """
    if encoding == GSM_7:
        coding, segments = measure(body, how)
        return (GSM_7, segments) if coding == GSM_7 else measure(replaced(body), how)
    if encoding == UCS_2:
        return UCS_2, _utf16_segments(body, how.utf16)
    if encoding == EIGHT_BIT:
        size = len(octets(body))
        return EIGHT_BIT, 1 if size <= how.octets.single else -(-size // how.octets.part)
    raise ValueError(f"unknown coding {encoding!r}")


def replaced(body: str) -> str:
    """Put a question mark in the place of every character the default alphabet lacks."""
    keep = DEFAULT_ALPHABET.one + DEFAULT_ALPHABET.two
    return "".join(character if character in keep else "?" for character in body)


def octets(body: str) -> bytes:
    """Give the octets of an 8-bit body: Latin-1 where that holds every character, else UTF-8.

    The coding is binary, and its octets reach us as text: a gateway that passes octets through maps each
    to the character of that number. An unpaired surrogate becomes three octets.
    """
    try:
        return body.encode("latin-1")
    except UnicodeEncodeError:
        return body.encode("utf-8", "surrogatepass")


def utf16(body: str) -> bytes:
    """Give the UTF-16BE octets of a text, two a unit, unpaired surrogates as they are."""
    return body.encode("utf-16-be", "surrogatepass")


def cut_septets(spelled: str, room: Limits) -> list[int]:
    """Cut a text spelled by `Alphabet.spell` into segments: the septets used in each, in order, never empty.

    A segment whose last septet would be ESC leaves it to the next. Source: TS 23.040 9.2.3.24.1.
    """
    size = len(spelled)
    if size <= room.single:
        return [size]
    sizes, start = [], 0
    while size - start > room.part:
        used = room.part - (spelled[start + room.part - 1] == ESCAPE)
        sizes.append(used)
        start += used
    sizes.append(size - start)
    return sizes


def cut_utf16(encoded: bytes, room: Limits) -> list[int]:
    """Cut UTF-16BE octets into segments: the units used in each, in order, never empty.

    A segment that would end between a high and a low surrogate ends before the pair.
    """
    size = len(encoded) >> 1
    if size <= room.single:
        return [size]
    sizes, start = [], 0
    while size - start > room.part:
        end = start + room.part
        # The first octet of a UTF-16BE unit alone tells whether it is a surrogate, and of which half.
        pair = encoded[2 * end - 2] in _HIGH_SURROGATE and encoded[2 * end] in _LOW_SURROGATE
        sizes.append(room.part - pair)
        start = end - pair
    sizes.append(size - start)
    return sizes


def _septet_segments(body: str, spelling: Alphabet, room: Limits) -> int:
    """Count segments of a text that fits an alphabet."""
    size = spelling.septets(body)
    if size <= room.single:
        return 1
    return _settled(size, room.part) or len(cut_septets(spelling.spell(body), room))


def _utf16_segments(body: str, room: Limits) -> int:
    """Count segments of a text in UCS-2."""
    encoded = utf16(body)
    size = len(encoded) >> 1
    if size <= room.single:
        return 1
    return _settled(size, room.part) or len(cut_utf16(encoded, room))


def _settled(size: int, part: int) -> int:
    """Give the segments of `size` units if no cut can change them, else 0.

    Each of the N-1 inner boundaries wastes at most one unit, so if the last of N = ceil(size / part) segments
    has that much room left, N it is; otherwise somebody has to walk the boundaries.
    """
    segments = -(-size // part)
    return segments if segments * part - size >= segments - 1 else 0
