# ruff: noqa: SLF001, ANN401 - it overrides private methods of untyped libraries, each with its upstream line.
"""Faust's aiokafka transport, handing an agent one event per chunk of records instead of one per record.

Decides which fetched records of the *chunked topics* (named when the transport is made) become an event,
when, and which offset may be committed for them. Takes what aiokafka fetched; gives events whose value is a
`Chunk`. Other topics, changelogs and recovery go the stock way. Never decodes or acknowledges.

The agent is declared with `isolated_partitions=True`, iterates `stream.noack().events()` and calls
`event.ack()` once a chunk's effects are stored. `event.value.release()` frees the payload before that.

Invariants:
- chunks of a partition reach the agent in log order without a hole: one that begins behind where the last
  one ended (or the committed offset) raises `LogHoleError`, one that begins before it `LogCutError`; both end
  the worker. aiokafka goes to the log's beginning by itself where an offset is not there any more or not yet;
- the committed offset is the last offset of the longest acknowledged run of chunks, in the order they
  were handed out, plus one. A chunk nobody acknowledges holds it back, whatever is acknowledged later;
- an acknowledgement from an earlier generation of the group counts for nothing: the partition was read
  again from the committed offset;
- a partition whose queue is full keeps its own fetch waiting, and nothing else. Memory is bounded per
  partition by one fetch (`consumer_max_fetch_size`, compressed) and `stream_buffer_maxsize + 2` chunks.

Faust settings relied on: see `transport_settings`. Line numbers alone are those of
faust/transport/consumer.py, in the pinned version.
"""

from __future__ import annotations

import gc
from collections import deque
from typing import TYPE_CHECKING, Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage

import pipeline.stream.pins  # noqa: F401 - the private methods overridden here were read in the pinned versions only
from pipeline.stream.cutter import Chunk, ChunkLimits, LogCutError, LogHoleError
from pipeline.stream.fetching import ChunkConsumerThread
from pipeline.stream.gone import tell_gone_unread

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection

    from faust.types import TP

__all__ = [
    "Chunk",
    "ChunkLimits",
    "ChunkTransport",
    "LogCutError",
    "LogHoleError",
    "Untouched",
    "calm_collector",
    "transport_settings",
]


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


def calm_collector() -> None:
    """Set Python's cycle collector up for a process that holds records by the hundred thousand.

    A record is two tracked objects that never form a cycle. With the default threshold of 700 the collector
    looks at them again and again: 2 us per record, three times what fetching and parsing cost. Call it once,
    when everything is imported and before the app starts; young garbage then waits for 50 000 objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 5, 200)


class Untouched(faust.Schema):  # type: ignore[misc]
    """Hands keys and values on as they are: a chunk is no bytes to decode."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002
        """Give the message's key: None for a chunk."""
        return message.key

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002
        """Give the message's value: the `Chunk`."""
        return message.value


class ChunkConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, in the main thread: makes events of chunks and keeps the book of acknowledgements."""

    transport: ChunkTransport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handed_out: dict[TP, deque[int]] = {}
        """Last offsets of the chunks not yet committed, in the order they were handed out."""
        self._expected_offset: dict[TP, int] = {}
        """Where the next chunk must begin; absent until a first one came without a committed offset."""
        self._reads_from: dict[TP, int] = {}

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

        Upstream (transport/consumer.py:547) takes the partition out of the active ones, forgets to put it
        back when it is revoked meanwhile, and with none active sleeps a second (:808).
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
        # Streams skip events of another generation (_cython/streams.pyx:183), so only these are booked.
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
        """Note that a chunk is handed out.

        Raises LogHoleError if one is missing before it, LogCutError if the log went back.
        """
        expected = self._expected_offset.get(tp, chunk.start_offset)
        if chunk.start_offset > expected:
            raise LogHoleError(f"{tp}: offsets {expected} to {chunk.start_offset - 1} were never handed out")
        if chunk.start_offset < expected:
            raise LogCutError(
                f"{tp}: offset {expected} comes next, but the log ends before it and goes on at"
                f" {chunk.start_offset}. The topic was made anew or has lost its end; what is in it now would be"
                " taken for what was metered. Bring the topic back, or begin anew with an empty database, no state"
                " topics and another MSGMETER_APPLICATION"
            )
        self._handed_out.setdefault(tp, deque()).append(chunk.last_offset)
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
        back to the beginning. Offsets that retention has deleted unread are logged as lost; where none are
        committed, recovery tells them, which knows how far the tables are complete.
        """
        chunked = [tp for tp in self.assignment() if self.is_chunked(tp)]
        self._reads_from.clear()
        kept = await self._thread.earliest_offsets(*chunked) if chunked else {}
        await super().perform_seek()
        # No waiting from here to the end of the loop: a poll after the seek must find the book as it is then.
        begins: dict[TP, int] = {}
        for tp in chunked:
            self._forget_book(tp)
            committed = self._committed_offset[tp]
            if committed is None or committed < kept[tp]:
                begins[tp] = kept[tp]
                if committed is not None:
                    tell_gone_unread(tp.topic, tp.partition, range(committed, kept[tp]))
            self._expected_offset[tp] = self._reads_from[tp] = begins.get(tp, committed)
        if begins:
            await self._thread.seek_wait(begins)

    def reads_from(self, tp: TP) -> int:
        """Give the offset of the last seek: whoever was handed a chunk from behind it has missed one.

        Unlike the book, which says what was handed out, this finds chunks that were lost from a queue. Raises
        KeyError before the seek of an assignment, when nothing may be handed out.
        """
        return self._reads_from[tp]

    def ack(self, message: Any) -> bool:
        """Book an acknowledgement, unless it comes from a generation whose records were read again."""
        if self.is_chunked(message.tp) and message.generation_id != self.app.consumer_generation_id:
            return False
        return bool(super().ack(message))

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Book no gaps for chunked topics: upstream acknowledges a gap, whatever was in it (:1157)."""
        if not self.is_chunked(tp):
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        """Give the offset to commit: after the last chunk of the acknowledged run, in hand-out order.

        Upstream (:1097) works offset by offset over sorted lists, which costs more per record than parsing
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
