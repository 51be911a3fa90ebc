"""`msgmeter usage` and `msgmeter balance`: what a tenant used and what is left, as ClickHouse has it.

Take a tenant and dates in the tenant's own zone; give a table, JSON or CSV on standard output, credits as exact
decimals, with the instant the figures are as of: that of the last checkpoint. Exit with 1 where the tenant is
not known. Never write, and never ask a worker.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, get_args

import click
import orjson
from clickhouse_connect.driver.client import Client

from pipeline.cli.answers import Cell, grouped, output_option, show_csv, show_facts, show_json, show_table
from pipeline.clickhouse.client import connect
from pipeline.clickhouse.queries import (
    AccountSnapshot,
    Dimension,
    account_of_tenant,
    usage_by_period,
)
from pipeline.core.account import FOREVER_AT
from pipeline.core.amounts import format_credits
from pipeline.core.windows import Granularity, bounds, local_day
from pipeline.settings import load_settings

Output = Literal["table", "json", "csv"]

_DEFAULT_DAYS: dict[Granularity, int] = {"day": 29, "week": 77, "month": 334}
"""How long before `--to` an answer begins by default: 30 days, 12 weeks or 12 months in all."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FIRST_DATE = _EPOCH.date()
_DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
_MEASURES = ("messages", "segments", "quantity", "credits")


class _Dimensions(click.ParamType):
    """Names of dimensions with commas between them."""

    name = "dimensions"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Dimension, ...]:
        """Split and check them; the order is the one they are listed in."""
        asked = {text.strip() for text in str(value).split(",")}
        if wrong := asked.difference(_DIMENSIONS):
            self.fail(f"{', '.join(sorted(wrong))}: choose among {', '.join(_DIMENSIONS)}", param, ctx)
        return tuple(name for name in _DIMENSIONS if name in asked)


