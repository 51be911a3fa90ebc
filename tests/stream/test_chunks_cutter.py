"""Cutting a fetch into chunks: which offsets may be missing, and that nothing else is ever missing.

base offset   0        10        20
batches       |--- a ---|--- b ---|
"""

from typing import Any

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from pipeline.stream.cutter import Chunk, ChunkCutter, ChunkLimits, LogHoleError
from pipeline.stream.pins import VersionError, check_pins

LZ4, NO_CODEC = 3, 0
READ_COMMITTED = 1
ABORT = b"\x00\x00\x00\x00"
PRODUCER = 7


def batch(
    base: int,
    deltas: list[int],
    *,
    codec: int = LZ4,
    transactional: bool = False,
    control_key: bytes | None = None,
    last_delta: int | None = None,
) -> bytes:
    """A record batch as a broker stores it: the offsets are `base` plus each delta."""
    builder = DefaultRecordBatchBuilder(2, codec, int(transactional), PRODUCER, 0, 0, 1_000_000)
    for delta in deltas:
        builder.append(delta, 1_760_000_000_000, control_key, b"value", [])
    data = bytearray(builder.build())
    data[0:8] = base.to_bytes(8, "big")  # Not covered by the checksum: the broker assigns it.
    if control_key is not None:
        data[22] |= 0x20
    if last_delta is not None:
        data[23:27] = last_delta.to_bytes(4, "big")
    return bytes(data)


def cutter(
    *batches: bytes, at: int = 0, aborted: list[tuple[int, int]] | None = None, **options: Any
) -> ChunkCutter:
    """A cutter over one fetch from offset `at`; checksums are off, since the batches were altered."""
    crcs = options.pop("crcs", False)
    fetched = PartitionRecords(
        TopicPartition("raw", 0),
        MemoryRecords(b"".join(batches)),
        aborted,
        at,
        None,
        None,
        crcs,
        READ_COMMITTED,
    )
    return ChunkCutter(fetched, ChunkLimits(**options), at)


def cut_all(cutting: ChunkCutter) -> list[Chunk]:
    chunks = []
    while not cutting.exhausted:
        chunk = cutting.cut(generation_id=1)
        if chunk is not None:
            chunks.append(chunk)
    return chunks


def offsets(chunks: list[Chunk]) -> list[int]:
    return [record.offset for chunk in chunks for record in chunk.records]


TEN = list(range(10))


def test_batches_of_a_fetch_make_one_chunk() -> None:
    (chunk,) = cut_all(cutter(batch(0, TEN), batch(10, TEN)))
    assert (chunk.start_offset, chunk.first_offset, chunk.last_offset) == (0, 0, 19)
    assert chunk.size_bytes == 20 * len(b"value")
    assert offsets([chunk]) == list(range(20))


@pytest.mark.parametrize("records", [1, 3, 10, 15, 19, 20])
def test_chunks_of_a_fetch_touch_wherever_they_are_cut(records: int) -> None:
    chunks = cut_all(cutter(batch(0, TEN), batch(10, TEN), records=records))
    assert offsets(chunks) == list(range(20))
    assert {len(chunk.records) for chunk in chunks[:-1]} <= {records}
    assert [chunk.start_offset for chunk in chunks[1:]] == [chunk.last_offset + 1 for chunk in chunks[:-1]]


def test_bytes_end_a_chunk_too() -> None:
    chunks = cut_all(cutter(*(batch(base, [0]) for base in range(5)), size_bytes=10))
    assert [chunk.size_bytes for chunk in chunks] == [10, 10, 5]


def test_a_fetch_may_begin_within_a_batch() -> None:
    (chunk,) = cut_all(cutter(batch(0, TEN), batch(10, TEN), at=7))
    assert offsets([chunk]) == list(range(7, 20))
    assert chunk.start_offset == 7


def test_a_batch_before_the_fetch_is_passed_over() -> None:
    assert offsets(cut_all(cutter(batch(0, TEN), batch(10, TEN), at=10))) == list(range(10, 20))


def test_a_marker_between_batches_is_no_hole() -> None:
    marker = batch(10, [0], transactional=True, codec=NO_CODEC, control_key=b"\x00\x00\x00\x01")
    (chunk,) = cut_all(cutter(batch(0, TEN, transactional=True), marker, batch(11, TEN)))
    assert offsets([chunk]) == [*range(10), *range(11, 21)]


def test_aborted_records_are_left_out_and_counted_as_read() -> None:
    abort = batch(10, [0], transactional=True, codec=NO_CODEC, control_key=ABORT)
    aborted = batch(0, TEN, transactional=True)
    cutting = cutter(aborted, abort, batch(11, TEN, transactional=True), aborted=[(PRODUCER, 0)])
    (chunk,) = cut_all(cutting)
    assert (chunk.start_offset, chunk.first_offset, chunk.last_offset) == (0, 11, 20)


def test_a_fetch_of_aborted_records_alone_gives_no_chunk_and_moves_on() -> None:
    cutting = cutter(batch(0, TEN, transactional=True), aborted=[(PRODUCER, 0)])
    assert cut_all(cutting) == []
    assert (cutting.start_offset, cutting.next_fetch_offset) == (0, 10)


@pytest.mark.parametrize(
    ("batches", "at"),
    [
        pytest.param([batch(0, TEN), batch(11, TEN)], 0, id="between batches"),
        pytest.param([batch(5, TEN)], 0, id="before the first batch"),
        pytest.param([batch(0, [0, 1, 3])], 0, id="within a batch"),
        pytest.param([batch(0, [1, 2, 3])], 0, id="first record of a batch"),
        pytest.param([batch(0, TEN, last_delta=12)], 0, id="last records of a batch"),
        pytest.param([batch(0, TEN, last_delta=12)], 11, id="fetch begins in the hole"),
    ],
)
def test_any_other_missing_offset_ends_it(batches: list[bytes], at: int) -> None:
    with pytest.raises(LogHoleError):
        cut_all(cutter(*batches, at=at))


def test_a_flipped_bit_is_found_by_the_checksum() -> None:
    data = bytearray(batch(0, TEN, codec=NO_CODEC))
    data[-3] ^= 1
    with pytest.raises(CorruptRecordException):
        cut_all(cutter(bytes(data), crcs=True))


def test_a_chunk_follows_only_what_it_touches_in_the_same_generation() -> None:
    cutting = cutter(batch(0, TEN), batch(10, TEN), records=5)
    first, second, third = (cutting.cut(generation_id) for generation_id in (1, 1, 2))
    assert first is not None
    assert second is not None
    assert third is not None
    assert second.follows(first)
    assert not third.follows(second)
    assert not third.follows(first)


def test_a_released_chunk_keeps_its_offsets_and_no_records() -> None:
    (chunk,) = cut_all(cutter(batch(0, TEN)))
    chunk.release()
    assert (chunk.records, chunk.last_offset) == ([], 9)


@pytest.mark.parametrize("limits", [{"records": 0}, {"size_bytes": 0}])
def test_limits_without_room_for_a_record_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="room for a record"):
        ChunkLimits(**limits)


def test_versions_nobody_has_read_are_refused_at_import() -> None:
    check_pins({"aiokafka": "0.14.0"})
    with pytest.raises(VersionError, match=r"aiokafka 0\.0\.1 is needed, found: 0\.14\.0.*nothing-such"):
        check_pins({"aiokafka": "0.0.1", "nothing-such": "1"})
