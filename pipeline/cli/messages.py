"""`msgmeter messages`: the messages a figure is made of, newest first.

Takes a tenant, dates of its own zone and what to keep to; gives one row per charged message or refund: when, what
sort, where to, what it cost at which rate and from which grants, as a table, JSON, CSV or a workbook. Says
neither numbers nor bodies: programs get the first digits of a contact's keyed hash, so that one can be told from
another. Exits with 1 where the tenant is not known. Never writes to a service, and never asks a worker.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

import click
from clickhouse_connect.driver.client import Client

from pipeline.cli.answers import Cell, show_csv, show_json, show_table
from pipeline.cli.questions import DATE, FIRST_DATE, account_of, check_order, clock_time, days_before, today
from pipeline.cli.sending_commands import exact_rfc3339
from pipeline.cli.spreadsheets import Sheet, check_file, export_options, write_workbook
from pipeline.cli.visible import visible_text
from pipeline.cli.wording import grant_words
from pipeline.clickhouse.queries import StoredMessage, messages_of_tenant
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.amounts import format_credits
from pipeline.core.windows import bounds
from pipeline.settings import load_settings

_DEFAULT_DAYS = 29
_DEFAULT_LIMIT = {"table": 50, "json": 1_000}
"""Of CSV and workbooks, which are written as they are read, there is none."""
_AT_ONCE = 10_000
_MOST = 4_294_967_295
_AMOUNTS = frozenset({"rate", "credits"})


@click.command()
@click.argument("tenant")
@click.option("--from", "first", type=DATE, metavar="DATE", help="First date, in the tenant's zone.")
@click.option("--to", "last", type=DATE, metavar="DATE", help="Last date, included; today by default.")
@click.option("--list", "list_name", help='Only those of this list; "" for those of none.')
@click.option("--campaign", help='Only those of this campaign; "" for those of none.')
@click.option("--category", help='Only those of this category; "" for those of none.')
@click.option("--id", "message_id", help="The message of this id, of any date unless --from says.")
@click.option(
    "--limit", type=click.IntRange(1, _MOST), help="At most so many; 50 in a table, 1 000 as JSON, else all."
)
@export_options
def messages(
    tenant: str,
    first: date | None,
    last: date | None,
    limit: int | None,
    output: str,
    path: str | None,
    **kept: str | None,
) -> None:
    """Show the charged messages of TENANT, newest first; 30 days of them by default.

    A refund is a row of its own, of no messages and negative credits. Numbers and texts are not stored.
    """
    check_order(first, last)
    check_file(output, path)
    client = connect_clickhouse(load_settings())
    account = account_of(client, tenant)
    last_date = last or max(today(account.zone), first or date.min)
    is_of_any_date = kept["message_id"] is not None
    first_date = first or (FIRST_DATE if is_of_any_date else days_before(last_date, _DEFAULT_DAYS))
    edges = bounds("day", first_date, last_date, account.zone)
    most = limit or _DEFAULT_LIMIT.get(output, _MOST)
    found = _stored(client, tenant, edges, most, kept)
    if output == "csv":
        show_csv(_COLUMNS, map(_cells, found))
    elif output == "xlsx":
        write_workbook(path, [Sheet("messages", _COLUMNS, map(_cells, found), _AMOUNTS)])
    elif output == "json":
        rows = [dict(zip(_COLUMNS, _cells(each), strict=True)) for each in found]
        head = {"tenant": tenant, "zone": account.zone, "from": str(first_date), "to": str(last_date)}
        show_json({**head, "limit": most, "messages": rows})
    else:
        nothing = f"no messages between {first_date} and {last_date}"
        if is_of_any_date and first is None and last is None:
            nothing = (
                f"no message {visible_text(kept['message_id'] or '')} of {visible_text(tenant)} is stored"
            )
        _show(list(found), account.zone, most, nothing)


def _stored(
    client: Client, tenant: str, edges: list[int], limit: int, kept: dict[str, str | None]
) -> Iterator[StoredMessage]:
    """The messages newest first; many of them a day at a time, so that a year needs no more memory than a day."""
    if limit <= _AT_ONCE or kept["message_id"] is not None:
        edges = [edges[0], edges[-1]]
    for starts_at, ends_at in zip(reversed(edges[:-1]), reversed(edges[1:]), strict=True):
        if limit <= 0:
            return
        found = messages_of_tenant(client, tenant, starts_at, ends_at, limit, **kept)
        limit -= len(found)
        yield from found


def _show(found: list[StoredMessage], zone: str, most: int, nothing: str) -> None:
    if not found:
        click.echo(nothing)
        return
    click.echo(f"times of {zone}\n")
    columns = ("time", "message", "status", "units x rate", "credits", "grant", "id")
    rows = [_readable(each, zone) for each in found]
    show_table(columns, rows, amounts=frozenset({"credits"}), folded=frozenset({"grant", "id"}))
    if len(found) == most:
        click.echo(f"\nthe newest {most:,}; --limit shows more, and --output csv or xlsx all of them")


def _readable(each: StoredMessage, zone: str) -> tuple[Cell, ...]:
    """A message for people. What cost nothing was burned from no grant, which is not the same as from none."""
    burned = [grant_words(grant_id, zone) for grant_id, micros in sorted(each.grants.items()) if micros]
    return (
        clock_time(each.occurred_at, zone),
        _sort(each),
        each.status if each.messages else "refund",
        f"{each.quantity:,} x {format_credits(each.rate_micros)}",
        format_credits(each.credits_micros),
        burned[0] if len(burned) == 1 else f"{len(burned)} grants" if burned else "",
        each.message_id,
    )


def _sort(each: StoredMessage) -> str:
    """What sort of message it is: "sms to US", "email sent"; "sms to ?" where the number is of no country."""
    is_inbound = each.direction == "inbound"
    if each.kind == "email":
        return f"{each.kind} {'received' if is_inbound else 'sent'}"
    return f"{each.kind} {'from' if is_inbound else 'to'} {each.country or '?'}"


_COLUMNS = (
    "occurred_at", "message", "source", "kind", "direction", "country", "status", "category", "list", "campaign",
    "member", "inbox", "contact", "encoding", "messages", "segments", "quantity", "rate", "rate_version",
    "credits", "grants", "counted_late",
)  # fmt: skip


def _cells(each: StoredMessage) -> tuple[Cell, ...]:
    """A message for programs and spreadsheets."""
    return (
        exact_rfc3339(each.occurred_at),
        each.message_id,
        each.source,
        each.kind,
        each.direction,
        each.country,
        each.status,
        each.category,
        each.list,
        each.campaign,
        each.member,
        each.inbox,
        _contact(each),
        each.encoding,
        each.messages,
        each.segments,
        each.quantity,
        format_credits(each.rate_micros),
        each.rate_version,
        format_credits(each.credits_micros),
        _grants(each.grants.items()),
        "yes" if each.period_starts_at > each.occurred_at else "",
    )


def _contact(each: StoredMessage) -> str:
    """Enough of the contact's hash to tell a tenant's contacts apart."""
    return f"{each.contact_hash:016x}"[:8]


def _grants(burned: Iterable[tuple[str, Any]]) -> str:
    """The split over grants in one cell: "uncovered=1 allowance:1767225600000=2"."""
    return " ".join(
        f"{grant_id or 'uncovered'}={format_credits(micros)}" for grant_id, micros in sorted(burned) if micros
    )
