# ruff: noqa: SLF001, ANN401 - it reads private fields of an untyped library, each with its upstream line.
"""Cuts what one fetch brought for one partition into chunks of records.

Decides how many records make a chunk and which offsets may be missing from it. Takes aiokafka's
`PartitionRecords` (the undecoded batches of one fetch); gives `Chunk`s, one by one, each when it is asked
for, so that a batch is decompressed only when somebody has room for it. Never reads a clock, a topic's
meaning or a record's content; never waits.

Invariants:
- the records of a chunk are consecutive offsets, but for transaction markers and, with
  `read_committed`, aborted batches between them;
- a chunk accounts for every offset of `[start_offset, last_offset]`: it is in `records`, or it was such a
  marker or aborted record. Anything else that is missing raises `LogHoleError`;
- chunks of one fetch touch: the next one's `start_offset` is the last one's `last_offset + 1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import CorruptRecordException

import pipeline.stream.pins  # noqa: F401 - the private parts used here were read in the pinned versions only
from pipeline.errors import MsgmeterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Records taken between two looks at the byte budget. A batch holds at most max.message.bytes compressed,
# but may hold much more once it is decompressed.
_STEP_RECORDS = 64


class LogHoleError(AssertionError):
    """Offsets are missing that neither transactions nor a seek explain: records would be lost silently.

    A bug or a compacted topic; the process ends on it, and nothing beyond the hole is acknowledged.
    """


class LogCutError(MsgmeterError):
    """The log of a partition goes on before what was read of it: its end was lost, or it was made anew.

    Its new records bear offsets that state and stored rows know already and would take for repetitions, so the
    process ends before it is handed one.
    """


class Record(Protocol):
    """One record as aiokafka's Cython parser makes it (`record/_crecords/default_records.pyx`); read-only."""

    offset: int
    timestamp: int
    """UTC epoch milliseconds; the broker's append time where the topic says `LogAppendTime`."""
    timestamp_type: int
    """0 the producer's time, 1 the broker's."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Chunk:
    """Records of one partition in log order, never empty; stands for all of them at their last offset."""

    __slots__ = ("first_offset", "generation_id", "last_offset", "records", "size_bytes", "start_offset")

    def __init__(self, records: list[Record], start_offset: int, size_bytes: int, generation_id: int) -> None:
        self.records = records
        """Ascending offsets; empty after `release()`."""
        self.start_offset = start_offset
        """From here on every offset is accounted for; below `first_offset` if markers lie between."""
        self.first_offset = records[0].offset
        self.last_offset = records[-1].offset
        """Acknowledging the chunk's event commits this + 1."""
        self.size_bytes = size_bytes
        """Sum of the lengths of the values: what the chunk holds in memory, without Python's own share."""
        self.generation_id = generation_id
        """Of the group when it was fetched: a new generation reads again from the committed offset."""

    def follows(self, previous: Chunk) -> bool:
        """Tell whether nothing lies between `previous` and this chunk, and no rebalance came between."""
        return self.start_offset == previous.last_offset + 1 and self.generation_id == previous.generation_id

    def release(self) -> None:
        """Forget the records, so that an event waiting for its acknowledgement holds no payload."""
        self.records = []


@dataclass(frozen=True)
class ChunkLimits:
    """A chunk ends at the first bound it meets."""

    records: int = 2_000
    """At most so many records."""
    size_bytes: int = 524_288
    """So many bytes of values, overshot by at most 63 records."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for bounds under which no record could ever be handed on."""
        if self.records < 1 or self.size_bytes < 1:
            raise ValueError(f"a chunk needs room for a record: {self}")


