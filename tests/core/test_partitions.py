"""Tenants live where Java's default partitioner puts them."""

import pytest

from pipeline.core.partitions import murmur2, partition_of


# The vectors of Apache Kafka's own UtilsTest.testMurmur2, as signed 32-bit integers.
@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hash_is_javas(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


def test_sign_bit_is_dropped_before_the_remainder() -> None:
    # Neither abs() nor the unsigned number gives these, and 32 partitions would not tell the difference.
    assert partition_of(b"21", 7) == (-973932308 & 0x7FFFFFFF) % 7
    assert partition_of(b"21", 7) not in (973932308 % 7, (-973932308 & 0xFFFFFFFF) % 7)


@pytest.mark.parametrize("partitions", [1, 2, 7, 32])
def test_partitions_are_in_range_and_all_used(partitions: int) -> None:
    used = {partition_of(f"tenant-{number:05d}".encode(), partitions) for number in range(2_000)}
    assert used == set(range(partitions))


def test_empty_key_has_a_partition() -> None:
    assert 0 <= partition_of(b"", 32) < 32
