"""Draws what a text costs: the text cut into its segments, how full they are, and the reasons.

Takes a text and its explanation; gives something rich can print. Never prints. Whatever a terminal would
obey instead of show (controls, direction marks, half a surrogate pair) is drawn as a stand-in.
"""

import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.cli.visible import visible
from pipeline.core.segment_reasons import Explanation
from pipeline.core.segments import EIGHT_BIT, GSM_7, MAX_SEGMENTS, UCS_2, octets
from pipeline.core.substitutes import plain

_SHOWN_CHARACTERS: Final = 800
_SHOWN_LINES: Final = 12
_SHOWN_OFFENDERS: Final = 6
_SHOWN_SEGMENTS: Final = 8
_BAR_CELLS: Final = 30
_SEGMENT_STYLES: Final = ("", "on grey30")
_UNITS_BY_ENCODING: Final = {GSM_7: "septets", UCS_2: "UTF-16 units", EIGHT_BIT: "octets"}


def segment_panel(text: str, explanation: Explanation) -> Panel:
    """Draw the text, how full its segments are, and the reasons."""
    count, units = explanation.segments, _UNITS_BY_ENCODING[explanation.encoding]
    colour = "red" if count > MAX_SEGMENTS else "green" if count == 1 else "yellow"
    title = Text.assemble(
        (f" {count} segment{'' if count == 1 else 's'} ", f"bold {colour}"),
        (f"{explanation.encoding}, {explanation.units} {units} ", "default"),
    )
    reasons = Table.grid(padding=(0, 1))
    for position, reason in enumerate(explanation.reasons):
        reasons.add_row(Text("\u2022", style=colour), Text(reason, style="bold" if position == 0 else "dim"))
    parts: list[RenderableType] = [_coloured(text, explanation), Text(), _bars(explanation), Text(), reasons]
    if explanation.offences:
        parts += [Text(), _offenders(explanation)]
    return Panel(Group(*parts), title=title, title_align="left", border_style=colour, padding=(1, 2))


def _coloured(text: str, explanation: Explanation) -> Text:
    """Give the text with its segments on alternating grounds and what costs extra in colour."""
    if not text:
        return Text("(empty)", style="dim italic")
    blamed = {character for offence in explanation.offences for character in offence.characters}
    drawn = Text()
    shown = _shown(text)
    for character, segment in zip(shown, _segment_of_each(text, explanation), strict=False):
        ground = _SEGMENT_STYLES[segment % 2] if explanation.segments > 1 else ""
        accent = "bold red" if character in blamed else "bold yellow" if character in explanation.wide else ""
        drawn.append(_drawn(character), style=f"{accent} {ground}".strip())
    if len(text) > len(shown):
        drawn.append(f"\u2026 and {len(text) - len(shown)} more characters", style="dim italic")
    return drawn


def _shown(text: str) -> str:
    """Give the beginning that fits a screen."""
    return "".join(islice(text.splitlines(keepends=True), _SHOWN_LINES))[:_SHOWN_CHARACTERS]


def _segment_of_each(text: str, explanation: Explanation) -> Iterator[int]:
    """Give the number of the segment, from 0, in which each character begins."""
    segment, left = 0, explanation.parts[0]
    for character in text:
        while left <= 0 and segment + 1 < len(explanation.parts):
            segment += 1
            left += explanation.parts[segment]
        yield segment
        left -= _units(character, text, explanation)


def _units(character: str, text: str, explanation: Explanation) -> int:
    """Give the units one character takes in the coding of its text."""
    if explanation.encoding == UCS_2:
        return 2 if character > "\uffff" else 1
    if explanation.encoding == EIGHT_BIT:
        return 1 if explanation.units == len(text) else len(octets("\u0100" + character)) - 2
    return 2 if character in explanation.wide else 1


def _drawn(character: str) -> str:
    """Give the character so that it is seen; a line end ends the line as well."""
    return "\u21b5\n" if character == "\n" else visible(character)


def _bars(explanation: Explanation) -> Table:
    """Draw how full each segment is; of many segments the first ones and the last."""
    room = explanation.room.single if len(explanation.parts) == 1 else explanation.room.part
    bars = Table.grid(padding=(0, 1))
    last = len(explanation.parts) - 1
    for position, used in enumerate(explanation.parts):
        if _SHOWN_SEGMENTS <= position < last:
            continue
        if position == last > _SHOWN_SEGMENTS:
            bars.add_row(Text("\u22ee", style="dim"), "", "")
        filled = -(-used * _BAR_CELLS // room)
        bar = Text("\u2588" * filled, style="cyan") + Text("\u2591" * (_BAR_CELLS - filled), style="grey37")
        free = f", {room - used} free" if position == last else ""
        bars.add_row(Text(f"segment {position + 1}"), bar, Text(f"{used} of {room}{free}", style="dim"))
    return bars


def _offenders(explanation: Explanation) -> Table:
    """List the characters that forced UCS-2, each with its name and what could stand in its place."""
    offenders = [(offence, character) for offence in explanation.offences for character in offence.characters]
    table = Table("", "", "Not in GSM-7", "Instead", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for offence, character in offenders[:_SHOWN_OFFENDERS]:
        name = unicodedata.name(character, offence.singular).capitalize()
        instead = plain(character) or ("leave out" if offence.remedy else "-")
        table.add_row(
            Text(_drawn(character).strip(), style="bold red"),
            Text(f"U+{ord(character):04X}", style="dim"),
            Text(name),
            Text("space" if instead == " " else instead, style="green"),
        )
    if len(offenders) > _SHOWN_OFFENDERS:
        table.add_row("", "", Text(f"\u2026 and {len(offenders) - _SHOWN_OFFENDERS} others", style="dim"), "")
    return table
