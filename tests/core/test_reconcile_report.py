"""What `msgmeter reconcile` tells people: settings that are perhaps not the workers', and rows in a narrow terminal."""

from typing import Any

import pytest

from pipeline.cli.reconcile_hints import setting_hints
from pipeline.cli.reconcile_report import Report, show
from pipeline.cli.reconcile_stored import StoredReport
from pipeline.core import reconciliation as parts
from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.reconciliation import Key, Tally, Values
from pipeline.core.refusals import Refusal

FACT: Values = tuple("UTC" if name == "zone" else 0 for name in FACT_COLUMNS)
REFUSAL: Values = ("gateway", "r", 1, "d", 0)
TENANT = "a-tenant-of-quite-a-long-name-that-must-never-be-folded"


def tallies(
    facts: tuple[Values | None, Values | None], refusals: tuple[Values | None, Values | None], reason: str
) -> list[Tally]:
    """Two messages that differ, none of which is kept to be shown."""
    made = [Tally(part, most_kept=0) for part in (parts.FACTS, parts.RESULTS, parts.REFUSALS)]
    for offset in (5, 6):
        fact_key: Key = (TENANT, offset, "sms", 0)
        made[0].compare(fact_key, *facts, "UTC")
        made[2].compare((TENANT, offset, reason), *refusals, "UTC")
    return made


def test_messages_refused_here_and_charged_by_the_workers_point_at_the_default_plan() -> None:
    found = tallies((None, FACT), (REFUSAL, None), Refusal.PLAN_MISSING)
    assert setting_hints(found) == {
        "default plan?": "2 records are refused here as plan_missing, and 2 stored as charged:"
        " is MSGMETER_DEFAULT_PLAN the workers'?"
    }


def test_messages_charged_here_and_refused_by_the_workers_point_at_it_too() -> None:
    found = tallies((FACT, None), (None, REFUSAL), Refusal.PLAN_MISSING)
    assert setting_hints(found) == {
        "default plan?": "2 messages are charged here, and 2 were refused as plan_missing:"
        " is MSGMETER_DEFAULT_PLAN the workers'?"
    }


def test_a_question_about_a_setting_is_the_last_line_of_a_long_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = tallies((None, FACT), (REFUSAL, None), Refusal.PLAN_MISSING)
    show(Report(found, None, StoredReport(moving_count=0, unknown_count=0)), as_json=False, limit=20)
    shown = capsys.readouterr().out
    assert shown.count("is MSGMETER_DEFAULT_PLAN the workers'?") == 2
    assert shown.endswith("is MSGMETER_DEFAULT_PLAN the workers'?\n")


def test_commands_refused_here_and_taken_by_the_workers_point_at_their_key() -> None:
    (hint,) = setting_hints(tallies((FACT, FACT), (REFUSAL, None), Refusal.SIGNATURE_WRONG)).values()
    assert hint.startswith("2 commands have a wrong signature here")
    assert "MSGMETER_COMMAND_KEY" in hint


@pytest.mark.parametrize(
    ("facts", "refusals", "reason"),
    [
        ((FACT, FACT), (REFUSAL, REFUSAL), Refusal.PLAN_MISSING),
        ((None, FACT), (REFUSAL, None), Refusal.CONTENT_MISSING),
        ((FACT, FACT), (REFUSAL, None), Refusal.PLAN_MISSING),
        ((None, FACT), (REFUSAL, REFUSAL), Refusal.SIGNATURE_WRONG),
    ],
)
def test_lost_rows_point_at_no_setting(facts: Any, refusals: Any, reason: str) -> None:
    assert setting_hints(tallies(facts, refusals, reason)) == {}


@pytest.mark.parametrize("columns", [80, 119, 120, 200])
def test_names_are_whole_in_a_terminal_of_any_width(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    tally = Tally(parts.RESULTS)
    command = "a command's id, which has as many letters as its maker likes"
    tally.compare((TENANT, command, 7), ("set_plan", "done", None, "100", 0), None, "UTC")
    show(Report([tally], None, StoredReport(moving_count=0, unknown_count=1)), as_json=False, limit=20)
    shown = capsys.readouterr().out
    assert shown.count(TENANT) == 2
    assert f"{command} 7" in shown
    assert "1 tenant, not compared" in shown
    assert "1 row differs" in shown
