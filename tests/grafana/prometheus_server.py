"""Debian's Prometheus, scraping what a test names, evaluating our rules, and asked over its HTTP API.

It scrapes once a second, so that a test need not wait. So it does evaluate rules, unless asked for their own intervals:
what they record is not to scale then, as ratios count samples of 15 s; their own unit tests see to that.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from pipeline.embedded.owned import LOOPBACK, OwnedProcess, free_port

RULES = Path(__file__).parents[2] / "grafana" / "prometheus" / "rules"
_POLL_SECONDS = 0.1
_CONFIG = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: [rules/*.yml]
scrape_configs:
"""
_JOB = """
  - job_name: {job}
    static_configs:
      - targets: {targets}
"""


class PrometheusQuestions:
    """Asks the Prometheus at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def now(self, expr: str) -> list[dict[str, Any]]:
        """The series of an expression at this moment; raises AssertionError where it cannot be evaluated."""
        return self._ask("query", {"query": expr})

    def over_time(
        self, expr: str, starts_at: float, ends_at: float, step_seconds: int
    ) -> list[dict[str, Any]]:
        """The same over a range."""
        given = {"query": expr, "start": starts_at, "end": ends_at, "step": step_seconds}
        return self._ask("query_range", given)

    def _ask(self, what: str, given: Mapping[str, object]) -> list[dict[str, Any]]:
        try:
            with urlopen(f"{self.url}/api/v1/{what}?{urlencode(given)}", timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except HTTPError as refused:
            if refused.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise  # It is starting.
            raise AssertionError(f"{given['query']}\n{refused.read().decode()}") from refused


class PrometheusServer(PrometheusQuestions):
    """`targets` are host:port by job."""

    def __init__(
        self, directory: Path, targets: Mapping[str, Sequence[str]], *, at_own_pace: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "prometheus.yml"
        config.write_text(
            _CONFIG + "".join(_JOB.format(job=job, targets=json.dumps(each)) for job, each in targets.items())
        )
        (directory / "rules").mkdir()
        for rules in RULES.glob("*.yml"):
            text = rules.read_text("utf-8")
            if not at_own_pace:
                text = re.sub(r"^( +)interval: \w+$", r"\1interval: 1s", text, flags=re.MULTILINE)
            (directory / "rules" / rules.name).write_text(text, "utf-8")
        super().__init__(f"http://{LOOPBACK}:{free_port()}")
        self._process = OwnedProcess(
            "prometheus",
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=warn",
            ],
            directory / "prometheus.log",
            {},
        )
        self._process.start()

    def await_condition(self, holds: Callable[[], object], what: str, deadline_seconds: float = 60) -> None:
        """Returns when `holds()`; fails when Prometheus has died or the deadline has passed."""
        deadline = time.monotonic() + deadline_seconds
        while not _answers(holds):
            assert self._process.running, self._process.log_tail()
            assert time.monotonic() < deadline, f"{deadline_seconds} s passed before {what}"
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()


def _answers(holds: Callable[[], object]) -> object:
    """Whether it holds; not, as long as nobody listens."""
    try:
        return holds()
    except OSError:
        return False
