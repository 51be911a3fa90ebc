"""A protection: some lines without which a fault would cost a message, and the test that says so.

Taking it away is an edit of the source; the test has to fail then. `make protections` does so with each of them, on a
copy, and shows which were missed; `test_protections.py` holds that the edits still fit the source.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SECONDS_MAX = 600
_FAILED_TESTS = 1
"""The exit code of pytest that says so; others say that it could not run them."""


@dataclass(frozen=True)
class Edit:
    """What to take away."""

    file: str
    old: str
    """Occurs once in the file."""
    new: str

    def fits(self) -> bool:
        """Whether the source still has it."""
        return (ROOT / self.file).read_text("utf-8").count(self.old) == 1

    def apply(self, root: Path) -> None:
        """Takes it away in a copy."""
        path = root / self.file
        path.write_text(path.read_text("utf-8").replace(self.old, self.new), "utf-8")


@dataclass(frozen=True)
class Protection:
    """Named after the fault it is against."""

    fault: str
    """What happens to the system."""
    keeps: str
    """What is so all the same, thanks to it."""
    edits: tuple[Edit, ...]
    test: str
    """A test that fails without it: file, or file::test."""

    def noticed_by(self, copy: Path) -> str | None:
        """The test that fails without it; none where all pass; raises where they could not even be run."""
        copy_source(copy)
        for edit in self.edits:
            edit.apply(copy)
        return first_failing(self.test, copy)


def first_failing(test: str, root: Path) -> str | None:
    """The first test that fails in a copy of the source; none where all pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-rf", "--no-header", "--durations=0", test],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    if done.returncode not in (0, _FAILED_TESTS):
        raise RuntimeError(f"{test} could not be run: {done.stdout}{done.stderr}")
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return failed[0] if failed else None


def copy_source(to: Path) -> None:
    """Copies what git knows, or would."""
    if to.exists():
        shutil.rmtree(to)
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
