"""`msgmeter packages list` and `reach`: what can be bought, and how many SMS it buys where.

Reads catalogues, plan presets and rate cards, which are data of this package, and asks ClickHouse only for the
plan of a tenant. Gives tables or JSON on standard output. Never writes: `msgmeter account purchase` buys.
"""

import click

from pipeline.cli.answers import Cell, grouped, show_json, show_table
from pipeline.cli.traffic import now
from pipeline.cli.whole_help import WholeHelp
from pipeline.cli.wording import money_words
from pipeline.clickhouse.queries import AccountSnapshot, account_of_tenant
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.account_details import decode_details
from pipeline.core.amounts import format_credits, parse_credits
from pipeline.core.packages import OTHERS, Catalogue, Package, Reach, named_countries, reach
from pipeline.core.plans import Plan
from pipeline.core.rating import Tariff
from pipeline.data import catalogue_names, load_catalogue, load_plan, load_rate_cards, plan_names
from pipeline.settings import load_settings

CATALOGUE = click.Choice(catalogue_names())
_RATE_CARD = "standard"
"""The prices shown where no plan is named."""


@click.group(cls=WholeHelp)
def packages() -> None:
    """Packages of credits that can be bought."""


@packages.command("list")
@click.argument("name", metavar="[CATALOGUE]", required=False, type=CATALOGUE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_packages(name: str | None, as_json: bool) -> None:
    """List the packages of CATALOGUE, or of all."""
    catalogues = [load_catalogue(each) for each in ([name] if name else catalogue_names())]
    if as_json:
        show_json({"catalogues": [_document(each) for each in catalogues]})
        return
    columns = ("catalogue", "package", "name", "credits", "price", "valid")
    rows: list[tuple[Cell, ...]] = [
        (
            offered.id,
            each.id,
            each.name,
            each.credits,
            money_words(each.price, offered.currency),
            _validity(each),
        )
        for offered in catalogues
        for each in offered.packages
    ]
    show_table(columns, rows, amounts=frozenset({"credits"}), folded=frozenset({"name", "valid"}))


@packages.command("reach")
@click.argument("package_id", metavar="PACKAGE")
@click.option(
    "--catalogue", type=CATALOGUE, help="Where PACKAGE is offered, if several offer one of this id."
)
@click.option(
    "--plan",
    "preset",
    type=click.Choice(plan_names()),
    metavar="NAME",
    help=f"By the prices of a plan: {', '.join(plan_names())}.",
)
@click.option("--tenant", help="By the prices of the preset this tenant's plan is named after.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show_reach(
    package_id: str, catalogue: str | None, preset: str | None, tenant: str | None, as_json: bool
) -> None:
    """Show how many SMS of one segment PACKAGE buys, by country, at today's prices."""
    if preset and tenant:
        raise click.UsageError("Give either --plan or --tenant")
    plan = load_plan(preset) if preset else _plan_of_tenant(tenant) if tenant else None
    offered, package = find_package(package_id, catalogue or (plan.catalogue if plan else ""))
    card = load_rate_cards()[plan.rate_card if plan else _RATE_CARD]
    rates, at = plan.rates if plan else (), now()
    found = reach(parse_credits(package.credits), Tariff(card, rates), named_countries(card, rates, at), at)
    prices = f"plan {plan.name}" if plan else f"rate card {card.id}"
    if as_json:
        show_json(
            {
                "catalogue": offered.id,
                "package": package.id,
                "credits": package.credits,
                "price": package.price,
                "currency": offered.currency,
                "prices": prices,
                "reach": [_reach_document(each) for each in found],
            }
        )
        return
    click.echo(f"{package.name} for {grouped(package.price)} {offered.currency}, at the prices of {prices}\n")
    rows: list[tuple[Cell, ...]] = [
        (
            each.country or "others",
            format_credits(each.message_micros),
            "any number" if each.messages is None else each.messages,
        )
        for each in sorted(found, key=lambda each: each.country == OTHERS)
    ]
    show_table(("country", "credits each", "SMS"), rows, amounts=frozenset({"credits each"}))


def find_package(package_id: str, catalogue: str) -> tuple[Catalogue, Package]:
    """Find a package in a catalogue, or in all where the name is empty.

    Raises click.UsageError, naming what there is, where it is not found or in several.
    """
    catalogues = [load_catalogue(each) for each in ([catalogue] if catalogue else catalogue_names())]
    found = [(each, package) for each in catalogues if (package := each.find(package_id))]
    if len(found) == 1:
        return found[0]
    if found:
        raise click.UsageError(f"Several catalogues offer {package_id}: give --catalogue")
    ids = ", ".join(package.id for each in catalogues for package in each.packages)
    raise click.UsageError(f"There is no package {package_id!r}: there are {ids}")


def catalogue_of_tenant(tenant: str) -> str:
    """Name the catalogue that is offered to a tenant; ends the command where its plan names none."""
    account = _account(tenant, "--catalogue, such as --catalogue blocks")
    catalogue = decode_details(account.details).plan.catalogue
    if not catalogue:
        raise click.UsageError(f"Plan {account.plan!r} of {tenant} names no catalogue: give --catalogue")
    return catalogue


def _plan_of_tenant(tenant: str) -> Plan:
    """The preset that the tenant's plan is named after; ends the command where there is none."""
    name = _account(tenant, "--plan").plan
    if name not in plan_names():
        presets = ", ".join(plan_names())
        raise click.UsageError(
            f"Plan {name!r} of {tenant} is none of {presets}: --plan says by the prices of which to reckon"
        )
    return load_plan(name)


def _account(tenant: str, instead: str) -> AccountSnapshot:
    """The tenant's account; ends the command with exit code 1, saying what needs none, where there is none."""
    account = account_of_tenant(connect_clickhouse(load_settings()), tenant)
    if account is None:
        click.echo(
            f"msgmeter: no account of tenant {tenant!r} is stored yet; names are case-sensitive. What was just"
            f" commanded is stored at a checkpoint, every 10 s by default: try again. Or give {instead}, which needs"
            " no account.",
            err=True,
        )
        raise click.exceptions.Exit(1)
    return account


def _validity(package: Package) -> str:
    if package.valid_months is None:
        return "never ends"
    months = f"{package.valid_months} months"
    return f"{months} from the latest" if package.is_extended else months


def _document(catalogue: Catalogue) -> dict[str, object]:
    offered = [
        {
            "id": each.id,
            "name": each.name,
            "credits": each.credits,
            "price": each.price,
            "valid_months": each.valid_months,
            "is_extended": each.is_extended,
        }
        for each in catalogue.packages
    ]
    return {"id": catalogue.id, "currency": catalogue.currency, "packages": offered}


def _reach_document(found: Reach) -> dict[str, object]:
    return {
        "country": found.country or None,
        "credits": format_credits(found.message_micros),
        "messages": found.messages,
    }
