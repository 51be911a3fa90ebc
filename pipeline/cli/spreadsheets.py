"""Writes rows as an Excel workbook, a row at a time, so that a million of them take no more memory than one.

Takes named sheets of rows and a path. Every text is written as a text, whatever it begins with: no cell is ever a
formula. An amount is written as a number where Excel keeps all its digits, else as a text. A sheet that Excel could
not hold goes on in a further one. Never reads anything.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from typing import Any, NamedTuple

import click
import xlsxwriter
from xlsxwriter.exceptions import FileCreateError

from pipeline.cli.answers import Cell
from pipeline.core.amounts import parse_credits

MAX_ROWS = 1_048_575
"""Of a sheet, below its line of names. Source: Excel's specifications and limits, 1 048 576 rows in all."""
_MAX_DIGITS = 15
"""Excel's numbers are binary doubles, of which so many decimal digits are kept."""
_MAX_NAME = 31


class Sheet(NamedTuple):
    """Rows under their columns' names; `amounts` are the columns that hold decimal strings."""

    name: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Cell]]
    amounts: frozenset[str] = frozenset()


def export_options(command: Any) -> Any:  # noqa: ANN401 - click's decorators are untyped
    """Add `--output` with a workbook among its forms, and `--file`, which `check_file` holds against it."""
    file = click.option("--file", "path", metavar="PATH", help="Where --output xlsx goes.")
    forms = click.Choice(["table", "json", "csv", "xlsx"])
    return click.option("--output", type=forms, default="table", show_default=True)(file(command))


def check_file(output: str, path: str | None) -> None:
    """Raise UsageError unless a path is given for a workbook, and only then."""
    if output == "xlsx" and path is None:
        raise click.UsageError("--output xlsx needs a --file")
    if output != "xlsx" and path is not None:
        raise click.UsageError("--file goes with --output xlsx; other forms go to standard output")


def write_workbook(path: str | None, sheets: Iterable[Sheet]) -> None:
    """Write the sheets and say how many rows they have; raise UsageError where the file cannot be written."""
    assert path is not None, "a workbook has a path: see check_file"
    try:
        # Opened first, as the library finds out only when all has been asked for and written.
        with open(path, "ab"):  # noqa: PTH123 - any path that the system takes
            pass
        # Without these texts would be made into links and formulas by what they look like.
        options = {"constant_memory": True, "strings_to_urls": False, "strings_to_formulas": False}
        with xlsxwriter.Workbook(path, options) as workbook:
            written = sum(_write(workbook, sheet) for sheet in sheets)
    except (OSError, FileCreateError) as error:
        raise click.UsageError(f"{path} cannot be written: {error}") from error
    click.echo(f"{written:,} {'row' if written == 1 else 'rows'} written to {path}", err=True)


def _write(workbook: Any, sheet: Sheet) -> int:  # noqa: ANN401 - the library is untyped
    bold = workbook.add_format({"bold": True})
    plain = workbook.add_format({"num_format": "#,##0.00####"})
    written = 0
    for number, rows in enumerate(_portions(iter(sheet.rows)), 1):
        made = workbook.add_worksheet(f"{sheet.name[: _MAX_NAME - 4]} {number}" if number > 1 else sheet.name)
        made.freeze_panes(1, 0)
        for column, name in enumerate(sheet.columns):
            made.set_column(column, column, max(12, len(name) + 2))
            made.write_string(0, column, name, bold)
        for row, cells in zip(count(1), rows, strict=False):
            written += 1
            for column, (name, cell) in enumerate(zip(sheet.columns, cells, strict=True)):
                _write_cell(made, row, column, cell, plain if name in sheet.amounts else None)
    return written


def _portions(rows: Iterator[Sequence[Cell]]) -> Iterator[Iterator[Sequence[Cell]]]:
    """The rows, as many at a time as a sheet holds; at least one portion, which may be empty."""
    first = next(rows, None)
    yield iter(()) if first is None else chain((first,), islice(rows, MAX_ROWS - 1))
    while (first := next(rows, None)) is not None:
        yield chain((first,), islice(rows, MAX_ROWS - 1))


def _write_cell(sheet: Any, row: int, column: int, cell: Cell, amount: Any | None) -> None:  # noqa: ANN401
    if cell is None or cell == "":
        return
    if isinstance(cell, int):
        sheet.write_number(row, column, cell)
    elif amount is not None and _is_exact(cell):
        sheet.write_number(row, column, float(cell), amount)
    else:
        sheet.write_string(row, column, cell)


def _is_exact(text: str) -> bool:
    """Whether a decimal string has no more digits than a number in Excel keeps."""
    parse_credits(text)
    return len(text.lstrip("-").replace(".", "").lstrip("0")) <= _MAX_DIGITS
