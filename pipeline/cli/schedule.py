"""`msgmeter schedule`: lets time pass for tenants that nothing is heard of, so that they renew too.

An account changes by itself when a period, a grant, a reservation or a trial ends. Any record of its tenant brings
that about; without one, somebody has to say that it is time. This process asks ClickHouse which accounts are due and
sends each a signed `tick`. It decides nothing: the worker that owns the tenant posts what is due, at its own instant.
Besides, it serves metrics, its own and those of the whole (`pipeline.fleet`), as it goes on when every worker is gone.

Invariants
- The id and the instant of a tick are made of what is due, so ticks of two schedulers, of a restart or of a second
  round are the same command, and the second has nothing left to do.
- Nothing due is missed by downtime: what is due stays due until the account is stored as renewed.
- A tick is repeated a minute after it was sent at the earliest, since an account is stored at checkpoints only, and
  then less and less often: a worker that is away for a day must not come back to a log full of ticks.
- ClickHouse or Kafka being away is waited for; a fault that would come again ends the process.
- Nothing of the metrics keeps a tick waiting.
"""

import logging
import signal
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import sleep
from typing import NamedTuple, NoReturn

import click
import orjson
from clickhouse_connect.driver.client import Client

from pipeline.cli.traffic import now
from pipeline.clickhouse.queries import accounts_due
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.errors import Transient
from pipeline.fleet import EVERY_SECONDS, Fleet
from pipeline.logfile import LogRecord, sign_plain
from pipeline.logs import set_up_logs
from pipeline.metrics.registry import Values
from pipeline.metrics.scheduler import FLEET, LAST_ROUND, REGISTRY, TICKS_REPEATED, TICKS_SENT
from pipeline.metrics.serving import serve_metrics
from pipeline.sending import LogSender
from pipeline.settings import Settings, load_settings

REPEAT_MILLISECONDS = 60_000
"""Several checkpoints: by then an account that was ticked is stored as renewed, unless no worker runs."""
_LONGEST_REPEAT_MILLISECONDS = 3_600_000
METRICS_PORT = 9465
_REQUEST_SECONDS = 10
"""For one question or one batch of ticks; a stop waits no longer than this."""

_log = logging.getLogger("msgmeter.schedule")

Due = tuple[str, int]
"""A tenant, and the instant at which its account is due."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did."""

    due: int
    """Accounts that are due and that were looked at."""
    sent: int
    """Ticks sent; those of the others were sent not long ago."""
    repeated: int
    """Those of them that were sent before: many say that no worker runs, or one with another key."""
    first_due_at: int
    """Of those sent; 0 for none."""


class _Repeat(NamedTuple):
    """When a tick is sent again if its account is still due, and how long after the last time that is."""

    at: int
    wait_milliseconds: int


class Scheduler:
    """Rounds of asking and sending; connects when it needs to, and again after an error."""

    def __init__(self, settings: Settings, limit: int) -> None:
        self._settings = settings
        self._limit = limit
        self._client: Client | None = None
        self._sender: LogSender | None = None
        self._repeat_by_due: dict[Due, _Repeat] = {}
        """What was sent and is still due."""
        self.last: Round | None = None
        """What the last round did; None where it could not be done."""

    def round(self, at: int) -> Round:
        """Send ticks for accounts due at `at` (epoch milliseconds) or before, the longest due first.

        Raises Transient where ClickHouse or Kafka is away; the next round then asks and sends anew.
        """
        try:
            self.last = self._round(at)
        except Transient:
            self.last = None
            raise
        TICKS_SENT.inc(self.last.sent)
        TICKS_REPEATED.inc(self.last.repeated)
        LAST_ROUND.set_to_current_time()
        return self.last

    def _round(self, at: int) -> Round:
        due = self._ask(at)
        # What is no longer due was renewed, and is forgotten.
        repeats = {each: self._repeat_by_due[each] for each in due if each in self._repeat_by_due}
        wanted = [each for each in due if each not in repeats or repeats[each].at <= at][: self._limit]
        if wanted:
            self._send(wanted)
        self._repeat_by_due = repeats | {each: _next_repeat(repeats.get(each), at) for each in wanted}
        repeated = sum(each in repeats for each in wanted)
        return Round(len(due), len(wanted), repeated, wanted[0][1] if wanted else 0)

    def _ask(self, at: int) -> list[Due]:
        # Those that wait for their worker must not keep others from being seen.
        limit = self._limit + len(self._repeat_by_due)
        try:
            if self._client is None:
                self._client = connect_clickhouse(self._settings, request_timeout_seconds=_REQUEST_SECONDS)
            return accounts_due(self._client, at, limit)
        except Transient:
            self._client = None
            raise

    def _send(self, wanted: list[Due]) -> None:
        if self._sender is None:
            self._sender = LogSender(self._settings)
        sender, secret = self._sender, self._settings.command_key.encode()
        try:
            for tenant, due_at in wanted:
                sender.send(sign_plain(tick(tenant, due_at), secret))
            sender.flush(_REQUEST_SECONDS)
        except Transient:
            self._sender = None
            raise
        if sender.refused_count:
            self._sender = None
            text = f"The broker did not take {sender.refused_count} ticks: {sender.errors[0]}"
            raise Transient(text, retry_after_seconds=5.0)


