"""`msgmeter simulate`: the core over a log file, without broker, database or clock.

Takes a log (see pipeline.logfile) and the settings' bounds and keys; gives accounts, usage, alerts, results,
refusals and ledger entries. Plain commands are signed with the settings' key, as `send` would sign them, so the
same file gives the same totals here and in the running system. Refused records are part of the answer, not an
error: exit code 0. Never writes anything but the answer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import click
import orjson

from pipeline.cli.answers import Cell, show_facts, show_table
from pipeline.cli.traffic import INSTANT
from pipeline.core.amounts import format_credits
from pipeline.core.charging import LATE_ACTIONS
from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.simulation import Report
from pipeline.core.simulation import simulate as simulate_log
from pipeline.data import load_plan, plan_names
from pipeline.logfile import LogRecord, read_log, sign_plain
from pipeline.rules import make_rules
from pipeline.settings import load_settings

_TENANTS_SHOWN = 20
_MESSAGES = FACT_COLUMNS.index("messages")


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--plan",
    "preset",
    type=click.Choice(plan_names()),
    help="For tenants without a plan of their own; by default the setting's.",
)
@click.option("--until", type=INSTANT, help="Let time pass up to here after the log: renewals, expiries.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def simulate(log: str, preset: str | None, until: int | None, as_json: bool) -> None:
    """Meter a LOG file; `-` reads standard input, .gz is unpacked."""
    settings = load_settings()
    rules = make_rules(settings, load_plan(preset) if preset else None)
    secret = settings.command_key.encode()
    try:
        report = simulate_log((sign_plain(record, secret) for record in _read(log)), rules, until=until)
    except ValueError as error:
        raise click.UsageError(f"{log}: {error}") from error
    if as_json:
        click.echo(orjson.dumps(report.document()))
    else:
        _show(report)


def _read(log: str) -> Iterator[LogRecord]:
    try:
        yield from read_log(log)
    except (OSError, EOFError) as error:
        raise ValueError(f"it cannot be read: {error}") from error


def _show(report: Report) -> None:
    """Write a summary for a person: tenants, the largest first, and what was refused."""
    # A refund is a fact of its own, with the message's units taken back and no message.
    charged = sum(fact[_MESSAGES] for fact in report.facts)
    refunded = len(report.facts) - charged
    show_facts(
        {
            "records": f"{report.counts.get('received', 0):,}",
            "messages charged": f"{charged:,}",
            **({"refunded": f"{refunded:,}"} if refunded else {}),
            "further statuses": f"{report.counts.get('statuses', 0):,}",
            "duplicates": f"{report.counts.get('duplicates', 0):,}",
            "late": f"{sum(report.counts.get(f'late_{action}', 0) for action in LATE_ACTIONS):,}",
            "alerts": f"{len(report.alerts):,}",
            "commands": _commands(report),
            "refused": f"{len(report.refusals):,}",
        }
    )
    if report.accounts:
        click.echo()
        _show_tenants(report)
    if report.refusals:
        click.echo()
        _show_reasons("refused because", (refusal["reason"] for refusal in report.refusals))
    refused = [result["reason"] for result in report.results if result["outcome"] == "refused"]
    if refused:
        click.echo()
        _show_reasons("command refused because", refused)


def _commands(report: Report) -> str:
    accepted = sum(result["outcome"] == "accepted" for result in report.results)
    return f"{accepted:,} accepted, {len(report.results) - accepted:,} refused"


def _show_tenants(report: Report) -> None:
    measures: dict[str, list[int]] = {tenant: [0, 0, 0] for tenant in report.accounts}
    for (tenant, *_), (messages, segments, _, micros) in report.days.items():
        for position, quantity in enumerate((messages, segments, micros)):
            measures[tenant][position] += quantity
    alerts = Counter(alert["tenant"] for alert in report.alerts)
    largest = sorted(measures, key=lambda tenant: (-measures[tenant][2], tenant))
    rows: list[tuple[Cell, ...]] = []
    for tenant in largest[:_TENANTS_SHOWN]:
        messages, segments, micros = measures[tenant]
        account = report.accounts[tenant]
        left = (format_credits(account.balance), format_credits(account.uncovered))
        rows.append((tenant, messages, segments, format_credits(micros), *left, alerts[tenant]))
    messages, segments, micros = (sum(column) for column in zip(*measures.values(), strict=True))
    balance = sum(account.balance for account in report.accounts.values())
    uncovered = sum(account.uncovered for account in report.accounts.values())
    total = (
        f"{len(largest):,} {'tenant' if len(largest) == 1 else 'tenants'}",
        messages,
        segments,
        *(format_credits(each) for each in (micros, balance, uncovered)),
        len(report.alerts),
    )
    columns = ("tenant", "messages", "segments", "credits", "balance", "uncovered", "alerts")
    show_table(columns, rows, amounts=frozenset({"credits", "balance", "uncovered"}), total=total)
    if len(largest) > _TENANTS_SHOWN:
        click.echo(f"the {_TENANTS_SHOWN} that used most; --json has all of them")


def _show_reasons(heading: str, reasons: Iterable[str]) -> None:
    show_table((heading, "records"), Counter(reasons).most_common(), amounts=frozenset())
