"""Runs one worker until it is told to stop: `msgmeter worker`."""

import asyncio
import faulthandler
import logging
import os
import signal
import tempfile

import uvloop

from pipeline.clickhouse_clients import connect_migrated
from pipeline.core.eras import Era
from pipeline.errors import Transient
from pipeline.metrics.serving import serve_metrics
from pipeline.metrics.worker import REGISTRY
from pipeline.settings import DEVELOPMENT_KEY, Settings, SettingsError
from pipeline.stream.app import STOP_SECONDS, MeterApp, make_app
from pipeline.stream.chunks import calm_collector
from pipeline.topics import check_topics

_log = logging.getLogger(__name__)


def run_worker(settings: Settings, era: Era) -> None:
    """Meters until SIGINT or SIGTERM; then stores what is open and leaves the group. `settings` are of the era."""
    # A fault in one of the libraries' C code ends the process without a word; its stacks then go to the log.
    faulthandler.enable()
    for name in ("command_key", "counterparty_key"):
        if getattr(settings, name) == DEVELOPMENT_KEY:
            _log.warning(
                "MSGMETER_%s is not set: the development key is used, which anybody knows; set one of your own",
                name.upper(),
            )
    _check_surroundings(settings)
    _log.info("metrics on %s", serve_metrics(REGISTRY, settings.metrics_host, settings.metrics_port))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, era))
    # Whatever could be stored is stored. A thread may still wait for an answer of ClickHouse: not for us any more.
    logging.shutdown()
    os._exit(0)


def _check_surroundings(settings: Settings) -> None:
    """Raises, before anybody else notices this worker, where it could not keep its promises here."""
    check_topics(settings)
    try:
        connect_migrated(settings).close()
    except Transient as error:
        # A worker may start while it is away; it is asked again before the first rows are stored.
        _log.warning("whether the database has the tables of this program is not known yet: %s", error)
    directory = settings.state_directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise SettingsError(
            f"MSGMETER_STATE_DIRECTORY {directory} cannot be written ({error.strerror}): name another one, or let this"
            " user write there"
        ) from error


async def _run(settings: Settings, era: Era) -> None:
    app = make_app(settings, era)
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    calm_collector()
    await app.start()
    try:
        await _until_stopped(app, told_to_stop)
        await app.leave()
    finally:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await app.stop()
        except TimeoutError:
            _log.warning("Kafka did not answer the farewell in %.0f s; the group will notice", STOP_SECONDS)


async def _until_stopped(app: MeterApp, told_to_stop: asyncio.Event) -> None:
    """Returns when told to stop; raises when the app has crashed by itself."""
    stopping = asyncio.create_task(told_to_stop.wait())
    ending = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    ending.cancel()
    if app.crashed:
        raise RuntimeError(f"the worker crashed: {app.crash_reason!r}")
