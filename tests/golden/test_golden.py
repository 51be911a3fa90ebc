"""The golden log gives the golden report."""

from tests.golden.report import REPORT, golden_report


def test_the_golden_log_gives_the_golden_report() -> None:
    """`python -m tests.golden.rewrite` accepts what changed; look at the diff."""
    assert golden_report().decode() == REPORT.read_text(encoding="utf-8")
