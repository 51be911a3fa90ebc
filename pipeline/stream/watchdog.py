# ruff: noqa: SLF001, ANN401 - asks aiokafka's coordinator, as upstream's heartbeat does.
"""Noticing that this worker may have lost its partitions without knowing (mend G).

Decides that a process which stood still for too long must end, and whether the group still knows us. Takes
the event loop and the app; gives an end of the process, or an answer. Never joins or leaves a group.

Heartbeats come from the consumer's thread, so a worker whose main loop hangs keeps its partitions for ever
and one that was paused as a whole (SIGSTOP, a frozen virtual machine) loses them and does not know: it wakes
and writes old values over newer ones. Neither of the two remedies is enough alone: the watchdog sees the
pause but races with the loop that wakes beside it; `confirm_ownership` sees a lost session but not a pause
that begins behind its answer. What slips through both, recovery sorts out (pipeline/stream/changelog.py).
"""

import asyncio
import threading
import time
from typing import Any

from aiokafka.errors import KafkaError, NoError, for_code
from aiokafka.protocol.group import HeartbeatRequest

import pipeline.stream.pins  # noqa: F401 - uses private methods
from pipeline.stream.exits import ExitCode, end_process

_CHECKS_PER_LIMIT = 10
# Unlike the monotonic clock, this one also counts while the machine sleeps (Linux).
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now_seconds() -> float:
    return time.clock_gettime(_CLOCK)


class Watchdog:
    """A thread that ends the process when the event loop did not run for longer than the limit.

    The limit is half the session timeout: at that time the partitions are certainly still ours.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_seconds: float) -> None:
        self._loop = loop
        self._limit_seconds = limit_seconds
        self._interval_seconds = limit_seconds / _CHECKS_PER_LIMIT
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._beat_at_seconds = _now_seconds()
        self.lag_seconds = 0.0
        """How late the loop ran its last timer: what a metric shows."""

    def start(self) -> None:
        """Begin to watch; called in the loop."""
        self._beat_at_seconds = _now_seconds()
        self._loop.call_later(self._interval_seconds, self._beat)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; the worker is about to close its loop."""
        self._ended.set()

    def _beat(self) -> None:
        now = _now_seconds()
        self.lag_seconds = max(0.0, now - self._beat_at_seconds - self._interval_seconds)
        self._beat_at_seconds = now
        if not self._ended.is_set():
            self._loop.call_later(self._interval_seconds, self._beat)

    def _watch(self) -> None:
        # A paused process pauses this thread too. Its own gap is therefore judged like the loop's: the loop
        # may have beaten again before this thread runs.
        looked_at = _now_seconds()
        while not self._ended.wait(self._interval_seconds):
            now = _now_seconds()
            stalled_seconds = now - min(self._beat_at_seconds, looked_at)
            if stalled_seconds > self._limit_seconds:
                reason = f"the event loop stood still for {stalled_seconds:.1f} s"
                end_process(ExitCode.LOOP_STALLED, reason, with_stacks=True)
            looked_at = now


async def confirm_ownership(app: Any) -> bool:
    """Ask the group's coordinator, now, whether this worker's assignment is the current one.

    One round trip (a heartbeat of the current generation). False when the group knows us no longer, when it
    is rebalancing, or when nobody answers: then write nothing, and try again at the next checkpoint.
    """
    return not app.rebalancing and await is_still_assigned(app) and not app.rebalancing


async def is_still_assigned(app: Any) -> bool:
    """The same question while this worker takes its assignment up, which Faust counts to the rebalance."""
    thread = app.consumer._thread
    consumer = thread._ensure_consumer()
    answer: bool = await thread.call_thread(_is_member, consumer._coordinator, app.consumer_generation_id)
    return answer


async def _is_member(coordinator: Any, generation_id: int) -> bool:
    """Send what aiokafka/consumer/group_coordinator.py:799 sends, but read a rebalance as "no"."""
    if coordinator.generation != generation_id:
        return False
    request = HeartbeatRequest(coordinator.group_id, generation_id, coordinator.member_id)
    try:
        response = await coordinator._send_req(request)
    except KafkaError:
        return False
    return for_code(response.error_code) is NoError and coordinator.generation == generation_id
