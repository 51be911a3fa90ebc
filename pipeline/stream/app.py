"""The Faust application: settings in, an app whose agent meters `messages.raw`.

One agent instance per partition takes chunks and hands them to the `Meter`, which closes epochs for all of them.
Faust keeps the group, the assignment, the tables with their recovery, and the commits; what it does unsoundly
is mended beside this file, each mend with a test.
"""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Any

import faust
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from pipeline.clickhouse_clients import connect_migrated
from pipeline.core.eras import FIRST_ERA, Era
from pipeline.core.kept import KeptValueError
from pipeline.eras import check_same_era
from pipeline.kafka_clients import kafka_configuration, kafka_tls
from pipeline.metrics import worker as metrics
from pipeline.rules import make_rules
from pipeline.settings import Settings
from pipeline.stream.chunks import ChunkTransport, Untouched, transport_settings
from pipeline.stream.epochs import Meter
from pipeline.stream.exits import ExitCode, end_process, ends_process_on_error
from pipeline.stream.figures import LogPlace, read_state
from pipeline.stream.log_ends import LogEnds
from pipeline.stream.machine import disk_bytes, memory_limit_bytes
from pipeline.stream.partitions import Tables
from pipeline.stream.producer import BarrierProducer
from pipeline.stream.recovery import MeterTableManager
from pipeline.stream.rocksdb_files import UnusableFileError
from pipeline.stream.sensors import SendErrorEndsProcess
from pipeline.stream.tables import ChangelogTable, StateTable
from pipeline.stream.watchdog import Watchdog, confirm_ownership
from pipeline.topics import MESSAGES_RAW, compaction_lag_milliseconds

_log = logging.getLogger(__name__)

STOP_SECONDS = 20.0
"""How long a leaving worker may take to store its last epoch before its successor replays it instead."""


class _Transport(ChunkTransport):
    """Chunks in, and a producer whose flush is a barrier."""

    Producer = BarrierProducer


class MeterApp(faust.App):  # type: ignore[misc]
    """A Faust app with the meter in it."""

    meter: Meter
    session_seconds: int
    watchdog: Watchdog | None = None
    log_ends: LogEnds
    _background: tuple[asyncio.Task[None], ...] = ()

    async def on_started(self) -> None:
        """Starts closing epochs once tables are recovered."""
        await super().on_started()
        self.watchdog = Watchdog(asyncio.get_running_loop(), self.session_seconds / 2)
        self.watchdog.start()
        self._background = (
            asyncio.create_task(self._close_epochs(), name="epochs"),
            asyncio.create_task(self.log_ends.keep_asking(), name="log-ends"),
        )

    async def _close_epochs(self) -> None:
        try:
            await self.meter.run()
        except Exception as error:  # noqa: BLE001 - what may not pass by itself ends the process
            end_process(ExitCode.AGENT_FAILED, f"an epoch could not be closed: {error!r}", cause=error)

    async def leave(self) -> None:
        """Stores and acknowledges what is open, within a deadline; called before `stop`."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.meter.stop()
        except TimeoutError:
            _log.warning("the last epoch could not be stored in %.0f s; it will be replayed", STOP_SECONDS)
        finally:
            for task in self._background:
                task.cancel()
            if self.watchdog is not None:
                self.watchdog.stop()


def make_app(settings: Settings, era: Era = FIRST_ERA) -> MeterApp:
    """A worker's app in an era of the log; one per process, started once."""
    servers = settings.kafka.split(",")
    app = MeterApp(
        settings.application,
        broker=[f"aiokafka://{server}" for server in servers],
        broker_credentials=_credentials(settings),
        store="memory://" if settings.store == "memory" else "rocksdb://",
        datadir=str(settings.state_directory),
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        Table=ChangelogTable,
        TableManager=partial(
            MeterTableManager,
            kafka=kafka_configuration(settings),
            source_topic=MESSAGES_RAW,
            remembered_seconds=compaction_lag_milliseconds(settings) / 1000,
            check_era=partial(check_same_era, settings, era),
        ),
        table_standby_replicas=settings.standbys,
        broker_session_timeout=float(settings.session_seconds),
        broker_heartbeat_interval=settings.session_seconds / 5,
        broker_max_poll_interval=settings.outage_minutes * 60.0,
        broker_commit_interval=1.0,
        producer_linger=0.02,
        producer_max_batch_size=256 * 1024,
        producer_max_request_size=4 * 1024 * 1024,
        producer_compression_type="lz4",
        **transport_settings(),
    )
    app.session_seconds = settings.session_seconds
    app.log_ends = LogEnds(app, MESSAGES_RAW)
    app.sensors.add(SendErrorEndsProcess())
    app.transport = _Transport(app.conf.broker_consumer, app, topics=[MESSAGES_RAW])
    tables = Tables(
        # Deltas are named after where a worker began them (pipeline/core/identity_deltas.py).
        identities=StateTable(app, "ids", partitions=settings.partitions, keys_follow_log=False),
        windows=StateTable(app, "windows", partitions=settings.partitions),
        accounts=StateTable(app, "accounts", partitions=settings.partitions),
    )
    app.meter = Meter(
        settings,
        make_rules(settings, era=era),
        tables,
        connect=partial(connect_migrated, settings),
        producer=partial(_producer_of, app),
        owns=partial(confirm_ownership, app),
        commit=partial(_commit, app),
        generation=partial(_generation_of, app),
        reads_from=partial(_reads_from, app),
    )
    _declare_agent(app)
    _watch_assignment(app)
    memory_limit = memory_limit_bytes()
    metrics.STATE.read_from(
        lambda: read_state(app.meter.partitions, app.tables.assignment(), partial(_log_place, app)),
        app.meter.figures,
        app.tables.standby_figures,
        lambda: {**disk_bytes(settings.state_directory), "memory_limit_bytes": memory_limit},
    )
    return app


