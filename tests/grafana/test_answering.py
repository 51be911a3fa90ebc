"""What On call says of processes that do not answer: asked of promtool, with made series."""

import json
from pathlib import Path

from tests.grafana.dashboards import targets
from tests.grafana.programs import run

UP = {
    ("msgmeter-worker", "first"): 1,
    ("msgmeter-worker", "second"): 0,
    ("msgmeter-scheduler", "third"): 1,
    ("msgmeter-reconcile", "fourth"): 0,
}
WELL = {("scheduler", 1): 1}
MISSING = {("worker", 2): 1, ("reconcile", 1): 0}
"""By kind and how many are known: how many answer."""


def test_a_kind_of_which_one_is_missing_is_told_from_one_that_is_well(tmp_path: Path) -> None:
    exprs = [target.expr for target in targets() if target.panel == "Processes that answer"]
    asked = [
        {
            "expr": expr,
            "eval_time": "1m",
            "exp_samples": [
                {"labels": f'{{job="msgmeter-{kind}", kind="{kind}", known="{known}"}}', "value": value}
                for (kind, known), value in expected.items()
            ],
        }
        for expr, expected in zip(exprs, (WELL, MISSING), strict=True)
    ]
    series = [
        {"series": f'up{{job="{job}", instance="{instance}"}}', "values": f"{value}x10"}
        for (job, instance), value in UP.items()
    ]
    path = tmp_path / "answering.yml"
    tests = [{"interval": "15s", "input_series": series, "promql_expr_test": asked}]
    path.write_text(json.dumps({"tests": tests}), "utf-8")  # JSON is YAML.
    run("promtool", "test", "rules", path)
