"""What the ClickHouse front must know of a statement's text before the engine parses it.

Decides where an insert's statement ends and its data begins, which format an answer has, and
whether a statement changes its session. Pure: takes text, gives findings. Whatever it does not
recognise goes to the engine unchanged, so a miss costs streaming, never meaning.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BLANK = r"(?:\s|--[^\n]*\n|/\*.*?\*/)"
_NAME = r"(?:`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|\w+)"
_COLUMNS = r"\((?:`(?:[^`\\]|\\.)*`|[^()`])*\)"
_SETTINGS = r"\w+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[-\w.]+)(?:\s*,\s*\w+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[-\w.]+))*"
# The engine's parser skips blanks and one line break after the format's name, no more: a Native
# block of ten columns begins with a byte that is a line break.
# Source: ClickHouse, src/Parsers/ParserInsertQuery.cpp
_INSERT = re.compile(
    (
        rf"{_BLANK}*insert\s+into\s+(?P<target>(?:table\s+)?{_NAME}(?:\.{_NAME})?\s*(?:{_COLUMNS})?)"
        rf"\s*(?:settings\s+(?P<settings>{_SETTINGS})\s*)?"
        r"\bformat\s+(?P<format>\w+)(?!\w)[ \t\f]*\r?\n?"
    ).encode(),
    re.IGNORECASE | re.DOTALL,
)
_INSERT_BEGINS = re.compile(rf"{_BLANK}*insert\s".encode(), re.IGNORECASE | re.DOTALL)
_QUERY_BEGINS = re.compile(rf"{_BLANK}*\(*\s*(?:select|with)\s", re.IGNORECASE | re.DOTALL)
_SESSION_BEGINS = re.compile(
    rf"{_BLANK}*(?:set|use|(?:create|drop)\s+temporary)\s", re.IGNORECASE | re.DOTALL
)
_FORMAT_ENDS = re.compile(r"\bformat\s+(\w+)\s*;?\s*$", re.IGNORECASE)


class InsertStatement(NamedTuple):
    """An insert whose data follows its statement."""

    target: str
    """Table and columns as written: `db.t (a, b)`."""
    settings: str
    """Its own SETTINGS clause without the word, empty where it has none."""
    data_format: str
    data_at: int
    """Index of the first byte of data."""


def insert_statement(head: bytes) -> InsertStatement | None:
    """Find an `INSERT INTO … FORMAT x` at the start of `head`; None for any other text."""
    found = _INSERT.match(head)
    if found is None:
        return None
    return InsertStatement(
        target=found["target"].decode(),
        settings=(found["settings"] or b"").decode(),
        data_format=found["format"].decode(),
        data_at=found.end(),
    )


def begins_insert(head: bytes) -> bool:
    """Whether it is an insert of any kind, with or without data."""
    return _INSERT_BEGINS.match(head) is not None


def begins_query(statement: str) -> bool:
    """Whether it is a SELECT, so that its answer may be streamed."""
    return _QUERY_BEGINS.match(statement) is not None


def changes_session(statement: str) -> bool:
    """Whether its effect (SET, USE, temporary tables) belongs to the session it runs in."""
    return _SESSION_BEGINS.match(statement) is not None


def output_format(statement: str, default: str) -> str:
    """Give the format of the answer: the statement's own FORMAT clause, else `default`."""
    found = _FORMAT_ENDS.search(statement)
    return found.group(1) if found else default
