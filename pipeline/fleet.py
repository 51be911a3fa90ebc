"""How the whole deployment looks from outside: what one process watches, whoever else is alive.

Takes settings; asks Kafka and ClickHouse every few seconds, each in a thread of its own, and gives what they said last
as figures of `pipeline.metrics.scheduler.FLEET`. Decides nothing, and changes nothing in either.

Invariants
- Neither source waits for the other, and nobody waits for either: a scrape gives what is known.
- What could not be read in the last round, or for a minute, is not given at all: an old figure would look like a
  healthy one. Which source it is, `kafka_up` and `clickhouse_up` say where it is away, and `kafka_refuses` and
  `clickhouse_refuses` where it answers and refuses: a login or a permission that is gone is no outage of the others.
- Which group the workers are in follows from the era of the log, which ClickHouse knows. While it is away it is the one
  that was known last; as long as none was known, nothing is said of a group.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.eras import recorded_eras
from pipeline.clickhouse.queries import fleet_accounts, tenants_unalerted
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.eras import FIRST_ERA
from pipeline.eras import last_ready, settings_in
from pipeline.errors import MsgmeterError, Transient
from pipeline.group_lag import GroupWatch
from pipeline.metrics.registry import Values
from pipeline.settings import Settings

EVERY_SECONDS = 15.0
FORGOTTEN_SECONDS = 60.0
"""Figures that should have been read so long ago are not given any more: a question still waits for its answer."""
_REQUEST_SECONDS = 30
"""With millions of accounts a question takes a second or two."""
_ERA_SECONDS = 5.0
"""So long a round of Kafka waits for ClickHouse's first answer: else each start would say nothing of the group."""

_STOP_SECONDS = 1.0

_log = logging.getLogger("msgmeter.fleet")


class _Round(NamedTuple):
    """What the last round of a source brought."""

    ended_at: float
    """Seconds of a clock that never steps."""
    values: Values | None
    """None where it could not be asked."""
    is_up: bool | None
    """Whether it answered, be it with a refusal; None where it is not its fault that nothing was brought."""


