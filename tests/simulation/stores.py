"""A worker's local stores without Faust: the memory store itself, and one with the rule of a file.

The file's rule: values and position of a write are kept together; a process that is killed falls back to the state
after an earlier write, and one that closes the file keeps all.
"""

from collections import ChainMap
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from pipeline.stream.stores import Changes, MemoryStore, Position


@dataclass
class Write:
    """What one `apply` puts into a file."""

    changes: dict[bytes, bytes | None]
    position: Position
    tombstones: dict[bytes, bytes | None] = field(default_factory=dict)
    outdated: dict[bytes, bool] = field(default_factory=dict)
    """The notes of some keys, as they were then."""


Writes = list[Write]


class MemoryFiles(MemoryStore):
    """The memory store, made without the service around it."""

    def __init__(self, name: str) -> None:
        self.table_name = name
        self._partitions = {}
        self._positions = {}
        self._notes = {}
        self.data = ChainMap()


class Disk:
    """What survives the workers of one machine: by table and partition, the writes in their order."""

    def __init__(self) -> None:
        self.writes: dict[tuple[str, int], Writes] = {}
        self._safe: dict[tuple[str, int], int] = {}

    def open(self, place: tuple[str, int]) -> Writes:
        return self.writes.setdefault(place, [])

    def close(self, place: tuple[str, int]) -> None:
        self._safe[place] = len(self.writes[place])

    def lose_power(self, chance: Random) -> None:
        for place, writes in self.writes.items():
            kept = self._safe[place] = chance.randint(min(self._safe.get(place, 0), len(writes)), len(writes))
            del writes[kept:]


class DiskFiles(MemoryFiles):
    """A file per partition on a machine's disk."""

    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name)
        self._disk = disk

    def open_partition(self, partition: int, *_: bytes | int, waits: bool = True) -> Position:
        if partition not in self._partitions:
            super().open_partition(partition)
            notes = self.notes_of(partition)
            for write in self._disk.open((self.table_name, partition)):
                super().apply(partition, write.changes, write.position)
                for key, tombstone in write.tombstones.items():
                    notes.tombstones.pop(key, None)
                    if tombstone is not None:
                        notes.tombstones[key] = tombstone
                for key, is_outdated in write.outdated.items():
                    (notes.outdated.add if is_outdated else notes.outdated.discard)(key)
        return self.position_of(partition)

    def close_partition(self, partition: int) -> None:
        super().close_partition(partition)
        self._disk.close((self.table_name, partition))

    def wipe_partition(self, partition: int) -> None:
        super().wipe_partition(partition)
        self._disk.open((self.table_name, partition)).clear()

    def apply(
        self, partition: int, changes: Changes, position: Position, noted: Iterable[bytes] = ()
    ) -> None:
        super().apply(partition, changes, position)
        notes, keys = self.notes_of(partition), sorted(noted)
        write = Write(
            dict(changes),
            position,
            {key: notes.tombstones.get(key) for key in keys},
            {key: key in notes.outdated for key in keys},
        )
        self._disk.open((self.table_name, partition)).append(write)
