"""`msgmeter statement`: what came and went in one billing period of a tenant, as the customer reads it.

Takes a tenant and a period; gives the opening balance, everything that was added, used, refunded, lapsed, corrected
and settled, line by line with the balance after it, and the closing balance: as a table, JSON, CSV or a workbook,
credits and money as exact decimals. The figures are the stored ledger's, as of the last checkpoint; a statement of a
closed period changes only where a late message or a command of a past instant still counts in it. Exits with 1 where
the tenant, or such a period of it, is not known. Never writes to a service, and never asks a worker.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import click

from pipeline.cli.answers import Cell, show_csv, show_json
from pipeline.cli.questions import account_of, date_of, local_date, rfc3339
from pipeline.cli.sending_commands import exact_rfc3339
from pipeline.cli.spreadsheets import Sheet, check_file, export_options, write_workbook
from pipeline.cli.statement_table import show_statement
from pipeline.clickhouse.queries import AccountSnapshot
from pipeline.clickhouse.statements import opening_by_grant, period_starts, period_usage, statement_entries
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.account_details import decode_details
from pipeline.core.amounts import format_credits
from pipeline.core.statement import SECTIONS, Statement, UsageSum, make_statement
from pipeline.core.statement_document import statement_document
from pipeline.settings import load_settings

_PERIOD = re.compile(r"current|previous|[0-9]{4}-[0-9]{2}(-[0-9]{2})?")
_AMOUNTS = frozenset({"credits", "balance", "money", "refunded", "opening", "closing", *SECTIONS})


class Span(NamedTuple):
    """A billing period `[starts_at, ends_at)`."""

    starts_at: int
    ends_at: int


class _Period(click.ParamType):
    """A billing period by a word, its month or a date in it."""

    name = "period"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form; which period it is, the tenant's own say."""
        text = str(value)
        if not _PERIOD.fullmatch(text):
            self.fail(f"{text!r} is not current, previous, YYYY-MM or YYYY-MM-DD", param, ctx)
        return text


@click.command()
@click.argument("tenant")
@click.option(
    "--period",
    type=_Period(),
    default="current",
    show_default=True,
    help="current, previous, the month it begins in as YYYY-MM, or a date in it as YYYY-MM-DD.",
)
@click.option("--entries", "is_by_entry", is_flag=True, help="Every entry, where a day's usage is one line.")
@export_options
def statement(tenant: str, period: str, is_by_entry: bool, output: str, path: str | None) -> None:
    """Show what came and went in one billing period of TENANT, and what was left.

    Usage is one line per day and grant. Late usage occurred before the period, and came too late to count in the one
    before. CSV has the lines, the first and last being the opening and the closing balance.
    """
    check_file(output, path)
    client = connect_clickhouse(load_settings())
    account = account_of(client, tenant)
    span = find_period(period, periods(period_starts(client, tenant), account), account.zone)
    if span is None:
        known = periods(period_starts(client, tenant), account)
        first = f"; its first began on {local_date(known[0].starts_at, account.zone)}" if known else ""
        click.echo(f"msgmeter: {tenant} has no period {period}{first}", err=True)
        raise click.exceptions.Exit(1)
    opening = opening_by_grant(client, tenant, span.starts_at)
    entries = statement_entries(client, tenant, *span)
    made = make_statement(entries, *span, zone=account.zone, opening=opening, is_by_entry=is_by_entry)
    used = period_usage(client, tenant, *span)
    head = _head(account, span)
    if output == "json":
        show_json({**head, **_with_instants(statement_document(made, used))})
    elif output == "csv":
        show_csv(_LINE_COLUMNS, _lines(made, account.zone))
    elif output == "xlsx":
        write_workbook(path, _sheets(head, made, used, account.zone))
    else:
        show_statement(head, made, used, account.zone, is_by_entry=is_by_entry)


def periods(starts: Sequence[int], account: AccountSnapshot) -> list[Span]:
    """The tenant's billing periods, oldest first, the open one last; none without a plan.

    `starts` may hold a later one, which a message ahead of the log's time has begun.
    """
    begun = [start for start in starts if start <= account.period_starts_at]
    if not begun:
        return []
    return [Span(*each) for each in pairwise([*begun, account.period_ends_at])]


