"""Prometheus, Alertmanager and a pager as a deployment has them, on free ports of this machine.

Takes our own files of `grafana/prometheus`, targets, and by how much time is to pass faster; gives processes, what they
answer, and what the pager was told. Only addresses and durations are changed: expressions, thresholds, labels, routes
and inhibitions are what operators get.
"""

import json
import re
import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import yaml

from pipeline.embedded.owned import OwnedProcess, free_port
from tests.grafana.programs import program

CONFIGURATION = Path(__file__).parents[1] / "grafana" / "prometheus"
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(
    r"(?P<before>(?:for|interval|group_wait|group_interval|repeat_interval): |\[|offset )"
    r"(?P<number>\d+)(?P<unit>ms|s|m|h|d|w)\b"
)
_SCRAPE_SECONDS = 15
_RESEND_SECONDS = 60
"""Prometheus's own default. It finds Alertmanager after some seconds; what fires before is sent again after this."""
_READY_SECONDS = 30
_POLL_SECONDS = 0.1


def faster_by(text: str, divisor: int) -> str:
    """Rules or routes with every duration divided: `for`, intervals, ranges and offsets, and no threshold.

    Shares that count samples per window stay right, as interval and window shrink together.
    """

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found["number"]) * _UNIT_SECONDS[found["unit"]]
        return f"{found['before']}{max(1, round(seconds * 1000 / divisor))}ms"

    return _DURATION.sub(shorter, text)


class Prometheus:
    """A Prometheus with our rules that scrapes `targets`, by job; a context manager."""

    def __init__(
        self,
        directory: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        faster: int = 1,
        alertmanager: str = "",
    ) -> None:
        """`alertmanager` is host:port, or empty for none."""
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        home = directory / "prometheus"
        shutil.rmtree(home, ignore_errors=True)
        (home / "rules").mkdir(parents=True)
        for path in (CONFIGURATION / "rules").glob("*.yml"):
            (home / "rules" / path.name).write_text(faster_by(path.read_text("utf-8"), faster), "utf-8")
        configured = _prometheus_configuration(
            {**targets, "prometheus": [self.address]}, faster, alertmanager
        )
        (home / "prometheus.yml").write_text(yaml.safe_dump(configured), "utf-8")
        command = [
            program("prometheus"), f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address={self.address}", f"--web.external-url={self.url}", "--log.level=warn",
            f"--rules.alert.resend-delay={_RESEND_SECONDS * 1000 // faster}ms",
        ]  # fmt: skip
        self._process = OwnedProcess("prometheus", command, directory / "prometheus.log")

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        asked = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{asked}", timeout=30) as answer:
            samples: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return samples

    def await_samples(self, expression: str, deadline_seconds: float = 60) -> list[dict[str, Any]]:
        """The samples of an expression as soon as there are any."""
        return _awaited(lambda: self.ask(expression), f"{expression} had a value", deadline_seconds)

    def __enter__(self) -> Self:
        self._process.start()
        self._process.await_ready(lambda: _answers(f"{self.url}/-/ready"), _READY_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()


class Alertmanager:
    """An Alertmanager with our routes, whose receivers are paths of one pager; a context manager."""

    def __init__(self, directory: Path, pager_url: str, *, faster: int = 1) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        home = directory / "alertmanager"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        text = (CONFIGURATION / "alertmanager.yml").read_text("utf-8")
        configured = re.sub(r"(?<=url: )http://pager:8080", pager_url, faster_by(text, faster))
        (home / "alertmanager.yml").write_text(configured, "utf-8")
        command = [
            program("prometheus-alertmanager"), f"--config.file={home / 'alertmanager.yml'}",
            f"--storage.path={home / 'data'}", f"--web.listen-address={self.address}",
            f"--web.external-url={self.url}", "--cluster.listen-address=", "--log.level=warn",
        ]  # fmt: skip
        self._process = OwnedProcess("alertmanager", command, directory / "alertmanager.log")

    def post(self, *alerts: Mapping[str, Any]) -> None:
        """What Prometheus does for alerts that fire, and for those with an `endsAt`, which are over."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/v2/alerts", json.dumps(alerts).encode(), headers)
        urllib.request.urlopen(request, timeout=30).close()

    def inhibits(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels fires and is left out, because its cause is known."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=30) as answer:
            alerts = json.load(answer)
        return any(
            each["status"]["inhibitedBy"] for each in alerts if labels.items() <= each["labels"].items()
        )

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=30) as answer:
            return {each["labels"]["alertname"] for each in json.load(answer)}

    def await_only(self, names: set[str], deadline_seconds: float = 60) -> None:
        """Returns when these alerts fire, and no other but the memory of one that is over."""
        known = {"MsgmeterKnownOutage"}
        _awaited(lambda: [True] * (self.firing() - known == names), f"only {names} fired", deadline_seconds)

    def await_inhibited(self, labels: Mapping[str, str], deadline_seconds: float = 60) -> None:
        """Returns when it does."""
        _awaited(lambda: [True] * self.inhibits(labels), f"{labels} was left out", deadline_seconds)

    def __enter__(self) -> Self:
        self._process.start()
        self._process.await_ready(lambda: _answers(f"{self.url}/-/ready"), _READY_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()


class Pager:
    """Where Alertmanager sends its webhooks: keeps them; a context manager."""

    def __init__(self) -> None:
        told: list[tuple[str, dict[str, Any]]] = []
        self.told = told
        """(path, message) in the order they came in."""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                told.append((self.path, json.loads(self.rfile.read(length))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="pager", daemon=True)

    def await_message(
        self, alertname: str, status: str = "firing", severity: str = "", deadline_seconds: float = 120
    ) -> tuple[str, dict[str, Any]]:
        """The first message about an alert in a status, with the path it came by; of any severity unless named."""

        def found() -> list[tuple[str, dict[str, Any]]]:
            return [
                (path, message)
                for path, message in self.told
                if message["status"] == status
                and message["groupLabels"].get("alertname") == alertname
                and severity in ("", message["groupLabels"].get("severity"))
            ]

        return _awaited(found, f"the pager was told that {alertname} is {status}", deadline_seconds)[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _prometheus_configuration(
    targets: Mapping[str, Sequence[str]], faster: int, alertmanager: str
) -> dict[str, Any]:
    """Ours, with other targets: jobs nobody named are left out, as they would be down."""
    configured: dict[str, Any] = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"] for job in configured["scrape_configs"]}
    assert set(targets) <= jobs, f"{set(targets) - jobs} are no jobs of prometheus.yml"
    milliseconds = round(_SCRAPE_SECONDS * 1000 / faster)
    configured["global"] |= {
        "scrape_interval": f"{milliseconds}ms",
        "scrape_timeout": f"{milliseconds}ms",
        "evaluation_interval": f"{milliseconds}ms",
    }
    configured["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
        for job, addresses in targets.items()
    ]
    addresses = [alertmanager] if alertmanager else []
    configured["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": addresses}]}]
    return configured


def _awaited(ask: Callable[[], list[Any]], what: str, deadline_seconds: float) -> list[Any]:
    """The first answer that is not empty; fails after the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{deadline_seconds} s passed before {what}"
        time.sleep(_POLL_SECONDS)
    return answer


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
