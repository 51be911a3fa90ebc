"""`msgmeter balance`: what a tenant has, holds back, owes and may still send; or an organization's tenants together.

Takes a tenant or an organization; gives the figures of every billing model that apply, as a table, JSON or CSV,
credits and money as exact decimals, with the instant they are as of. Contacts are counted at the moment of asking.
Exits with 1 where the tenant or organization is not known. Never writes, and never asks a worker.
"""

from collections import defaultdict
from typing import Any

import click
import orjson
from clickhouse_connect.driver.client import Client

from pipeline.cli.answers import output_option, show_csv, show_facts, show_json, show_table
from pipeline.cli.balance_figures import Document, described, figures
from pipeline.cli.questions import account_of, accounts_of, one_of, rfc3339
from pipeline.cli.traffic import now
from pipeline.cli.wording import grant_words, money_words
from pipeline.clickhouse.queries import (
    AccountSnapshot,
    Dimension,
    contacts_of_tenant,
    usage_by_period,
)
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.account import FOREVER_AT
from pipeline.core.account_details import AccountDetails, decode_details
from pipeline.core.amounts import format_credits
from pipeline.core.contacts import ContactCounts
from pipeline.core.windows import WINDOW_MILLISECONDS
from pipeline.settings import load_settings

_SUMMED = ("limit", "used", "balance", "available", "reserved", "unassigned", "uncovered")
_SHOWN = ("limit", "used", "balance", "available", "reserved", "uncovered")
"""Of these, what fits beside the tenants' names."""
_FOLDED = frozenset({"list", "reservation", "campaign", "grant"})
"""Names that others give, as long as they like."""


@click.command()
@click.argument("tenant", required=False)
@click.option(
    "--organization", metavar="NAME", help="All tenants of an organization together, instead of one."
)
@output_option
def balance(tenant: str | None, organization: str | None, output: str) -> None:
    """Show what TENANT has left: in its open period, and of each grant.

    The balance is what is left of all grants, less what was used beyond them (uncovered); available is what of it
    can be spent now. CSV has one line per tenant and leaves out what is itself a list.
    """
    one_of(tenant, organization)
    client = connect_clickhouse(load_settings())
    if organization is not None:
        _show_organization(organization, accounts_of(client, organization), output)
        return
    account = account_of(client, tenant or "")
    details = decode_details(account.details)
    document = {
        **figures(account, details, _contacts(client, account, details)),
        "messages": _messages(client, account),
        "lists": [_list(name, its) for name, its in details.lists.items()],
        "reservations": [_reservation(each) for each in details.reservations],
        "grants": [_grant(each) for each in orjson.loads(account.grants)],
    }
    if output == "csv":
        flat = {name: value for name, value in document.items() if not isinstance(value, list | dict)}
        show_csv(tuple(flat), [tuple(flat.values())])
    elif output == "json":
        show_json(document)
    else:
        _show(account, document)


def _contacts(client: Client, account: AccountSnapshot, details: AccountDetails) -> ContactCounts | None:
    """The tenant's contacts now, where its plan licenses a number of them."""
    if not details.plan.licensed_contacts:
        return None
    return contacts_of_tenant(client, account.tenant, now(), details.plan.contact_active_days)


def _messages(client: Client, account: AccountSnapshot) -> dict[str, int]:
    """How many messages of each kind occurred in the open period."""
    edges = (account.period_starts_at, account.period_ends_at)
    if any(edge % WINDOW_MILLISECONDS for edge in edges) or edges[0] >= edges[1]:
        return {}  # An account without a plan has no periods.
    by: tuple[Dimension, ...] = ("kind",)
    return {used.kind: used.messages for used in usage_by_period(client, account.tenant, edges, by)}