class Watch:
    """Asks one source again and again, in a thread, and keeps what it said last."""

    def __init__(self, name: str, ask: Callable[[], Values], every_seconds: float) -> None:
        """`ask` raises MsgmeterError where its source does not answer; the next round then asks again."""
        self._name = name
        self._ask = ask
        self._every_seconds = every_seconds
        self._last: _Round | None = None
        self._outage = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)
        self.success_at = 0.0
        """When it was last answered, in seconds since 1970; 0: never."""

    def start(self) -> None:
        """Asks from now on."""
        self._thread.start()

    def stop(self, deadline_seconds: float) -> None:
        """Asks no more; a question on its way is not waited for longer than that."""
        self._stopping.set()
        self._thread.join(deadline_seconds)

    @property
    def is_up(self) -> bool | None:
        """Whether the last round was answered, be it with a refusal, and lately.

        None before the first one has ended, and where it ended for a reason that was not foreseen.
        """
        last = self._last
        return None if last is None else last.is_up and self._is_lately(last)

    @property
    def refuses(self) -> bool:
        """Whether the last round was answered with a refusal: we may not, or what we ask for is not there."""
        return self.is_up is True and self.values is None

    @property
    def values(self) -> Values | None:
        """What it said, where it was asked in time and answered the last time."""
        last = self._last
        return last.values if last is not None and self._is_lately(last) else None

    def ask_once(self) -> None:
        """One round."""
        try:
            values = self._ask()
        except (Transient, TimeoutError) as error:
            self._note(str(error) or "no answer in time", is_up=False)
        except MsgmeterError as error:
            self._note(str(error), is_up=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end what else this process does
            self._note(f"for a reason that was not foreseen: {error!r}", is_up=None)
        else:
            if self._outage:
                _log.info("%s answers again, and is watched", self._name)
            self._outage = ""
            self.success_at = time.time()
            self._last = _Round(time.monotonic(), values, is_up=True)

    def _is_lately(self, last: _Round) -> bool:
        return time.monotonic() - last.ended_at <= self._every_seconds + FORGOTTEN_SECONDS

    def _note(self, outage: str, *, is_up: bool | None) -> None:
        self._last = _Round(time.monotonic(), None, is_up)
        if outage != self._outage:
            _log.warning("%s cannot be watched: %s", self._name, outage)
        self._outage = outage

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.ask_once()
            self._stopping.wait(self._every_seconds)


class Fleet:
    """The two sources together."""

    def __init__(self, settings: Settings, every_seconds: float = EVERY_SECONDS) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._group: GroupWatch | None = None
        self._application = ""
        """The group that `_group` asks about."""
        self._era_number: int | None = None
        self._is_era_known = threading.Event()
        self._kafka = Watch("Kafka", self._ask_kafka, every_seconds)
        self._clickhouse = Watch("ClickHouse", self._ask_clickhouse, every_seconds)

    def __enter__(self) -> Self:
        self._clickhouse.start()
        self._kafka.start()
        return self

    def __exit__(self, *_: object) -> None:
        for watch in (self._clickhouse, self._kafka):
            watch.stop(_STOP_SECONDS)

    def values(self) -> Values:
        """What is known now."""
        known: dict[str, float | Mapping[str, float]] = {}
        for name, watch in (("kafka", self._kafka), ("clickhouse", self._clickhouse)):
            if watch.is_up is not None:
                known |= {f"{name}_up": float(watch.is_up), f"{name}_refuses": float(watch.refuses)}
            known |= watch.values or {}
        # As old as the source that was silent for longer.
        success_at = min(self._kafka.success_at, self._clickhouse.success_at)
        if success_at:
            known["fleet_last_success_timestamp_seconds"] = success_at
        return known

    def _ask_clickhouse(self) -> Values:
        try:
            if self._client is None:
                self._client = connect_clickhouse(self._settings, request_timeout_seconds=_REQUEST_SECONDS)
            # Also of an era that is being changed from, or to a number of partitions that we do not have.
            era = last_ready(recorded_eras(self._client))
            self._era_number = era.era.number if era else FIRST_ERA.number
            self._is_era_known.set()
            now = time.time_ns() // 1_000_000
            accounts = fleet_accounts(self._client, now)
            unalerted = tenants_unalerted(self._client, now)
        except BaseException:
            if self._client is not None:
                self._client.close()
            self._client = None
            raise
        waits_seconds = (now - accounts.recharge_asked_at) / 1000 if accounts.recharge_count else 0
        return {
            "tenants": accounts.accounts,
            "tenants_over_level": {str(level): count for level, count in accounts.count_by_level.items()},
            "tenants_unalerted": unalerted,
            "recharges_unanswered": accounts.recharge_count,
            "recharge_oldest_unanswered_seconds": max(waits_seconds, 0),
        }

    def _ask_kafka(self) -> Values:
        self._is_era_known.wait(_ERA_SECONDS)
        era_number = self._era_number
        settings = self._settings if era_number is None else settings_in(self._settings, era_number)
        try:
            if self._group is not None and self._application != settings.application:
                self._hang_up()
            if self._group is None:
                self._group = GroupWatch(settings)
                self._application = settings.application
            partitions = self._group.partitions()
            if era_number is None:
                return {"partitions": partitions}
            lag = self._group.lag(partitions)
        except BaseException:
            self._hang_up()
            raise
        behind_seconds = time.time() - lag.oldest_at / 1000 if lag.oldest_at else 0
        return {
            "partitions": partitions,
            "group_members": lag.members,
            "group_lag_offsets": lag.lag_offsets,
            "group_lag_seconds": max(behind_seconds, 0),
        }

    def _hang_up(self) -> None:
        if self._group is not None:
            self._group.close()
        self._group = None
