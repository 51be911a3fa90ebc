# ruff: noqa: T201 - it is a report.
"""Takes every protection away, one after the other, and says whether its test notices: `make protections`.

Arguments are words: only protections whose fault has one of them are tried.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.protections.listed import PROTECTIONS


def main() -> int:
    """0 where every protection that was tried is held by its test."""
    words = sys.argv[1:]
    tried = [each for each in PROTECTIONS if not words or any(word in each.fault for word in words)]
    missed = 0
    with tempfile.TemporaryDirectory() as directory:
        for each in tried:
            began = time.monotonic()
            noticed_by = each.noticed_by(Path(directory) / "copy")
            missed += noticed_by is None
            said = f"{time.monotonic() - began:4.0f} s  {each.fault}: {noticed_by or each.test}"
            print(f"{'noticed' if noticed_by else 'MISSED '} {said}", flush=True)
    print(f"{len(tried) - missed} of {len(tried)} are noticed when they are taken away")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
