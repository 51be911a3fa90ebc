"""`msgmeter up` starts everything, shows what comes in, stops in order, and goes on where it ended."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import clickhouse_connect

from pipeline.embedded.owned import free_port
from tests.e2e.metric_table import STACK, lint, scrape, wrong

_FIGURES = re.compile(
    r"messages (\d+) .*  credits (\d+)  alerts (\d+)  rows stored (\d+)  refused (\d+)  lag (?:\d+ |\?)"
)


def _up(directory, *arguments, kafka_port=None, clickhouse_port=None, **environment):
    ports = [
        "--kafka-port", str(kafka_port or free_port()),
        "--clickhouse-port", str(clickhouse_port or free_port()),
        "--metrics-port", "0", "--scheduler-metrics-port", "0",
    ]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MSGMETER_")}
    if "MSGMETER_CACHE" in os.environ:
        kept["MSGMETER_CACHE"] = os.environ["MSGMETER_CACHE"]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "up", "--directory", str(directory), *ports, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, "MSGMETER_METRICS_PORT": "0", **environment},
    )


def _run(directory, *arguments, **options):
    with _up(directory, *arguments, **options) as process:
        output, errors = process.communicate(timeout=200)
    return process.returncode, output, errors


def _figures(output):
    return [tuple(map(int, found)) for found in _FIGURES.findall(output)]


def _stored(directory, port):
    """The rows of a data directory, read while a stack runs on it."""
    client = clickhouse_connect.get_client(host="127.0.0.1", port=port)
    rows = client.query("SELECT count() FROM rated_messages").result_rows[0][0]
    client.close()
    return rows


def test_figures_come_in_and_the_next_start_goes_on_with_what_is_there(tmp_path):
    code, output, errors = _run(tmp_path / "var", "--for", "12", "--rate", "300", "--tenants", "20")
    assert code == 0, errors
    messages, credits_burned, _, stored, refused = _figures(output)[-1]
    assert messages > 0
    assert credits_burned > 0
    assert stored > 0
    assert refused > 0
    assert "next start goes on from there" in errors

    port = free_port()
    with _up(tmp_path / "var", "--rate", "300", "--tenants", "20", clickhouse_port=port) as process:
        lines = []
        while not lines or not _figures(lines[-1])[0][3]:
            lines.append(process.stdout.readline())
        rows = _stored(tmp_path / "var", port)
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 0
    assert rows > stored


def test_a_worker_that_dies_is_told_of_and_the_figures_go_on(tmp_path):
    port, seen = free_port(), {}
    url = f"http://127.0.0.1:{port}/metrics"
    with _up(tmp_path / "var", "--rate", "300", "--tenants", "20", "--metrics-port", str(port)) as process:
        before = ""
        while not _figures(before) or not _figures(before)[0][0]:
            before = process.stdout.readline()
        seen["ready"] = scrape(url)[1]
        os.kill(_child(process.pid, "worker"), signal.SIGKILL)
        after = before
        while _figures(after)[0][0] <= _figures(before)[0][0]:
            after = process.stdout.readline()
        text, seen["after"] = scrape(url)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 0
    assert "worker died with exit code -9" in errors
    assert "worker runs again" in errors
    assert f"metrics on {url}, the worker's on http://127.0.0.1:" in errors
    assert wrong(STACK, seen) == []
    assert lint(text) == ""


def test_a_taken_port_is_named_with_its_remedy_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, output, errors = _run(tmp_path / "var", clickhouse_port=port)
        metrics = str(other.getsockname()[1])
        metrics_code, _, metrics_errors = _run(
            tmp_path / "var", "--metrics-port", metrics, MSGMETER_METRICS_PORT=metrics
        )
    assert (code, metrics_code, output) == (3, 3, "")
    assert f"port {port} for ClickHouse is taken: --clickhouse-port chooses another" in errors
    assert f"port {metrics} for the worker's metrics is taken: MSGMETER_METRICS_PORT" in metrics_errors
    assert (
        f"port {metrics} for metrics of this command is taken: --metrics-port chooses another"
        in metrics_errors
    )
    assert not (tmp_path / "var").exists()


def test_a_server_that_is_named_and_away_is_said_before_anything_starts(tmp_path):
    code, output, errors = _run(tmp_path / "var", MSGMETER_KAFKA="127.0.0.1:1,localhost:2")
    assert (code, output) == (3, "")
    assert (
        "MSGMETER_KAFKA is set, so no broker was started here, and none answers at 127.0.0.1:1, localhost:2;"
        " unset it to let this command start one" in errors
    )
    _, _, clickhouse = _run(tmp_path / "var", MSGMETER_CLICKHOUSE="http://user:secret@127.0.0.1:1/default")
    assert "MSGMETER_CLICKHOUSE is set, so no ClickHouse was started here, and none answers" in clickhouse
    assert "secret" not in clickhouse
    assert not (tmp_path / "var").exists()


def test_wrong_settings_are_said_before_anything_starts(tmp_path):
    code, _, errors = _run(tmp_path / "var", MSGMETER_STORE="paper")
    assert code == 2
    assert "MSGMETER_STORE must be memory or rocksdb" in errors
    assert not (tmp_path / "var").exists()


def _child(parent, command):
    """The process id of the command a stack has started."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            ppid = int(status.read_text().rsplit(")", 1)[1].split()[1])
            arguments = status.with_name("cmdline").read_text().split("\0")
            if ppid == parent and arguments[1:4] == ["-m", "pipeline", command]:
                return int(status.parent.name)
    raise AssertionError(f"{parent} has no {command}")
