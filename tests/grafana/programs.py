"""Programs of Prometheus and Alertmanager, as Debian packages them; a machine without them is told what to install."""

import shutil
import subprocess

INSTALL = "apt-get install -y --no-install-recommends prometheus prometheus-alertmanager"
_OTHER_NAMES = {"prometheus-alertmanager": "alertmanager"}
"""What everybody but Debian calls it."""


def program(name: str) -> str:
    """Where a program is; the test fails where it is not installed."""
    found = shutil.which(name) or shutil.which(_OTHER_NAMES.get(name, name))
    assert found, f"{name} is missing. Debian: {INSTALL}"
    return found


def run(name: str, *arguments: object) -> str:
    """What the program said; the test fails, with that, unless it ended with 0."""
    command = [program(name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"{name} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
