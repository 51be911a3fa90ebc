"""`msgmeter usage`: what a tenant, or an organization's tenants together, used over time.

Takes a tenant or an organization and dates in the tenant's own zone; gives a table, JSON, CSV or a workbook, credits
as exact decimals, with the instant the figures are as of. By day, week, month or the whole range as one; told apart
by kind, direction, country, category, type, or by list, campaign, member or inbox. Exits with 1 where the tenant or
organization is not known. Never writes to a service, and never asks a worker.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple, get_args

import click
from clickhouse_connect.driver.client import Client

from pipeline.cli.answers import Cell, grouped, show_csv, show_json, show_table
from pipeline.cli.questions import (
    DATE,
    FIRST_DATE,
    account_of,
    accounts_of,
    check_order,
    days_before,
    local_date,
    one_of,
    rfc3339,
    today,
)
from pipeline.cli.spreadsheets import Sheet, check_file, export_options, write_workbook
from pipeline.clickhouse.queries import (
    AccountSnapshot,
    Dimension,
    Label,
    organization_usage,
    usage_by_label,
    usage_by_period,
)
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.amounts import format_credits
from pipeline.core.windows import Granularity, bounds
from pipeline.settings import load_settings

By = Literal["day", "week", "month", "all"]

_DEFAULT_DAYS: dict[Granularity, int] = {"day": 29, "week": 77, "month": 334}
"""How long before `--to` an answer begins by default: 30 days, 12 weeks or 12 months in all."""
_DIMENSIONS = ("tenant", *get_args(Dimension), "type")
_LABELS: tuple[Label, ...] = get_args(Label)
_TYPES = ("campaign", "messaging", "transactional")
"""The categories that are types of their own; what is sent in others is `other`, what comes in is `received`."""
_MEASURES = ("messages", "segments", "quantity", "credits")


class _Names(click.ParamType):
    """Names of what is told apart, with commas between them."""

    name = "dimensions"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split and check them; the order is the one they are listed in."""
        asked = {text.strip() for text in str(value).split(",")}
        known = (*_DIMENSIONS, *_LABELS)
        if wrong := asked.difference(known):
            self.fail(f"{', '.join(sorted(wrong))}: choose among {', '.join(known)}", param, ctx)
        if len(asked) > 1 and asked.intersection(_LABELS):
            self.fail(f"{', '.join(_LABELS)} stand alone: windows do not tell them apart", param, ctx)
        return tuple(name for name in known if name in asked)


class _Row(NamedTuple):
    """Usage of one span and one combination of what is told apart."""

    starts_at: int
    names: tuple[str, ...]
    measures: tuple[int, int, int, int]
    """Messages, segments, quantity, micro-credits."""


class _Question(NamedTuple):
    """What was asked for, and of whom."""

    accounts: Sequence[AccountSnapshot]
    organization: str | None
    by: By
    first: date | None
    """None where all time was asked for."""
    last: date
    zone: str
    told_apart: tuple[str, ...]

    @property
    def edges(self) -> list[int]:
        """The bounds of the spans."""
        first = self.first or FIRST_DATE
        if self.by != "all":
            return bounds(self.by, first, self.last, self.zone)
        return [bounds("day", first, first, self.zone)[0], bounds("day", self.last, self.last, self.zone)[-1]]

    def span_name(self, starts_at: int) -> str:
        """The date a span starts with; of a month, year and month; of the whole range, both its dates."""
        if self.by == "all":
            return f"{self.first} to {self.last}" if self.first else "all time"
        text = local_date(starts_at, self.zone).isoformat()
        return text[:7] if self.by == "month" else text


@click.command()
@click.argument("tenant", required=False)
@click.option(
    "--organization", metavar="NAME", help="All tenants of an organization together, instead of one."
)
@click.option("--by", type=click.Choice(get_args(By)), default="day", show_default=True)
@click.option(
    "--from",
    "first",
    type=DATE,
    metavar="DATE",
    help="First date, in the tenant's zone; by default 30 days, 12 weeks or 12 months are shown, or all time.",
)
@click.option("--to", "last", type=DATE, metavar="DATE", help="Last date, included; today by default.")
@click.option(
    "--group-by",
    "told_apart",
    type=_Names(),
    metavar="NAMES",
    help=f"Tell apart by some of {','.join(_DIMENSIONS)}, or by one of {','.join(_LABELS)}.",
)
@export_options
def usage(
    tenant: str | None,
    organization: str | None,
    by: By,
    first: date | None,
    last: date | None,
    told_apart: tuple[str, ...] | None,
    output: str,
    path: str | None,
) -> None:
    """Show what TENANT used by day, week or month of its own zone, or over the whole range.

    A period without usage has no line. Weeks start on Monday. The first period is the whole one that holds
    --from, and the last the whole one that holds --to. An organization's periods are those of its tenants' zone, or
    of UTC where they have several.
    """
    one_of(tenant, organization)
    check_order(first, last)
    check_file(output, path)
    told_apart = told_apart or ()
    if organization is not None and set(told_apart).intersection(_LABELS):
        raise click.UsageError(f"{', '.join(_LABELS)} are told apart within one tenant")
    if tenant is not None and "tenant" in told_apart:
        raise click.UsageError("--group-by tenant goes with --organization")
    client = connect_clickhouse(load_settings())
    accounts = accounts_of(client, organization) if organization else [account_of(client, tenant or "")]
    zones = {account.zone for account in accounts}
    zone = zones.pop() if len(zones) == 1 else "UTC"
    question = _Question(accounts, organization, by, *_dates(by, first, last, zone), zone, told_apart)
    _show(question, list(_rows(client, question)), output, path)


