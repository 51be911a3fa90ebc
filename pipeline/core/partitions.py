"""In which partition a tenant lives: Java's default partitioner, murmur2 of the key.

Every producer of ours uses the same rule (librdkafka: `partitioner=murmur2_random`). A gateway with another
partitioner would split a tenant over two owners, so the worker compares and forwards strays.

Source: org.apache.kafka.common.utils.Utils.murmur2 and BuiltInPartitioner.partitionForKey.
"""

from functools import lru_cache

_MASK = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C


def murmur2(key: bytes) -> int:
    """Java's murmur2 as an unsigned 32-bit integer."""
    length = len(key)
    value = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ (word >> 24)) * _MULTIPLIER & _MASK
        value = (value * _MULTIPLIER & _MASK) ^ word
    if length & 3:
        value = (value ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _MASK
    value = (value ^ (value >> 13)) * _MULTIPLIER & _MASK
    return value ^ (value >> 15)


@lru_cache(maxsize=1 << 16)
def key_hash(key: bytes) -> int:
    """A key's hash, 0 to 2^31 - 1, of which any number of partitions takes the remainder.

    Remembered, since it costs more than rating a message.
    """
    return murmur2(key) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, 0 to partitions - 1."""
    return key_hash(key) % partitions
