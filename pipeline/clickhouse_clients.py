"""How Settings become connections to ClickHouse.

Takes Settings; gives the server as the adapter wants it (pipeline.clickhouse.client), and clients of it. Whether
settings contradict each other was decided before (pipeline.connection_faults). Never shows a password.
"""

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import Server, connect
from pipeline.clickhouse.migrate import check_migrated
from pipeline.settings import Settings


def clickhouse_server(settings: Settings) -> Server:
    """The database, with its login and certificates."""
    return Server(
        settings.clickhouse,
        settings.clickhouse_password,
        settings.clickhouse_ca,
        settings.clickhouse_certificate,
        settings.clickhouse_key,
    )


def connect_clickhouse(settings: Settings, *, request_timeout_seconds: int = 60) -> Client:
    """A client of the database; raises `Permanent` and `Transient` as `connect` does."""
    return connect(clickhouse_server(settings), request_timeout_seconds=request_timeout_seconds)


def connect_migrated(settings: Settings) -> Client:
    """A client of the database, whose tables are those this program knows; else raises `MigrationError`."""
    client = connect_clickhouse(settings)
    check_migrated(client)
    return client
