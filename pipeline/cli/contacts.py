"""`msgmeter contacts`: how many contacts of a tenant count towards its plan.

Takes a tenant and an instant; gives how many contacts its plan licenses, how many are active, how many of those are
marked inactive or removed, and how many more may become active: exact counts of stored messages and marks. Exits with
1 where the tenant is not known. Never shows a contact, never writes, and never asks a worker.
"""

import click

from pipeline.cli.answers import output_option, show_csv, show_facts, show_json
from pipeline.cli.balance_figures import contacts_document
from pipeline.cli.questions import account_of, rfc3339
from pipeline.cli.traffic import INSTANT, now
from pipeline.clickhouse.queries import contacts_of_tenant
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.account_details import decode_details
from pipeline.settings import load_settings

_DEFAULT_DAYS = 60
"""For how long a message lets its contact count where no plan says so; the default of plans."""


@click.command()
@click.argument("tenant")
@click.option("--at", type=INSTANT, help="At another instant than now; marks are those of now.")
@output_option
def contacts(tenant: str, at: int | None, output: str) -> None:
    """Show how many contacts of TENANT count, and how many its plan has room for.

    Active is who is marked so, or was sent a message within the days that the plan says, whatever it is marked as.
    """
    client = connect_clickhouse(load_settings())
    plan = decode_details(account_of(client, tenant).details).plan
    days = plan.contact_active_days or _DEFAULT_DAYS
    at = now() if at is None else at
    counted = contacts_document(contacts_of_tenant(client, tenant, at, days), plan.licensed_contacts)
    document = {"tenant": tenant, **counted, "active_days": days, "at": rfc3339(at)}
    if output == "json":
        show_json(document)
    elif output == "csv":
        show_csv(tuple(document), [tuple(document.values())])
    else:
        room = {"available": f"{counted['available']:,}"} if plan.licensed_contacts else {}
        show_facts(
            {
                "tenant": tenant,
                "licensed": f"{counted['licensed']:,} in the plan"
                if room
                else "this plan licenses no contacts",
                "active": f"{counted['active']:,} count, for {days} days after the last message",
                "inactive": f"{counted['inactive']:,} of them are marked inactive",
                "removed": f"{counted['removed']:,} of them are marked removed",
                **room,
                "at": document["at"],
            }
        )
