"""What the runs of `reconcile --every` leave behind: figures, counts and a line each."""

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.cli.reconcile_log import LogReport
from pipeline.cli.reconcile_report import Report
from pipeline.cli.reconcile_service import Runs, result_of, summary
from pipeline.cli.reconcile_stored import StoredReport
from pipeline.core.reconciliation import ALERTS, ENTRIES_AND_BALANCES, FACTS, Tally
from pipeline.core.reconciliation import RESULTS as RESULTS_PUBLISHED
from pipeline.errors import Transient
from pipeline.metrics.reconcile import REGISTRY, RESULTS
from pipeline.topics import ACCOUNT_RESULTS


def report(differing: int = 0, log: LogReport | None = None) -> Report:
    """Of seven rows, so many of which differ."""
    balances = Tally(ENTRIES_AND_BALANCES)
    balances.agree(7 - differing)
    for number in range(differing):
        balances.compare((f"tenant-{number}",), (1, 1, 0), (2, 1, 0), "UTC")
    return Report([Tally(ALERTS), balances], log, StoredReport(0, 0))


GONE = LogReport(record_count=1_500, gone_partitions=[3])


@pytest.mark.parametrize(
    ("given", "result", "line"),
    [
        (report(), "agrees", "all agrees; 7 stored rows compared"),
        (
            report(log=LogReport(record_count=1_500)),
            "agrees",
            "all agrees; 1,500 records of the log and 7 stored rows compared",
        ),
        (
            report(log=GONE),
            "incomplete",
            "nothing differs, but not all could be compared; 1,500 records of the log and 7 stored rows compared",
        ),
        (report(2, GONE), "differs", "2 rows differ (balances 2); 1,500 records of the log and 7 stored rows compared"),
    ],
)  # fmt: skip
def test_a_run_is_one_line_that_says_how_it_ended(given: Report, result: str, line: str) -> None:
    assert (result_of(given), summary(given)) == (result, line)


def ended() -> dict[str, float]:
    """How many runs have ended so, in this process."""
    found = {
        name: REGISTRY.get_sample_value("msgmeter_reconcile_runs_total", {"result": name}) for name in RESULTS
    }
    return {name: count or 0 for name, count in found.items()}


def run_all(*outcomes: Report | Exception) -> tuple[list[dict[str, object]], list[Report], dict[str, float]]:
    """Runs that end so: the figures after each, the reports that were shown, and what was counted."""
    waiting = list(outcomes)

    def compare() -> Report:
        outcome = waiting.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    shown: list[Report] = []
    runs, before, figures = Runs(compare, shown.append), ended(), []
    assert runs.values == {}
    for _ in outcomes:
        runs.run()
        figures.append(dict(runs.values))
    return (
        figures,
        shown,
        {name: count - before[name] for name, count in ended().items() if count > before[name]},
    )


AWAY = Transient("ClickHouse is away", retry_after_seconds=1)


@pytest.mark.parametrize("fault", [AWAY, KeyError("a row that nobody here has written")])
def test_a_run_that_fails_is_counted_and_takes_nothing_back(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    nothing, figures, after = run_all(fault, report(3), fault)[0]
    assert nothing == {}
    assert figures == after
    assert figures["reconcile_drift_rows"] == {"alerts": 0, "balances": 3}
    assert "reconcile_last_agreement_timestamp_seconds" not in figures
    assert caplog.text.count("could not be compared") == 2


def facts_report(differing: int, log: LogReport) -> Report:
    """Of facts and answers, so many facts and as many answers differ."""
    tallies = Tally(FACTS), Tally(RESULTS_PUBLISHED)
    for tally in tallies:
        for number in range(differing):
            tally.compare((f"tenant-{number}",), None, (0,) * 40, "UTC")
    return Report(tallies, log, StoredReport(0, 0))


def test_a_run_that_could_not_compare_a_subject_lowers_no_figure_of_it() -> None:
    whole = LogReport(record_count=1_500)
    topic_gone = LogReport(record_count=1_500, gone_topics=[ACCOUNT_RESULTS])
    runs = [(3, whole), (0, GONE), (4, GONE), (1, topic_gone), (0, whole)]
    figures = run_all(*(facts_report(differing, log) for differing, log in runs))[0]
    drift = [each["reconcile_drift_rows"] for each in figures]
    assert drift == [
        {FACTS.name: facts, RESULTS_PUBLISHED.name: results}
        for facts, results in ((3, 3), (3, 3), (4, 4), (1, 4), (0, 0))
    ]


def test_an_agreement_is_remembered_and_only_differences_are_shown_in_full() -> None:
    differs = report(1, GONE)
    (agreed, later, incomplete), shown, counted = run_all(report(), differs, report(log=GONE))
    at = "reconcile_last_agreement_timestamp_seconds"
    assert agreed[at] == agreed["reconcile_last_run_timestamp_seconds"]
    assert agreed[at] == later[at] == incomplete[at] < later["reconcile_last_run_timestamp_seconds"]
    assert "reconcile_records_compared" not in agreed
    assert later["reconcile_records_compared"] == 1_500
    assert shown == [differs]
    assert counted == {"agrees": 1, "differs": 1, "incomplete": 1}


def test_a_single_run_takes_no_port() -> None:
    result = CliRunner().invoke(main, ["reconcile", "--metrics-port", "9466"])
    assert result.exit_code == 2
    assert "--metrics-port goes with --every" in result.stderr
