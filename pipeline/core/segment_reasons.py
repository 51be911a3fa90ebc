"""Decides how to say why a body takes the segments it takes, and what would make it cheaper.

Takes what `segments.measure` takes; gives an `Explanation` with the same coding and count, and sentences.
For people (command line, composer, portal), never the hot path. The sentences quote characters of the body,
so they belong on the screen of whoever wrote it and never in a log, a topic or a table.

Invariants: the coding and count are those of `measure` or `measure_as`; there is at least one reason, the
verdict; reasons hold no control character and no surrogate, so any terminal and any JSON can carry them.
"""

from collections import Counter
from typing import Final

import msgspec

from pipeline.core import segments as counting
from pipeline.core.alphabets import Alphabet
from pipeline.core.segments import DEFAULT_PROFILE, EIGHT_BIT, GSM_7, MAX_SEGMENTS, UCS_2, Limits, Profile
from pipeline.core.substitutes import Offence, offences, plain

_UNIT_BY_ENCODING: Final = {GSM_7: "septet", UCS_2: "UTF-16 unit", EIGHT_BIT: "octet"}
_SMALL_NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SHOWN_CHARACTERS: Final = 4
_SHOWN_OFFENCES: Final = 3


class Explanation(msgspec.Struct, frozen=True):
    """Everything there is to say about one body."""

    encoding: str
    units: int
    """Septets, UTF-16 units or octets of the body, without what is wasted at boundaries."""
    segments: int
    """As `measure` counts; at least 1, above `MAX_SEGMENTS` where the body cannot be sent."""
    room: Limits
    """Units that fit in a single segment and in each of several."""
    parts: tuple[int, ...]
    """Units used in each segment, in order; their sum is `units`."""
    wide: tuple[str, ...]
    """The distinct characters that take two septets, in order of appearance; empty for other codings."""
    offences: tuple[Offence, ...]
    """What forced UCS-2, by kind, in the order of first appearance; empty for other codings."""
    plain_segments: int
    """The cost in GSM-7 with the offending characters replaced or left out; 0 if nothing offends."""
    reasons: tuple[str, ...]
    """Sentences for a person, the verdict first; never empty."""


def explain_segments(body: str, how: Profile = DEFAULT_PROFILE, encoding: str = "") -> Explanation:
    """Explain the count of a body; `encoding` forces a coding, "" lets the body decide.

    Raises ValueError for an unknown coding.
    """
    natural = counting.measure(body, how)
    coding, segments = counting.measure_as(encoding, body, how) if encoding else natural
    replaced = 0
    if coding == GSM_7 and natural[0] != GSM_7:
        sent = counting.replaced(body)
        replaced, body = sum(a != b for a, b in zip(body, sent, strict=True)), sent
    spelling, room, parts = _layout(coding, body, how)
    found = () if encoding or coding != UCS_2 else tuple(offences(body, how.alphabets[-1][0]))
    plain_segments = counting.measure_as(GSM_7, plain(body), how)[1] if found else 0
    verdict = _blame(segments, found, plain_segments, len(body)) if found else _verdict(coding, parts, room)
    wide = Counter(spelling.find_wide(body) if spelling else ())
    reasons = [
        verdict,
        *_forced_reasons(coding, natural if encoding else None, replaced),
        *_spelling_reasons(spelling, wide, room),
        *_packing_reasons(coding, parts, room),
    ]
    return Explanation(
        encoding=coding,
        units=sum(parts),
        segments=segments,
        room=room,
        parts=tuple(parts),
        wide=tuple(wide),
        offences=found,
        plain_segments=plain_segments,
        reasons=tuple(reasons),
    )


def _layout(coding: str, body: str, how: Profile) -> tuple[Alphabet | None, Limits, list[int]]:
    """Give the alphabet (GSM-7 only), the limits and the units used in each segment."""
    if coding == UCS_2:
        return None, how.utf16, counting.cut_utf16(counting.utf16(body), how.utf16)
    if coding == EIGHT_BIT:
        size, room = len(counting.octets(body)), how.octets
        if size <= room.single:
            return None, room, [size]
        return None, room, [min(room.part, size - start) for start in range(0, size, room.part)]
    layouts = [
        (spelling, room, counting.cut_septets(spelling.spell(body), room))
        for spelling, room in how.alphabets
        if spelling.fits(body)
    ]
    # `min` keeps the first of equals, as `measure` does: the alphabet with the smallest header.
    return min(layouts, key=lambda layout: len(layout[2]))


