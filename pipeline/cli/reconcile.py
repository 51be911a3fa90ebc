"""`msgmeter reconcile`: whether what is stored is what the log says, and whether what is stored agrees with itself.

Takes tenants and days; gives what was compared, how many rows differ, and where, by tenant and day with both values.
Exits with 0 where everything agrees, 4 where something differs, and 5 where nothing differs but something could not be
compared, as retention has taken it. Shows no body and no address. Never writes.
"""

import sys
from datetime import date

import click

from pipeline.cli.questions import DATE, check_order
from pipeline.cli.reconcile_log import LogReport, compare_log
from pipeline.cli.reconcile_report import Report, show
from pipeline.cli.reconcile_stored import STORED_PARTS, compare_stored
from pipeline.cli.traffic import progress_bar
from pipeline.clickhouse.comparing import Days
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.log_comparison import COMPARED
from pipeline.core.reconciliation import Scope, Tally
from pipeline.settings import load_settings

DIFFERS, INCOMPLETE = 4, 5
"""Exit codes."""
_FIRST = date(1970, 1, 1)
_REQUEST_SECONDS = 600
"""A comparison of many facts inside ClickHouse takes its time."""


@click.command()
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be given several times.")
@click.option(
    "--from", "first", type=DATE, help="First day, in each tenant's zone. Accounts are always whole."
)
@click.option("--to", "last", type=DATE, help="Last day, included.")
@click.option("--stored-only", is_flag=True, help="Leave the log out: quick, and needs no broker.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option(
    "--limit",
    type=click.IntRange(0, 100_000),
    default=20,
    show_default=True,
    help="Differences shown of each part.",
)
def reconcile(
    tenants: tuple[str, ...],
    first: date | None,
    last: date | None,
    stored_only: bool,
    output: str,
    limit: int,
) -> None:
    """Compare the raw log with what is stored and published, and what is stored with itself.

    Reads messages.raw from its beginning and folds it as a worker would, under the settings of the workers: some
    50 us of CPU a record, and 3 KB of memory for each charged message of one partition, the largest deciding. May
    run while workers run: what they have not committed yet is told apart.

    Exit codes: 0 all agrees, 4 something differs, 5 nothing differs but not all could be compared.
    """
    check_order(first, last)
    settings = load_settings()
    scope = Scope(
        frozenset(tenants),
        None if first is None else (first - _FIRST).days,
        None if last is None else (last - _FIRST).days,
    )
    client = connect_clickhouse(settings, request_timeout_seconds=_REQUEST_SECONDS)
    parts = STORED_PARTS if stored_only else (*COMPARED, *STORED_PARTS)
    tallies = {part: Tally(part, scope, limit) for part in parts}
    log: LogReport | None = None
    if not stored_only:
        with progress_bar("records compared", None) as bar:
            log = compare_log(
                settings,
                client,
                scope,
                _days(scope),
                tallies,
                lambda count: bar.advance(bar.task_ids[0], count) if bar is not None else None,
            )
    stored = compare_stored(client, scope, _days(scope), tallies)
    report = Report(list(tallies.values()), log, stored)
    show(report, as_json=output == "json", limit=limit)
    if report.differing:
        sys.exit(DIFFERS)
    if report.is_incomplete:
        sys.exit(INCOMPLETE)


def _days(scope: Scope) -> Days:
    whole = Days()
    return Days(
        whole.first if scope.first_day is None else max(scope.first_day, whole.first),
        whole.last if scope.last_day is None else min(scope.last_day, whole.last),
    )
