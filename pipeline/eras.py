"""In which era of the log this process works: what `msgmeter repartition` recorded, as settings.

Takes settings as the environment has them; gives those of the present era. An era after the first has a group,
changelogs and local files of its own: a worker of the era before can neither read nor write anything of them, also
one that wakes up late. Raises EraError, which says what to do, where a worker must not run.
"""

import logging
from dataclasses import replace
from time import sleep

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.eras import RecordedEra, recorded_eras
from pipeline.clickhouse_clients import connect_migrated
from pipeline.core.eras import FIRST_ERA, Era
from pipeline.errors import MsgmeterError, Transient
from pipeline.settings import Settings

_log = logging.getLogger(__name__)


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
