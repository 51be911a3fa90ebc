"""The three forms of an answer on standard output: a table for people, JSON and CSV for programs.

Takes rows of texts and whole numbers; writes them. In a table, amounts of one column have one number of
decimals, thousands are grouped, and what a terminal would obey has a stand-in; JSON and CSV have the exact decimal
strings, and texts, as they are.
"""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import orjson
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from pipeline.cli.visible import visible_text
from pipeline.core.amounts import parse_credits

Cell = str | int | None

_PIPE_COLUMNS = 200
"""Where no terminal sets a width, lines are not broken."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def output_option(command: Any) -> Any:  # noqa: ANN401 - click's decorators are untyped
    """Add `--output` to a command."""
    forms = click.Choice(["table", "json", "csv"])
    return click.option("--output", type=forms, default="table", show_default=True)(command)


def show_json(document: Mapping[str, Any]) -> None:
    """Write one JSON object on one line."""
    click.echo(orjson.dumps(document))


def show_csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a line of names and one per row (RFC 4180 but for the line ends).

    Spreadsheets run a text that begins like a formula: an apostrophe before it keeps it a text. Numbers are
    left alone, negative ones too.
    """
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_guarded(cell) for cell in row] for row in rows)


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    amounts: frozenset[str],
    folded: frozenset[str] = frozenset(),
    total: Sequence[Cell] = (),
) -> None:
    """Write a table; `amounts` names the columns that hold credits, `total` is a last row set apart.

    Where a terminal is too narrow, texts of the columns `folded` go on in the next line; others would be cut.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=bool(total), show_edge=False)
    shown = [[*row] for row in [*rows, *([total] if total else [])]]
    for index, name in enumerate(columns):
        cells = [row[index] for row in shown]
        texts = _amounts(cells) if name in amounts else [_text(cell) for cell in cells]
        is_number = name in amounts or any(isinstance(cell, int) for cell in cells)
        footer = Text(texts.pop(), "bold") if total else ""
        justify: JustifyMethod = "right" if is_number else "left"
        table.add_column(name, footer=footer, justify=justify, no_wrap=name not in folded, overflow="fold")
        for row, text in zip(shown, texts, strict=False):
            row[index] = text
    for row in shown[: len(rows)]:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def show_facts(facts: Mapping[str, str]) -> None:
    """Write names and values below each other."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    for name, value in facts.items():
        grid.add_row(Text(visible_text(name)), Text(visible_text(value)))
    console().print(grid)


def console() -> Console:
    """Make a console on today's standard output that takes texts literally."""
    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _PIPE_COLUMNS
    return made


def grouped(decimal: str) -> str:
    """Write a decimal string with commas between thousands."""
    whole, point, rest = decimal.partition(".")
    sign = "-" if whole.startswith("-") else ""
    return f"{sign}{int(whole.lstrip('-')):,}{point}{rest}"


def _amounts(cells: Sequence[Cell]) -> list[str]:
    """Credits with as many decimals as the one that needs most."""
    decimals = max((len(str(cell).partition(".")[2]) for cell in cells), default=0)
    texts = []
    for cell in cells:
        assert parse_credits(str(cell)) is not None, "an amount is a decimal string"
        whole, _, rest = grouped(str(cell)).partition(".")
        texts.append(f"{whole}.{rest:<0{decimals}}" if decimals else whole)
    return texts


def _text(cell: Cell) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    return "" if cell is None else visible_text(cell)


def _guarded(cell: Cell) -> Cell:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA_STARTS):
        return cell
    try:
        parse_credits(cell)
    except ValueError:
        return f"'{cell}"
    return cell
