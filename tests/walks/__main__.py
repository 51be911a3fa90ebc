# ruff: noqa: T201 - what is done is told on the terminal.
"""`python -m tests.walks [NAME ...]`: breaks a deployment, walks from the page to the cause, and writes the walks down.

With `--hold` each walk waits before it is mended, so that the dashboards can be looked at: the address of Prometheus is
shown. Pictures that lie in `docs/walks/screens/` as NAME-DASHBOARD.png are shown in the walk.
"""

import argparse
import shutil

from tests import runbooks
from tests.walks import clickhouse_slow, poison_traffic, stuck_worker
from tests.walks.scene import scene

WALKS = {each.NAME: each for each in (clickhouse_slow, poison_traffic, stuck_worker)}


def main() -> None:
    """Walks those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.walks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(WALKS))
    parser.add_argument("--hold", action="store_true", help="wait for Enter before each is mended")
    asked = parser.parse_args()
    for name in asked.names or WALKS:
        directory = runbooks.ROOT / "var" / "walks"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        print(f"== {name}")
        with scene(directory) as ready:
            written = WALKS[name].walk(ready, name if asked.hold else "").write()
        print(f"== {written.relative_to(runbooks.ROOT)}")


if __name__ == "__main__":
    main()
