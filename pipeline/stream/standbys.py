"""Keeping partitions that others own up to date, so that taking them over reads only the last records.

Decides how fast and for how long. Takes tables, partitions and the broker; changes the local stores of those
partitions, in one thread of its own. Never writes to Kafka, never repeats a winner, and never touches a partition
that this worker owns: `stop` returns when the thread has ended, and nobody opens, closes or reads a followed
partition before that.

A partition whose file is locked, unreadable or on a failing disk is left out, and tried again later, because the
process may own others, of which all is well. Only a bug, and a full disk (pipeline/stream/disk.py), end it.

What a standby has to remember besides values (deletions, losers that came last) is kept with the values by the store,
so an owner goes on where the standby was (pipeline/stream/notes.py).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaException

from pipeline.core.kept import KeptValueError
from pipeline.errors import MsgmeterError
from pipeline.stream.exits import ExitCode, end_process
from pipeline.stream.replaying import Replaying
from pipeline.stream.tables import ChangelogTable

_log = logging.getLogger(__name__)

_GENTLE = {
    # Of librdkafka: at most so much waits for the thread, and what is read is asked for in small portions.
    "queued.min.messages": 5_000,
    "queued.max.messages.kbytes": 8_192,
    "fetch.max.bytes": 4 * 1024 * 1024,
    "fetch.queue.backoff.ms": 100,
    "fetch.wait.max.ms": 500,
    # A broker that comes and goes is no news while nobody waits for it.
    "log_level": 2,
}
# The owner's loop gets so many times what a batch took. Not by the thread's priority: one that waits for a processor
# while it holds the interpreter would let everybody wait.
_REST = 2
_RETRY_SECONDS = 5.0
_FORGETTING_SECONDS = 3_600.0


class Standbys:
    """At most one thread that follows the changelogs of some partitions; used from the event loop."""

    def __init__(self, kafka: Mapping[str, str], remembered_seconds: float) -> None:
        """`kafka` is librdkafka's configuration of a client.

        A deletion is remembered for `remembered_seconds`: no older value may be appended later than that.
        """
        self._kafka = dict(kafka)
        self._remembered_seconds = remembered_seconds
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._replaying: Replaying | None = None

    def follow(
        self, tables: Iterable[ChangelogTable], partitions: frozenset[int], *, is_urgent: bool = False
    ) -> None:
        """Begin to follow; nothing may be followed already. An urgent one takes no rest and all the room it can use."""
        assert self._thread is None, "a partition could be read twice at once"
        if not partitions:
            return
        self._ended = threading.Event()  # A new one: the thread before, though it has ended, has its own.
        self._replaying = None
        self._thread = threading.Thread(
            target=self._follow, args=(list(tables), partitions, is_urgent), name="standbys", daemon=True
        )
        self._thread.start()

    async def stop(self) -> tuple[int, int]:
        """End the thread and wait for it; gives the records it has read, and the bytes of their values."""
        thread, self._thread = self._thread, None
        if thread is None:
            return 0, 0
        self._ended.set()
        await asyncio.to_thread(thread.join)
        replaying, self._replaying = self._replaying, None
        return (replaying.records, replaying.size_bytes) if replaying is not None else (0, 0)

    @property
    def records_behind(self) -> int | None:
        """How many records the followed partitions are behind their changelogs; none while nobody has looked."""
        replaying = self._replaying
        return sum(list(replaying.behind.values())) if replaying is not None else None

    @property
    def partitions_followed(self) -> int:
        """How many partitions are followed."""
        replaying = self._replaying
        return replaying.complete_partitions if replaying is not None else 0

    def _follow(self, tables: list[ChangelogTable], partitions: frozenset[int], is_urgent: bool) -> None:
        ended = self._ended
        while not ended.is_set():
            try:
                replaying = Replaying(self._kafka, tables, partitions, ended.is_set)
                replaying.open(is_owner=False)
                self._replaying = replaying
                if is_urgent:
                    _follow_opened(replaying, ended, _no_rest, {})
                else:
                    rest = _Rest(ended, replaying, self._remembered_seconds)
                    _follow_opened(replaying, ended, rest, _GENTLE)
            except (MsgmeterError, KeptValueError, KafkaException, OSError) as error:
                # What hinders all of them. Taking over reads what is missing, or says what is wrong.
                self._replaying = None
                _log.warning("partitions are not followed for a while: %s", error)
                ended.wait(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - a bug, which would harm an owner as well
                end_process(ExitCode.RECOVERY_FAILED, f"following changelogs failed: {error!r}", cause=error)


def _follow_opened(
    replaying: Replaying, ended: threading.Event, rest: Callable[[], None], fetching: Mapping[str, int]
) -> None:
    """Follow what is open until the end, and try again, now and then, to open what is not."""
    tried_at_seconds = time.monotonic()

    def is_over() -> bool:
        """Whether to end, or to go on with more partitions."""
        nonlocal tried_at_seconds
        if ended.is_set() or not replaying.may_open_more:
            return ended.is_set()
        if time.monotonic() - tried_at_seconds < _RETRY_SECONDS:
            return False
        tried_at_seconds = time.monotonic()
        return replaying.open(is_owner=False)

    while not ended.is_set():
        replaying.follow(rest, fetching, is_over)
        if not replaying.is_open:
            ended.wait(_RETRY_SECONDS)
            is_over()


def _no_rest() -> None:
    """Go on at once."""


class _Rest:
    """What a standby does between two batches: nothing, for longer than the batch took; and it forgets, by and by."""

    def __init__(self, ended: threading.Event, replaying: Replaying, remembered_seconds: float) -> None:
        self._ended = ended
        self._replaying = replaying
        self._remembered_seconds = remembered_seconds
        self._worked_seconds = time.thread_time()
        self._forgot_at_seconds = time.monotonic()

    def __call__(self) -> None:
        worked_seconds = time.thread_time()
        self._ended.wait(_REST * (worked_seconds - self._worked_seconds))
        self._worked_seconds = worked_seconds
        if time.monotonic() - self._forgot_at_seconds > _FORGETTING_SECONDS:
            self._forgot_at_seconds = time.monotonic()
            self._replaying.forget_deleted_before(int((time.time() - self._remembered_seconds) * 1000))
