"""`msgmeter account …`: one subcommand for each command there is, signed, sent and answered.

Takes a tenant and what is to happen; prints the result. How a command travels, and what exit codes mean, is in
`sending_commands`; what it does is in `pipeline/core/instructions.py`. The commands that move or hold credits are
in `account_credits`, the question before a campaign is in `authorise`. Never judges more than can be said without
the account: the worker does.
"""

from pathlib import Path

import click
import msgspec

from pipeline.cli.account_credits import CREDIT_COMMANDS
from pipeline.cli.addresses import address_file, read_addresses
from pipeline.cli.authorise import authorise
from pipeline.cli.sending_commands import Envelope, carry_out, enveloped, send, show
from pipeline.cli.whole_help import WholeHelp
from pipeline.core.plans import Plan, compile_plan, decode_plan
from pipeline.data import load_plan, load_rate_cards, plan_names

_CONTACTS_PER_COMMAND = 1_000
"""The most that one `mark_contacts` takes."""


@click.group(cls=WholeHelp)
def account() -> None:
    """Change the account of a tenant, by signed commands in the log."""


@account.group()
def plan() -> None:
    """Plans of tenants."""


@plan.command("set")
@click.argument("tenant")
@click.option(
    "--preset",
    type=click.Choice(plan_names()),
    metavar="NAME",
    help=f"A plan that comes with msgmeter: {', '.join(plan_names())}.",
)
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A plan as JSON."
)
@click.option("--allowance", metavar="CREDITS", help="Another allowance than the plan's.")
@click.option("--zone", help="Another IANA time zone than the plan's.")
@click.option(
    "--anchor-day", type=click.IntRange(1, 31), help="Another day of the month for periods to begin on."
)
@enveloped
def plan_set(
    envelope: Envelope,
    preset: str | None,
    path: Path | None,
    allowance: str | None,
    zone: str | None,
    anchor_day: int | None,
) -> None:
    """Put TENANT under a plan."""
    if (preset is None) == (path is None):
        raise click.UsageError("Give either --preset or --file")
    chosen = _read_plan(preset, path)
    changes = {"allowance_credits": allowance, "zone": zone, "anchor_day": anchor_day}
    chosen = msgspec.structs.replace(
        chosen, **{name: value for name, value in changes.items() if value is not None}
    )
    try:
        # The worker judges again; this answer names the faults, and comes before anything is sent.
        compile_plan(chosen, load_rate_cards())
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    carry_out(envelope, "set_plan", {"plan": chosen})


for each in (*CREDIT_COMMANDS, authorise):
    account.add_command(each)


@account.group()
def recharge() -> None:
    """Answers to requests to recharge."""


@recharge.command()
@click.argument("tenant")
@click.argument("recharge_id", metavar="RECHARGE")
@enveloped
def confirm(envelope: Envelope, recharge_id: str) -> None:
    """Say that RECHARGE of TENANT was paid: what was due is settled, and the block is granted."""
    carry_out(envelope, "confirm_recharge", {"recharge": recharge_id})


@recharge.command()
@click.argument("tenant")
@click.argument("recharge_id", metavar="RECHARGE")
@enveloped
def decline(envelope: Envelope, recharge_id: str) -> None:
    """Say that RECHARGE of TENANT was not paid: the next is asked for after a back-off."""
    carry_out(envelope, "decline_recharge", {"recharge": recharge_id})


@account.group()
def contacts() -> None:
    """Contacts of tenants."""


@contacts.command()
@click.argument("tenant")
@click.argument("state", type=click.Choice(["active", "inactive", "removed"]))
@click.argument("addresses", nargs=-1)
@address_file("--file")
@enveloped
def mark(envelope: Envelope, state: str, addresses: tuple[str, ...], path: str | None) -> None:
    """Say that contacts of TENANT are active, inactive or removed.

    Who was messaged counts as active for a time all the same. More than 1 000 addresses become several commands.
    """
    marked = [*addresses, *read_addresses(path)]
    if not marked:
        raise click.UsageError("Give addresses, or a --file of them")
    parts = [
        {"contacts": marked[start : start + _CONTACTS_PER_COMMAND], "state": state}
        for start in range(0, len(marked), _CONTACTS_PER_COMMAND)
    ]
    answers = send(envelope, "mark_contacts", parts)
    if len(answers) == 1 or envelope.as_json or any(answer["reason"] for answer in answers):
        show(envelope, answers)
    else:
        click.echo(f"{len(marked):,} contacts of {envelope.tenant} marked {state} by {len(answers)} commands")


@account.command()
@click.argument("tenant")
@click.argument("name", metavar="[ORGANIZATION]", required=False)
@click.option("--none", "is_none", is_flag=True, help="Take it out of its organization.")
@enveloped
def organization(envelope: Envelope, name: str | None, is_none: bool) -> None:
    """Put TENANT into ORGANIZATION, or into none.

    The figures of an organization are the sums of its tenants'.
    """
    if bool(name) == is_none:
        raise click.UsageError("Give either ORGANIZATION or --none")
    carry_out(envelope, "set_organization", {"organization": name or ""})


@account.command()
@click.argument("tenant")
@enveloped
def tick(envelope: Envelope) -> None:
    """Let time pass for TENANT.

    Renewals and expiries that are due happen; `msgmeter schedule` does so for all.
    """
    carry_out(envelope, "tick", {})


def _read_plan(preset: str | None, path: Path | None) -> Plan:
    if path is None:
        return load_plan(preset or "")
    try:
        return decode_plan(path.read_bytes())
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
