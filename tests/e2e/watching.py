# ruff: noqa: T201 - what was typed and answered is shown when a test fails, or with -s.
"""What looks at a deployment from outside, and the shell of an engineer who looks through it.

Takes a `System` and its workers' addresses; gives a Prometheus with our rules that scrapes them, a scheduler and a
reconciliation, and runs commands as the runbooks set a shell up for them.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.embedded.owned import OwnedProcess, free_port
from pipeline.settings import Settings
from tests import runbooks
from tests.e2e.system import System, environment_of
from tests.monitoring import Prometheus

_SECONDS = 120
_DEFAULTS = environment_of(Settings())


@contextmanager
def watched(
    system: System, worker_ports: Sequence[int], *, faster: int, alertmanager: str = ""
) -> Iterator[Prometheus]:
    """Scheduler, reconciliation, and Prometheus with our rules; the two must run on to the end."""
    ports = {"scheduler": free_port(), "reconcile": free_port()}
    calls = {"scheduler": ["schedule", "--every-seconds", "2"], "reconcile": ["reconcile", "--every", "5"]}
    processes = [
        OwnedProcess(
            name,
            [sys.executable, "-m", "pipeline", *call, "--metrics-port", str(ports[name])],
            system.directory / f"{name}.log",
            environment_of(system.settings),
        )
        for name, call in calls.items()
    ]
    targets = {f"msgmeter-{name}": [f"127.0.0.1:{port}"] for name, port in ports.items()}
    targets["msgmeter-worker"] = [f"127.0.0.1:{port}" for port in worker_ports]
    try:
        for process in processes:
            process.start()
        with Prometheus(system.directory, targets, faster=faster, alertmanager=alertmanager) as prometheus:
            yield prometheus
        for process in processes:
            assert process.running, process.log_tail()
    finally:
        for process in processes:
            process.kill()


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    exit_code: int
    output: str
    """Of both streams, in the order it came."""


class Shell:
    """A shell set up as the runbooks say, with the settings of a deployment in its environment."""

    def __init__(
        self, directory: Path, settings: Settings, prometheus: Prometheus, metrics_port: int, worker: str
    ) -> None:
        """As on the machine of one worker: `metrics_port` and the name of its state directory are that one's."""
        programs = directory / "bin"
        programs.mkdir(exist_ok=True)
        ours = programs / "msgmeter"
        ours.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline "$@"\n', "utf-8")
        ours.chmod(0o755)
        own = replace(settings, metrics_port=metrics_port, state_directory=directory / worker)
        self._directory = directory
        self._environment = {
            **{name: value for name, value in environment_of(own).items() if value != _DEFAULTS.get(name)},
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": str(runbooks.ROOT),
            "PROMETHEUS": prometheus.url,
            "COLUMNS": "120",
            "TERM": "dumb",
            "LANG": "C.UTF-8",
        }

    def run(self, line: str) -> Answer:
        """Types a line; returns when it has ended."""
        done = subprocess.run(
            ["bash", "-c", f"{runbooks.setup()}\n{line}"],
            cwd=self._directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        print(f"\n$ {line}\n{done.stdout}".rstrip())
        return Answer(done.returncode, done.stdout)
