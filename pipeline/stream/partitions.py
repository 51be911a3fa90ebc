"""What a worker holds of each partition it owns, and the tables behind it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.core.process import PartitionFold
from pipeline.stream.cutter import Chunk
from pipeline.stream.tables import StateTable


class ChunkEvent(Protocol):
    """A Faust event whose value is a chunk."""

    value: Chunk

    def ack(self) -> bool:
        """Let the chunk's offset be committed."""
        ...


@dataclass
class OwnedPartition:
    """A partition while this worker owns it, in one generation of the group."""

    fold: PartitionFold
    generation_id: int
    """A second lock: a rebalance revokes all partitions, which drops the fold, before another generation begins."""
    acknowledged_offset: int
    """Everything up to here is stored, kept and acknowledged; below the log's first offset at the beginning."""
    events: deque[ChunkEvent] = field(default_factory=deque)
    """Folded and not yet part of a checkpoint, in log order."""
    folded_offset: int = -1
    taken_offset: int = -1
    """Everything up to here is in an epoch that was taken."""
    last_received_at: int = 0

    def __post_init__(self) -> None:
        """Nothing is folded yet."""
        self.folded_offset = self.taken_offset = self.acknowledged_offset

    def take_span(self) -> tuple[int, int] | None:
        """Positions of the first and last record folded since this was asked last; None where there is none."""
        span = self.taken_offset + 1, self.folded_offset
        self.taken_offset = self.folded_offset
        return span if span[0] <= span[1] else None


@dataclass(frozen=True)
class Tables:
    """The Faust tables of the worker."""

    identities: StateTable
    windows: StateTable
    accounts: StateTable

    def are_owned(self, partition: int) -> bool:
        """Whether all of them may be written: after recovery and before revocation."""
        return all(table.is_owned(partition) for table in (self.identities, self.windows, self.accounts))
