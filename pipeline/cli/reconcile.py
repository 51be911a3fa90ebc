"""`msgmeter reconcile`: whether what is stored is what the log says, and whether what is stored agrees with itself.

Takes tenants and days; gives what was compared, how many rows differ, and where, by tenant and day with both values.
Exits with 0 where everything agrees, 4 where something differs, and 5 where nothing differs but something could not be
compared, as retention has taken it; with `--every` it goes on until it is stopped (`reconcile_service`). Shows no body
and no address. Never writes.
"""

import sys
from contextlib import nullcontext
from datetime import date
from functools import partial

import click

from pipeline.cli.questions import DATE, check_order
from pipeline.cli.reconcile_log import LogReport, Told, compare_log
from pipeline.cli.reconcile_report import Report, show
from pipeline.cli.reconcile_service import METRICS_PORT, Runs, serve_runs
from pipeline.cli.reconcile_stored import STORED_PARTS, compare_stored
from pipeline.cli.traffic import progress_bar
from pipeline.clickhouse.comparing import Days
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.log_comparison import COMPARED
from pipeline.core.reconciliation import Scope, Tally
from pipeline.logs import set_up_logs
from pipeline.settings import Settings, load_settings

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
@click.option(
    "--every",
    "every_seconds",
    metavar="SECONDS",
    type=click.FloatRange(0.1),
    help="Again and again, with a pause of so many seconds, until stopped.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65_535),
    help=f"Port of /metrics, with --every; 0: any free one.  [default: {METRICS_PORT}]",
)
def reconcile(
    tenants: tuple[str, ...],
    first: date | None,
    last: date | None,
    stored_only: bool,
    output: str,
    limit: int,
    every_seconds: float | None,
    metrics_port: int | None,
) -> None:
    """Compare the raw log with what is stored and published, and what is stored with itself.

    Reads messages.raw from its beginning and folds it as a worker would, under the settings of the workers: some
    50 us of CPU a record, and 3 KB of memory for each charged message of one partition, the largest deciding. May
    run while workers run: what they have not committed yet is told apart.

    With --every it is a service with metrics: a line of the log per run, and the report where something differs.

    Exit codes: 0 all agrees, 4 something differs, 5 nothing differs but not all could be compared; of a service 0.
    """
    check_order(first, last)
    if every_seconds is None and metrics_port is not None:
        raise click.UsageError("--metrics-port goes with --every: a single run serves no metrics")
    settings = load_settings()
    scope = Scope(
        frozenset(tenants),
        None if first is None else (first - _FIRST).days,
        None if last is None else (last - _FIRST).days,
    )
    show_it = partial(show, as_json=output == "json", limit=limit)
    if every_seconds is not None:
        set_up_logs("reconcile", settings.log_format, settings.log_level)
        runs = Runs(
            lambda: _compare(settings, scope, limit, lambda _: None, stored_only=stored_only), show_it
        )
        port = METRICS_PORT if metrics_port is None else metrics_port
        serve_runs(runs, every_seconds, settings.metrics_host, port)
        return
    with nullcontext() if stored_only else progress_bar("records compared", None) as bar:

        def told(count: int) -> None:
            if bar is not None:
                bar.advance(bar.task_ids[0], count)

        report = _compare(settings, scope, limit, told, stored_only=stored_only)
    show_it(report)
    if report.differing:
        sys.exit(DIFFERS)
    if report.is_incomplete:
        sys.exit(INCOMPLETE)


def _compare(settings: Settings, scope: Scope, limit: int, told: Told, *, stored_only: bool) -> Report:
    """One run; raises MsgmeterError where something could not be asked."""
    parts = STORED_PARTS if stored_only else (*COMPARED, *STORED_PARTS)
    tallies = {part: Tally(part, scope, limit) for part in parts}
    client = connect_clickhouse(settings, request_timeout_seconds=_REQUEST_SECONDS)
    try:
        log: LogReport | None = None
        if not stored_only:
            log = compare_log(settings, client, scope, _days(scope), tallies, told)
        stored = compare_stored(client, scope, _days(scope), tallies)
    finally:
        client.close()
    return Report(list(tallies.values()), log, stored)


def _days(scope: Scope) -> Days:
    whole = Days()
    return Days(
        whole.first if scope.first_day is None else max(scope.first_day, whole.first),
        whole.last if scope.last_day is None else min(scope.last_day, whole.last),
    )
