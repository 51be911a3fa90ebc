"""Fixtures every test directory shares: one real broker and engine per test session, and names of one's own.

Lazily started: a run of core tests starts nothing. Tests that kill a server start their own
(`EmbeddedBroker(tmp_path)`), because everybody shares these.
"""

import uuid
from collections.abc import Callable, Iterator

import clickhouse_connect
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """One Apache Kafka node for the whole test session; clients use `.bootstrap_servers`."""
    directory = tmp_path_factory.mktemp("broker")
    with EmbeddedBroker(directory) as running:
        yield running
        running.kill()  # Nobody needs its data any more, and an orderly end takes longer.


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    """One ClickHouse engine for the whole test session; clients use `.host` and `.port`."""
    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running
        running.kill()


@pytest.fixture
def database(clickhouse: EmbeddedClickHouse) -> Iterator[str]:
    """Give the name of an empty database that is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:10]}"
    client = clickhouse_connect.get_client(host=clickhouse.host, port=clickhouse.port)
    client.command(f"CREATE DATABASE {name}")
    yield name
    client.command(f"DROP DATABASE {name}")
    client.close()


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """Give a function that makes a topic, group, app or table name no other test uses."""
    suffix = uuid.uuid4().hex[:10]
    return lambda noun: f"{noun}_{suffix}"


@pytest.fixture
def create_topic(broker: EmbeddedBroker, unique_name: Callable[[str], str]) -> Callable[..., str]:
    """Give `create_topic(noun, partitions=1, **config)`, which returns the new topic's name.

    Config keys are written with underscores: `cleanup_policy="compact"`.
    """

    def create(noun: str, partitions: int = 1, **config: object) -> str:
        name = unique_name(noun)
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin.create_topics([topic])[name].result(30)
        return name

    return create
