"""`python -m tests.golden.rewrite` writes what is expected anew; the diff is what a change means.

Also brings the plans in the logs of the billing models to their presets.
"""

from tests.golden.models.scenarios import MODELS, expected_path, rendered, run, scenario_names, with_presets
from tests.golden.report import REPORT, golden_report

if __name__ == "__main__":
    REPORT.write_bytes(golden_report())
    for name in scenario_names():
        log = MODELS / name / "log.jsonl"
        log.write_text(with_presets(log.read_text("utf-8").splitlines()), encoding="utf-8")
        expected_path(name).write_text(rendered(run(name)), encoding="utf-8")
