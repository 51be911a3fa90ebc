"""What may happen to a request between a worker and a server, and when: a function of the seed.

A request arrives after a while, or never; its answer comes after a while, or never. Whoever sent it may be killed at
the moment of sending, and what it had under way arrives all the same, or not: also much later, when others have gone
on. A worker may be frozen as it sends: what it has sent arrives, and it hears and sends nothing more until it thaws,
between a question and what it does with the answer, or between one write and the next.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random
from typing import Any

from tests.simulation.virtual_time import VirtualLoop

QUICK_SECONDS = 0.05
SLOW_SECONDS = 20.0
FROZEN_SECONDS = 40.0
ASKING, WRITING = 60, 10
"""So many times as often a worker is frozen as it asks whether it may write, and between its writes."""
_RATES = (0.0, 0.0, 0.01, 0.05, 0.2)


@dataclass
class Faults:
    """How often each fault happens, per request. All are 0 once the world is calm."""

    kill: float = 0.0
    """The worker is killed as it sends."""
    slow: float = 0.0
    """It takes up to 20 s, on its way there or back."""
    frozen: float = 0.0
    """Its sender is frozen for up to 20 s, and the group goes on without it."""
    refused: float = 0.0
    """ClickHouse fails before it has stored anything."""
    unanswered: float = 0.0
    """ClickHouse stores, and its answer is lost."""
    late: float = 0.0
    """ClickHouse is given up, and stores all the same when nobody expects it any more."""
    forgetful: float = 0.0
    """ClickHouse has forgotten the tokens of earlier inserts."""
    repeated: float = 0.0
    """What was sent arrives twice."""
    failed: float = 0.0
    """The broker refuses for good, which ends the worker."""

    @classmethod
    def draw(cls, chance: Random) -> "Faults":
        """Some faults often, some seldom, some never: a seed in which all happen at once finds less."""
        rates = {each.name: chance.choice(_RATES) for each in fields(cls)}
        return cls(
            **rates | {"kill": rates["kill"] / 4, "slow": rates["slow"] / 2, "failed": rates["failed"] / 10}
        )

    def calm(self) -> None:
        """Nothing goes wrong from now on."""
        for each in fields(self):
            setattr(self, each.name, 0.0)


@dataclass(eq=False)
class _Trip:
    """A request that has not arrived."""

    handle: asyncio.TimerHandle
    place: Any
    arrives_at: float


class Line:
    """One worker's requests."""

    def __init__(
        self,
        loop: VirtualLoop,
        chance: Random,
        faults: Faults,
        killed: Callable[[], None],
        may_freeze: Callable[[], bool],
        frozen: Callable[[float], None],
    ) -> None:
        """`killed` is called where the worker is killed, `frozen` where it is frozen, with the seconds it will be."""
        self._loop = loop
        self._chance = chance
        self.faults = faults
        self._killed = killed
        self._may_freeze = may_freeze
        self._frozen = frozen
        self._under_way: dict[_Trip, None] = {}
        self._last_arrival: dict[Any, float] = {}
        self._thaws_at = 0.0
        self.is_cut = False

    def happens(self, rate: float) -> bool:
        """Whether something happens this time."""
        return rate > 0 and self._chance.random() < rate

    def trip(self, call: Callable[[], Any], place: Any = None, *, delicacy: int = 1) -> asyncio.Future[Any]:
        """Makes the call when the request arrives, and gives what it gave. Requests to one place keep their order.

        `delicacy` says how much more there is to find than elsewhere if the worker is frozen here.
        """
        answered = self._loop.create_future()
        if self.is_cut:
            return answered  # Sent by a process that is no more.
        now = max(self._loop.time(), self._thaws_at)
        there, back = self._chance.random() * QUICK_SECONDS, self._chance.random() * QUICK_SECONDS
        if self.happens(self.faults.slow):
            if self._chance.random() < 0.5:
                there += self._chance.random() * SLOW_SECONDS
            else:
                back += self._chance.random() * SLOW_SECONDS
        arrives_at = max(now + there, self._last_arrival.get(place, 0.0) + 1e-6)
        if place is not None:
            self._last_arrival[place] = arrives_at
        trip = _Trip(
            self._loop.call_at(arrives_at, lambda: self._arrive(trip, call, back, answered)),
            place,
            arrives_at,
        )
        self._under_way[trip] = None
        if self.happens(self.faults.kill):
            self._killed()
        elif self._may_freeze() and self.happens(self.faults.frozen * delicacy):
            # Mostly short: it wakes while its successor recovers, or has just begun.
            seconds = self._chance.random() ** 2 * FROZEN_SECONDS
            self._thaws_at = now + seconds
            self._frozen(self._thaws_at - self._loop.time())
        return answered

    def _arrive(
        self, trip: _Trip, call: Callable[[], Any], back: float, answered: asyncio.Future[Any]
    ) -> None:
        del self._under_way[trip]
        try:
            given, error = call(), None
            if self.happens(self.faults.repeated):
                given = call()
        except Exception as raised:  # noqa: BLE001 - whatever a server answers with, its client is told
            given, error = None, raised
        self._loop.call_later(back, self._answer, answered, given, error)

    def _answer(self, answered: asyncio.Future[Any], given: Any, error: Exception | None) -> None:
        if answered.done():
            return
        if self._loop.time() < self._thaws_at:
            self._loop.call_at(self._thaws_at, self._answer, answered, given, error)
        elif error is None:
            answered.set_result(given)
        else:
            answered.set_exception(error)

    def cut(self) -> float:
        """The worker is gone: what it had under way arrives or not. Gives the time at which the last one does."""
        self.is_cut = True
        lost_places = set()
        last_at = self._loop.time()
        for trip in self._under_way:
            if self._chance.random() < 0.4 or (trip.place is not None and trip.place in lost_places):
                trip.handle.cancel()
                lost_places.add(trip.place)
            else:
                last_at = max(last_at, trip.arrives_at)
        return last_at
