"""Eras of the log: how offsets stay comparable when the log gets more partitions.

More partitions move tenants to others, whose offsets are lower. What orders a tenant's records must not fall back, so
inside everything counts *positions*: the number of the era, then the offset. An era is the span of the log between
two changes of its partitions; era 0 is the first one, in which a position is the offset.

    position = era * 10^12 + offset

Takes and gives numbers; where state goes at such a change is said in moving.py.

Invariant: a tenant's positions ascend over eras, and a partition and a position name one record, as partitions are
never taken away.
"""

from dataclasses import dataclass

from pipeline.core.partitions import partition_of

ERA_POSITIONS = 10**12
"""More records than a partition will ever have, and a position is read at a glance: 3000000000017 is offset 17."""
MAX_ERA = (1 << 48) // ERA_POSITIONS - 1
"""An identity has 48 bits for the position that charged it."""


@dataclass(frozen=True, slots=True)
class Era:
    """A span of the log with one number of partitions."""

    number: int = 0
    first_offsets: tuple[int, ...] = ()
    """By partition: its first record of this era; empty for 0. What lies before was folded in the era before."""

    @property
    def first_position(self) -> int:
        """What is added to an offset of this era."""
        return self.number * ERA_POSITIONS

    def first_offset(self, partition: int) -> int:
        """The first record of this era in a partition."""
        return self.first_offsets[partition] if self.first_offsets else 0


FIRST_ERA = Era()


def offset_of(position: int) -> int:
    """Kafka's offset of the record at a position."""
    return position % ERA_POSITIONS


def partitions_over_eras(key: bytes, partitions: int) -> set[int]:
    """Where a tenant may have lived while there were as many partitions as now, or fewer."""
    return {partition_of(key, count) for count in range(1, partitions + 1) if partitions % count == 0}
