"""Every scenario gives what is written down, and a further model needs data alone."""

import re
import shutil
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.core.refusals import Refusal
from pipeline.core.simulation import simulate
from pipeline.logfile import sign_plain
from tests.builders import COMMAND_KEY, rules
from tests.golden.models.scenarios import (
    MODELS,
    PLANS,
    RULES,
    expected_path,
    one_log,
    rendered,
    run,
    scenario_names,
    with_presets,
)

NAMES = scenario_names()


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_gives_what_is_expected(name: str) -> None:
    """`python -m tests.golden.rewrite` accepts what changed; look at the diff."""
    assert rendered(run(name)) == expected_path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_scenario_is_refused_as_a_record(name: str) -> None:
    """A slip of the pen in a log would pass for a rule of the model; answers of commands are another thing."""
    report = run(name)
    assert report.refusals == []
    wrong = {Refusal.FIELD_MISSING, Refusal.FIELD_INVALID, Refusal.PLAN_INVALID, Refusal.TENANT_UNKNOWN}
    assert [result for result in report.results if result["reason"] in wrong] == []


@pytest.mark.parametrize("name", NAMES)
def test_entries_explain_every_balance(name: str) -> None:
    report = run(name)
    sums = dict.fromkeys(report.accounts, 0)
    for tenant, entry in report.entries:
        sums[tenant] += entry.amount
    assert sums == {tenant: account.balance for tenant, account in report.accounts.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_speaks_of_the_preset_it_is_named_by(name: str) -> None:
    log = (MODELS / name / "log.jsonl").read_text("utf-8")
    assert (PLANS / f"{name}.json").is_file()
    assert f'"name":"{name}"' in log
    assert with_presets(log.splitlines()) == log, "python -m tests.golden.rewrite brings plans up to date"


def test_tenants_of_one_log_are_what_they_are_alone() -> None:
    """Scenarios are proven one by one here and go through the running system as one log."""
    together = simulate((sign_plain(record, COMMAND_KEY) for record in one_log()), rules(partitions=3))
    alone = [run(name) for name in NAMES]
    accounts = [line for each in alone for line in each.document()["accounts"]]
    assert together.document()["accounts"] == sorted(accounts, key=lambda line: line["tenant"])
    days = [line for each in alone for line in each.document()["usage"]["days"]]
    assert sorted(together.document()["usage"]["days"], key=str) == sorted(days, key=str)


@pytest.mark.parametrize(("chunk", "checkpoint"), [(1, 1), (3, 2), (7, 1_000)])
def test_how_the_log_is_cut_changes_nothing(chunk: int, checkpoint: int) -> None:
    signed = [sign_plain(record, COMMAND_KEY) for record in one_log()]
    cut = simulate(signed, RULES, chunk_records=chunk, checkpoint_records=checkpoint)
    assert rendered(cut) == rendered(simulate(signed, RULES))


def test_every_preset_is_in_a_scenario() -> None:
    logs = "".join((MODELS / name / "log.jsonl").read_text("utf-8") for name in NAMES)
    unused = [path.stem for path in PLANS.glob("*.json") if f'"name":"{path.stem}"' not in logs]
    assert unused == ["starter"], "which is for a first look, and no billing model"


def test_a_further_model_is_a_plan_file_and_a_folder(tmp_path: Path) -> None:
    """Weekend texting: 10 credits a month, received messages free, what is beyond billed at 0.05."""
    plans, models = tmp_path / "plans", tmp_path / "models"
    shutil.copytree(PLANS, plans)
    folder = models / "free_inbox"
    folder.mkdir(parents=True)
    plan = {
        "name": "free_inbox",
        "zone": "UTC",
        "anchor_day": 1,
        "allowance_credits": "10",
        "rate_card": "standard",
        "rates": [
            {"kind": "sms", "direction": "inbound", "credits": "0", "per": "segment"},
            {"kind": "sms", "credits": "1", "per": "segment"},
        ],
        "overage": {"policy": "arrears", "price": "0.05"},
        "currency": "EUR",
    }
    (plans / "free_inbox.json").write_bytes(orjson.dumps(plan))
    at = "2025-03-01T00:00:00Z"
    message = {"tenant": "sixth", "source": "g", "kind": "sms", "occurred_at": at, "status_at": at}
    sent = {"direction": "outbound", "status": "sent", "to": "+14155550100", "from": "Sixth", "segments": 30}
    got = {"direction": "inbound", "status": "received", "to": "Sixth", "from": "+14155550100", "segments": 9}
    lines = [
        {
            "type": "set_plan",
            "id": "p",
            "tenant": "sixth",
            "effective_at": at,
            "plan": {"name": "free_inbox"},
        },
        message | {"id": "1"} | sent,
        message | {"id": "2"} | got,
        {"type": "tick", "id": "t", "tenant": "sixth", "effective_at": "2025-04-05T00:00:00Z"},
    ]
    log = with_presets((orjson.dumps(line).decode() for line in lines), plans)
    (folder / "log.jsonl").write_text(log, encoding="utf-8")

    assert scenario_names(models) == ["free_inbox"]
    report = run("free_inbox", models)
    assert rendered(report)
    (bill,) = [entry for _, entry in report.entries if entry.kind == "arrears"]
    assert (bill.amount, bill.money_micros, bill.currency) == (20_000_000, 1_000_000, "EUR")


def test_the_readme_names_tests_that_exist_and_leaves_none_out() -> None:
    """A sentence of a model without its test would be a promise."""
    readme = (MODELS / "README.md").read_text("utf-8")
    files = [*MODELS.glob("test_*.py"), Path(__file__).parents[2] / "e2e" / "test_models.py"]
    there = {
        name: path
        for path in files
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", readme))
    assert named - there.keys() == set()
    of_models = {name for name, path in there.items() if path.stem.removeprefix("test_") in NAMES}
    assert of_models - named == set()
    marked = set(re.findall(r"`(test_\w+)` \(cli\)", readme))
    assert {name for name in named if there[name].stem == "test_models"} == marked


@pytest.mark.parametrize("name", NAMES)
def test_a_person_can_run_a_scenario(name: str) -> None:
    """`msgmeter simulate` signs the plain commands by itself and says what the test says."""
    result = CliRunner().invoke(main, ["simulate", str(MODELS / name / "log.jsonl"), "--json"])
    assert result.exit_code == 0, result.output
    shown = orjson.loads(result.stdout)
    assert shown["accounts"] == run(name).document()["accounts"]
    assert len(shown["recharges"]) == len(run(name).recharges)
