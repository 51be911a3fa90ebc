"""The contract with ClickHouse: what is stored, what a token protects, and what every error becomes."""

import inspect
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3.exceptions
from clickhouse_connect.driver import exceptions as driver
from clickhouse_connect.driver.client import Client
from clickhouse_rows import NOON, columns_of, facts

from pipeline.clickhouse.client import (
    Table,
    connect,
    driver_errors,
    insert,
    insert_isolating,
    operating_error,
)
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, ENTRIES, USAGE
from pipeline.core.account import Account, Period
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.errors import MsgmeterError, Permanent, Transient, Unstorable
from pipeline.stream.storing import account_columns, insert_rows

KAFKA_PARTITION = FACTS.column_names.index("kafka_partition")
TOO_LARGE = 70_000  # kafka_partition is a UInt16.


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    connected = connect(f"{clickhouse.url}/{database}")
    apply_migrations(connected)
    yield connected
    connected.close()


def count(client: Client, table: str = "rated_messages") -> int:
    return client.command(f"SELECT count() FROM {table}")


# Tables and columns.


@pytest.mark.parametrize("table", [FACTS, USAGE, ACCOUNTS, ENTRIES, ALERTS], ids=lambda table: table.name)
def test_table_is_declared_as_it_is_created(client: Client, table: Table) -> None:
    rows = client.query(f"DESCRIBE {table.name}").result_rows
    computed = ("ALIAS", "MATERIALIZED")
    assert tuple((name, type_) for name, type_, kind, *_ in rows if kind not in computed) == table.columns


def test_what_is_inserted_is_read_back(client: Client) -> None:
    row = {
        "tenant": "a'b\\c\té",
        "message_id": "m1",
        "message_key": bytes(range(16)),
        "occurred_at": NOON + 1,
        "received_at": NOON + 999,
        "local_date": 20_371,
        "segments": -2,
        "counterparty_hash": 2**64 - 1,
        "credits_micros": -(2**62),
        "further_grants": {"g2": 5, "": 7},
        "fingerprint": 2**32 - 1,
        "kafka_partition": 2**16 - 1,
        "version": 2**63,
    }
    insert(client, FACTS, columns_of(FACTS, row), "token")
    stored = client.query(
        "SELECT tenant, message_key, toUnixTimestamp64Milli(occurred_at),"
        " toUnixTimestamp64Milli(received_at),"
        " toString(local_date), segments, counterparty_hash, credits_micros, further_grants, fingerprint,"
        " kafka_partition, version FROM rated_messages"
    ).result_rows
    assert stored == [
        (
            row["tenant"], row["message_key"], NOON + 1, NOON + 999, "2025-10-10", -2, 2**64 - 1, -(2**62),
            {"g2": 5, "": 7}, 2**32 - 1, 2**16 - 1, 2**63,
        )
    ]  # fmt: skip


def test_split_over_grants_sums_to_the_credits(client: Client) -> None:
    rows = [
        {"message_id": "one"},
        {"message_id": "split", "credits_micros": 1_000_012, "further_grants": {"g2": 5, "": 7}},
    ]
    insert(client, FACTS, columns_of(FACTS, *rows), "token")
    split = client.query("SELECT grants, arraySum(mapValues(grants)) = credits_micros FROM rated_messages")
    assert sorted(split.result_rows, key=str) == [
        ({"g1": 1_000_000, "g2": 5, "": 7}, 1),
        ({"g1": 1_000_000}, 1),
    ]


def test_no_rows_are_no_request(client: Client) -> None:
    insert(client, Table("nowhere", (("a", "Int64"),)), [[]], "token")


@pytest.mark.parametrize(
    "columns", [[[1]], [[1], [1], [1]], [[1], [1, 2]]], ids=["missing", "surplus", "unequal"]
)
def test_ragged_columns_are_a_bug(client: Client, columns: list[list[int]]) -> None:
    with pytest.raises(AssertionError):
        insert(client, Table("nowhere", (("a", "Int64"), ("b", "Int64"))), columns, "token")


def test_batch_over_many_months_is_stored(client: Client) -> None:
    """The server's default refuses, every time, an insert that touches more than 100 partitions."""
    months = [{"message_id": f"m{i}", "occurred_at": NOON - i * 31 * 86_400_000} for i in range(150)]
    insert(client, FACTS, columns_of(FACTS, *months), "token")
    assert count(client) == 150


# Tokens.


def test_same_token_stores_once(client: Client) -> None:
    for _ in range(3):
        insert(client, FACTS, facts(10), "token")
    assert count(client) == 10