class _Date(click.ParamType):
    """A calendar date."""

    name = "date"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Read YYYY-MM-DD; fails with a sentence for the user."""
        if isinstance(value, date):
            return value
        text = str(value)
        try:
            # `fromisoformat` reads other forms too, which nobody would guess here.
            return date.fromisoformat(text if _DATE.fullmatch(text) else "")
        except ValueError:
            self.fail(f"there is no date {text!r}: write YYYY-MM-DD, such as 2026-02-03", param, ctx)


@click.command()
@click.argument("tenant")
@click.option("--by", type=click.Choice(get_args(Granularity)), default="day", show_default=True)
@click.option(
    "--from",
    "first",
    type=_Date(),
    metavar="DATE",
    help="First date, in the tenant's zone; by default 30 days, 12 weeks or 12 months are shown.",
)
@click.option(
    "--to",
    "last",
    type=_Date(),
    metavar="DATE",
    help="Last date, included; today by default.",
)
@click.option(
    "--group-by",
    "dimensions",
    type=_Dimensions(),
    metavar="NAMES",
    help=f"Tell apart by some of {','.join(_DIMENSIONS)}; columns come in this order.",
)
@output_option
def usage(
    tenant: str,
    by: Granularity,
    first: date | None,
    last: date | None,
    dimensions: tuple[Dimension, ...] | None,
    output: Output,
) -> None:
    """Show what TENANT used by day, week or month of its own zone.

    A period without usage has no line. Weeks start on Monday. The first period is the whole one that holds
    --from, and the last the whole one that holds --to.
    """
    dimensions = dimensions or ()
    if first and last and last < first:
        raise click.UsageError(f"--to {last} is before --from {first}")
    client = connect(load_settings().clickhouse)
    account = _account(client, tenant)
    first_date, last_date = _dates(by, first, last, account.zone)
    try:
        edges = bounds(by, first_date, last_date, account.zone)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    periods = usage_by_period(client, tenant, edges, dimensions)
    columns = (by, *dimensions, *_MEASURES)
    rows = [
        (
            _period_name(period.starts_at, by, account.zone),
            *(getattr(period, name) for name in dimensions),
            *_measures(period.messages, period.segments, period.quantity, period.credits_micros),
        )
        for period in periods
    ]
    names = ("messages", "segments", "quantity", "credits_micros")
    total = _measures(*(sum(getattr(period, name) for period in periods) for name in names))
    if output == "csv":
        show_csv(columns, rows)
    elif output == "json":
        show_json(
            {
                "tenant": tenant,
                "zone": account.zone,
                "by": by,
                "from": first_date.isoformat(),
                "to": last_date.isoformat(),
                "as_of": _rfc3339(account.as_of_at),
                "usage": [dict(zip(columns, row, strict=True)) for row in rows],
                "total": dict(zip(_MEASURES, total, strict=True)),
            }
        )
    else:
        click.echo(f"{tenant}, days of {account.zone}, as of {_rfc3339(account.as_of_at)}\n")
        if not rows:
            click.echo(f"no usage between {first_date} and {last_date}")
            return
        foot: tuple[Cell, ...] = ("total", *("" for _ in dimensions), *total)
        show_table(columns, rows, amounts=frozenset({"credits"}), total=foot)


@click.command()
@click.argument("tenant")
@output_option
def balance(tenant: str, output: Output) -> None:
    """Show what TENANT has left: in its open period, and of each grant.

    The balance is what is left of all grants, less what was used beyond them (uncovered). CSV has one line and
    leaves the grants out.
    """
    account = _account(connect(load_settings().clickhouse), tenant)
    facts = {
        "tenant": tenant,
        "plan": account.plan,
        "zone": account.zone,
        "period_from": _local_date(account.period_starts_at, account.zone).isoformat(),
        "period_to": _local_date(account.period_ends_at - 1, account.zone).isoformat(),
        "limit": format_credits(account.limit_micros),
        "used": format_credits(account.used_micros),
        "balance": format_credits(account.balance_micros),
        "uncovered": format_credits(account.uncovered_micros),
        "as_of": _rfc3339(account.as_of_at),
    }
    grants = [_grant(each) for each in orjson.loads(account.grants)]
    if output == "csv":
        show_csv(tuple(facts), [tuple(facts.values())])
    elif output == "json":
        show_json({**facts, "grants": grants})
    else:
        _show_balance(facts, account, grants)


def _show_balance(facts: dict[str, str], account: AccountSnapshot, grants: list[dict[str, Any]]) -> None:
    share = f" ({account.used_micros * 100 // account.limit_micros} %)" if account.limit_micros > 0 else ""
    show_facts(
        {
            "tenant": facts["tenant"],
            "plan": f"{facts['plan'] or 'none'}, days of {facts['zone']}",
            "period": f"{facts['period_from']} to {facts['period_to']}",
            "used": f"{grouped(facts['used'])} of {grouped(facts['limit'])}{share}",
            "balance": grouped(facts["balance"]),
            "uncovered": grouped(facts["uncovered"]),
            "as of": facts["as_of"],
        }
    )
    if grants:
        click.echo()
        columns = tuple(grants[0])
        rows = [tuple((grant | {"expires": grant["expires"] or "never"}).values()) for grant in grants]
        show_table(columns, rows, amounts=frozenset({"amount", "remaining"}))


def _account(client: Client, tenant: str) -> AccountSnapshot:
    """The tenant's account; ends the command with exit code 1 where there is none."""
    account = account_of_tenant(client, tenant)
    if account is None:
        click.echo(
            f"msgmeter: no account of tenant {tenant!r}. An account is stored at a checkpoint, every 10 s by default,"
            " after its first charged message or accepted command: try again; names are case-sensitive.",
            err=True,
        )
        raise click.exceptions.Exit(1)
    return account


def _dates(by: Granularity, first: date | None, last: date | None, zone: str) -> tuple[date, date]:
    """First and last date; where `--to` is not given it is today, or `--from` where that lies later."""
    today = _local_date((datetime.now(UTC) - _EPOCH) // timedelta(milliseconds=1), zone)
    last_date = last or (max(today, first) if first else today)
    return first or last_date - timedelta(days=_DEFAULT_DAYS[by]), last_date


def _measures(messages: int, segments: int, quantity: int, credits_micros: int) -> tuple[int, int, int, str]:
    return messages, segments, quantity, format_credits(credits_micros)


def _grant(grant: dict[str, Any]) -> dict[str, Any]:
    """A grant of a snapshot for people and programs."""
    expires_at = grant["expires_at"]
    return {
        "id": grant["id"],
        "kind": grant["kind"],
        "amount": format_credits(grant["amount"]),
        "remaining": format_credits(grant["remaining"]),
        "starts": _rfc3339(grant["starts_at"]),
        "expires": None if expires_at >= FOREVER_AT else _rfc3339(expires_at),
    }


def _period_name(starts_at: int, by: Granularity, zone: str) -> str:
    """The date a period starts with; of a month, year and month."""
    text = _local_date(starts_at, zone).isoformat()
    return text[:7] if by == "month" else text


def _local_date(at: int, zone: str) -> date:
    return _FIRST_DATE + timedelta(days=local_day(at, zone))


def _rfc3339(at: int) -> str:
    """An instant as RFC 3339 in UTC, whole seconds."""
    return f"{_EPOCH + timedelta(milliseconds=at):%Y-%m-%dT%H:%M:%SZ}"
