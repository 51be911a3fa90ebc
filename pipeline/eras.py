"""In which era of the log this process works: what `msgmeter repartition` recorded, as settings.

Takes settings as the environment has them; gives those of the present era. An era after the first has a group,
changelogs and local files of its own: a worker of the era before can neither read nor write anything of them, also
one that wakes up late. Raises EraError, which says what to do, where a worker must not run.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from time import sleep

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.eras import RecordedEra, recorded_eras
from pipeline.clickhouse_clients import connect_clickhouse, connect_migrated
from pipeline.core.eras import FIRST_ERA, Era
from pipeline.errors import MsgmeterError, Transient
from pipeline.settings import Settings

_log = logging.getLogger(__name__)

_STOP_SECONDS = 1.0
"""A recovery that waits notices so late that it is to stop."""


class EraError(MsgmeterError):
    """The log's partitions are being changed, were changed, or cannot be changed so."""


def await_era(settings: Settings) -> Era:
    """The era that a worker of these settings works in; waits for a ClickHouse that is away."""
    while True:
        try:
            return present_era(connect_migrated(settings), settings)
        except Transient as error:
            _log.warning("which era of the log it is, ClickHouse knows, which is away: %s", error)
            sleep(error.retry_after_seconds)


def check_same_era(settings: Settings, era: Era, stopped: Callable[[], bool]) -> None:
    """Raises EraError where workers of these settings are no longer in `era`; asked by each that is in the group.

    One that asked when it started may join seconds later, when `repartition` has seen that nobody is there. Waits for a
    ClickHouse that is away, until `stopped`. Newer migrations are no fault: an upgrade applies them under old workers.
    """
    while not stopped():
        try:
            client = connect_clickhouse(settings)
            try:
                present = present_era(client, settings)
            finally:
                client.close()
        except Transient as error:
            _log.warning("which era of the log it is, ClickHouse knows, which is away: %s", error)
            sleep(min(error.retry_after_seconds, _STOP_SECONDS))
            continue
        if present != era:
            raise EraError(
                f"messages.raw is in era {present.number} since `msgmeter repartition`, and this worker in era"
                f" {era.number}: start it anew"
            )
        return


def present_era(client: Client, settings: Settings) -> Era:
    """The era that workers of these settings work in."""
    eras = recorded_eras(client)
    if eras and eras[-1].state == "begun":
        wanted = eras[-1].partitions
        raise EraError(
            f"Changing messages.raw to {wanted} partitions has begun and is not finished: run"
            f" `msgmeter repartition --partitions {wanted}` until it says that it is done, then start workers with"
            f" MSGMETER_PARTITIONS={wanted}"
        )
    last = last_ready(eras)
    if last is None:
        return FIRST_ERA
    if last.partitions != settings.partitions:
        raise EraError(
            f"messages.raw has {last.partitions} partitions since `msgmeter repartition`, but MSGMETER_PARTITIONS is"
            f" {settings.partitions}: set it to {last.partitions}"
        )
    return last.era


def last_ready(eras: list[RecordedEra]) -> RecordedEra | None:
    """The era that workers are in, or were in when the next was begun; none for the first."""
    return next((each for each in reversed(eras) if each.state == "ready"), None)


def settings_in(settings: Settings, number: int) -> Settings:
    """The settings with the group, the changelogs and the local files of an era, by its number."""
    if number == FIRST_ERA.number:
        return settings
    name = f"era{number}"
    return replace(
        settings,
        application=f"{settings.application}-{name}",
        state_directory=settings.state_directory / name,
    )
