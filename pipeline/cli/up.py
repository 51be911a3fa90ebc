"""`msgmeter up`: the whole pipeline on this machine, with a sample gateway, and figures to watch.

Takes how much traffic and where data lives; starts broker, ClickHouse, `migrate`, one worker, `schedule` and
`generate`, and shows their figures until Ctrl-C, SIGTERM or `--for`. On a terminal that is a view, else a line
every few seconds. Figures go to standard output, what happens to processes to standard error. Everything stays
in the directory: the next start goes on where this one ended.
"""

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import click
from rich.console import Console, RenderableType
from rich.live import Live

from pipeline.cli.live_figures import Figures, FiguresReader
from pipeline.cli.live_view import Event, figures_line, live_view, start_view
from pipeline.cli.schedule import METRICS_PORT
from pipeline.cli.stack_figures import stack_figures
from pipeline.cli.visible import visible_text
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.embedded.kafka_jars import cache_directory, java, kafka_jars
from pipeline.embedded.owned import StartError, free_port, require_free_port
from pipeline.embedded.stack import (
    CLICKHOUSE_PORT,
    KAFKA_PORT,
    Command,
    Stack,
    interrupted_by_sigterm,
)
from pipeline.metrics.serving import metrics_url, serve_metrics
from pipeline.metrics.stack import REGISTRY, STACK
from pipeline.settings import SettingsError, load_settings

_ANSWER_SECONDS = 5
"""A server that stands still must not hold all other figures for longer."""
_LINE_SECONDS = 5.0
_SAMPLE_SECONDS = 1.0
_STOP_SECONDS = 30.0
_CONNECT_SECONDS = 3.0
_LOG_LINES = 3
_PROCESS_NAMES = ("broker", "clickhouse", "migrate", "worker", "scheduler", "gateway")


