"""The embedded ClickHouse answers an unmodified driver as ClickHouse's own server does."""

import datetime as dt
import http.client
import json
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import StartError
from pipeline.embedded.statements import insert_statement

_DEDUPLICATES = "SETTINGS non_replicated_deduplication_window = 100"


@pytest.fixture
def connect(clickhouse, database):
    """Give a function that makes clients of an own, empty database."""
    clients = []

    def make(**options):
        client = clickhouse_connect.get_client(
            host=clickhouse.host, port=clickhouse.port, **{"database": database, **options}
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect):
    return connect()


def _rows(client, statement, **options):
    return client.query(statement, **options).result_rows


def _code(raised):
    return raised.value.code


# What goes in and out ------------------------------------------------------------------------


def test_values_of_every_type_in_use_come_back_as_they_went_in(client):
    moment = dt.datetime(2025, 2, 28, 23, 59, 59, 999_000)  # noqa: DTZ001 - the driver gives UTC without a zone
    columns = {
        "a Int64": [-(2**63), 2**63 - 1],
        "b UInt64": [0, 2**64 - 1],
        "c UInt8": [0, 255],
        "d String": ["", "tab\t quote' back\\slash \N{PILE OF POO} nul\0 end"],
        "e LowCardinality(String)": ["sms", "email"],
        "f Nullable(String)": [None, ""],
        "g DateTime64(3, 'UTC')": [moment, moment.replace(year=2000, microsecond=1000)],
        "h Date32": [dt.date(1999, 12, 31), dt.date(2100, 1, 1)],
        "i Array(LowCardinality(String))": [[], ["one", "two"]],
        "j Array(Int64)": [[1, -1], []],
        "k FixedString(16)": [bytes(16), bytes(range(16))],
        "l UUID": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)],
        "m Bool": [True, False],
        "n Decimal(18, 6)": [Decimal("-0.000001"), Decimal("999999999999.999999")],
        "o Map(String, String)": [{}, {"key": "value"}],
    }
    names = [column.split()[0] for column in columns]
    client.command(f"CREATE TABLE t ({', '.join(columns)}) ENGINE = MergeTree ORDER BY a")
    client.insert("t", list(columns.values()), column_names=names, column_oriented=True)
    assert client.query("SELECT * FROM t ORDER BY a").result_columns == list(columns.values())


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", False])
def test_an_insert_of_many_blocks_is_stored_whole_whatever_its_compression(connect, compression):
    client = connect(compress=compression)
    client.command("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    count = 300_000
    blob = "x" * 100
    summary = client.insert(
        "t", [range(count), [blob] * count], column_names=["a", "b"], column_oriented=True
    )
    assert summary.written_rows == count
    assert _rows(client, "SELECT count(), sum(a), uniqExact(b) FROM t") == [
        (count, count * (count - 1) // 2, 1)
    ]


def test_parameters_arrive_as_they_were_given(client):
    text = "tab\t line\n quote' back\\slash \\n {x:Int8} \N{PILE OF POO}"
    statement = (
        "SELECT {text:String}, {numbers:Array(Int64)}, {moment:DateTime('UTC')}, {nothing:Nullable(String)}"
    )
    moment = dt.datetime(2025, 3, 30, 1, 30)  # noqa: DTZ001 - as above
    given = {"text": text, "numbers": [1, -2], "moment": moment, "nothing": None}
    assert _rows(client, statement, parameters=given) == [(text, [1, -2], moment, None)]


def test_parameters_too_long_for_an_address_arrive_too(client):
    numbers = list(range(20_000))
    assert _rows(
        client, "SELECT sum(arrayJoin({numbers:Array(Int64)}))", parameters={"numbers": numbers}
    ) == [(sum(numbers),)]


def test_text_formats_follow_the_settings_of_their_insert(client):
    client.command("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    client.raw_insert("t", ["a", "b"], "1;one\n2;two\n", {"format_csv_delimiter": ";"}, fmt="CSV")
    assert _rows(client, "SELECT * FROM t ORDER BY a") == [(1, "one"), (2, "two")]


def test_rows_in_the_statement_itself_are_stored(client):
    client.command("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    client.command("INSERT INTO t VALUES (1, 'format CSV')")
    client.command("INSERT INTO t SELECT number + 2, 'two' FROM numbers(2)")
    assert _rows(client, "SELECT * FROM t ORDER BY a") == [(1, "format CSV"), (2, "two"), (3, "two")]


def test_a_statement_may_read_tables_sent_along(client):
    sent = ExternalData(
        file_name="wanted", fmt="CSV", structure="id Int64, label String", data=b"2,two\n5,five\n"
    )
    statement = "SELECT number, label FROM numbers(4) AS asked INNER JOIN wanted ON wanted.id = asked.number"
    for _ in range(2):  # The second time, the table of the first must be gone.
        assert _rows(client, statement, external_data=sent) == [(2, "two")]


def test_a_long_answer_comes_in_blocks(client):
    with client.query_column_block_stream("SELECT number FROM numbers(500000)") as blocks:
        sizes = [len(block[0]) for block in blocks]
    assert sum(sizes) == 500_000
    assert len(sizes) > 1


async def test_the_asynchronous_client_is_served_too(clickhouse, database):
    client = await clickhouse_connect.get_async_client(
        host=clickhouse.host, port=clickhouse.port, database=database
    )
    await client.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    await client.insert("t", [list(range(1000))], column_names=["a"], column_oriented=True)
    assert (await client.query("SELECT sum(a) FROM t")).result_rows == [(499_500,)]
    await client.close()


# Deduplication -------------------------------------------------------------------------------


def test_a_repeated_token_stores_nothing(client):
    client.command(f"CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a {_DEDUPLICATES}")
    rows = [list(range(300_000))]  # Several blocks on the wire: the token must cover all of them.
    for token in ("one", "one", "two"):
        client.insert(
            "t",
            rows,
            column_names=["a"],
            column_oriented=True,
            settings={"insert_deduplication_token": token},
        )
    assert _rows(client, "SELECT count() FROM t") == [(600_000,)]


def test_a_token_survives_a_crash(tmp_path):
    with EmbeddedClickHouse(tmp_path, host="localhost") as server:
        assert server.url == f"http://localhost:{server.port}"
        client = clickhouse_connect.get_client(host=server.host, port=server.port)
        client.command(f"CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a {_DEDUPLICATES}")
        for _ in range(2):
            settings = {"insert_deduplication_token": "it's one"}
            client.insert("t", [[1, 2]], column_names=["a"], column_oriented=True, settings=settings)
            server.kill()
            server.start()
        assert _rows(client, "SELECT count() FROM t") == [(2,)]
        client.close()


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT * FROM nowhere", 60),
        ("SELECT nothing", 47),
        ("SELEKT 1", 62),
        ("SELECT * FROM nowhere.t", 81),
        ("SELECT throwIf(number = 3) FROM numbers(5)", 395),
        ("SELECT 1 SETTINGS no_such_setting = 1", 115),
        ("SELECT sleep(3) SETTINGS max_execution_time = 0.1", 159),
    ],
)
def test_errors_carry_clickhouses_own_number(client, statement, code):
    with pytest.raises(DatabaseError) as raised:
        client.query(statement)
    assert _code(raised) == code


def test_a_query_that_breaks_after_its_first_rows_does_not_look_complete(client):
    statement = (
        "SELECT throwIf(number = 400000) AS a, repeat('x', 100) FROM numbers(500000) SETTINGS max_threads = 1"
    )
    with (
        pytest.raises(DatabaseError, match="throwIf") as raised,
        client.query_row_block_stream(statement) as blocks,
    ):
        for _ in blocks:
            pass
    assert _code(raised) == 395


def test_a_refused_insert_stores_nothing_and_names_its_fault(client):
    client.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(DatabaseError) as raised:
        client.raw_insert("t", ["a"], "1\n2\nthree\n", fmt="CSV")
    assert _code(raised) == 117
    with pytest.raises(DatabaseError) as raised:
        client.raw_insert("nowhere", ["a"], b"1\n" * 5_000_000, fmt="CSV")
    assert _code(raised) == 60
    assert _rows(client, "SELECT count() FROM t") == [(0,)]


def test_rows_the_storage_refuses_are_not_acknowledged(client):
    # The engine's own streaming insert calls these a success.
    client.command(
        "CREATE TABLE t (a Int64, CONSTRAINT small CHECK a < 100) ENGINE = MergeTree ORDER BY a"
        " SETTINGS parts_to_throw_insert = 1"
    )

    def code_of(rows, **settings):
        with pytest.raises(DatabaseError) as raised:
            client.insert("t", [rows], column_names=["a"], column_oriented=True, settings=settings)
        return _code(raised)

    assert code_of([1, 1000]) == 469
    assert code_of([1] * 1_000_000, max_memory_usage=1_000_000) == 241
    assert code_of([1] * 1_000_000, max_execution_time="0.001") == 159
    assert _rows(client, "SELECT count() FROM t") == [(0,)]
    client.insert("t", [[1]], column_names=["a"], column_oriented=True)
    assert code_of([2]) == 252
    assert _rows(client, "SELECT a FROM t") == [(1,)]


def test_an_insert_larger_than_the_memory_for_it_is_stored_whole(client):
    client.command("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    count = 100_000
    client.raw_insert("t", ["a", "b"], (b"%d\t%0999d\n" % (row, row) for row in range(count)), fmt="TSV")
    assert _rows(client, "SELECT count(), sum(a), sum(toInt64(b)) FROM t") == [
        (count,) + (count * (count - 1) // 2,) * 2
    ]


def test_a_body_cut_off_inside_a_frame_stores_nothing(client, clickhouse, database):
    import lz4.frame

    client.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    body = lz4.frame.compress(b"INSERT INTO t FORMAT CSV\n" + b"1\n" * 100_000)[:-20]
    connection = http.client.HTTPConnection(clickhouse.host, clickhouse.port)
    connection.request("POST", f"/?database={database}", body, {"Content-Encoding": "lz4"})
    assert connection.getresponse().headers["X-ClickHouse-Exception-Code"] == "271"
    connection.close()
    assert _rows(client, "SELECT count() FROM t") == [(0,)]


def test_an_insert_whose_client_hangs_up_stores_nothing(tmp_path):
    head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\nINSERT INTO t FORMAT CSV\n"
    with EmbeddedClickHouse(tmp_path) as server:
        client = clickhouse_connect.get_client(host=server.host, port=server.port)
        client.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(head.encode() + b"1\n" * 100_000)
            connection.shutdown(socket.SHUT_WR)
            # Read to the end: by then the server has noticed.
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b" 200 " not in answer
        # An orderly end waits for what the engine is still doing.
        server.stop()
        server.start()
        assert _rows(client, "SELECT count() FROM t") == [(0,)]
        client.close()


def test_a_session_runs_one_statement_at_a_time(connect, clickhouse):
    session = connect()
    session.command("CREATE TEMPORARY TABLE makes_it_a_session (a Int64)")

    def asks_again(_number):
        # By own connections, because the driver itself refuses to use its session twice.
        asking = http.client.HTTPConnection(clickhouse.host, clickhouse.port)
        asking.request("POST", f"/?session_id={session.params['session_id']}", "SELECT sleep(1) FORMAT CSV")
        answer = asking.getresponse()
        answer.read()
        asking.close()
        return answer.headers.get("X-ClickHouse-Exception-Code", "none")

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(asks_again, range(4))) == ["373", "373", "373", "none"]
    assert _rows(session, "SELECT count() FROM makes_it_a_session") == [(0,)]


# Settings, sessions, identity ----------------------------------------------------------------


def test_settings_end_with_their_statement(connect):
    # Without a session, so that the same handle may serve all three.
    client = connect(autogenerate_session_id=False)
    statement = "SELECT value FROM system.settings WHERE name = 'max_block_size'"
    before = _rows(client, statement)
    assert _rows(client, statement, settings={"max_block_size": 1234}) == [("1234",)]
    assert _rows(client, statement) == before


def test_what_is_set_outside_a_session_is_forgotten(connect):
    client = connect(autogenerate_session_id=False)
    statement = "SELECT value FROM system.settings WHERE name = 'max_block_size'"
    before = _rows(client, statement)
    client.command("SET max_block_size = 4321")
    assert _rows(client, statement) == before


def test_a_session_keeps_what_its_statements_set_and_nobody_else_sees_it(connect):
    session, other = connect(), connect(autogenerate_session_id=False)
    session.command("SET max_block_size = 4321")
    session.command("CREATE TEMPORARY TABLE mine (a Int64)")
    session.command("INSERT INTO mine VALUES (1)")
    statement = "SELECT value FROM system.settings WHERE name = 'max_block_size'"
    assert _rows(session, statement) == [("4321",)]
    assert _rows(session, "SELECT a FROM mine") == [(1,)]
    assert _rows(other, statement) != [("4321",)]
    with pytest.raises(DatabaseError) as raised:
        other.query("SELECT a FROM mine")
    assert _code(raised) == 60


def test_a_query_keeps_the_id_its_client_gave(client):
    assert client.query("SELECT 1", settings={"query_id": "mine"}).query_id == "mine"


def test_only_users_with_the_right_password_are_served(tmp_path):
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"meter": "right"}))
    with EmbeddedClickHouse(tmp_path / "data", users=users) as server:
        for user, password in [("meter", "wrong"), ("meter", ""), ("nobody", ""), ("default", "")]:
            with pytest.raises(DatabaseError) as raised:
                clickhouse_connect.get_client(
                    host=server.host, port=server.port, username=user, password=password
                )
            assert _code(raised) == 516
        client = clickhouse_connect.get_client(
            host=server.host, port=server.port, username="meter", password="right"
        )
        assert _rows(client, "SELECT 1") == [(1,)]
        client.close()