def _credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """The login and certificates that librdkafka's clients have, as Faust hands them to aiokafka's."""
    tls = kafka_tls(settings)
    if settings.kafka_user:
        return faust.SASLCredentials(
            username=settings.kafka_user,
            password=settings.kafka_password,
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=tls,
        )
    return faust.SSLCredentials(tls) if tls else None


def _declare_agent(app: MeterApp) -> None:
    raw = app.topic(MESSAGES_RAW, schema=Untouched())

    @app.agent(raw, isolated_partitions=True, name="meter")  # type: ignore[untyped-decorator]
    @ends_process_on_error
    async def meter(stream: Any) -> None:  # noqa: ANN401 - Faust's streams are untyped
        async for event in stream.noack().events():
            try:
                await app.meter.take(event, event.message.partition)
            except (KeptValueError, UnusableFileError) as error:
                end_process(ExitCode.RECOVERY_FAILED, f"partition {event.message.partition}: {error}")
            except asyncio.CancelledError:
                # The partition went to another worker while this waited for its turn, for room or for an answer.
                # Faust would take the cancellation for a crash (faust/agents/agent.py:699), start agents anew
                # for partitions that are gone, and end the worker at the third within a second.
                return


def _watch_assignment(app: MeterApp) -> None:
    @app.on_partitions_revoked.connect(weak=False)  # type: ignore[untyped-decorator]
    async def on_revoked(_: object, revoked: set[TP], **__: object) -> None:
        app.meter.revoke({tp.partition for tp in revoked if tp.topic == MESSAGES_RAW})


def _producer_of(app: MeterApp) -> Any:  # noqa: ANN401 - aiokafka is untyped
    return app.producer._ensure_producer()  # noqa: SLF001 - Faust has no public way to the producer it runs


def _generation_of(app: MeterApp) -> int:
    generation: int = app.consumer_generation_id
    return generation


def _reads_from(app: MeterApp, partition: int) -> int:
    offset: int = app.consumer.reads_from(TP(MESSAGES_RAW, partition))
    return offset


async def _commit(app: MeterApp) -> None:
    await app.consumer.commit()


def _log_place(app: MeterApp, partition: int) -> LogPlace:
    """What is known of a partition's log; asked in another thread, perhaps before there is a consumer."""
    reads_from, fetched = None, None
    if app.consumer:
        with suppress(KeyError):  # Its reading has not begun.
            reads_from = _reads_from(app, partition)
        # A rebalance may have taken the partition away meanwhile, which aiokafka asserts.
        with suppress(AssertionError, ConsumerNotStarted):
            fetched = app.consumer.highwater(TP(MESSAGES_RAW, partition))
    ends = [end for end in (fetched, app.log_ends.end(partition)) if end is not None]
    return LogPlace(reads_from, max(ends, default=None))
