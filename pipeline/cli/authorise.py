"""`msgmeter account authorise`: whether messages may be sent, and what they would cost.

Takes messages by number, country and kind, or a body and recipients; prints how many are allowed and why not more,
the cost, what would remain and which alerts would fire. Burns nothing; with `--reserve-until` it holds the cost.
Exits with 1 unless all of them are allowed, so that a script can go on with `&&`.
"""

import re
import sys
from typing import Any

import click

from pipeline.cli.addresses import address_file, read_addresses
from pipeline.cli.answers import grouped, show_facts
from pipeline.cli.sending_commands import Answer, Envelope, enveloped, exact_rfc3339, send, show
from pipeline.cli.traffic import INSTANT
from pipeline.core.prefixes import TABLE
from pipeline.core.rating import KINDS

_SENDING = re.compile(r"([0-9]{1,8})(?:x([A-Z]{2}))?(?::([a-z]+))?(?::([^:]+))?")
_MAX_RECIPIENTS = 10_000
_COUNTRIES = frozenset(line.split()[0] for line in TABLE.splitlines()) - {"001"}
"""Of the table of prefixes; 001 stands for numbers of none."""
_VERDICTS = {"allow": "all of them", "partial": "some of them", "refuse": "none of them"}
_REASONS = {
    "credits_insufficient": "The credits that are available cover no more.",
    "list_exhausted": "What the list may spend covers no more.",
    "quota_exhausted": "The plan includes no more of this kind in the period.",
    "plan_ended": "The plan has ended.",
}


class _Sending(click.ParamType):
    """Messages of one sort, as 5000, 5000xUS, 5000xUS:mms or 5000xUS:sms:campaign."""

    name = "sending"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """Read the parts; fails with a sentence for the user."""
        match = _SENDING.fullmatch(str(value))
        if match is None or (match[3] or "sms") not in KINDS:
            self.fail(
                f"{value!r} is not COUNT[xCOUNTRY][:KIND[:CATEGORY]], such as 5000xUS or 200xDE:mms"
                f" (kinds: {', '.join(KINDS)})",
                param,
                ctx,
            )
        count, country, kind, category = match.groups()
        if country and country not in _COUNTRIES:
            hint = "the United Kingdom is GB" if country == "UK" else "write ISO 3166-1 alpha-2, such as US"
            self.fail(f"{country!r} in {value!r} is no country that numbers are of: {hint}", param, ctx)
        return {
            "count": int(count),
            "country": country or "",
            "kind": kind or "sms",
            "category": category or "",
        }


@click.command()
@click.argument("tenant")
@click.argument("sendings", metavar="[SENDING]...", nargs=-1, type=_Sending())
@click.option("--body", metavar="TEXT", help="What would be sent; its segments are counted.")
@click.option("--segments", type=click.IntRange(1, 255), help="Of each message of a SENDING, without --body.")
@click.option("--to", "recipients", metavar="NUMBER", multiple=True, help="A recipient; may be repeated.")
@address_file("--to-file")
@click.option("--kind", type=click.Choice(KINDS), default="sms", show_default=True, help="Of messages --to.")
@click.option("--category", default="", help="Of messages --to.")
@click.option("--list", "list_name", default="", help="The list that would spend the credits.")
@click.option("--campaign", default="", help="What is reserved for it may be spent.")
@click.option("--reserve-until", type=INSTANT, help="Hold the cost of what is allowed until then.")
@enveloped
def authorise(
    envelope: Envelope,
    sendings: tuple[dict[str, Any], ...],
    segments: int | None,
    recipients: tuple[str, ...],
    path: str | None,
    list_name: str,
    **fields: Any,  # noqa: ANN401 - fields of the command
) -> None:
    """Ask whether TENANT may send, and what it costs.

    A SENDING is COUNT[xCOUNTRY][:KIND[:CATEGORY]], such as 5000xUS or 200xDE:mms; they are sent in this order,
    and the recipients --to after them.
    """
    addresses = [*recipients, *read_addresses(path)]
    if not sendings and not addresses:
        raise click.UsageError("Give what is to be sent: 5000xUS, for instance, or --to with numbers")
    if segments is not None and fields["body"] is not None:
        raise click.UsageError("Give either --segments or --body, whose segments are counted")
    if segments is not None:
        sendings = tuple(sending | {"segments": segments} for sending in sendings)
    if len(addresses) > _MAX_RECIPIENTS:
        raise click.UsageError(
            f"{len(addresses):,} recipients are more than {_MAX_RECIPIENTS:,}: ask by country, such as 5000xUS"
        )
    question = {"sendings": sendings, "recipients": addresses, "list": list_name, **fields}
    (answer,) = send(envelope, "authorise", [question])
    if envelope.as_json or answer["reason"]:
        show(envelope, [answer])
    else:
        _show_answer(answer, list_name, fields["reserve_until"])
    if answer["details"]["decision"] != "allow":
        sys.exit(1)


def _show_answer(answer: Answer, list_name: str, reserve_until: int | None) -> None:
    said = answer["details"]
    click.echo(f"{answer['tenant']} may send {_VERDICTS[said['decision']]}\n")
    facts = {"allowed": f"{said['allowed']:,} of {said['requested']:,}"}
    if said["reason"]:
        facts["not more for"] = _explained(said["reason"], list_name)
    if said["segments"]:
        facts["segments"] = f"{said['segments']} each"
    is_whole = said["cost"] == said["cost_requested"]
    facts["cost"] = grouped(said["cost"]) + (
        "" if is_whole else f"; {grouped(said['cost_requested'])} for all"
    )
    facts["would remain"] = grouped(said["remaining"])
    facts["alerts"] = ", ".join(f"{level} %" for level in said["alerts"]) or "none would fire"
    if "reservation" in said and reserve_until is not None:
        facts["reserved"] = f"until {exact_rfc3339(reserve_until)} as {said['reservation']}"
    if "extended" in said and reserve_until is not None:
        what = "1 reservation" if said["extended"] == 1 else f"{said['extended']:,} reservations"
        facts["extended"] = f"{what} of the campaign, until {exact_rfc3339(reserve_until)}"
    show_facts(facts)


def _explained(reason: str, list_name: str) -> str:
    """The reason with its meaning; one of a newer worker, which we do not know, as it is."""
    meaning = _REASONS.get(reason)
    if reason == "list_exhausted" and not list_name:
        meaning = "The rest of the credits is assigned to lists: name one with --list."
    return f"{reason}: {meaning}" if meaning else reason