def find_period(asked: str, spans: Sequence[Span], zone: str) -> Span | None:
    """The period that is asked for; none where the tenant has none such.

    Raises UsageError for a month in which several begin: after a change of zone or anchor one may be short.
    """
    if asked in ("current", "previous"):
        place = -1 if asked == "current" else -2
        return spans[place] if len(spans) >= -place else None
    dates = [(local_date(each.starts_at, zone), local_date(each.ends_at - 1, zone), each) for each in spans]
    if len(asked) > len("YYYY-MM"):
        return next((each for first, last, each in dates if str(first) <= asked <= str(last)), None)
    found = [(first, each) for first, _, each in dates if str(first).startswith(asked)]
    if len(found) > 1:
        days = " and ".join(str(first) for first, _ in found)
        raise click.UsageError(f"Several periods begin in {asked}, on {days}: give --period a date")
    return found[0][1] if found else None


def _head(account: AccountSnapshot, span: Span) -> dict[str, Any]:
    """Whose statement it is, of when; what is due now is said of the open period only."""
    details, is_open = decode_details(account.details), span.starts_at == account.period_starts_at
    return {
        "tenant": account.tenant,
        "organization": account.organization or None,
        "plan": account.plan,
        "zone": account.zone,
        "from": local_date(span.starts_at, account.zone).isoformat(),
        "to": local_date(span.ends_at - 1, account.zone).isoformat(),
        "is_open": is_open,
        "as_of": rfc3339(account.as_of_at),
        "due": format_credits(details.due_money_micros) if is_open and details.due_money_micros else None,
        "due_currency": details.plan.currency if is_open and details.due_money_micros else None,
    }


def _with_instants(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its instants as RFC 3339."""
    lines = [{**line, "at": exact_rfc3339(line["at"])} for line in document["lines"]]
    bounds = {name: exact_rfc3339(document[name]) for name in ("starts_at", "ends_at")}
    return {**document, **bounds, "lines": lines}


_LINE_COLUMNS = (
    "at", "date", "section", "kind", "grant", "credits", "balance", "money", "currency", "cause", "is_late",
    "entries",
)  # fmt: skip


def _lines(made: Statement, zone: str) -> Iterable[tuple[Cell, ...]]:
    """Every line as cells, between the opening and the closing balance."""
    yield _edge("opening", made.starts_at, made.opening, zone)
    for line in made.lines:
        has_money = bool(line.money_micros)
        yield (
            exact_rfc3339(line.at),
            date_of(line.day).isoformat(),
            line.section,
            line.kind,
            line.grant_id,
            format_credits(line.amount),
            format_credits(line.balance),
            format_credits(line.money_micros) if has_money else None,
            line.currency if has_money else None,
            line.cause,
            "yes" if line.is_late else "",
            line.entries,
        )
    yield _edge("closing", made.ends_at - 1, made.closing, zone)


def _edge(name: str, at: int, balance: int, zone: str) -> tuple[Cell, ...]:
    amounts = (None, format_credits(balance), None)
    return (
        exact_rfc3339(at),
        local_date(at, zone).isoformat(),
        name,
        name,
        None,
        *amounts,
        None,
        None,
        "",
        None,
    )


def _sheets(head: dict[str, Any], made: Statement, used: Iterable[UsageSum], zone: str) -> list[Sheet]:
    """A workbook of a statement: what it is of, its lines, and the sums by grant and by sort of message."""
    document = statement_document(made, used)
    facts = {
        **head,
        "opening": document["opening"],
        **document["sections"],
        "closing": document["closing"],
    }
    facts_rows = [(name, None if value is None else str(value)) for name, value in facts.items()]
    return [
        Sheet("statement", ("what", "value"), facts_rows),
        Sheet("lines", _LINE_COLUMNS, _lines(made, zone), _AMOUNTS),
        *(_sheet(name, document[name]) for name in ("grants", "usage") if document[name]),
    ]


def _sheet(name: str, rows: Sequence[dict[str, Any]]) -> Sheet:
    columns = tuple(rows[0])
    return Sheet(name, columns, [tuple(row.values()) for row in rows], _AMOUNTS)