def _blame(segments: int, found: tuple[Offence, ...], plain_segments: int, characters: int) -> str:
    """Say what forced UCS-2 and what the body would cost without it."""
    shown = [_offence(each) for each in found[:_SHOWN_OFFENCES]]
    if len(found) > _SHOWN_OFFENCES:
        rest = sum(each.count for each in found[_SHOWN_OFFENCES:])
        shown.append(f"{_number(rest)} other {'character' if rest == 1 else 'characters'}")
    verdict = f"{_counted(segments, 'segment')} because {_listed(shown)} forced {UCS_2}"
    if 2 * sum(each.count for each in found if not each.remedy) > characters:
        # Nobody writes Russian without Cyrillic letters: there is nothing to recommend.
        return f"{verdict}; GSM-7 has no plainer spelling of them"
    remedies = list(dict.fromkeys(each.remedy for each in found))
    if "" in remedies or len(remedies) > _SHOWN_OFFENCES:
        remedies = ["without them" if sum(each.count for each in found) > 1 else "without it"]
    saved = f"still {plain_segments}, in GSM-7" if plain_segments == segments else str(plain_segments)
    return f"{verdict}; {_listed(remedies)}: {saved}"


def _offence(offence: Offence) -> str:
    """Say e.g. "two curly quotes (U+201C, U+201D)"."""
    points = [f"U+{ord(character):04X}" for character in offence.characters[:_SHOWN_CHARACTERS]]
    more = ", \u2026" if len(offence.characters) > _SHOWN_CHARACTERS else ""
    name = offence.singular if offence.count == 1 else offence.plural
    return f"{_number(offence.count)} {name} ({', '.join(points)}{more})"


def _verdict(coding: str, parts: list[int], room: Limits) -> str:
    """Say how many units of how many there are."""
    units, unit = sum(parts), _UNIT_BY_ENCODING[coding]
    if not units:
        return f"1 segment: an empty body that was sent is one ({coding})"
    if len(parts) == 1:
        return f"1 segment: {units} of {room.single} {unit}s in {coding}"
    return f"{len(parts)} segments: {units} {unit}s in {coding}, {room.part} to a segment"


def _forced_reasons(coding: str, natural: tuple[str, int] | None, replaced: int) -> list[str]:
    """Say what it means that the sender named the coding; `natural` is what the body would decide itself."""
    if natural is None:
        return []
    reasons = [f"{coding} is what the sender named"]
    if natural[0] != coding:
        reasons[0] += f"; left to the body it would be {_counted(natural[1], 'segment')} in {natural[0]}"
    if replaced:
        several = replaced > 1
        reasons.append(
            f"{_number(replaced)} {'characters are' if several else 'character is'} not in GSM-7:"
            f" counted as one replacement septet{' each' if several else ''}"
        )
    return reasons


def _spelling_reasons(spelling: Alphabet | None, wide: Counter[str], room: Limits) -> list[str]:
    """Say what the alphabet costs: national tables and characters of two septets."""
    reasons = []
    if spelling and spelling.label:
        reasons.append(f"written with the {spelling.label}, whose header leaves {room.single} septets")
    if wide:
        several = wide.total() > 1
        names = ", ".join(_visible(character) for character in list(wide)[: 2 * _SHOWN_CHARACTERS])
        more = ", \u2026" if len(wide) > 2 * _SHOWN_CHARACTERS else ""
        reasons.append(
            f"{_number(wide.total())} {'characters take' if several else 'character takes'} two septets"
            f"{' each' if several else ''}: {names}{more}"
        )
    return reasons


def _packing_reasons(coding: str, parts: list[int], room: Limits) -> list[str]:
    """Say what concatenation costs: the header, units left empty before a pair, the limit of 255."""
    if len(parts) == 1:
        return []
    unit = _UNIT_BY_ENCODING[coding]
    header = room.single - room.part
    reasons = [f"longer than {room.single} {unit}s, so every segment gives {header} of them to a header"]
    wasted = sum(room.part - used for used in parts[:-1])
    if wasted:
        pair = "an escape pair" if coding == GSM_7 else "a surrogate pair"
        reasons.append(
            f"{_counted(wasted, unit)} left empty, because {pair} is never split over two segments"
        )
    if len(parts) > MAX_SEGMENTS:
        reasons.append(
            f"more than {MAX_SEGMENTS} segments cannot be one message: refused as too_many_segments"
        )
    return reasons


def _visible(character: str) -> str:
    return character if character.isprintable() else f"U+{ord(character):04X}"


def _number(count: int) -> str:
    return _SMALL_NUMBERS[count] if count < len(_SMALL_NUMBERS) else str(count)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