class ChunkCutter:
    """Stands in for one aiokafka `PartitionRecords` inside its `FetchResult` (consumer/fetcher.py:168)."""

    def __init__(self, fetched: Any, limits: ChunkLimits, start_offset: int) -> None:
        self._fetched = fetched
        self._limits = limits
        self._records: Iterator[Record] | None = None
        """What is left of the batch being read."""
        self._batch_end = 0
        """The offset after that batch's last one."""
        self.start_offset = start_offset
        """Offsets below are in earlier chunks."""
        self.next_fetch_offset: int = fetched.next_fetch_offset
        """The name `FetchResult` reads (consumer/fetcher.py:91, :110): the position after what was cut."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing of the fetch is left, so that the next one can be asked for."""
        return self._records is None and not self._fetched._records.has_next()

    def cut(self, generation_id: int) -> Chunk | None:
        """Give the next chunk, or None if what was left held markers and aborted records only.

        Raises LogHoleError, and CorruptRecordException when a batch's checksum or structure is wrong.
        """
        taken: list[Record] = []
        size_bytes = 0
        while len(taken) < self._limits.records and size_bytes < self._limits.size_bytes:
            batch = self._records or self._open_batch()
            if batch is None:
                break
            step = self._take(batch, min(_STEP_RECORDS, self._limits.records - len(taken)))
            size_bytes += _values_bytes(step)
            taken += step
        if not taken:
            return None
        chunk = Chunk(taken, self.start_offset, size_bytes, generation_id)
        self.start_offset = chunk.last_offset + 1
        return chunk

    def _open_batch(self) -> Iterator[Record] | None:
        """Go to the next batch that holds records for us; None at the end of the fetch.

        Reads batches as `PartitionRecords._unpack_records` does (consumer/fetcher.py:209), but hands on
        the parser's own records: upstream makes a dataclass and a tuple of each, twice the parser's time.
        """
        fetched = self._fetched
        while fetched._records.has_next():
            batch = fetched._records.next_batch()
            if fetched._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"wrong checksum in {fetched._tp} at {batch.base_offset}")
            if batch.base_offset > self.next_fetch_offset:
                raise self._hole(batch.base_offset)
            if self._is_unwanted(batch) or batch.next_offset <= self.next_fetch_offset:
                self.next_fetch_offset = max(batch.next_offset, self.next_fetch_offset)
                continue
            # A fetch begins with the batch that holds its offset, so the first records may be known already.
            self._records = islice(iter(batch), self.next_fetch_offset - batch.base_offset, None)
            self._batch_end = batch.next_offset
            return self._records
        return None

    def _is_unwanted(self, batch: Any) -> bool:
        """Tell whether a batch is a transaction marker or, when reading committed records only, aborted."""
        fetched = self._fetched
        if fetched._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            fetched._consume_aborted_up_to(batch.base_offset)
            aborted: set[int] = fetched._aborted_producers
            if batch.is_control_batch and fetched._contains_abort_marker(batch):
                aborted.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in aborted:
                return True
        return bool(batch.is_control_batch)

    def _take(self, batch: Iterator[Record], count: int) -> list[Record]:
        """Take up to `count` records of the open batch and close it at its end."""
        step = list(islice(batch, count))
        if not step or step[0].offset != self.next_fetch_offset:
            raise self._hole(step[0].offset if step else self._batch_end)
        # Offsets ascend within a batch, so first, last and length say that none is missing.
        if step[-1].offset - step[0].offset + 1 != len(step):
            raise self._hole(step[-1].offset)
        self.next_fetch_offset = step[-1].offset + 1
        if self.next_fetch_offset == self._batch_end:
            self._records = None
        return step

    def _hole(self, found: int) -> LogHoleError:
        partition = self._fetched._tp
        return LogHoleError(
            f"{partition}: offset {self.next_fetch_offset} is missing (the log goes on at {found}) and no "
            "transaction explains it. Is the topic compacted?"
        )


def _values_bytes(records: list[Record]) -> int:
    try:
        return sum(map(len, map(attrgetter("value"), records)))
    except TypeError:  # A record without a value has no length.
        return sum(len(record.value) for record in records if record.value is not None)
