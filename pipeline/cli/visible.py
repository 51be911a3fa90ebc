"""Stand-ins for characters that a terminal would not show, or would obey.

Takes characters and texts of strangers, such as the name of a list in an unsigned message; gives what is safe to
print on one line. Never shortens, and never changes what programs are given: JSON and CSV hold the texts as they are.
"""

from typing import Final

_STAND_INS: Final = {"\xa0": "\u237d", "\x7f": "\u2421"}
_JOINERS: Final = "\u200c\u200d"
"""Part of how Persian, Hindi and emoji are written; no terminal obeys them."""


def visible(character: str) -> str:
    """Give a character itself, or a stand-in for what a terminal would not show, or would obey."""
    if stand_in := _STAND_INS.get(character):
        return stand_in
    if character.isprintable():
        return character
    return chr(0x2400 + ord(character)) if character < " " else f"\u2039U+{ord(character):04X}\u203a"


def visible_text(text: str) -> str:
    """Give a text on one line: no control, line separator, direction mark or half a surrogate pair is in it."""
    if text.isprintable():
        return text
    return "".join(each if each in _JOINERS else visible(each) for each in text)
