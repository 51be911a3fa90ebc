"""`msgmeter reconcile --every`: the comparison again and again, until it is stopped, with metrics of what it found.

Takes a function that compares; tells each run in one line of the log, writes the whole report where something differs,
and serves what came of the runs. A run that fails is counted and told, and the next one tries again: only a stop ends
the service, and then in order. Compares nothing itself.

What was found last stays: a run that fails, or takes an hour, proves nothing of what the one before it has found; and
one that could not compare all of a subject lowers no figure of it, until one compares all or the service is started
again. How old it is says `msgmeter_reconcile_last_run_timestamp_seconds`, which a failed run leaves alone.
"""

import logging
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pipeline.cli.reconcile_report import Report
from pipeline.errors import MsgmeterError
from pipeline.metrics.reconcile import REGISTRY, RUN, RUNS
from pipeline.metrics.registry import Values
from pipeline.metrics.serving import serve_metrics

METRICS_PORT = 9466

_log = logging.getLogger("msgmeter.reconcile")


class Runs:
    """What came of the runs so far."""

    def __init__(self, compare: Callable[[], Report], show: Callable[[Report], None]) -> None:
        self._compare = compare
        self._show = show
        self._agreed: Mapping[str, float] = {}
        self._drift: dict[str, int] = {}
        """Rows that differ, by subject: at the last run that compared all of it, or what a later one found beyond."""
        self.values: Values = {}
        """The figures of `pipeline.metrics.reconcile.RUN`; none before a run has come to its end."""

    def run(self) -> None:
        """One run; a fault of it is told and counted."""
        began = time.monotonic()
        try:
            report = self._compare()
        except MsgmeterError as error:
            RUNS.labels("failed").inc()
            _log.warning("could not be compared: %s", error)
            return
        except Exception:  # noqa: BLE001 - whatever it is, it must not end the looking
            # A row that nobody here has written may look like anything.
            RUNS.labels("failed").inc()
            _log.exception("could not be compared, for a reason that was not foreseen")
            return
        seconds = time.monotonic() - began
        result = result_of(report)
        self._take(report, result, seconds)
        RUNS.labels(result).inc()
        level = logging.INFO if result == "agrees" else logging.WARNING
        _log.log(level, "%s, in %.1f s", summary(report), seconds)
        if report.differing:
            self._show(report)

    def _take(self, report: Report, result: str, seconds: float) -> None:
        now = time.time()
        if result == "agrees":
            self._agreed = {"reconcile_last_agreement_timestamp_seconds": now}
        left_out = frozenset() if report.log is None else report.log.left_out
        for tally in report.tallies:
            name = tally.part.name
            least = self._drift.get(name, 0) if tally.part in left_out else 0
            self._drift[name] = max(tally.differing, least)
        compared = {} if report.log is None else {"reconcile_records_compared": report.log.record_count}
        # As a whole, because a scrape may come at any moment.
        self.values = {
            "reconcile_drift_rows": dict(self._drift),
            "reconcile_last_run_timestamp_seconds": now,
            "reconcile_seconds": seconds,
            **self._agreed,
            **compared,
        }


def serve_runs(runs: Runs, every_seconds: float, host: str, port: int) -> None:
    """Runs, with a pause of `every_seconds` after each, until SIGTERM or Ctrl-C; serves metrics meanwhile."""
    url = serve_metrics(REGISTRY, host, port, "--metrics-port")
    RUN.read_from(lambda: runs.values)
    # As Ctrl-C does. A run may be cut anywhere: it changes nothing.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _log.info("reconciles, and again %g s after each run; metrics on %s", every_seconds, url)
    with suppress(KeyboardInterrupt):
        while True:
            runs.run()
            time.sleep(every_seconds)
    _log.info("stopped")


def result_of(report: Report) -> str:
    """One of `pipeline.metrics.reconcile.RESULTS`, as the exit codes of a single run tell them apart."""
    if report.differing:
        return "differs"
    return "incomplete" if report.is_incomplete else "agrees"


def summary(report: Report) -> str:
    """A run in one line."""
    rows = sum(tally.other_rows for tally in report.tallies)
    of_log = "" if report.log is None else f"{report.log.record_count:,} records of the log and "
    compared = f"{of_log}{rows:,} stored rows compared"
    if report.differing:
        parts = ", ".join(
            f"{tally.part.name} {tally.differing:,}" for tally in report.tallies if tally.differing
        )
        return f"{report.differing:,} rows differ ({parts}); {compared}"
    if report.is_incomplete:
        return f"nothing differs, but not all could be compared; {compared}"
    return f"all agrees; {compared}"
