# ruff: noqa: T201 - what is done is told on the terminal.
"""`python -m tests.walks [NAME ...]`: breaks a deployment, walks from the page to the cause, and writes the walks down.

With `--hold` each walk waits before it is mended, so that more can be looked at: addresses are shown. With `--screens
FILE` what the dashboards' panels show is written there, for `grafana/render`, and the walks link the pictures; without
it they have none.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from tests import runbooks
from tests.walks import clickhouse_slow, poison_traffic, stuck_worker
from tests.walks.scene import scene

WALKS = {each.NAME: each for each in (clickhouse_slow, poison_traffic, stuck_worker)}


def main() -> None:
    """Walks those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.walks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(WALKS))
    parser.add_argument("--hold", action="store_true", help="wait for Enter before each is mended")
    parser.add_argument(
        "--screens", type=Path, metavar="FILE", help="write what dashboards show, and link the pictures"
    )
    asked = parser.parse_args()
    pictures: dict[str, Any] | None = {} if asked.screens else None
    for name in asked.names or WALKS:
        directory = runbooks.ROOT / "var" / "walks"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        print(f"== {name}")
        with scene(directory, pictures) as ready:
            written = WALKS[name].walk(ready, name if asked.hold else "").write()
        print(f"== {written.relative_to(runbooks.ROOT)}")
    if asked.screens:
        asked.screens.write_text(json.dumps(pictures, default=str), "utf-8")


if __name__ == "__main__":
    main()
