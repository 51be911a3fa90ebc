"""A Kafka of lists: topics that are appended to and compacted, a group with its generations, and what it committed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError

from pipeline.topics import MESSAGES_RAW
from tests.builders import Record
from tests.simulation.network import WRITING, Line

Place = tuple[str, int]


class Appended(NamedTuple):
    """A record as librdkafka hands it out, as far as recovery looks at it."""

    at: int
    key_bytes: bytes
    value_bytes: bytes | None
    header_pairs: Sequence[tuple[str, bytes | None]]

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return self.key_bytes

    def value(self) -> bytes | None:
        return self.value_bytes

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        return self.header_pairs


@dataclass
class Topic:
    """One partition of a topic."""

    records: list[Appended] = field(default_factory=list)
    end: int = 0

    def append(self, records: Iterable[tuple[bytes, bytes | None, Any]]) -> int:
        base = self.end
        for key, value, headers in records:
            self.records.append(Appended(self.end, key, value, headers))
            self.end += 1
        return base

    def read(self, start: int, most: int) -> list[Appended]:
        """The next records from an offset on."""
        if start >= self.end:
            return []
        return [record for record in self.records if record.at >= start][:most]

    def compact(self, end: int) -> None:
        """Keeps, of what lies before `end`, the last record of each key."""
        last = {record.key_bytes: record.at for record in self.records if record.at < end}
        self.records = [each for each in self.records if each.at >= end or last[each.key_bytes] == each.at]


class Broker:
    """The logs, the topics and the group."""

    def __init__(self, logs: list[list[Record]]) -> None:
        self.logs = logs
        """`messages.raw` by partition."""
        self.topics: dict[Place, Topic] = {}
        self.committed = [0] * len(logs)
        self.generation = 0
        self.members: dict[Any, set[int]] = {}
        """By worker: the partitions it owns in this generation."""
        self.grown: Callable[[int], None] = lambda _: None

    def topic(self, name: str, partition: int) -> Topic:
        return self.topics.setdefault((name, partition), Topic())

    def append(self, name: str, partition: int, records: list[tuple[bytes, bytes | None, Any]]) -> int:
        if name != MESSAGES_RAW:
            return self.topic(name, partition).append(records)
        log = self.logs[partition]
        base = len(log)
        now = log[-1].timestamp if log else 0
        log += [Record(base + at, now, *record) for at, record in enumerate(records)]
        self.grown(partition)
        return base

    def is_member(self, worker: Any, generation: int) -> bool:
        return generation == self.generation and worker in self.members

    def commit(self, worker: Any, generation: int, offsets: dict[int, int]) -> bool:
        """Whatever a member says, also an earlier offset; nothing from who is none."""
        if not self.is_member(worker, generation):
            return False
        for partition, offset in offsets.items():
            self.committed[partition] = offset
        return True


class Batch:
    """Stands where aiokafka's builder does; full after a few records."""

    def __init__(self, room: int) -> None:
        self.records: list[tuple[bytes, bytes | None, Any]] = []
        self._room = room

    def append(self, *, timestamp: Any, key: bytes, value: bytes | None, headers: Any) -> object | None:
        if len(self.records) >= self._room:
            return None
        self.records.append((key, value, headers))
        return self

    def record_count(self) -> int:
        return len(self.records)


class Producer:
    """A worker's producer: batches to one partition arrive in order, and acknowledgements come or do not."""

    def __init__(self, broker: Broker, line: Line, chance: Random, *, batch_records: int) -> None:
        self._broker = broker
        self._line = line
        self._chance = chance
        self._batch_records = batch_records
        self._failed: set[Place] = set()
        """An idempotent producer's batches are numbered: behind one that failed, no other is taken."""

    def create_batch(self) -> Batch:
        return Batch(self._batch_records)

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> Any:
        return self._line.trip(
            lambda: self._append(topic, partition, batch.records),
            (topic, partition),
            delicacy=WRITING if topic.endswith("-changelog") else 1,
        )

    def _append(
        self, topic: str, partition: int, records: list[tuple[bytes, bytes | None, Any]]
    ) -> SimpleNamespace:
        if self._line.happens(self._line.faults.failed):
            self._failed.add((topic, partition))
        if (topic, partition) in self._failed:
            raise KafkaError("the broker refuses")
        base = self._broker.append(topic, partition, records)
        # A broker that has had the batch already does not tell where.
        return SimpleNamespace(offset=-1 if self._chance.random() < 0.02 else base)