@click.command()
@click.option("--rate", default=500, show_default=True, type=click.IntRange(1), help="Records per second.")
@click.option("--tenants", default=200, show_default=True, type=click.IntRange(1, 99_999))
@click.option("--seed", default=1, show_default=True, help="Of the sample traffic.")
@click.option(
    "--directory",
    default=Path("var"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Data and logs; what is there is gone on with.",
)
@click.option("--for", "for_seconds", type=click.FloatRange(min=0), help="Stop after so many seconds.")
@click.option("--kafka-port", default=KAFKA_PORT, show_default=True, type=click.IntRange(1, 65_535))
@click.option("--clickhouse-port", default=CLICKHOUSE_PORT, show_default=True, type=click.IntRange(1, 65_535))
@click.option(
    "--metrics-port",
    default=9467,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Of /metrics of this command; 0: any free one.",
)
@click.option(
    "--scheduler-metrics-port",
    default=METRICS_PORT,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Of the scheduler's /metrics; 0: any free one.",
)
def up(
    rate: int,
    tenants: int,
    seed: int,
    directory: Path,
    for_seconds: float | None,
    kafka_port: int,
    clickhouse_port: int,
    metrics_port: int,
    scheduler_metrics_port: int,
) -> None:
    """Start everything on this machine with sample traffic, and watch it.

    MSGMETER_KAFKA and MSGMETER_CLICKHOUSE, where set, name running servers that are used instead of our own.
    """
    environment = _environment(directory)
    settings = load_settings(environment)
    _check_ports(
        environment, kafka_port, clickhouse_port, settings.metrics_port, metrics_port, scheduler_metrics_port
    )
    _check_servers(environment)
    _check_directory(directory)
    worker_url = metrics_url(settings.metrics_host, settings.metrics_port)
    console = Console(stderr=True)
    events = _Events(console)
    stack = Stack(
        directory,
        _commands(worker_url, scheduler_metrics_port, rate, tenants, seed),
        environment=environment,
        kafka_port=kafka_port,
        clickhouse_port=clickhouse_port,
        report=events.note,
    )
    STACK.read_from(lambda: stack_figures(stack.processes, stack.directory))
    own_url = serve_metrics(REGISTRY, settings.metrics_host, metrics_port, "--metrics-port")
    console.print(f"metrics on {own_url}, the worker's on {worker_url}", highlight=False, soft_wrap=True)
    with interrupted_by_sigterm():
        try:
            _start(stack, console)
            reader = FiguresReader(
                worker_url,
                lambda: connect_clickhouse(
                    replace(settings, clickhouse=stack.clickhouse), request_timeout_seconds=_ANSWER_SECONDS
                ),
            )
            with suppress(KeyboardInterrupt), _Sampler(reader) as sampler:
                _watch(stack, sampler, events, for_seconds)
        except KeyboardInterrupt:
            # During the start; what had been started is stopped below.
            console.print("interrupted")
        finally:
            with console.status("stopping: the worker stores what is open, then broker and ClickHouse end"):
                stack.stop(_STOP_SECONDS)
    _say_farewell(console, stack)


def _environment(directory: Path) -> dict[str, str]:
    """The environment of the commands: ours, with defaults for a first look."""
    given = dict(os.environ)
    given.setdefault("MSGMETER_DEFAULT_PLAN", "starter")
    given.setdefault("MSGMETER_STATE_DIRECTORY", str(directory.absolute() / "worker"))
    if given.get("MSGMETER_METRICS_PORT") == "0":
        # The view has to know where to read.
        given["MSGMETER_METRICS_PORT"] = str(free_port())
    return given


def _check_directory(directory: Path) -> None:
    """Raise SettingsError where data and logs could not be written, before anything starts."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise SettingsError(
            f"--directory {directory} cannot be written ({error.strerror}): name another one, or let this user write"
            " there"
        ) from error


def _check_ports(
    environment: Mapping[str, str], kafka: int, clickhouse: int, worker: int, own: int, scheduler: int
) -> None:
    """Raise StartError for every port that is taken, before anything starts, saying how to choose another.

    The last three are those of metrics; 0 stands for any free one, which cannot be taken.
    """
    wanted = (
        (kafka, "the broker", "MSGMETER_KAFKA", "--kafka-port chooses another"),
        (clickhouse, "ClickHouse", "MSGMETER_CLICKHOUSE", "--clickhouse-port chooses another"),
        (worker, "the worker's metrics", "", "MSGMETER_METRICS_PORT chooses another, 0 any free one"),
        (own, "metrics of this command", "", "--metrics-port chooses another, 0 any free one"),
        (
            scheduler,
            "the scheduler's metrics",
            "",
            "--scheduler-metrics-port chooses another, 0 any free one",
        ),
    )
    faults = []
    for port, service, running_setting, remedy in wanted:
        if not port or environment.get(running_setting):
            continue
        try:
            require_free_port(port, service, running_setting)
        except StartError:
            use = f", {running_setting} uses what runs there" if running_setting else ""
            faults.append(f"port {port} for {service} is taken: {remedy}{use}")
    if faults:
        raise StartError("; ".join(faults) + ". Does another `msgmeter up` run here?")


def _check_servers(environment: Mapping[str, str]) -> None:
    """Raise StartError where a running server is named and does not answer, before anything waits for it."""
    kafka = [each.strip() for each in environment.get("MSGMETER_KAFKA", "").split(",") if each.strip()]
    clickhouse = [each for each in (environment.get("MSGMETER_CLICKHOUSE"),) if each]
    named = (
        ("MSGMETER_KAFKA", "broker", kafka, 9092),
        ("MSGMETER_CLICKHOUSE", "ClickHouse", clickhouse, 8123),
    )
    for setting, service, addresses, default_port in named:
        if addresses and not any(_is_listening(each, default_port) for each in addresses):
            # Without the user's name and password, and without parameters, which may hold them too.
            where = ", ".join(each.rpartition("@")[2].partition("?")[0] for each in addresses)
            raise StartError(
                f"{setting} is set, so no {service} was started here, and none answers at {where};"
                " unset it to let this command start one"
            )


def _is_listening(address: str, default_port: int) -> bool:
    """Whether somebody listens at host:port or at a URL; nobody does at what is neither."""
    with suppress(OSError, ValueError):
        place = urlsplit(address if "://" in address else f"//{address}")
        at = (place.hostname or "", place.port or default_port)
        with socket.create_connection(at, timeout=_CONNECT_SECONDS):
            return True
    return False


def _commands(worker_url: str, scheduler_port: int, rate: int, tenants: int, seed: int) -> list[Command]:
    own = [sys.executable, "-m", "pipeline"]
    traffic = ["--forever", "--rate", str(rate), "--tenants", str(tenants), "--seed", str(seed)]
    return [
        Command("migrate", [*own, "migrate"], once=True),
        # Ready when it answers, not when it has recovered: that may take as long as its state is large.
        Command("worker", [*own, "worker"], ready=partial(_answers, worker_url)),
        Command("scheduler", [*own, "schedule", "--metrics-port", str(scheduler_port)]),
        # The default plan gives alerts within minutes; the plans of `generate` are cut for a million records.
        Command("gateway", [*own, "generate", "--no-plans", *traffic]),
    ]


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1):  # noqa: S310 - our own address
            return True
    except (URLError, OSError):
        return False


def _start(stack: Stack, console: Console) -> None:
    """Start everything, telling what is being waited for."""
    if not stack.kafka:
        java()
        if not any(cache_directory().glob("kafka-[0-9a-f]*")):
            console.print(f"First start: Maven fetches Apache Kafka (43 MB) into {cache_directory()}, once.")
        with console.status("looking for Kafka's jars"):
            kafka_jars()
    if not console.is_terminal:
        console.print("starting broker, ClickHouse, worker, scheduler and gateway")
        stack.start()
        console.print("all running")
        return

    def view() -> RenderableType:
        return start_view(stack.processes, _PROCESS_NAMES, f"logs in {_shown(stack.directory)}")

    with Live(get_renderable=view, console=console, refresh_per_second=4, transient=True):
        stack.start()


class _Sampler:
    """Reads figures in a thread of its own, so that a slow answer delays neither view nor Ctrl-C."""

    def __init__(self, reader: FiguresReader) -> None:
        self.figures = Figures()
        self._reader = reader
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="figures", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.figures = self._reader.read()
            self._stop.wait(_SAMPLE_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()


class _Events:
    """What the stack reports of its processes: remembered for a view, printed where there is none."""

    def __init__(self, console: Console) -> None:
        self.last: Event | None = None
        self._console = console

    def note(self, text: str) -> None:
        """Take a report; called from the stack's own thread."""
        first, *log = text.splitlines()
        now = datetime.now().astimezone()
        self.last = Event(first.removesuffix("; its log ends:"), now, is_bad=bool(log))
        if not self._console.is_terminal:
            for line in (first, *log[-_LOG_LINES:]):
                self._console.print(visible_text(line), markup=False, highlight=False, soft_wrap=True)


def _watch(stack: Stack, sampler: _Sampler, events: _Events, for_seconds: float | None) -> None:
    """Show figures until the time is over or an interrupt."""
    console = Console()
    began = time.monotonic()
    end = began + for_seconds if for_seconds is not None else float("inf")

    def view() -> RenderableType:
        seconds = time.monotonic() - began
        directory = _shown(stack.directory)
        return live_view(sampler.figures, stack.processes, events.last, seconds, directory, console.width)

    if console.is_terminal:
        try:
            # A screen of its own: what changes its height would leave torn frames in the scrollback.
            with Live(get_renderable=view, console=console, refresh_per_second=4, screen=True):
                _wait_until(end)
        finally:
            console.print(view())
        return
    while (now := time.monotonic()) < end:
        _wait_until(min(now + _LINE_SECONDS, end))
        click.echo(figures_line(sampler.figures, stack.processes))


def _wait_until(end: float) -> None:
    """Wait in pieces: an event waited for without an end would not hear Ctrl-C everywhere."""
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))


def _shown(directory: Path) -> str:
    """The directory as a person would type it here."""
    here = Path.cwd()
    return f"{directory.relative_to(here) if directory.is_relative_to(here) else directory}/"


def _say_farewell(console: Console, stack: Stack) -> None:
    console.print(
        f"Stopped. Data and logs are in {_shown(stack.directory)}: the next start goes on from there;"
        " delete it to begin anew.",
        highlight=False,
        soft_wrap=True,
    )
