"""The Dockerfile, what is copied into the image, and the health check in it."""

import hashlib
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import time
from xml.etree import ElementTree as ET

import pytest
from docker_files import DOCKERFILE, ROOT, image_environment, script
from packaging.requirements import Requirement

from pipeline.metrics import reconcile, scheduler, worker

make_secrets = script("make_secrets")
INSTRUCTIONS = [
    line.split(None, 1) for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and line[0] != "#"
]
STAGES = [rest for name, rest in INSTRUCTIONS if name == "FROM"]
FINAL = INSTRUCTIONS[[name for name, _ in INSTRUCTIONS].index("FROM", 1) :]


def test_both_stages_begin_with_the_same_exact_python() -> None:
    images = {stage.split()[0] for stage in STAGES}
    assert len(STAGES) == 2
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", images.pop())


def test_the_final_stage_installs_nothing_and_ends_as_a_user_without_rights() -> None:
    commands = " ".join(rest for name, rest in FINAL if name == "RUN")
    assert not re.search(r"apt-get|pip install|curl|wget|gcc|build-essential", commands)
    assert "pip uninstall --yes pip setuptools wheel" in commands
    users = [rest for name, rest in INSTRUCTIONS if name == "USER"]
    assert len(users) == 1
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0])
    # Whatever runs as root runs before that.
    assert [name for name, _ in FINAL].index("USER") > max(
        place for place, (name, _) in enumerate(FINAL) if name in {"RUN", "COPY"}
    )


def test_the_state_directory_belongs_to_that_user() -> None:
    directory = image_environment()["MSGMETER_STATE_DIRECTORY"]
    (user,) = (rest.split(":")[0] for name, rest in INSTRUCTIONS if name == "USER")
    assert f"install --directory --owner={user} --group={user} --mode=0750 {directory}" in DOCKERFILE.replace(
        "\\\n    ", ""
    )


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for name, rest in INSTRUCTIONS
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert sent == copied


def test_no_secret_and_no_more_than_needed_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not any("secrets" in rule for rule in rules)


def test_the_image_holds_exact_versions_of_all_that_the_project_names() -> None:
    text = (ROOT / "docker" / "requirements.txt").read_text("utf-8")
    pinned = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = {each.name.lower().replace("_", "-"): str(each.specifier) for each in pinned}
    assert versions.pop("tzdata") == ""
    assert [name for name, version in versions.items() if not re.fullmatch(r"==[\w.]+", version)] == []
    for wanted in map(Requirement, project["dependencies"]):
        if wanted.name != "tzdata":
            assert wanted.specifier.contains(versions[wanted.name].removeprefix("==")), wanted.name


# The health check.


@pytest.fixture
def metrics() -> Iterator[tuple[str, list[str]]]:
    """An address that serves the lines put into a list."""
    lines: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(f"{line}\n" for line in lines).encode()
            self.send_response(200 if lines else 503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics", lines
    server.shutdown()
    thread.join()
    server.server_close()


def asked(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "docker" / "healthy.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def asked_with(metrics: tuple[str, list[str]], process: str, **figures: float) -> tuple[int, str]:
    """What the check says of a process that shows these figures."""
    url, lines = metrics
    lines[:] = ["# HELP msgmeter_more x", *(f"msgmeter_{name} {value}" for name, value in figures.items())]
    return asked(process, url)


@pytest.mark.parametrize(
    ("state", "figures"),
    [
        ("meters", {"assigned": 8, "owned": 8}),
        ("is spare, with more workers than partitions", {"assigned": 0, "owned": 0, "lag": 90_000}),
        ("recovers its tables", {"assigned": 8, "owned": 0, "lag": 1_500}),
        ("has recovered some, and has much to catch up with", {"assigned": 8, "owned": 3, "lag": 90_000}),
        ("waits for ClickHouse", {"assigned": 8, "owned": 8, "open": 20_000, "clickhouse": 0}),
        ("stores slowly", {"assigned": 8, "owned": 8, "open": 100, "clickhouse": 1}),
    ],
)
def test_a_worker_is_well_when_it(
    metrics: tuple[str, list[str]], state: str, figures: dict[str, float]
) -> None:
    assert asked_with(metrics, "worker", **worker_figures(figures)) == (0, "")


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"assigned": 8, "owned": 0, "lag": 2_000}, "has recovered none of 8 partitions in 2000 s"),
        (
            {"assigned": 8, "owned": 8, "open": 130, "clickhouse": 1},
            "has stored nothing for 130 s, and ClickHouse answers",
        ),
        # Not one call to ClickHouse has come to its end yet.
        ({"assigned": 8, "owned": 8, "open": 130}, "has stored nothing for 130 s, and ClickHouse answers"),
    ],
)
def test_a_worker_is_not_well_when_it_recovers_without_end_or_stores_nothing(
    metrics: tuple[str, list[str]], figures: dict[str, float], said: str
) -> None:
    assert asked_with(metrics, "worker", **worker_figures(figures)) == (1, said)


