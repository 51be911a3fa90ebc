"""A walk as it is written down: the pager's message, what was typed, what came, and what it says.

Takes steps as they are done; gives Markdown. What is typed must stand in the runbooks, letter by letter, and each
answer must show what the text says of it: a walk that no longer leads to its cause fails.
"""

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests import runbooks
from tests.e2e.watching import Shell
from tests.grafana.dashboards import DASHBOARDS
from tests.walks.scene import Scene

_OTHERS = re.compile(rf"^(?!.*{re.escape(sys.executable)}).* -m pipeline worker\n", re.MULTILINE)
"""Workers that other work on this machine has started."""
_MOST_LINES = 60
_INTRODUCTION = (
    "From the page alone to the cause, by the [runbooks](../runbooks.md). `make walks` breaks it, walks and writes this"
    " down, with real Kafka, ClickHouse, Prometheus and Alertmanager. The time of alerts runs ten times faster there"
    " (two minutes are twelve seconds), and nothing else does. Pictures show its last three minutes."
)


class Transcript:
    """Collects a walk under a title; `name` is that of its file, and of its pictures in `screens/`."""

    def __init__(self, name: str, title: str, done: str) -> None:
        """`done` is what was broken, in a sentence."""
        self._name = name
        self._parts = [
            f"# {title}",
            _INTRODUCTION,
            f"*What was done, which the engineer does not know: {done}*",
        ]
        self._typed = {each.text for each in runbooks.commands()} | set(runbooks.changing())

    def heading(self, text: str) -> None:
        """A new step."""
        self._parts.append(f"## {text}")

    def say(self, text: str) -> None:
        """What is thought."""
        self._parts.append(text)

    def message(self, message: dict[str, Any]) -> None:
        """What the pager showed, as it came."""
        self._parts.append(f"```json\n{json.dumps(message, indent=2, ensure_ascii=False)}\n```")

    def type(self, shell: Shell, line: str, *, shows: str, instead: dict[str, str] | None = None) -> str:
        """Types a line of the runbooks; gives its answer, in which `shows` must be found.

        `instead` are the words that stand for something in the runbook, such as PID, with what they are now.
        """
        assert line in self._typed, f"not in the runbooks: {line}"
        for word, now in (instead or {}).items():
            assert word in line, f"no {word} in {line}"
            line = line.replace(word, now)
        output = _OTHERS.sub("", shell.run(line).output).replace(sys.executable, "python").rstrip()
        output = output.replace(f"{runbooks.ROOT}/", "")
        assert re.search(shows, output, re.MULTILINE), f"{line}\ndoes not show {shows}\n{output}"
        self._show(line, output)
        return output

    def did(self, line: str, output: str = "") -> None:
        """Something that was done in another way here than in the runbook, such as starting a process."""
        self._show(line, output)

    def picture(self, scene: Scene, message: dict[str, Any], *rows: str, seen: str) -> None:
        """Rows of the dashboard that the message leads to, and what is seen there, where pictures are wanted."""
        if scene.pictures is None:
            return
        uid = message["commonAnnotations"]["dashboard_url"].rpartition("/d/")[2]
        name = f"{self._name}-{uid.removeprefix('msgmeter-')}"
        (file,) = (file for file, each in DASHBOARDS.items() if each["uid"] == uid)
        scene.pictures[name] = scene.picture(file, rows)
        self._parts += [f"![{DASHBOARDS[file]['title']}: {', '.join(rows)}](screens/{name}.png)", seen]

    def write(self) -> Path:
        """Writes the walk down."""
        path = runbooks.ROOT / "docs" / "walks" / f"{self._name}.md"
        path.write_text("\n\n".join(self._parts) + "\n", encoding="utf-8")
        return path

    def _show(self, line: str, output: str) -> None:
        lines = [text.rstrip() for text in output.splitlines()]
        if len(lines) > _MOST_LINES:
            lines = [*lines[:_MOST_LINES], f"... ({len(lines) - _MOST_LINES} more lines)"]
        self._parts.append("\n".join(["```console", f"$ {line}", *lines, "```"]))


def clock() -> str:
    """The time, as a person on call notes it."""
    return f"{datetime.now(UTC):%H:%M:%S}"
