# ruff: noqa: SLF001, ANN401 - it overrides private methods of untyped libraries, each with its upstream line.
"""The thread that owns the aiokafka consumer: fetches, parses, and cuts the chunked topics' records.

Decides when the log is read, from which partitions, and how much at a time. Takes the partitions Faust wants
to read now and asks the consumer (`pipeline.stream.chunks`) which of them travel in chunks and have room;
gives, per poll, one chunk per such partition and the stock way's records of all others. Never makes events,
never commits, never runs in the main thread but for `look_for_room`.

Invariants:
- a poll gives at most one chunk per partition, and only if its queue had room when the poll looked;
- a partition without room holds back neither other partitions nor the group's liveness;
- what was fetched for an earlier generation of the group, or while Faust's flow is stopped, is not given.

Line numbers are those of the pinned versions: driver = faust/transport/drivers/aiokafka.py.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver

import pipeline.stream.pins  # noqa: F401 - the private methods overridden here were read in the pinned versions only
from pipeline.stream.cutter import Chunk, ChunkCutter

if TYPE_CHECKING:
    from collections.abc import Collection

    from faust.types import TP

    from pipeline.stream.chunks import ChunkConsumer

# A broker answers a fetch when it has so many bytes, or after so long. Every fetch asks about every partition
# and makes a chunk of each that has something: some 5 ms of CPU for 32 partitions, however few records come.
# So a trickle of records waits for company, 12 ms on average; at 2 000 records/s that halves the CPU. It
# also bounds how long a partition that can be read again stands behind the one fetch per broker under way.
_FETCH_MIN_BYTES = 32_768
_FETCH_MAX_WAIT_MS = 25
# Bytes of one answer, over all partitions. aiokafka copies it twice on the way to the partitions' batches, so
# its own bound of 50 MiB is up to 150 MiB in memory.
_FETCH_MAX_BYTES = 16 * 1_048_576
# aiokafka holds back every fetch from a broker while records of one of its partitions lie unread, for this
# long (consumer/fetcher.py:606, 0.1 s by default). It is worth a little, because a fetch that leaves a
# partition out makes it wait for the next one; a partition without room must not slow down the others.
_PREFETCH_BACKOFF_SECONDS = 0.02
# Looks for room again after this while chunks are ready and no queue has room. Faust reports room only when
# a queue runs (nearly) empty (mode/utils/queues.py:174), and a queue of few slots should be refilled before.
_ROOM_POLL_SECONDS = 0.02


class ChunkConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with a poll of its own."""

    consumer: ChunkConsumer

    def __post_init__(self) -> None:
        """Prepare what the thread keeps (called at the end of `Service.__init__`)."""
        super().__post_init__()
        self._cut_up_to: dict[TP, tuple[int, int]] = {}
        """Per partition, where its last cutter stopped: offsets not yet in a chunk begin at the first, and
        the log was read up to the second. They differ by markers and aborted records."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Mend what cannot be set: a byte or 1.5 s, 50 MiB, isolation (driver:571, :615)."""
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_min_bytes = _FETCH_MIN_BYTES
        consumer._fetch_max_bytes = _FETCH_MAX_BYTES
        consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS
        # What a gateway's aborted transaction wrote was never sent.
        consumer._isolation_level = "read_committed"
        return consumer

    async def on_start(self) -> None:
        """Start the consumer; its fetcher exists from then on (aiokafka/consumer/consumer.py:384)."""
        await super().on_start()
        self._ensure_consumer()._fetcher._prefetch_backoff = _PREFETCH_BACKOFF_SECONDS

    def look_for_room(self) -> None:
        """Wake a waiting poll, from the main thread; upstream it would wait for the next fetch or timeout."""
        if not self.thread_loop.is_closed():
            self.thread_loop.call_soon_threadsafe(self._wake_poll)

    def _wake_poll(self) -> None:
        if self._consumer is not None and self._consumer._fetcher is not None:
            fetcher = self._consumer._fetcher
            for waiter in tuple(fetcher._fetch_waiters):
                fetcher._notify(waiter)

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Collection[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - upstream's signature
        max_records: int | None = None,
    ) -> dict[TP, list[Any]]:
        """Replace driver:1088 and aiokafka's `Fetcher.fetched_records` (consumer/fetcher.py:1209).

        Takes one chunk per partition and poll, only from partitions with room in their queue, so that
        delivering what a poll gives never blocks. An empty set of partitions gives nothing, where upstream
        gives records of *all* partitions; so does a rebalance, after which the caller's set is stale.
        """
        fetcher = consumer._fetcher
        subscriptions = fetcher._subscriptions
        active = frozenset(active_partitions)
        generation_id = self.app.consumer_generation_id
        deadline = self.thread_loop.time() + (timeout or 0)
        # The group's maximum poll interval counts from the end of this context: a worker without room stays
        # in it, and in the group.
        with subscriptions.fetch_context():
            while self.consumer.flow_active and self.app.consumer_generation_id == generation_id:
                if consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                if subscriptions.reassignment_in_progress:
                    await subscriptions.wait_for_assignment()
                    break
                drained, without_room = self._drain(fetcher, active, max_records or sys.maxsize)
                wait_seconds = deadline - self.thread_loop.time()
                if drained or wait_seconds <= 0:
                    return drained
                if without_room:
                    wait_seconds = min(wait_seconds, _ROOM_POLL_SECONDS)
                await _wait_for_records(fetcher, wait_seconds)
        return {}

    def _drain(
        self, fetcher: Any, active: frozenset[TP], max_records: int
    ) -> tuple[dict[TP, list[Any]], bool]:
        """Take what is fetched and has room; tells also whether something was left for want of room."""
        drained: dict[TP, list[Any]] = {}
        without_room = False
        for tp in [tp for tp in fetcher._records if tp in active]:
            fetched = fetcher._records[tp]
            if type(fetched) is not FetchResult:
                if drained:
                    break  # Handed on first; the next poll raises the error.
                self._forget(fetcher, tp)
                fetched.check_raise()
            if self.consumer.is_chunked(tp) and not self.consumer.has_room(tp):
                without_room = True
                continue
            records, count = self._take(tp, fetched, max_records)
            if fetched.has_more():
                fetcher._records.move_to_end(tp)  # The others first, next time.
            else:
                self._forget(fetcher, tp)
            if records:
                drained[tp] = records
                max_records -= count
                if max_records <= 0:
                    break
        return drained, without_room

    def _take(self, tp: TP, fetched: Any, max_records: int) -> tuple[list[Any], int]:
        """Take a chunk or, from other topics, the stock way's records; with the number of records."""
        if not self.consumer.is_chunked(tp):
            records = fetched.getall(max_records)
            return records, len(records)
        chunk = self._take_chunk(tp, fetched)
        return ([], 0) if chunk is None else ([chunk], len(chunk.records))

    def _forget(self, fetcher: Any, tp: TP) -> None:
        """Let the partition be fetched again."""
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)

    def _take_chunk(self, tp: TP, fetched: Any) -> Chunk | None:
        """Do what `FetchResult.getall` does (consumer/fetcher.py:124), for one chunk."""
        if type(fetched._partition_records) is not ChunkCutter:
            position = fetched._partition_records.next_fetch_offset
            begin, end = self._cut_up_to.get(tp, (position, position))
            start_offset = begin if end == position else position
            fetched._partition_records = ChunkCutter(
                fetched._partition_records,
                self.consumer.transport.limits,
                start_offset,
            )
        cutter = fetched._partition_records
        if not fetched.check_assignment(tp):
            return None
        chunk = cutter.cut(self.app.consumer_generation_id)
        fetched._update_position()
        self._cut_up_to[tp] = (cutter.start_offset, cutter.next_fetch_offset)
        if cutter.exhausted:
            fetched._partition_records = None  # what `has_more` asks
        return chunk


async def _wait_for_records(fetcher: Any, seconds: float) -> None:
    """Wait until something was fetched, `_wake_poll` or the time is over; raises the group's fatal errors."""
    waiter = fetcher._create_fetch_waiter()
    await asyncio.wait([waiter], timeout=seconds)
    if waiter.done():
        waiter.result()
    else:
        waiter.cancel()
