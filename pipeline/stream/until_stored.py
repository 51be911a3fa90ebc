"""Blocking ClickHouse calls, in threads, for as long as it takes.

Takes calls of a client, which it connects when the first one is made; gives their answers, or raises what will not
pass by itself. Calls in threads run beside the event loop, which goes on folding. Never decides what is stored: a call
that is repeated has to replace itself.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clickhouse_connect.driver.client import Client

from pipeline.errors import Transient
from pipeline.metrics import worker as metrics
from pipeline.stream.figures import observe_insert

_log = logging.getLogger(__name__)

_LONGEST_RETRY_SECONDS = 15.0
_Answer = TypeVar("_Answer")


class UntilStored:
    """Runs calls until they do not fail for a passing reason; at most two at a time."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None
        # Two threads: one insert at a time, and look-ups that need not wait for it.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="clickhouse")
        self._retried: set[object] = set()
        self._was_answered = False

    @property
    def is_answered(self) -> bool | None:
        """Whether no call is being tried again; none before the first answer. For metrics only."""
        return False if self._retried else self._was_answered or None

    async def __call__(self, call: Callable[[Client], _Answer], *, into: str = "") -> _Answer:
        """The call's answer; waits after a passing failure, twice as long each time, and repeats it.

        `into` names the table of an insert, whose answer says what could not be stored; empty: the call asks.
        """
        loop = asyncio.get_running_loop()
        this, delay_seconds = object(), 0.0
        try:
            while True:
                try:
                    return await loop.run_in_executor(self._threads, self._make, call, into)
                except Transient as error:
                    self._note_retry(this, into)
                    delay_seconds = min(
                        max(error.retry_after_seconds, delay_seconds * 2), _LONGEST_RETRY_SECONDS
                    )
                    _log.warning("ClickHouse is away, trying again in %.1f s: %s", delay_seconds, error)
                    await asyncio.sleep(delay_seconds)
        finally:
            self._retried.discard(this)

    def _note_retry(self, call: object, into: str) -> None:
        self._retried.add(call)
        metrics.INSERT_FAILURES.inc()
        if into:
            metrics.INSERTS.labels(into, "retried").inc()

    def _make(self, call: Callable[[Client], _Answer], into: str) -> _Answer:
        """One attempt, in a thread."""
        client = self._connected()
        began_at = time.perf_counter()
        answer = call(client)
        self._was_answered = True
        if into:
            observe_insert(into, time.perf_counter() - began_at, is_whole=not answer)
        return answer

    def _connected(self) -> Client:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def shutdown(self) -> None:
        """Ends the threads; for tests, as a worker's end with its process."""
        self._threads.shutdown()