def _show(question: _Question, rows: list[_Row], output: str, path: str | None) -> None:
    columns = ("range" if question.by == "all" else question.by, *question.told_apart, *_MEASURES)
    cells = [(question.span_name(row.starts_at), *row.names, *_measured(row.measures)) for row in rows]
    total = _measured(_sum(row.measures for row in rows))
    if output == "csv":
        show_csv(columns, cells)
    elif output == "xlsx":
        write_workbook(path, [Sheet("usage", columns, cells, frozenset({"credits"}))])
    elif output == "json":
        usage = [dict(zip(columns, row, strict=True)) for row in cells]
        show_json({**_head(question), "usage": usage, "total": dict(zip(_MEASURES, total, strict=True))})
    else:
        head = _head(question)
        who = head.get("tenant") or f"{head['organization']}, {len(question.accounts):,} tenants"
        click.echo(f"{who}, days of {question.zone}, as of {head['as_of']}\n")
        if not cells:
            click.echo(f"no usage between {question.first or 'ever'} and {question.last}")
            return
        foot: tuple[Cell, ...] = ("total", *("" for _ in question.told_apart), *total)
        show_table(columns, cells, amounts=frozenset({"credits"}), total=foot)
        if "type" in question.told_apart:
            click.echo(f"\nscheduled: {grouped(head['scheduled'])} credits are reserved now and not used yet")


def _head(question: _Question) -> dict[str, Any]:
    """What an answer says of itself; figures are as of the account that was stored first."""
    whose = {"tenant": question.accounts[0].tenant}
    if question.organization is not None:
        whose = {"organization": question.organization}
    head: dict[str, Any] = {
        **whose,
        "zone": question.zone,
        "by": question.by,
        "from": question.first.isoformat() if question.first else None,
        "to": question.last.isoformat(),
        "as_of": rfc3339(min(account.as_of_at for account in question.accounts)),
    }
    if "type" in question.told_apart:
        head["scheduled"] = format_credits(sum(account.reserved_micros for account in question.accounts))
    return head


def _rows(client: Client, question: _Question) -> Iterable[_Row]:
    """What was used, by span and by what is told apart, in that order."""
    told_apart, edges = question.told_apart, question.edges
    if told_apart and told_apart[0] in _LABELS:
        (label,) = told_apart
        for used in usage_by_label(client, question.accounts[0].tenant, edges, label):  # type: ignore[arg-type]
            yield _Row(used.starts_at, (used.label,), used[2:])
        return
    # A type is made of direction and category.
    by: set[Any] = {name for name in told_apart if name != "type"}
    if "type" in told_apart:
        by |= {"direction", "category"}
    sums: dict[tuple[int, tuple[str, ...]], list[tuple[int, int, int, int]]] = {}
    for each in _stored(client, question, edges, by):
        names = tuple(_type(each) if name == "type" else getattr(each, name) for name in told_apart)
        measures = (each.messages, each.segments, each.quantity, each.credits_micros)
        sums.setdefault((each.starts_at, names), []).append(measures)
    for (starts_at, names), parts in sorted(sums.items()):
        yield _Row(starts_at, names, _sum(parts))


def _stored(client: Client, question: _Question, edges: list[int], by: set[Any]) -> Iterable[Any]:
    if question.organization is not None:
        return organization_usage(client, question.organization, edges, by)
    return usage_by_period(client, question.accounts[0].tenant, edges, by)


def _type(used: Any) -> str:  # noqa: ANN401 - a row of one of the two queries
    if used.direction == "inbound":
        return "received"
    return used.category if used.category in _TYPES else "other"


def _dates(by: By, first: date | None, last: date | None, zone: str) -> tuple[date | None, date]:
    """First and last date; where `--to` is not given it is today, or `--from` where that lies later."""
    last_date = last or (max(today(zone), first) if first else today(zone))
    if by == "all":
        return first, last_date
    return first or days_before(last_date, _DEFAULT_DAYS[by]), last_date


def _sum(measures: Iterable[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    messages, segments, quantity, micros = (sum(each) for each in zip((0, 0, 0, 0), *measures, strict=True))
    return messages, segments, quantity, micros


def _measured(measures: tuple[int, int, int, int]) -> tuple[Cell, ...]:
    return *measures[:3], format_credits(measures[3])
