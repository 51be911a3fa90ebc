# ruff: noqa: SLF001, ANN401 - it overrides private methods of untyped libraries, each with its upstream line.
"""Faust's aiokafka transport, handing an agent one event per chunk of records instead of one per record.

Decides which fetched records of the *chunked topics* (named when the transport is made) become an event,
when, and which offset may be committed for them. Takes what aiokafka fetched; gives events whose value is a
`Chunk`. Other topics, changelogs and recovery go the stock way. Never decodes or acknowledges.

The agent is declared with `isolated_partitions=True`, iterates `stream.noack().events()` and calls
`event.ack()` once a chunk's effects are stored. `event.value.release()` frees the payload before that.

Invariants:
- chunks of a partition reach the agent in log order without a hole: one that does not begin where the last
  one ended (or at the committed offset) raises `LogHoleError` and ends the worker;
- the committed offset is the last offset of the longest acknowledged run of chunks, in the order they
  were handed out, plus one. A chunk nobody acknowledges holds it back, whatever is acknowledged later;
- an acknowledgement from an earlier generation of the group counts for nothing: the partition was read
  again from the committed offset;
- a partition whose queue is full keeps its own fetch waiting, and nothing else. Memory is bounded per
  partition by one fetch (`consumer_max_fetch_size`, compressed) and `stream_buffer_maxsize + 2` chunks.

Faust settings relied on: see `transport_settings`. Upstream lines are those of the pinned versions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import faust
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage

import pipeline.stream.pins  # noqa: F401 - the private methods overridden here were read in the pinned versions only
from pipeline.stream.cutter import Chunk, ChunkCutter, ChunkLimits, LogHoleError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from faust.types import TP

__all__ = ["Chunk", "ChunkLimits", "ChunkTransport", "LogHoleError", "Untouched", "transport_settings"]

# A broker answers a fetch without records after this. It bounds how long a partition that becomes readable
# (drained, resumed, sought) waits for the one fetch per broker that is under way; 20 empty fetches a second
# cost little.
_FETCH_MAX_WAIT_MS = 50
# aiokafka holds back every fetch from a broker while records of one of its partitions lie unread, for this
# long (consumer/fetcher.py:579, 0.1 s by default). It is worth a little, because a fetch that leaves a
# partition out makes it wait for the next one; a partition without room must not slow down the others.
_PREFETCH_BACKOFF_SECONDS = 0.02
# Looks for room again after this while chunks are ready and no queue has room. Faust reports room only when
# a queue runs (nearly) empty (mode/utils/queues.py:171), and a queue of few slots should be refilled before.
_ROOM_POLL_SECONDS = 0.02


def transport_settings() -> dict[str, Any]:
    """Give the settings of `faust.App` this transport relies on; the rest is the application's own choice."""
    return {
        # A group without a committed offset begins at the log's beginning; "latest" loses what came before.
        "consumer_auto_offset_reset": "earliest",
        # Bytes per partition and fetch, as they lie in the log. The first batch comes whole even if larger.
        "consumer_max_fetch_size": 1_048_576,
        # Records per poll over all partitions; ends a poll between two chunks. More makes the first chunk of
        # a poll wait for the last one.
        "broker_max_poll_records": 20_000,
        # A checksum per batch, 0.1-0.2 us per uncompressed record. Without it a bit that flipped on a disk
        # or behind a network card's own check is billed.
        "broker_check_crcs": True,
        # Queue slots are chunks. Two: one to work on, one ready.
        "stream_buffer_maxsize": 2,
        # Waiting for open epochs at a rebalance would outlast the session; they are read again instead.
        "stream_wait_empty": False,
        # At least once: transactions of Faust's own are unsound and would replace the isolation level.
        "processing_guarantee": "at_least_once",
    }


class Untouched(faust.Schema):  # type: ignore[misc]
    """Hands keys and values on as they are: a chunk is no bytes to decode."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002
        """Give the message's key: None for a chunk."""
        return message.key

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002
        """Give the message's value: the `Chunk`."""
        return message.value


class ChunkConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that owns the aiokafka consumer: fetches, parses, cuts."""

    consumer: ChunkConsumer

    def __post_init__(self) -> None:
        """Prepare what the thread keeps (called at the end of `Service.__init__`)."""
        super().__post_init__()
        self._cut_up_to: dict[TP, tuple[int, int]] = {}
        """Per partition, where its last cutter stopped: offsets not yet in a chunk begin at the first, and
        the log was read up to the second. They differ by markers and aborted records."""
        self._paused_for: tuple[Any, frozenset[TP]] | None = None

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Mend two fixed values: a wait of 1.5 s, isolation only with transactions (driver :594, :609)."""
        consumer = super()._create_worker_consumer(transport)
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
        """Replace driver :1091 and aiokafka's `Fetcher.fetched_records` (consumer/fetcher.py:1196).

        Takes one chunk per partition and poll, only from partitions with room in their queue, so that
        delivering what a poll gives never blocks. An empty set of partitions gives nothing, where upstream
        gives records of *all* partitions; so does a rebalance, after which the caller's set is stale.
        """
        fetcher = consumer._fetcher
        subscriptions = fetcher._subscriptions
        active = frozenset(active_partitions)
        deadline = self.thread_loop.time() + (timeout or 0)
        # The group's maximum poll interval counts from the end of this context: a worker without room stays
        # in it, and in the group.
        with subscriptions.fetch_context():
            while self.consumer.flow_active:
                if consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                if subscriptions.reassignment_in_progress:
                    await subscriptions.wait_for_assignment()
                    break
                self._fetch_only(subscriptions.subscription.assignment, active)
                drained, without_room = self._drain(fetcher, active, max_records or 0)
                wait_seconds = deadline - self.thread_loop.time()
                if drained or wait_seconds <= 0:
                    return drained
                if without_room:
                    wait_seconds = min(wait_seconds, _ROOM_POLL_SECONDS)
                await _wait_for_records(fetcher, wait_seconds)
        return {}

    def _fetch_only(self, assignment: Any, active: frozenset[TP]) -> None:
        """Pause what Faust has paused also in aiokafka, which would fetch and keep it (fetcher.py:561-617).

        Our own changelog writes, for instance, up to `consumer_max_fetch_size` per changelog partition.
        """
        if self._paused_for == (assignment, active):
            return
        for tp in assignment.tps:
            state = assignment.state_value(tp)
            if tp not in active:
                state.pause()
            elif state.paused:
                state.resume()
        self._paused_for = (assignment, active)

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
        """Do what `FetchResult.getall` does (consumer/fetcher.py:115), for one chunk."""
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


class ChunkConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, in the main thread: makes events of chunks and keeps the book of acknowledgements."""

    transport: ChunkTransport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handed_out: dict[TP, deque[int]] = {}
        """Last offsets of the chunks not yet committed, in the order they were handed out."""
        self._expected_offset: dict[TP, int] = {}
        """Where the next chunk must begin; absent until a first one came without a committed offset."""

    def _new_consumer_thread(self) -> ChunkConsumerThread:
        return ChunkConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def is_chunked(self, tp: TP) -> bool:
        """Tell whether records of the partition travel in chunks."""
        return tp.topic in self.transport.topics

    def has_room(self, tp: TP) -> bool:
        """Tell whether every queue fed by the partition has a free slot.

        Asked by the consumer thread; only the drain loop fills a queue, and it polls again only when it has
        delivered what the last poll gave. Copying a set is one step under the interpreter's lock.
        """
        channels = tuple(self.app.topics._tp_index.get(tp, ()))
        return all(channel._queue is None or not channel._queue.full() for channel in channels)

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing for chunked topics, whose room is asked for at each poll.

        Upstream (transport/consumer.py:550) takes the partition out of the active ones, forgets to put it
        back when it is revoked meanwhile, and with none active sleeps a second (:807).
        """
        if not self.is_chunked(tp):
            super().on_buffer_full(tp)

    def on_buffer_drop(self, tp: TP) -> None:
        """Fetch again at once: the agent has (nearly) emptied its queue."""
        if self.is_chunked(tp):
            self._thread.look_for_room()
        else:
            super().on_buffer_drop(tp)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if type(record) is not Chunk:
            return super()._to_message(tp, record)
        # Streams skip events of another generation (streams.py `_prepare_event`), so only these are booked.
        if record.generation_id == self.app.consumer_generation_id:
            self._book(tp, record)
        last = record.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.last_offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            None,
            None,
            record,
            None,
            0,
            record.size_bytes,
            tp,
            generation_id=record.generation_id,
        )

    def _book(self, tp: TP, chunk: Chunk) -> None:
        """Note that a chunk is handed out; raises LogHoleError if one is missing before it."""
        expected = self._expected_offset.get(tp, chunk.start_offset)
        if chunk.start_offset > expected:
            raise LogHoleError(f"{tp}: offsets {expected} to {chunk.start_offset - 1} were never handed out")
        handed_out = self._handed_out.setdefault(tp, deque())
        while handed_out and handed_out[-1] >= chunk.start_offset:
            handed_out.pop()  # Read again after a seek: only the repetition counts.
        handed_out.append(chunk.last_offset)
        self._expected_offset[tp] = chunk.last_offset + 1

    def _forget_book(self, tp: TP) -> None:
        """Forget what was handed out and acknowledged: it will be read again."""
        self._handed_out.pop(tp, None)
        self._expected_offset.pop(tp, None)
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets and expect the log to go on exactly there.

        Upstream (:565) leaves a partition without a committed offset where it happens to stand; here it goes
        back to the beginning. Offsets that retention has deleted unread are logged as lost.
        """
        await super().perform_seek()
        chunked = [tp for tp in self.assignment() if self.is_chunked(tp)]
        if not chunked:
            return
        kept = await self._thread.earliest_offsets(*chunked)
        begins: dict[TP, int] = {}
        for tp in chunked:
            self._forget_book(tp)
            committed = self._committed_offset[tp]
            if committed is None or committed < kept[tp]:
                begins[tp] = kept[tp]
                if committed is not None:
                    self.log.error("%s: offsets %s to %s are gone, unread", tp, committed, kept[tp] - 1)
            self._expected_offset[tp] = begins.get(tp, committed)
        await self._thread.seek_wait(begins)

    def ack(self, message: Any) -> bool:
        """Book an acknowledgement, unless it comes from a generation whose records were read again."""
        if self.is_chunked(message.tp) and message.generation_id != self.app.consumer_generation_id:
            return False
        return bool(super().ack(message))

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Book no gaps for chunked topics: upstream acknowledges a gap, whatever was in it (:1165)."""
        if not self.is_chunked(tp):
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        """Give the offset to commit: after the last chunk of the acknowledged run, in hand-out order.

        Upstream (:1092) works offset by offset over sorted lists, which costs more per record than parsing
        it, and is wrong by one after out-of-order acknowledgement (issue 606).
        """
        if not self.is_chunked(tp):
            return super()._new_offset(tp)  # type: ignore[no-any-return]
        handed_out, acked = self._handed_out.get(tp, deque()), self._acked_index[tp]
        committable = None
        while handed_out and handed_out[0] in acked:
            committable = handed_out.popleft()
            acked.discard(committable)
        self._acked[tp] = sorted(acked)
        return None if committable is None else committable + 1

    async def on_partitions_revoked(self, revoked: Iterable[TP]) -> None:
        """Forget the book of revoked partitions, as upstream does with its own (:679)."""
        for tp in revoked:
            self._forget_book(tp)
        await super().on_partitions_revoked(revoked)


class ChunkTransport(driver.Transport):  # type: ignore[misc]
    """Set as `app.transport` right after the app is made, before anything asks for `app.topics`."""

    Consumer = ChunkConsumer

    def __init__(
        self,
        url: Any,
        app: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        topics: Collection[str],
        limits: ChunkLimits | None = None,
    ) -> None:
        super().__init__(url, app, loop)
        self.topics = frozenset(topics)
        """Names of the topics that travel in chunks."""
        self.limits = limits or ChunkLimits()
