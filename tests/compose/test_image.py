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
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics", lines
    server.shutdown()
    thread.join()
    server.server_close()


def asked(url: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "docker" / "healthy.py"), url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def test_a_process_is_well_when_it_answers_and_its_figure_says_so(metrics: tuple[str, list[str]]) -> None:
    url, lines = metrics
    assert asked(url, "msgmeter_partitions_owned")[0] == 1
    lines += ["# HELP msgmeter_partitions_owned x", "msgmeter_partitions_owned_more 3.0"]
    assert asked(url, "msgmeter_partitions_owned") == (1, f"{url} has no msgmeter_partitions_owned")
    lines.append("msgmeter_partitions_owned 0.0")
    assert asked(url, "msgmeter_partitions_owned") == (1, "msgmeter_partitions_owned is 0")
    lines[-1] = "msgmeter_partitions_owned 8.0"
    assert asked(url, "msgmeter_partitions_owned") == (0, "")


def test_a_process_is_not_well_when_what_it_does_was_done_too_long_ago(
    metrics: tuple[str, list[str]],
) -> None:
    url, lines = metrics
    lines.append(f"msgmeter_last {time() - 100}")
    assert asked(url, "msgmeter_last", "--within-seconds", "200") == (0, "")
    assert asked(url, "msgmeter_last", "--within-seconds", "60")[0] == 1


def test_a_process_that_does_not_answer_is_not_well() -> None:
    code, said = asked("http://127.0.0.1:9/metrics", "msgmeter_partitions_owned")
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
