"""Mends B and E: nothing is committed before it is sent, nor before it is acknowledged."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from faust.transport.drivers import aiokafka as driver
from table_scene import PARTITIONS, Tables, add_agent, make_app, until

from pipeline.embedded.broker import EmbeddedBroker

MESSAGES = 20


@pytest.fixture
def scene(
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Tables:
    topic = create_topic("raw", partitions=PARTITIONS)
    return Tables(broker.bootstrap_servers, topic, unique_name("group"), tmp_path)


def end_offset(scene: Tables, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": scene.servers, "group.id": "reader"})
    try:
        return consumer.get_watermark_offsets(TopicPartition(topic, 0), 30)[1]
    finally:
        consumer.close()


async def test_flush_returns_only_when_everything_enqueued_before_it_is_stored(
    scene: Tables, create_topic: Callable[..., str]
) -> None:
    alerts = create_topic("alerts")
    app = make_app(scene.servers, scene.group, scene.topic, scene.directory / "worker")
    topic = app.topic(alerts, key_type=bytes, value_type=bytes, value_serializer="raw")
    await app.producer.start()
    try:
        send = app.producer._producer.send

        async def slow_send(*arguments: Any, **named: Any) -> Any:
            await asyncio.sleep(0.15)  # Longer than the 100 ms after which upstream's flush gives up.
            return await send(*arguments, **named)

        app.producer._producer.send = slow_send
        sent = [topic.send_soon(value=b"alert") for _ in range(MESSAGES)]
        await app.producer.flush()
        assert all(message.done() for message in sent)
        assert end_offset(scene, alerts) == MESSAGES
    finally:
        await app.producer.stop()


async def test_flush_raises_what_kept_a_message_from_being_stored(
    scene: Tables, create_topic: Callable[..., str]
) -> None:
    app = make_app(scene.servers, scene.group, scene.topic, scene.directory / "worker")
    app.sensors._sensors.clear()  # Otherwise the process ends here (mend C).
    topic = app.topic(create_topic("alerts", max_message_bytes=1_000), value_serializer="raw")
    await app.producer.start()
    try:
        topic.send_soon(value=bytes(5_000))
        with pytest.raises(Exception, match="MessageSizeTooLarge"):
            await app.producer.flush()
    finally:
        await app.producer.stop()


async def acknowledge_second_of_two(scene: Tables, app: Any) -> int:
    """Acknowledge the second of two events and commit; gives what the group has committed then."""
    events: list[Any] = []

    async def note(event: Any) -> None:
        events.append(event)

    add_agent(app, scene.topic, note)
    await asyncio.to_thread(scene.produce_to, 0, 1)
    await app.start()
    try:
        await until(lambda: len(events) == 1)
        await asyncio.to_thread(scene.produce_to, 0, 1)
        await until(lambda: len(events) == 2)
        events[1].ack()
        await app.consumer.commit()
        return scene.committed()
    finally:
        await app.stop()


async def test_faust_commits_what_was_never_acknowledged_when_a_later_event_is(scene: Tables) -> None:
    """Why acknowledgements are given in order, and why chunks keep their own book (issue 606)."""
    app = make_app(scene.servers, scene.group, scene.topic, scene.directory / "worker")
    app.transport = driver.Transport(app.conf.broker_consumer, app)
    assert await acknowledge_second_of_two(scene, app) == 2


async def test_chunks_commit_nothing_when_only_a_later_one_is_acknowledged(scene: Tables) -> None:
    app = make_app(scene.servers, scene.group, scene.topic, scene.directory / "worker")
    assert await acknowledge_second_of_two(scene, app) == 0