def _next_repeat(last: _Repeat | None, at: int) -> _Repeat:
    wait = min(2 * last.wait_milliseconds, _LONGEST_REPEAT_MILLISECONDS) if last else REPEAT_MILLISECONDS
    return _Repeat(at + wait, wait)


def tick(tenant: str, due_at: int) -> LogRecord:
    """The command that lets time reach what is due; equal for equal arguments, whoever makes it."""
    command = {"type": "tick", "id": f"tick:{due_at}", "tenant": tenant, "effective_at": due_at}
    return LogRecord(tenant.encode(), orjson.dumps(command), is_plain_command=True)


@click.command()
@click.option("--once", is_flag=True, help="One round, and an error where a service is away.")
@click.option(
    "--every-seconds",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="From round to round.",
)
@click.option(
    "--limit",
    default=10_000,
    show_default=True,
    type=click.IntRange(1),
    help="Most ticks in one round; after downtime the longest due come first.",
)
@click.option(
    "--watch-seconds",
    default=EVERY_SECONDS,
    show_default=True,
    type=click.FloatRange(0.1),
    help="From one look at the whole to the next.",
)
@click.option(
    "--metrics-port",
    default=METRICS_PORT,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port of /metrics; 0: any free one.",
)
def schedule(once: bool, every_seconds: float, limit: int, watch_seconds: float, metrics_port: int) -> None:
    """Renew accounts of idle tenants in time, and tell how the whole stands, until it is stopped."""
    settings = load_settings()
    scheduler = Scheduler(settings, limit)
    if once:
        click.echo(_told(scheduler.round(now())))
        return
    set_up_logs("scheduler", settings.log_format, settings.log_level)
    # As Ctrl-C does. A round may be cut anywhere: what was not sent is still due, and twice does no harm.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    url = serve_metrics(REGISTRY, settings.metrics_host, metrics_port, "--metrics-port")
    _log.info("looks every %g s for accounts that are due; metrics on %s", every_seconds, url)
    with suppress(KeyboardInterrupt), Fleet(settings, watch_seconds) as fleet:
        FLEET.read_from(lambda: _figures(scheduler, fleet))
        _run(scheduler, every_seconds)
    _log.info("stopped")


def _figures(scheduler: Scheduler, fleet: Fleet) -> Values:
    last = scheduler.last
    return {**fleet.values(), **({} if last is None else {"accounts_due": last.due})}


def _run(scheduler: Scheduler, every_seconds: float) -> NoReturn:
    """Do round after round; logs those that sent something, and the first error of an outage."""
    outage = ""
    while True:
        try:
            done = scheduler.round(now())
        except Transient as error:
            if str(error) != outage:
                outage = str(error)
                _log.warning("%s; tried again until it answers", outage)
            sleep(error.retry_after_seconds)
            continue
        if outage:
            _log.info("everything answers again")
            outage = ""
        if done.sent:
            _log.info("%s", _told(done))
        sleep(every_seconds)


def _told(done: Round) -> str:
    if not done.sent:
        return f"accounts due: {done.due}, no tick to send"
    first = datetime.fromtimestamp(done.first_due_at // 1000, UTC)
    again = f" ({done.repeated} of them again)" if done.repeated else ""
    return f"accounts due: {done.due}, ticks sent: {done.sent}{again}, the first due at {first:%Y-%m-%dT%H:%M:%SZ}"
