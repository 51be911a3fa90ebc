"""A command is followed by its id: from whoever sends it to the worker's log, its answer and its entries."""

import json

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.clickhouse.client import connect
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, environment_of


def invoke(system: System, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), env=environment_of(system.settings))
    return result.exit_code, result.output


def traced(system: System, command_id: str) -> dict[str, object]:
    code, output = invoke(system, "trace", command_id, "--tenant", "acme", "--output", "json")
    assert code == 0, output
    found: dict[str, object] = json.loads(output)
    return found


@pytest.mark.timeout(300)
def test_a_command_is_found_in_the_log_the_answer_and_the_ledger_by_its_id(make_system: MakeSystem) -> None:
    system = make_system()
    worker = system.worker(log_format="json").start()
    for arguments in (
        ("plan", "set", "acme", "--preset", "starter", "--id", "the plan"),
        ("purchase", "acme", "credits-2000", "--catalogue", "standard", "--id", "an order"),
        ("void", "acme", "promotion:none", "--id", "a slip"),
    ):
        code, output = invoke(system, "account", *arguments, "--wait-seconds", "100")
        assert code == (1 if "a slip" in arguments else 0), output
    database = connect(system.settings.clickhouse)
    stored = "SELECT count() FROM ledger_entries FINAL WHERE cause = 'an order'"
    system.await_condition(lambda: database.command(stored) == 1, "the purchase was stored")
    database.close()

    order = traced(system, "an order")
    answer = order["answer"]
    assert isinstance(answer, dict)
    [entry] = order["entries"]  # type: ignore[misc, attr-defined]
    assert (entry["kind"], entry["credits"]) == ("purchase", "2000")
    # One record: its append time is when the entry was posted.
    assert entry["posted_at"] == order["received_at"]
    lines = [json.loads(line) for line in worker.log().splitlines()]
    [line] = [line for line in lines if line.get("command_id") == "an order"]
    assert (line["partition"], line["position"]) == (answer["partition"], answer["offset"])
    epochs = [each["positions"].get(str(line["partition"])) for each in lines if "positions" in each]
    assert sum(bool(span) and span[0] <= line["position"] <= span[1] for span in epochs) == 1

    slip = traced(system, "a slip")
    assert slip["entries"] == []
    assert "grant_unknown" in str(slip["answer"])
    shown = invoke(system, "trace", "an order", "--tenant", "acme")[1]
    assert line["event"].partition(" at ")[0] in shown
    assert f"partition {line['partition']}, position {line['position']} of messages.raw" in shown
    assert invoke(system, "trace", "nothing", "--tenant", "acme")[0] == 1
    assert worker.stop() == 0