# Processes and threads -----------------------------------------------------------------------


def test_eight_threads_at_once_get_their_own_answers(connect):
    connect().command("CREATE TABLE t (a Int64, b Int64) ENGINE = MergeTree ORDER BY a")
    rounds = 10

    def work(thread):
        client = connect(autogenerate_session_id=False)
        for number in range(rounds):
            client.insert(
                "t", [[thread] * 100, [number] * 100], column_names=["a", "b"], column_oriented=True
            )
            sent = {"thread": thread, "number": number}
            assert _rows(client, "SELECT {thread:Int64}, {number:Int64}", parameters=sent) == [
                (thread, number)
            ]
        return _rows(client, f"SELECT count(), uniqExact(b) FROM t WHERE a = {thread}")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [[(rounds * 100, rounds)]] * 8


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    with EmbeddedClickHouse(tmp_path) as server:
        client = clickhouse_connect.get_client(host=server.host, port=server.port)
        client.command("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a")
        acknowledged, enough = [], threading.Event()

        def insert_until_it_dies():
            writer = clickhouse_connect.get_client(host=server.host, port=server.port)
            try:
                for number in range(10_000):
                    writer.insert(
                        "t", [[number] * 500, ["x"] * 500], column_names=["a", "b"], column_oriented=True
                    )
                    acknowledged.append(number)
                    if number == 20:
                        enough.set()
            except DatabaseError:
                return
            finally:
                enough.set()
                writer.close()

        writing = threading.Thread(target=insert_until_it_dies)
        writing.start()
        assert enough.wait(60)
        server.kill()
        writing.join(60)
        server.start()
        stored = dict(_rows(client, "SELECT a, count() FROM t GROUP BY a"))
        # The insert under way when it died may be there or not, but never in part.
        assert len(acknowledged) > 20
        assert set(acknowledged) <= stored.keys() <= {*acknowledged, len(acknowledged)}
        assert set(stored.values()) == {500}
        client.close()


def test_a_directory_is_served_by_one_process(tmp_path):
    with (
        EmbeddedClickHouse(tmp_path) as server,
        pytest.raises(StartError, match=f"process {server.process.pid} uses .* already"),
    ):
        EmbeddedClickHouse(tmp_path).start()


# The statement at the head of an insert ------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"INSERT INTO t FORMAT Native\n\nx", ("t", "", "Native", 28)),
        (b"insert into `a b`.`t` (`c)`, d) format CSV 1", ("`a b`.`t` (`c)`, d)", "", "CSV", 43)),
        (
            b"/* x */ INSERT INTO t (a) SETTINGS b = 'it\\'s', c=1 FORMAT TSV\r\n1",
            ("t (a)", "b = 'it\\'s', c=1", "TSV", 64),
        ),
        (b"INSERT INTO t VALUES ('format CSV')", None),
        (b"INSERT INTO t SELECT 1 FORMAT Null", None),
        (b"SELECT 'INSERT INTO t FORMAT CSV'", None),
        (b"INSERT INTO t (a", None),
    ],
)
def test_an_insert_is_told_apart_from_its_data(head, expected):
    found = insert_statement(head)
    assert (found and (found.target.strip(), found.settings, found.data_format, found.data_at)) == expected
