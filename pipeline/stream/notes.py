"""What a reader of a changelog remembers of keys besides their values: deletions, and losers that came last.

Decides nothing; `changelog.PartitionReplay` does. Kept by the stores beside the values of a partition, because they
must live as long: a worker that reads on from its position, in another life or in another role (standby, owner),
must still know that a key was deleted, and that an older value stands behind a newer one.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from pipeline.core.kept import APPLIED_BYTES

_INSTANT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes of one partition."""

    tombstones: dict[bytes, bytes] = field(default_factory=dict)
    """Of a key whose winner is a deletion that the position's floor does not cover: its tombstone's applied offset and
    its append time, 8 bytes big-endian each."""
    outdated: set[bytes] = field(default_factory=set)
    """Keys whose last record is not the winner: compaction would keep the wrong one."""

    def settle(self, written: Collection[bytes], floor: bytes) -> set[bytes]:
        """Drop what a complete write of these keys makes superfluous, and give the keys of what was dropped.

        Their last records are now the owner's own; and of absent keys the floor says what tombstones said.
        """
        superseded = self.outdated.intersection(written)
        self.outdated.difference_update(superseded)
        covered = [
            key for key, note in self.tombstones.items() if note[:APPLIED_BYTES] <= floor or key in written
        ]
        for key in covered:
            del self.tombstones[key]
        return superseded.union(covered)

    def forget_deleted_before(self, instant: int) -> list[bytes]:
        """Drop the notes of tombstones that were appended before this instant, and give their keys.

        Not of a key whose deletion has to be repeated: the repetition needs to tell as of when.
        """
        limit = instant.to_bytes(_INSTANT_BYTES, "big")
        forgotten = [
            key
            for key, note in self.tombstones.items()
            if note[APPLIED_BYTES:] < limit and key not in self.outdated
        ]
        for key in forgotten:
            del self.tombstones[key]
        return forgotten


def tombstone_note(applied: bytes, appended_at: int) -> bytes:
    """The note of a tombstone; `appended_at` in milliseconds, 0 or below where nobody knows it."""
    return applied + max(appended_at, 0).to_bytes(_INSTANT_BYTES, "big")
