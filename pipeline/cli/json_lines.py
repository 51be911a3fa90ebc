"""Answers JSON Lines on standard input with JSON Lines on standard output, one for each.

Takes a function from an object to an answer. Every line is an object with an "id", a string or an integer.
A line that cannot be answered is named on standard error, the others are still answered, and the process
ends with exit code 1. Half a surrogate pair is allowed anywhere, because a text under question may hold one.
"""

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
import orjson

Answer = dict[str, Any]


def answer_lines(answer: Callable[[Answer], Answer]) -> None:
    """Answer every line of standard input; empty lines are passed over. Exit with 1 if any line was bad."""
    bad = 0
    output = click.get_binary_stream("stdout")
    for number, line in enumerate(click.get_binary_stream("stdin"), start=1):
        if not line.strip():
            continue
        try:
            output.write(_encoded(answer(_decoded(line))) + b"\n")
        except ValueError as error:
            bad += 1
            click.echo(f"line {number}: {error}", err=True)
    output.flush()
    if bad:
        click.echo(f"{bad} {'line was' if bad == 1 else 'lines were'} not answered", err=True)
        sys.exit(1)


def _decoded(line: bytes) -> Answer:
    """Decode a line into an object with an id; raise ValueError saying what is wrong with it."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        document = _decoded_slowly(line)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a fault of the line like any other
    identity = document.get("id")
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise ValueError('"id" must be a string or an integer')  # noqa: TRY004 - as above
    return document


def _decoded_slowly(line: bytes) -> object:
    """Decode what orjson refuses: the standard library lets half a surrogate pair through."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_not_json)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("not JSON we read: nested too deep") from error


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"not JSON: {constant}")


def _encoded(answer: Answer) -> bytes:
    """Encode an answer; what orjson cannot write, such as an id with half a surrogate pair, is escaped."""
    try:
        return orjson.dumps(answer)
    except orjson.JSONEncodeError:
        return json.dumps(answer, separators=(",", ":")).encode("ascii")
