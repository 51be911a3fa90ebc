"""`msgmeter segments` and `msgmeter locate`: what a text costs and where a number belongs, with reasons.

Take arguments and explain them to a person on a terminal, or with `--json` take JSON Lines on standard input
and give one JSON line for each. Answers go to standard output, faults to standard error. Nothing is stored.
"""

from typing import Final, Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.json_lines import Answer, answer_lines
from pipeline.cli.segment_panel import segment_panel
from pipeline.cli.visible import visible
from pipeline.core.alphabets import LOCKING_SHIFT_LANGUAGES, SINGLE_SHIFT_LANGUAGES
from pipeline.core.numbering import E164, explain_number
from pipeline.core.segment_reasons import explain_segments
from pipeline.core.segments import EIGHT_BIT, GSM_7, UCS_2, Profile, profile

_WIDEST_COLUMNS: Final = 110
_KIND_NAMES: Final = {E164: "E.164", "short_code": "short code"}


@click.command(help="Explain how many segments each TEXT takes and why.")
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Read JSON Lines {"id","text"} or {"id","utf16be_hex"} from standard input and write JSON Lines.',
)
@click.option("--encoding", type=click.Choice([GSM_7, UCS_2, EIGHT_BIT]), help="Count in this coding.")
@click.option(
    "--reference-bits",
    type=click.Choice(["8", "16"]),
    default="8",
    show_default=True,
    help="Length of the reference in the header of concatenated messages.",
)
@click.option(
    "--national",
    type=click.Choice(SINGLE_SHIFT_LANGUAGES),
    help="Let the sender use this language's national shift tables where that is cheaper.",
)
@click.option(
    "--shift",
    type=click.Choice(["any", "single", "locking"]),
    default="any",
    show_default=True,
    help="Which of the national tables the sender may use.",
)
def segments(
    *,
    texts: tuple[str, ...],
    as_json: bool,
    encoding: str | None,
    reference_bits: Literal["8", "16"],
    national: str | None,
    shift: str,
) -> None:
    """Explain texts to a person, or answer JSON Lines."""
    how = _profile(16 if reference_bits == "16" else 8, national, shift)
    if as_json:
        _refuse_arguments(texts)
        answer_lines(lambda asked: _segments_answer(asked, how, encoding or ""))
        return
    _require_arguments(texts, "TEXT")
    console = _console()
    for text in texts:
        explanation = explain_segments(text, how, encoding or "")
        console.print(segment_panel(text, explanation))


@click.command(help="Explain which country each NUMBER belongs to and why.")
@click.argument("numbers", metavar="[NUMBER]...", nargs=-1)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Read JSON Lines {"id","number"} from standard input and write JSON Lines.',
)
def locate(numbers: tuple[str, ...], as_json: bool) -> None:
    """Explain numbers to a person, or answer JSON Lines."""
    if as_json:
        _refuse_arguments(numbers)
        answer_lines(_location_answer)
        return
    _require_arguments(numbers, "NUMBER")
    table = Table("Number", "Kind", "Country", "Prefix", "Why", box=None, header_style="bold", padding=(0, 2))
    for number in numbers:
        found = explain_number(number)
        style = "green" if found.country else "yellow"
        prefix = f"+{found.prefix}" if found.prefix else "-"
        table.add_row(
            _shown_number(number, found.prefix if found.kind == E164 else ""),
            _KIND_NAMES.get(found.kind, found.kind),
            Text(found.country or "none", style=f"bold {style}"),
            prefix,
            Text("; ".join(found.reasons), style="dim"),
        )
    _console().print(table)


def _profile(reference_bits: Literal[8, 16], national: str | None, shift: str) -> Profile:
    """Build the profile of the options; raise UsageError where a language lacks the table asked for."""
    if not national:
        if shift != "any":
            raise click.UsageError("--shift says which tables of a language: name it with --national.")
        return profile(reference_bits)
    locking = national if national in LOCKING_SHIFT_LANGUAGES and shift != "single" else ""
    single = national if shift != "locking" else ""
    if not locking and not single:
        raise click.UsageError(f"There is no locking shift table for {national}.")
    return profile(reference_bits, single, locking)


def _refuse_arguments(arguments: tuple[str, ...]) -> None:
    if arguments:
        raise click.UsageError("--json reads standard input: give arguments or --json, not both.")


def _require_arguments(arguments: tuple[str, ...], name: str) -> None:
    if not arguments:
        raise click.UsageError(f"Give at least one {name}, or --json and JSON Lines on standard input.")


def _console() -> Console:
    """Make a console on today's standard output that takes texts literally and stays readable when wide."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, _WIDEST_COLUMNS)
    return console


def _shown_number(number: str, prefix: str) -> Text:
    """Give the address with the deciding prefix in bold."""
    shown = "".join(map(visible, number))
    start = 1 if number.startswith("+") else 0
    drawn = Text(shown or "(empty)")
    drawn.stylize("bold", 0, start + len(prefix) if prefix else 0)
    return drawn


def _segments_answer(asked: Answer, how: Profile, encoding: str) -> Answer:
    explanation = explain_segments(_text(asked), how, encoding)
    return {
        "id": asked["id"],
        "encoding": explanation.encoding,
        "units": explanation.units,
        "segments": explanation.segments,
        "reasons": explanation.reasons,
    }


def _text(asked: Answer) -> str:
    """Give the text of a line; raise ValueError if there is none or it cannot be read."""
    if ("text" in asked) == ("utf16be_hex" in asked):
        raise ValueError('needs either "text" or "utf16be_hex"')
    given = asked.get("text", asked.get("utf16be_hex"))
    if not isinstance(given, str):
        raise ValueError('"text" and "utf16be_hex" are strings')  # noqa: TRY004 - a fault of the line
    if "text" in asked:
        return given
    try:
        return bytes.fromhex(given).decode("utf-16-be", "surrogatepass")
    except ValueError as error:
        raise ValueError('"utf16be_hex" must be pairs of octets in hexadecimal') from error


def _location_answer(asked: Answer) -> Answer:
    number = asked.get("number")
    if not isinstance(number, str):
        raise ValueError('"number" must be a string')  # noqa: TRY004 - a fault of the line
    found = explain_number(number)
    return {
        "id": asked["id"],
        "kind": found.kind,
        "country": found.country,
        "prefix": found.prefix,
        "reasons": found.reasons,
    }
