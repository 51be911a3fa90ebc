"""Phone numbers and email addresses from a file: one per line.

Takes a path, `-` for standard input; gives the lines that hold anything, without the space around them. Whether
one is an address is for the worker to say.
"""

from collections.abc import Callable

import click

Command = Callable[..., None]


def address_file(name: str) -> Callable[[Command], Command]:
    """Make an option for such a file, whose value is `path`."""
    return click.option(
        name,
        "path",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True),
        help="A file with one address per line; - is standard input.",
    )


def read_addresses(path: str | None) -> list[str]:
    """Read the addresses of a file, in order, none where there is no path; raise click.UsageError for no text."""
    if path is None:
        return []
    with click.open_file(path, encoding="utf-8") as lines:
        try:
            return [text for line in lines if (text := line.strip())]
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{path} is no text in UTF-8") from error
