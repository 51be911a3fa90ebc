"""The runbooks as data: sections, commands with what they may end with, and links.

Takes `docs/runbooks.md`; gives what tests ask of it. A command is a line of an `sh` block, or `ask '...'` in the
text. The comment behind it, for people, says what else than 0 it may end with ("exits 6") and that it may print
nothing ("nothing: ..."). Lines after `$ ` in `console` blocks change something and are not run.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "runbooks.md"
TEXT = DOCUMENT.read_text("utf-8")

_EXIT = re.compile(r"exits (\d+)")


class Command(NamedTuple):
    """One line an engineer types."""

    section: str
    text: str
    exit_codes: frozenset[int]
    may_be_silent: bool
    """Whether printing nothing is an answer."""


def sections() -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.+)\n", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def alerts() -> list[str]:
    """The alerts that have a section, in the order of the document."""
    return [title for title in sections() if title.startswith("Msgmeter")]


def setup() -> str:
    """The first block: what every other one is run under."""
    return _blocks("sh", TEXT)[0]


def commands() -> list[Command]:
    """Every command that only looks."""
    found = []
    for section, text in sections().items():
        lines = "".join(_blocks("sh", text)).splitlines()
        if setup() in _blocks("sh", text):
            lines = lines[len(setup().splitlines()) :]
        found += [_command(section, line) for line in lines if line.strip()]
        found += [_command(section, line) for line in re.findall(r"`(ask '[^`]+')`", text)]
    return found


def changing() -> list[str]:
    """Every command that changes something, as shown after a `$`."""
    return [
        line.removeprefix("$ ")
        for block in _blocks("console", TEXT)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def composed(text: str = TEXT) -> list[str]:
    """Every call of `docker`, in blocks and in the text, from `docker` to the end of the line or of the code."""
    return re.findall(r"\bdocker (?:compose|top|restart|inspect|network)\b[^`\n]*", text)


def questions() -> list[str]:
    """Every PromQL expression."""
    found = [re.match(r"ask '(.+?)'", each.text) for each in commands()]
    return list(dict.fromkeys(each[1] for each in found if each))


def anchors(markdown: str) -> set[str]:
    """What links may point at, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(markdown: str) -> list[str]:
    """Targets of the links within the repository."""
    return [link for link in re.findall(r"\]\(([^)]+)\)", markdown) if "://" not in link]


def _blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _command(section: str, line: str) -> Command:
    text, _, comment = line.partition("  # ")
    codes = {0, *map(int, _EXIT.findall(comment))}
    return Command(section, text.strip(), frozenset(codes), "nothing" in comment)