def worker_figures(short: dict[str, float]) -> dict[str, float]:
    names = {
        "assigned": "partitions_assigned",
        "owned": "partitions_owned",
        "lag": "consumer_lag_seconds",
        "open": "epoch_open_seconds",
        "clickhouse": "clickhouse_up",
    }
    return {names[name]: value for name, value in {"open": 0, **short}.items()}


def test_processes_show_what_the_check_asks_of_them() -> None:
    text = (ROOT / "docker" / "healthy.py").read_text("utf-8")
    modules = (worker, scheduler, reconcile)
    shown = {name for module in modules for name in module.REGISTRY._names_to_collectors}
    named = set(re.findall(r"msgmeter_\w+", text))
    assert len(named) > 6
    assert named <= shown


def test_a_scheduler_is_well_when_its_last_round_was_not_long_ago(metrics: tuple[str, list[str]]) -> None:
    name = "schedule_last_success_timestamp_seconds"
    assert asked_with(metrics, "scheduler", **{name: time() - 60}) == (0, "")
    assert asked_with(metrics, "scheduler", **{name: time() - 1_000})[0] == 1
    assert asked_with(metrics, "scheduler", more=1)[1].endswith(f"has no msgmeter_{name}")


def test_reconcile_is_well_at_its_first_run_and_not_when_it_comes_to_no_end(
    metrics: tuple[str, list[str]],
) -> None:
    failed, ended = 'reconcile_runs_total{result="failed"}', "reconcile_last_run_timestamp_seconds"
    assert asked_with(metrics, "reconcile", **{failed: 0}) == (0, "")
    assert asked_with(metrics, "reconcile", **{failed: 2}) == (1, "has come to no end in 2 runs")
    assert asked_with(metrics, "reconcile", **{failed: 2, ended: time() - 40_000}) == (0, "")
    assert asked_with(metrics, "reconcile", **{failed: 0, ended: time() - 100_000})[0] == 1


@pytest.mark.parametrize("process", ["worker", "scheduler", "reconcile"])
def test_a_process_that_does_not_answer_is_not_well(process: str) -> None:
    code, said = asked(process, "http://127.0.0.1:9/metrics")
    assert code == 1
    assert "does not answer" in said


# Secrets.


def test_secrets_are_random_and_kept_and_readable_for_containers_alone(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    assert make_secrets.make(directory) == list(make_secrets.NAMES)
    assert directory.stat().st_mode & 0o777 == 0o700
    texts = {name: (directory / name).read_text().strip() for name in make_secrets.NAMES}
    assert len(set(texts.values())) == len(texts)
    assert min(map(len, texts.values())) >= 32
    # Compose leaves owner and mode as they are, and containers run as several users.
    assert {(directory / name).stat().st_mode & 0o777 for name in texts} == {0o444}
    (directory / "grafana_admin").unlink()
    assert make_secrets.make(directory) == ["grafana_admin"]
    assert (directory / "command_key").read_text().strip() == texts["command_key"]


def test_clickhouse_is_given_hashes_alone(tmp_path: Path) -> None:
    make_secrets.make(tmp_path)
    given = ET.parse(tmp_path / make_secrets.HASHES).getroot()
    assert {each.tag: each.text for each in given} == {
        f"clickhouse_{user}": hashlib.sha256(
            (tmp_path / f"clickhouse_{user}").read_text().strip().encode()
        ).hexdigest()
        for user in make_secrets.CLICKHOUSE_USERS
    }