def test_other_token_stores_again_and_final_absorbs(client: Client) -> None:
    insert(client, FACTS, facts(10), "token")
    insert(client, FACTS, facts(10), "other")
    assert count(client) == 20
    assert count(client, "rated_messages FINAL") == 10


def test_duplicates_within_one_insert_are_absorbed(client: Client) -> None:
    """The engine is told not to collapse at insert, so reading has to."""
    rows = [{"message_id": "same", "version": version, "segments": version} for version in (1, 3, 2)]
    insert(client, FACTS, columns_of(FACTS, *rows), "token")
    query = (
        "SELECT segments FROM rated_messages FINAL SETTINGS do_not_merge_across_partitions_select_final = 1"
    )
    assert client.query(query).result_rows == [(3,)]


def test_token_is_remembered_over_the_servers_death(tmp_path: Path) -> None:
    """What a worker repeats after an outage, because it never learnt that its insert was stored."""
    with EmbeddedClickHouse(tmp_path) as own:
        client = connect(own.url)
        apply_migrations(client)
        insert(client, FACTS, facts(10), "token")
        own.kill()
        own.start()
        insert(client, FACTS, facts(10), "token")
        assert count(client) == 10
        client.close()


def test_one_client_serves_several_threads(client: Client) -> None:
    def store(number: int) -> None:
        rows = [{"message_id": f"{number} {i}"} for i in range(50)]
        insert(client, FACTS, columns_of(FACTS, *rows), f"token {number}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(store, range(24)))
    assert count(client, "rated_messages FINAL") == 24 * 50


# Rows that cannot be stored.


def damaged(count: int, *indexes: int) -> list[list[object]]:
    columns = facts(count)
    for index in indexes:
        columns[KAFKA_PARTITION][index] = TOO_LARGE
    return columns


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kafka_partition", TOO_LARGE),
        ("kafka_partition", None),
        ("kafka_partition", "3"),
        ("message_key", b"short"),
        ("message_id", "half a pair: \ud83d"),
        ("kind", "half a pair: \ud83d"),
        ("message_id", 5),
        ("occurred_at", 2**64),
        ("further_grants", {"g": 2**64}),
        ("further_grants", None),
    ],
)
def test_value_that_does_not_fit_is_unstorable(
    client: Client, caplog: pytest.LogCaptureFixture, name: str, value: object
) -> None:
    columns = facts(3)
    columns[FACTS.column_names.index(name)][1] = value
    with caplog.at_level(logging.CRITICAL), pytest.raises(Unstorable):
        insert(client, FACTS, columns, "token")
    assert count(client) == 0


@pytest.mark.parametrize("at_fault", [[], [0], [6], [0, 6], [2, 3], [1, 3, 5]])
def test_isolating_stores_all_but_the_rows_at_fault(client: Client, at_fault: list[int]) -> None:
    assert insert_isolating(client, FACTS, damaged(7, *at_fault), "token") == at_fault
    stored = client.query("SELECT kafka_offset FROM rated_messages ORDER BY 1").result_columns
    assert (list(stored[0]) if stored else []) == [index for index in range(7) if index not in at_fault]


def test_isolating_again_stores_nothing_twice(client: Client) -> None:
    for _ in range(2):
        assert insert_isolating(client, FACTS, damaged(9, 4), "token") == [4]
    assert count(client) == 8


def test_a_batch_of_nothing_but_faults_is_the_programs_fault(client: Client) -> None:
    with pytest.raises(Permanent, match="More than 100 rows") as raised:
        insert_isolating(client, FACTS, damaged(200, *range(200)), "token")
    assert not isinstance(raised.value, Unstorable)


def test_an_account_that_does_not_fit_keeps_back_no_other_and_is_told(client: Client) -> None:
    limits = (("a", 2**63 - 1), ("b", 2**63), ("c", -(2**63)), ("b", 10**30))
    columns = account_columns(
        (0, Account(tenant, periods=[Period(NOON, NOON + 1, limit)], applied_offset=7), None)
        for tenant, limit in limits
    )
    assert insert_rows(client, ACCOUNTS, columns, "token") == {"b": 2}
    stored = client.query("SELECT tenant, limit_micros FROM account_snapshots ORDER BY tenant").result_rows
    assert [tuple(row) for row in stored] == [limits[0], limits[2]]


def test_missing_table_is_not_blamed_on_the_rows(client: Client) -> None:
    client.command("DROP TABLE rated_messages")
    with pytest.raises(Permanent, match="UNKNOWN_TABLE") as raised:
        insert_isolating(client, FACTS, facts(4), "token")
    assert not isinstance(raised.value, Unstorable)


