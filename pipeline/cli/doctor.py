"""`msgmeter doctor`: what is wrong with a deployment, and what to do about it.

Takes nothing but the environment; gives one line per check: how it ended, what was found and what to do. Exits with 0
where nothing is broken, warnings or not, and with 6 where something is. Never writes, and shows no secret.
"""

import sys
from collections.abc import Iterable

import click
import orjson

from pipeline.cli.visible import visible_text
from pipeline.doctor.examination import examine
from pipeline.doctor.findings import Finding, Group, Status, worst

FAULTY = 6
"""Exit code."""
_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red", Status.SKIP: "bright_black"}


@click.command()
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(output: str) -> None:
    """Look at settings, machine, ClickHouse, Kafka and workers, and say what to do.

    Changes nothing, and may be asked at any time, by any login: what it may not look at is skipped. Takes some
    seconds; a service that is away is one of the findings.

    Exit codes: 0 nothing is broken (warnings allowed), 6 something is.
    """
    groups: list[Group] = []
    for group in examine():
        groups.append(group)
        if output == "table":
            _show(group)
    verdict = worst(groups)
    if output == "json":
        click.echo(orjson.dumps(_document(groups, verdict)))
    else:
        click.echo(_summed(groups))
    if verdict is Status.FAIL:
        sys.exit(FAULTY)


def _show(group: Group) -> None:
    click.secho(f"{group.name}  {group.where}".rstrip(), bold=True)
    width = max((len(finding.subject) for finding in group.findings), default=0)
    for finding in group.findings:
        status = click.style(f"{finding.status.value:<4}", fg=_COLOURS[finding.status])
        click.echo(f"  {status}  {finding.subject:<{width}}  {_told(finding)}")
    click.echo()


def _told(finding: Finding) -> str:
    remedy = f"  -> {finding.remedy}" if finding.remedy else ""
    return visible_text(" ".join(f"{finding.found}{remedy}".split("\n")))


def _summed(groups: Iterable[Group]) -> str:
    found = [finding.status for group in groups for finding in group.findings]
    counts = [
        (found.count(status), status.value) for status in (Status.FAIL, Status.WARN, Status.OK, Status.SKIP)
    ]
    return ", ".join(f"{count} {name}" for count, name in counts if count)


def _document(groups: Iterable[Group], verdict: Status) -> dict[str, object]:
    return {
        "verdict": verdict.value.lower(),
        "checks": [
            {
                "group": group.name,
                "status": finding.status.value.lower(),
                "subject": finding.subject,
                "found": finding.found,
                "remedy": finding.remedy,
            }
            for group in groups
            for finding in group.findings
        ],
    }
