"""`python -m tests.golden.rewrite` writes the golden report anew; the diff is what a change means."""

from tests.golden.report import REPORT, golden_report

if __name__ == "__main__":
    REPORT.write_bytes(golden_report())
