"""Clients of a cluster: topics on it, who leads them, and conditions that take their time."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.cluster import EmbeddedCluster


class Clients:
    """Makes clients of one cluster, and asks it questions."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self.cluster = cluster
        self.servers = cluster.bootstrap_servers
        # Nodes are killed here, and librdkafka says so at length.
        self._common = {"bootstrap.servers": self.servers, "log_level": 0}
        self.admin = AdminClient(self._common)

    def create_topic(self, name: str, *placements: list[int], **config: object) -> str:
        """A topic with a partition for each list of node ids, the preferred leader first."""
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, len(placements), replica_assignment=list(placements), config=settings)
        self.admin.create_topics([topic])[name].result(30)
        until(lambda: all(self.leader(name, partition) for partition in range(len(placements))))
        return name

    def producer(self, **options: object) -> Producer:
        return Producer({**self._common, "acks": "all", "linger.ms": 5, **_dotted(options)})

    def produce(self, topic: str, values: list[bytes], partition: int = 0, **options: object) -> None:
        """Append the values in order; all are acknowledged after."""
        producer = self.producer(**options)
        refused: list[KafkaError] = []
        for value in values:
            producer.produce(topic, value, partition=partition, on_delivery=only_errors(refused))
        assert producer.flush(60) == 0
        assert not refused

    def consumer(self, group: str = "reads", **options: object) -> Consumer:
        return Consumer({**self._common, "group.id": group, "enable.auto.commit": False, **_dotted(options)})

    def bounds(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """The first offset that is there, and the one that comes next."""
        asking = self.consumer()
        try:
            low, high = asking.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            return low, high
        finally:
            asking.close()

    def read(self, topic: str, partition: int = 0, **options: object) -> list[Any]:
        """Every record of a partition, in log order; of a transactional one, what was committed."""
        end = self.bounds(topic, partition)[1]
        # The end is told by an event, because what was aborted is passed over.
        reading = self.consumer(enable_partition_eof=True, **options)
        reading.assign([TopicPartition(topic, partition, 0)])
        records = []
        try:
            while True:
                some = reading.consume(10_000, timeout=0.1)
                records += [record for record in some if record.error() is None]
                if any(record.error() and record.offset() >= end for record in some):
                    return records
        finally:
            reading.close()

    def leader(self, topic: str, partition: int = 0) -> int:
        """The id of the node that leads a partition; 0 while none does, or none is known."""
        found = self.admin.list_topics(topic, timeout=30).topics[topic].partitions.get(partition)
        return max(found.leader, 0) if found else 0

    def insync(self, topic: str, partition: int = 0) -> set[int]:
        """The ids of the nodes that have everything of a partition."""
        return set(self.admin.list_topics(topic, timeout=30).topics[topic].partitions[partition].isrs)

    def coordinator(self, group: str) -> int:
        """The id of the node that keeps a group's members and commits, once one has taken that up."""
        found: list[int] = []

        def ask() -> bool:
            with contextlib.suppress(KafkaException):
                found.append(self.admin.describe_consumer_groups([group])[group].result(30).coordinator.id)
            return bool(found)

        until(ask)
        return found[0]

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """A group's committed offset; negative when it has committed nothing."""
        asking = self.consumer(group)
        try:
            offset: int = asking.committed([TopicPartition(topic, partition)], timeout=60)[0].offset
            return offset
        finally:
            asking.close()

    def commit(self, group: str, topic: str, offset: int) -> None:
        """Commit an offset of partition 0 for a group that has no members."""
        committing = self.consumer(group)
        committing.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
        committing.close()

    def node(self, node_id: int) -> EmbeddedBroker:
        return self.cluster.nodes[node_id - 1]


def _dotted(options: Mapping[str, object]) -> dict[str, object]:
    """librdkafka's own names, which its Python binding gives callbacks without dots."""
    return {key if key.endswith("_cb") else key.replace("_", "."): value for key, value in options.items()}


def only_errors(refused: list[KafkaError]) -> Callable[[KafkaError | None, Any], None]:
    """A delivery callback that collects what was not acknowledged."""
    return lambda error, _record: refused.append(error) if error is not None else None


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Ask again until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)
