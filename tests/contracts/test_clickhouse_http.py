"""The embedded ClickHouse answers an unmodified driver as ClickHouse's own server does."""

import clickhouse_connect
import pytest


@pytest.fixture
def client(clickhouse, database):
    connected = clickhouse_connect.get_client(host=clickhouse.host, port=clickhouse.port, database=database)
    yield connected
    connected.close()


def test_a_repeated_token_stores_nothing(client):
    client.command(
        "CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a"
        " SETTINGS non_replicated_deduplication_window = 100"
    )
    for token in ("one", "one", "two"):
        client.insert(
            "t",
            [[1, 2]],
            column_names=["a"],
            column_oriented=True,
            settings={"insert_deduplication_token": token},
        )
    assert client.query("SELECT count() FROM t").result_rows == [(4,)]