# Errors.


def foreign_error_classes() -> list[type[Exception]]:
    classes = [each for each in vars(driver).values() if inspect.isclass(each)]
    classes += [each for each in vars(urllib3.exceptions).values() if inspect.isclass(each)]
    kept = [each for each in classes if issubclass(each, Exception) and not issubclass(each, Warning)]
    return sorted({each for each in kept if each.__module__.startswith(("clickhouse", "urllib3"))}, key=str)


@pytest.mark.parametrize("error_class", foreign_error_classes(), ids=lambda each: each.__name__)
def test_every_foreign_error_becomes_ours(error_class: type[Exception]) -> None:
    error = error_class.__new__(error_class)
    Exception.__init__(error, "what happened")
    vars(error).update(partial=1, expected=2, length=b"3")  # What some of them tell in their text.
    with pytest.raises((Transient, Permanent)) as raised, driver_errors():
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (driver.OperationalError("connection refused"), Transient),
        (driver.StreamFailureError("closed"), Transient),
        (driver.DatabaseError("too many parts", code=252), Transient),
        (driver.DatabaseError("memory", code=241), Transient),
        (driver.OperationalError("too many queries", code=202), Transient),
        (driver.DatabaseError("HTTP driver received HTTP status 502"), Transient),
        (driver.DatabaseError("HTTP driver received HTTP status 404"), Permanent),
        (driver.DatabaseError("unknown table", code=60), Permanent),
        (driver.DatabaseError("authentication failed", code=516), Permanent),
        (driver.DatabaseError("not one we know", code=12_345), Permanent),
        (driver.ProgrammingError("wrong column count"), Permanent),
        (driver.DatabaseError("violated constraint", code=469), Unstorable),
        (driver.DataError("out of range"), Unstorable),
        (urllib3.exceptions.ReadTimeoutError(None, "", "timed out"), Transient),  # type: ignore[arg-type]
        (urllib3.exceptions.LocationParseError("nonsense"), Permanent),
        (ConnectionResetError("reset"), Transient),
    ],
    ids=repr,
)
def test_error_says_what_the_caller_does_next(error: Exception, becomes: type[MsgmeterError]) -> None:
    mapped = operating_error(error)
    assert type(mapped) is becomes
    assert not isinstance(mapped, Transient) or mapped.retry_after_seconds > 0


def test_own_errors_pass_unchanged() -> None:
    with pytest.raises(Transient, match="wait"), driver_errors():
        raise Transient("wait", retry_after_seconds=1)


def test_server_away_is_transient(clickhouse: EmbeddedClickHouse, tmp_path: Path) -> None:
    with EmbeddedClickHouse(tmp_path) as own:
        client = connect(own.url)
        own.kill()
        with pytest.raises(Transient):
            insert(client, FACTS, facts(1), "token")
        with pytest.raises(Transient):
            connect(own.url)
    client.close()


# Connecting.


def test_login_is_taken_from_the_url_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = tmp_path / "users.json"
    users.write_text('{"reader": "p@ss/word"}')
    with EmbeddedClickHouse(tmp_path / "data", users=users) as own:
        address = f"{own.host}:{own.port}/default"
        client = connect(f"http://reader:p%40ss%2Fword@{address}")
        assert client.command("SELECT 1") == 1
        assert "p@ss" not in repr(client) + repr(vars(client))
        client.close()
        with pytest.raises(Permanent) as refused:
            connect(f"http://reader:hunter2@{address}")
    with pytest.raises(Transient) as away:
        connect(f"http://reader:hunter2@{address}")
    chain = [refused.value, refused.value.__cause__, away.value, away.value.__cause__]
    shown = "".join(f"{error!s}{error!r}" for error in chain) + caplog.text
    assert "hunter2" not in shown
    assert "p@ss" not in shown


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8123", "tcp://127.0.0.1:9000", "http://", "http://host:port/db", "http://[::1/db"]
)
def test_unusable_url_is_permanent_and_not_repeated(url: str) -> None:
    with pytest.raises(Permanent, match="ClickHouse URL") as raised:
        connect(url.replace("//", "//user:hunter2@"))
    assert "hunter2" not in str(raised.value)


def test_unknown_database_is_permanent(clickhouse: EmbeddedClickHouse) -> None:
    with pytest.raises(Permanent, match="nowhere"):
        connect(f"{clickhouse.url}/nowhere").command("SELECT 1")