def _show(account: AccountSnapshot, document: Document) -> None:
    show_facts(described(account, document))
    # What has lapsed is no balance, though late messages of its time still burn it.
    grants = [each for each in document["grants"] if not each["is_expired"]]
    extra = {
        "starts": any(each["starts"] > document["as_of"] for each in grants),
        "cost": any(each["currency"] for each in grants),
    }
    tables: tuple[tuple[list[dict[str, Any]], frozenset[str]], ...] = (
        (document["lists"], frozenset({"limit", "spent", "left"})),
        (document["reservations"], frozenset({"amount", "held"})),
        (
            [_readable(grant, account.zone, extra) for grant in grants],
            frozenset({"amount", "remaining"}),
        ),
    )
    for rows, amounts in tables:
        if rows:
            click.echo()
            shown = [tuple(row.values()) for row in rows]
            show_table(tuple(rows[0]), shown, amounts=amounts, folded=_FOLDED)


def _list(name: str, share: Any) -> dict[str, str]:  # noqa: ANN401 - a ListDetails
    return {
        "list": name,
        "limit": format_credits(share.limit_micros),
        "spent": format_credits(share.spent_micros),
        "left": format_credits(share.left_micros),
    }


def _reservation(held: Any) -> dict[str, str]:  # noqa: ANN401 - a ReservationDetails
    return {
        "reservation": held.id,
        "campaign": held.campaign,
        "list": held.list,
        "amount": format_credits(held.amount_micros),
        "held": format_credits(held.held_micros),
        "until": rfc3339(held.expires_at),
    }


def _grant(grant: dict[str, Any]) -> dict[str, Any]:
    """A grant of a snapshot for programs."""
    expires_at = grant["expires_at"]
    return {
        "id": grant["id"],
        "kind": grant["kind"],
        "amount": format_credits(grant["amount"]),
        "remaining": format_credits(grant["remaining"]),
        "starts": rfc3339(grant["starts_at"]),
        "expires": None if expires_at >= FOREVER_AT else rfc3339(expires_at),
        "is_expired": grant["is_expired"],
        "cost": format_credits(grant["cost_micros"]),
        "currency": grant["currency"] or None,
    }


def _readable(grant: dict[str, Any], zone: str, extra: dict[str, bool]) -> dict[str, Any]:
    """A grant for people: by its name, and with the kind it has become; `extra` are columns that may say nothing."""
    name = grant_words(grant["id"], zone)
    name = name if name.startswith(grant["kind"]) else f"{name} ({grant['kind']})"
    cost = money_words(grant["cost"], grant["currency"]) if grant["currency"] else ""
    row = {
        "grant": name,
        "amount": grant["amount"],
        "remaining": grant["remaining"],
        "starts": grant["starts"],
        "expires": grant["expires"] or "never",
        "cost": cost,
    }
    return {column: cell for column, cell in row.items() if extra.get(column, True)}


def _show_organization(organization: str, accounts: list[AccountSnapshot], output: str) -> None:
    """The sums over an organization's tenants, and each of them."""
    rows = [{"tenant": each.tenant, "plan": each.plan, **_sums([each])} for each in accounts]
    total = _sums(accounts)
    due: dict[str, int] = defaultdict(int)
    for details in (decode_details(each.details) for each in accounts):
        if details.due_money_micros:
            due[details.plan.currency] += details.due_money_micros
    owed = {currency: format_credits(micros) for currency, micros in sorted(due.items())}
    # Of accounts stored at different checkpoints, the figures are as old as the oldest.
    as_of = rfc3339(min(each.as_of_at for each in accounts))
    if output == "csv":
        show_csv(tuple(rows[0]), [tuple(row.values()) for row in rows])
    elif output == "json":
        show_json({"organization": organization, **total, "due": owed, "as_of": as_of, "tenants": rows})
    else:
        click.echo(
            f"{organization}, {len(rows):,} {'tenant' if len(rows) == 1 else 'tenants'}, as of {as_of}\n"
        )
        shown = ("tenant", *_SHOWN)
        cells = [tuple(row[name] for name in shown) for row in rows]
        foot = ("total", *(total[name] for name in _SHOWN))
        show_table(shown, cells, amounts=frozenset(_SUMMED), folded=frozenset({"tenant"}), total=foot)
        if owed:
            click.echo(f"\ndue: {', '.join(money_words(amount, each) for each, amount in owed.items())}")


def _sums(accounts: list[AccountSnapshot]) -> dict[str, str]:
    return {
        name: format_credits(sum(getattr(each, f"{name}_micros") for each in accounts)) for name in _SUMMED
    }
