"""`msgmeter simulate` as a person and as a program meet it."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.core.refusals import Refusal
from tests.builders import NOON, message, plan

PLAN = {"type": "set_plan", "id": "p1", "tenant": "acme", "effective_at": NOON, "plan": plan("10")}
GRANT = {"type": "grant", "id": "g1", "tenant": "acme", "effective_at": NOON, "credits": "2.5"}
LOG: list[Any] = [PLAN, message(), GRANT, message("m2", segments=8, body=None), message("m2", body=None)]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `simulate` over lines, with options; `packed` writes them to a .gz file."""

    def simulate(lines: list[Any], *options: str, packed: bool = False, **environment: str) -> Result:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        data = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
        path = tmp_path / ("log.jsonl.gz" if packed else "log.jsonl")
        path.write_bytes(gzip.compress(data) if packed else data)
        return CliRunner().invoke(main, ["simulate", str(path), *options])

    return simulate


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


@pytest.mark.parametrize("packed", [False, True])
def test_json_is_the_whole_report(run: Run, packed: bool) -> None:
    report = document(run(LOG, "--json", packed=packed))
    (account,) = report["accounts"]
    assert (account["tenant"], account["balance"], account["uncovered"]) == ("acme", "3.5", "0")
    (day,) = report["usage"]["days"]
    assert (day["local_date"], day["messages"], day["segments"], day["credits"]) == ("2026-02-10", 2, 9, "9")
    assert [result["outcome"] for result in report["results"]] == ["accepted", "accepted"]
    assert report["alerts"] == []
    assert report["refusals"] == []
    assert report["counts"]["duplicates"] == 1


def test_equal_logs_give_equal_bytes(run: Run) -> None:
    assert run(LOG, "--json").stdout == run(LOG, "--json").stdout


def test_a_person_reads_a_table(run: Run) -> None:
    result = run([*LOG, b"nonsense", message("m3", tenant="bolt")])
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["acme", "2", "9", "9", "3.5", "0", "0"] in lines
    assert ["key_missing", "1"] in lines
    assert ["plan_missing", "1"] in lines


def test_a_refund_is_no_message_charged(run: Run) -> None:
    terms = {**PLAN, "plan": plan("10", refunded_statuses=["failed"])}
    text = run([terms, message(), message("m2"), message("m2", status="failed", status_at=NOON + 1)]).stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "messages charged 2" in lines
    assert "refunded 1" in lines
    assert "refunded" not in run([PLAN, message()]).stdout


def test_a_plan_can_be_given_to_tenants_without_one(run: Run) -> None:
    report = document(run([message("m3", tenant="bolt")], "--plan", "starter", "--json"))
    assert report["accounts"][0]["balance"] == "999"


def test_the_default_plan_of_the_settings_holds(run: Run) -> None:
    report = document(run([message("m3", tenant="bolt")], "--json", MSGMETER_DEFAULT_PLAN="starter"))
    assert report["accounts"][0]["balance"] == "999"


def test_time_passes_until_the_end_asked_for(run: Run) -> None:
    report = document(run(LOG, "--until", "2026-03-20T00:00:00Z", "--json"))
    (account,) = report["accounts"]
    assert account["balance"] == "12.5", "a new allowance, and what was bought"
    assert [entry["kind"] for entry in report["entries"] if entry["offset"] == 5] == ["allowance", "expiry"]


def test_a_plain_command_is_signed_and_a_wrapped_one_must_be(run: Run) -> None:
    wrapped = {"key": "acme", "received_at": NOON, "headers": {"msgmeter-purpose": "command"}, "value": GRANT}
    report = document(run([PLAN, wrapped], "--json"))
    assert [refusal["reason"] for refusal in report["refusals"]] == [Refusal.SIGNATURE_MISSING]


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        ([{"tenant": "acme"}], [], "received_at"),
        (LOG, ["--until", "2026-02-10T11:59:59Z"], "goes on until 2026-02-10T12:00:00"),
        (LOG, ["--until", "9000000000000000"], "before 2100"),
        (LOG, ["--until", "tomorrow"], "tomorrow"),
        (LOG, ["--plan", "nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_one_line(
    run: Run, lines: list[Any], options: list[str], said: str
) -> None:
    result = run(lines, *options)
    assert result.exit_code == 2
    assert not result.stdout
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_default_plan_is_said(run: Run) -> None:
    result = run(LOG, MSGMETER_DEFAULT_PLAN="nonsense")
    assert result.exit_code == 2
    assert "MSGMETER_DEFAULT_PLAN must be" in result.stderr


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jsonl.gz"
    path.write_bytes(gzip.compress(orjson.dumps(PLAN) * 50)[:60])
    result = CliRunner().invoke(main, ["simulate", str(path)])
    assert result.exit_code == 2
    assert "half.jsonl.gz" in result.stderr
    assert CliRunner().invoke(main, ["simulate", str(tmp_path / "none")]).exit_code == 2


def test_standard_input_is_a_log_too() -> None:
    given = b"\n".join(map(orjson.dumps, LOG))
    result = CliRunner().invoke(main, ["simulate", "-", "--json"], input=given)
    assert document(result)["counts"]["received"] == len(LOG)


def test_an_empty_log_is_an_empty_report(run: Run) -> None:
    assert run([]).exit_code == 0
    assert document(run([], "--json"))["accounts"] == []
