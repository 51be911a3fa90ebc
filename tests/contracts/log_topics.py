"""The topics of tests on the shared broker: their ends, and what came after them."""

from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.settings import Settings
from pipeline.topics import changelog_names, topics

PARTITIONS = 8


def delete_topics(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka, "log_level": 2})
    names = {topic.name for topic in topics(settings)}
    while there := sorted(names & set(admin.list_topics(timeout=10).topics)):
        for future in admin.delete_topics(there).values():
            if error := future.exception(30):
                assert error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def create_changelogs(settings: Settings, **changes: str) -> None:
    """The state topics as `migrate` makes them but for `changes` of their configs; "" leaves one out."""
    names = changelog_names(settings.application)
    config = {name.replace("_", "."): value for name, value in changes.items()}
    wanted = [
        NewTopic(
            each.name,
            each.partitions,
            1,
            config={key: value for key, value in (each.config | config).items() if value},
        )
        for each in topics(settings)
        if each.name in names
    ]
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    for future in admin.create_topics(wanted, operation_timeout=30).values():
        future.result(30)
    while not set(names) <= set(admin.list_topics(timeout=30).topics):
        pass


def ends(settings: Settings, topic: str) -> list[int]:
    consumer = reader(settings)
    try:
        return [
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
            for partition in range(PARTITIONS)
        ]
    finally:
        consumer.close()


def reader(settings: Settings) -> Consumer:
    return Consumer(
        {"bootstrap.servers": settings.kafka, "group.id": "test", "enable.auto.commit": False, "log_level": 2}
    )


def read_since(settings: Settings, topic: str, starts: list[int]) -> list[Any]:
    """What came after `starts`, by partition and offset."""
    consumer = reader(settings)
    places = list(enumerate(zip(starts, ends(settings, topic), strict=True)))
    consumer.assign([TopicPartition(topic, partition, start) for partition, (start, _) in places])
    messages: list[Any] = []
    try:
        while len(messages) < sum(end - start for _, (start, end) in places):
            message = consumer.poll(10)
            assert message is not None, f"only {len(messages)} records came"
            assert message.error() is None
            messages.append(message)
    finally:
        consumer.close()
    return sorted(messages, key=lambda message: (message.partition(), message.offset()))
