"""`msgmeter account grant`, `purchase`, `void`, `adjust`, `allocate`, `reserve`, `commit` and `release`.

The commands that give, take, share out or hold credits. Amounts are checked before anything is sent; whether the
account has them, the worker says.
"""

from dataclasses import replace
from typing import Any

import click
import orjson

from pipeline.cli.answers import grouped
from pipeline.cli.packages import CATALOGUE, catalogue_of_tenant, find_package
from pipeline.cli.sending_commands import Envelope, carry_out, enveloped
from pipeline.cli.traffic import INSTANT
from pipeline.cli.wording import grant_words, money_words
from pipeline.clickhouse.queries import account_of_tenant
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.amounts import parse_credits
from pipeline.errors import MsgmeterError
from pipeline.settings import load_settings

_TAKES_SIGNED_NUMBERS = {"ignore_unknown_options": True}
"""A number below zero is an argument, not an option."""


class _Credits(click.ParamType):
    """An amount as its decimal text."""

    name = "credits"

    def __init__(self, *, is_zero_allowed: bool = False, is_signed: bool = False) -> None:
        self._is_zero_allowed = is_zero_allowed
        self._is_signed = is_signed

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the text and leave it as it is; fails with a sentence for the user."""
        text = str(value)
        try:
            micros = parse_credits(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if micros < 0 and not self._is_signed:
            self.fail(f"{text} is below zero", param, ctx)
        if micros == 0 and not self._is_zero_allowed:
            self.fail(f"{text} is {'zero' if self._is_signed else 'not above zero'}", param, ctx)
        return text


_ABOVE_ZERO = _Credits()
_ZERO_OR_MORE = _Credits(is_zero_allowed=True)
_NOT_ZERO = _Credits(is_signed=True)


@click.command(context_settings=_TAKES_SIGNED_NUMBERS)
@click.argument("tenant")
@click.argument("amount", metavar="CREDITS", type=_ABOVE_ZERO)
@click.option(
    "--kind",
    type=click.Choice(["purchase", "promotion", "adjustment"]),
    default="purchase",
    show_default=True,
)
@click.option("--expires-at", type=INSTANT, help="When what is left is gone; never by default.")
@click.option("--valid-months", type=click.IntRange(1, 120), help="The same, as whole months of the tenant.")
@click.option(
    "--extended", "is_extended", is_flag=True, help="A later one that is extended too gives it its end."
)
@click.option(
    "--priority", type=click.IntRange(0, 1000), default=500, show_default=True, help="Lower burns first."
)
@click.option(
    "--cost", metavar="MONEY", type=_ZERO_OR_MORE, default="0", show_default=True, help="Money paid for it."
)
@click.option("--currency", default="", help="Of the cost, such as USD.")
@enveloped
def grant(envelope: Envelope, amount: str, **fields: Any) -> None:  # noqa: ANN401 - fields of the command
    """Add CREDITS to the account of TENANT."""
    if fields["expires_at"] is not None and fields["valid_months"] is not None:
        raise click.UsageError("Give either --expires-at or --valid-months")
    if parse_credits(fields["cost"]) and not fields["currency"]:
        raise click.UsageError("--cost needs a --currency")
    carry_out(envelope, "grant", {"credits": amount, **fields})


@click.command()
@click.argument("tenant")
@click.argument("package_id", metavar="PACKAGE")
@click.option(
    "--catalogue", type=CATALOGUE, help="Where PACKAGE is offered; by default as TENANT's plan says."
)
@enveloped
def purchase(envelope: Envelope, package_id: str, catalogue: str | None) -> None:
    """Add the credits of PACKAGE to the account of TENANT.

    They cost and last what the package says; `msgmeter packages list` shows what is offered.
    """
    offered, package = find_package(package_id, catalogue or catalogue_of_tenant(envelope.tenant))
    if envelope.is_id_new:
        # Balances and statements show a grant under its command's id: the package is what people know.
        envelope = replace(envelope, id=f"{package.id}-{envelope.id[:8]}")
    fields = {
        "credits": package.credits,
        "kind": "purchase",
        "cost": package.price,
        "currency": offered.currency,
        "valid_months": package.valid_months,
        "is_extended": package.is_extended,
        "package": package.id,
    }
    told = {
        "package": f"{package.id} of {offered.id}",
        "credits": grouped(package.credits),
        "price": money_words(package.price, offered.currency),
    }
    carry_out(envelope, "grant", fields, told)


@click.command()
@click.argument("tenant")
@click.argument("grant_id", metavar="GRANT")
@enveloped
def void(envelope: Envelope, grant_id: str) -> None:
    """Take back GRANT of TENANT.

    Nothing of it may be burned yet. GRANT is its id, such as purchase:1, or as `msgmeter balance` shows it.
    """
    found = _grant_of(envelope.tenant, grant_id)
    carry_out(envelope, "void_grant", {"grant": found}, {"grant": found})


def _grant_of(tenant: str, shown: str) -> str:
    """The id of the grant that `balance` shows so; an id, or what no stored grant is shown as, as it is.

    Nothing is completed: what is typed is the whole id, the whole name behind its kind, or all that is shown of it.
    Ends the command where that fits several.
    """
    try:
        account = account_of_tenant(connect_clickhouse(load_settings()), tenant)
    except MsgmeterError:
        if ":" in shown:
            return shown  # The worker knows an id that is whole, whatever has become of ClickHouse.
        raise
    ids = [each["id"] for each in orjson.loads(account.grants)] if account else []
    if shown in ids:
        return shown
    names = {shown, shown.replace(":", " ", 1)}
    found = [each for each in ids if names & _names(each)]
    if len(found) > 1:
        raise click.UsageError(f"{shown!r} may be {' or '.join(found)}: give one of these")
    return found[0] if found else shown


def _names(grant_id: str) -> set[str]:
    """What a grant that a command gave goes by besides its id; those of a plan cannot be taken back."""
    kind, _, name = grant_id.partition(":")
    if kind in ("allowance", "rollover"):
        return set()
    words = grant_words(grant_id, "UTC")
    return {name, words, words.partition(" ")[2]}


@click.command(context_settings=_TAKES_SIGNED_NUMBERS)
@click.argument("tenant")
@click.argument("amount", metavar="CREDITS", type=_NOT_ZERO)
@enveloped
def adjust(envelope: Envelope, amount: str) -> None:
    """Correct the balance of TENANT by CREDITS.

    Above zero they are added, below zero, such as -12.5, taken.
    """
    carry_out(envelope, "adjust", {"credits": amount})


@click.command(context_settings=_TAKES_SIGNED_NUMBERS)
@click.argument("tenant")
@click.argument("list_name", metavar="LIST")
@click.argument("amount", metavar="[CREDITS]", required=False, type=_ZERO_OR_MORE)
@click.option("--free", "is_free", is_flag=True, help="Free access to what is assigned to no list.")
@enveloped
def allocate(envelope: Envelope, list_name: str, amount: str | None, is_free: bool) -> None:
    """Let LIST of TENANT spend CREDITS, or draw freely."""
    if (amount is None) != is_free:
        raise click.UsageError("Give either CREDITS or --free")
    carry_out(envelope, "allocate", {"list": list_name, "credits": amount})


@click.command(context_settings=_TAKES_SIGNED_NUMBERS)
@click.argument("tenant")
@click.argument("amount", metavar="CREDITS", type=_ABOVE_ZERO)
@click.option(
    "--until",
    "expires_at",
    type=INSTANT,
    required=True,
    help="When what is still held is released by itself.",
)
@click.option("--campaign", default="", help="Its messages settle the reservation.")
@click.option("--list", "list_name", default="", help="The list that will spend them.")
@enveloped
def reserve(envelope: Envelope, amount: str, expires_at: int, campaign: str, list_name: str) -> None:
    """Hold CREDITS of TENANT for something scheduled.

    The reservation's id is the command's.
    """
    fields = {"credits": amount, "expires_at": expires_at, "campaign": campaign, "list": list_name}
    carry_out(envelope, "reserve", fields)


@click.command(context_settings=_TAKES_SIGNED_NUMBERS)
@click.argument("tenant")
@click.argument("reservation")
@click.argument("amount", metavar="CREDITS", type=_ABOVE_ZERO)
@enveloped
def commit(envelope: Envelope, reservation: str, amount: str) -> None:
    """Burn CREDITS of what RESERVATION of TENANT holds."""
    carry_out(envelope, "commit_reservation", {"reservation": reservation, "credits": amount})


@click.command(context_settings=_TAKES_SIGNED_NUMBERS)
@click.argument("tenant")
@click.argument("reservation")
@click.argument("amount", metavar="[CREDITS]", required=False, type=_ABOVE_ZERO)
@enveloped
def release(envelope: Envelope, reservation: str, amount: str | None) -> None:
    """Give back what RESERVATION of TENANT holds.

    All of it, or as many CREDITS.
    """
    carry_out(envelope, "release_reservation", {"reservation": reservation, "credits": amount})


CREDIT_COMMANDS = (grant, purchase, void, adjust, allocate, reserve, commit, release)
"""In the order of the help."""
