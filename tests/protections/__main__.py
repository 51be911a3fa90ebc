# ruff: noqa: T201 - it is a report.
"""Takes every protection away, one after the other, and says whether its test notices: `make protections`.

Arguments are words: only protections whose fault has one of them are tried.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.protections.listed import PROTECTIONS
from tests.protections.protection import Protection, copy_source, first_failing


def main() -> int:
    """0 where every test that was tried passes with its protection and fails without."""
    words = sys.argv[1:]
    tried = [each for each in PROTECTIONS if not words or any(word in each.fault for word in words)]
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        copy_source(copy)
        for test in dict.fromkeys(each.test for each in tried):
            if failing := first_failing(test, copy):
                print(f"{failing} fails as it is: mend that first")
                return 1
        missed = sum(not _is_noticed(each, copy) for each in tried)
    print(f"{len(tried) - missed} of {len(tried)} are noticed when they are taken away")
    return 1 if missed else 0


def _is_noticed(protection: Protection, copy: Path) -> bool:
    began = time.monotonic()
    noticed_by = protection.noticed_by(copy)
    said = f"{time.monotonic() - began:4.0f} s  {protection.fault}: {noticed_by or protection.test}"
    print(f"{'noticed' if noticed_by else 'MISSED '} {said}", flush=True)
    return noticed_by is not None


if __name__ == "__main__":
    sys.exit(main())
