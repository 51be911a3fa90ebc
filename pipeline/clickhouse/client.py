"""How msgmeter speaks to ClickHouse: connecting, inserting columns, and what an error means for the caller.

Takes a URL, a table with columns of Python values, or a query. Gives a client of ClickHouse's own driver, nothing
for an insert that is stored, or rows. Every error of the driver and of HTTP leaves here as `Transient`, `Permanent` or
`Unstorable`, with its cause chained; nobody else names the driver's errors. Never shows a password.

Invariants
- When `insert` returns, the rows are stored; when it raises, all, some or none of them are.
- Repeating an insert, the same rows with the same token, stores nothing twice. The driver itself may send one
  twice when a connection drops: the token is what makes that harmless.
- One token never carries different rows: where a batch is cut, each piece has a token made of its bounds.
- An answer that was cut off is an error, wherever the cut. "Nothing found" is believed of `ask_whole` alone: an
  answer without rows has no bytes, so behind a balancer that ends a dead server's answer in good order it is
  like no answer.
"""

import contextlib
import ipaddress
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import urllib3.exceptions
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver import exceptions as driver
from clickhouse_connect.driver.client import Client

from pipeline.errors import MsgmeterError, Permanent, Transient, Unstorable

SOON_SECONDS = 1.0
"""Wait after a lost connection or a cancelled query."""
LATER_SECONDS = 5.0
"""Wait where the server needs time of its own: parts to merge, memory or disk to free, a quorum to return."""
MAX_UNSTORABLE_ROWS = 100
"""More rows than this at fault in one batch are a fault of the program and must not pass for bad data."""
_TEXT_CHARACTERS = 500

# Numbers and names: ClickHouse, src/Common/ErrorCodes.cpp.
_SOON_CODES = frozenset({
    159,  # TIMEOUT_EXCEEDED
    160,  # TOO_SLOW
    198,  # DNS_ERROR
    202,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203,  # NO_FREE_CONNECTION
    209,  # SOCKET_TIMEOUT
    210,  # NETWORK_ERROR
    236,  # ABORTED
    279,  # ALL_CONNECTION_TRIES_FAILED
    373,  # SESSION_IS_LOCKED
    394,  # QUERY_WAS_CANCELLED
    473,  # DEADLOCK_AVOIDED
})  # fmt: skip
_LATER_CODES = frozenset({
    74,   # CANNOT_READ_FROM_FILE_DESCRIPTOR
    75,   # CANNOT_WRITE_TO_FILE_DESCRIPTOR
    76,   # CANNOT_OPEN_FILE
    173,  # CANNOT_ALLOCATE_MEMORY
    201,  # QUOTA_EXCEEDED
    225,  # NO_ZOOKEEPER
    241,  # MEMORY_LIMIT_EXCEEDED
    242,  # TABLE_IS_READ_ONLY
    243,  # NOT_ENOUGH_SPACE
    252,  # TOO_MANY_PARTS
    285,  # TOO_FEW_LIVE_REPLICAS
    286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
    319,  # UNKNOWN_STATUS_OF_INSERT
    425,  # SYSTEM_ERROR
    439,  # CANNOT_SCHEDULE_TASK
    499,  # S3_ERROR
    999,  # KEEPER_EXCEPTION
    1000, # POCO_EXCEPTION
})  # fmt: skip
_ROW_CODES = frozenset({
    6,    # CANNOT_PARSE_TEXT
    26,   # CANNOT_PARSE_QUOTED_STRING
    27,   # CANNOT_PARSE_INPUT_ASSERTION_FAILED
    38,   # CANNOT_PARSE_DATE
    41,   # CANNOT_PARSE_DATETIME
    53,   # TYPE_MISMATCH
    69,   # ARGUMENT_OUT_OF_BOUND
    70,   # CANNOT_CONVERT_TYPE
    72,   # CANNOT_PARSE_NUMBER
    117,  # INCORRECT_DATA
    128,  # TOO_LARGE_ARRAY_SIZE
    131,  # TOO_LARGE_STRING_SIZE
    321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    469,  # VIOLATED_CONSTRAINT
})  # fmt: skip

_REQUEST_TIMEOUT = 408
"""What a proxy answers whose patience with a large insert has ended; of the others the driver tells itself."""

_FOREIGN_ERRORS = (
    driver.ClickHouseError,
    driver.StreamCompleteException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,  # The one that is no HTTPError.
    OSError,
)

_SERIALISING_ERRORS = (TypeError, ValueError, AttributeError, OverflowError, struct.error)
"""What the driver lets through when a value does not fit its column, besides its own DataError."""

_SUMMARY_FIELD = "written_rows"
"""What every `X-ClickHouse-Summary` has, of a query as of an insert."""
_CUT_OFF = (
    "ClickHouse's answer was cut off (a proxy before it must pass X-ClickHouse-Summary on, and not end what"
    " is unfinished)"
)

_INSERT_SETTINGS: Mapping[str, Any] = {
    # Stored when answered, not when a buffer is flushed.
    "async_insert": 0,
    # Collapsing duplicates inside one insert costs the engine 3-5 us a row; merges and FINAL do it anyway.
    "optimize_on_insert": 0,
    # A batch of very old messages touches more months than the default of 100; it must not stick.
    "max_partitions_per_insert_block": 0,
}


@dataclass(frozen=True)
class Table:
    """A table and the columns an insert gives, in their order: (name, ClickHouse type)."""

    name: str
    columns: tuple[tuple[str, str], ...]

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(name for name, _ in self.columns)

    @cached_property
    def column_types(self) -> list[Any]:
        """The driver's types, made once, so that an insert need not ask the server for them."""
        return [get_from_name(type_name) for _, type_name in self.columns]


@dataclass(frozen=True)
class Server:
    """A database, and how one gets in; never shown, because the URL may hold a password."""

    url: str = field(repr=False)
    """`http(s)://[user[:password]@]host[:port][/database]`."""
    password: str = field(default="", repr=False)
    """Where the URL holds none."""
    ca: str = field(default="", repr=False)
    """File of the CAs trusted for its certificate; empty: the system's."""
    certificate: str = field(default="", repr=False)
    """File of our own certificate. Without a password it is the login."""
    key: str = field(default="", repr=False)


def connect(
    server: Server | str, *, connect_timeout_seconds: int = 5, request_timeout_seconds: int = 60
) -> Client:
    """Return a client of a database, named by its URL where that is all there is to say.

    Several threads may use it at once: it has no session. Blocks are compressed unless the server is on this
    machine. Raises `Permanent` for a URL that cannot be used, a refused login and certificates that are not
    trusted, `Transient` if nobody answers.
    """
    if isinstance(server, str):
        server = Server(server)
    try:
        parts = urlsplit(server.url)
        port = parts.port
    except ValueError:
        raise Permanent("The ClickHouse URL cannot be read: its host or port is malformed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Permanent("The ClickHouse URL must be http(s)://[user:password@]host:port/database")
    port = port or (8443 if parts.scheme == "https" else 8123)
    password = unquote(parts.password or "") or server.password
    with _naming(f"{parts.scheme}://{parts.hostname}:{port}"), driver_errors():
        return clickhouse_connect.get_client(
            interface=parts.scheme,
            host=parts.hostname,
            port=port,
            username=unquote(parts.username or "default"),
            password=password,
            database=unquote(parts.path.strip("/")) or "default",
            compress=False if _is_loopback(parts.hostname) else "lz4",
            connect_timeout=connect_timeout_seconds,
            send_receive_timeout=request_timeout_seconds,
            autogenerate_session_id=False,
            autogenerate_query_id=False,
            show_clickhouse_errors="scrub",
            ca_cert=server.ca or None,
            client_cert=server.certificate or None,
            client_cert_key=server.key or None,
            # A certificate is the login by itself, or goes with the password.
            tls_mode="strict" if password else "mutual",
        )


def insert(client: Client, table: Table, columns: Sequence[Sequence[Any]], token: str) -> None:
    """Store rows given as one list per column of `table`, in its order; all lists are equally long.

    Instants are integers in the column's unit, dates are days since 1970-01-01, FixedStrings are bytes.
    `token` names exactly these rows: use it again to repeat this insert, and for no other.
    Raises `Unstorable` if a row is at fault, other `Permanent` and `Transient` errors as the module says.
    """
    rows = len(columns[0])
    assert len(columns) == len(table.columns), f"{table.name} takes {len(table.columns)} columns"
    assert all(len(column) == rows for column in columns), "columns must be equally long"
    if not rows:
        return
    try:
        with driver_errors():
            told = client.insert(
                table.name,
                columns,
                column_names=table.column_names,
                column_types=table.column_types,
                column_oriented=True,
                settings={**_INSERT_SETTINGS, "insert_deduplication_token": token},
            )
    except _SERIALISING_ERRORS as error:
        raise Unstorable(f"A value does not fit {table.name}: {_text_of(error)}") from error
    _assert_whole_head(told.summary)


def ask(
    client: Client,
    statement: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[tuple[Any, ...]]:
    """Return the rows of a SELECT, columns in its order."""
    with driver_errors():
        result = client.query(statement, parameters=dict(parameters or {}), settings=dict(settings or {}))
        rows = list(result.result_rows)
    _assert_whole_head(result.summary)
    return rows


def ask_whole(
    client: Client,
    statement: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[tuple[Any, ...]]:
    """Return the rows of a SELECT in any order, and none only where there are none.

    They come as one value in one row, which is there or not: what is charged depends on them.
    """
    whole = f"SELECT groupArray(tuple(*)) FROM (\n{statement}\n)"  # noqa: S608 - our own statements
    answer = ask(client, whole, parameters=parameters, settings=settings)
    if len(answer) != 1:
        raise Transient(_CUT_OFF, retry_after_seconds=SOON_SECONDS)
    # Some servers name the elements, and the driver then makes dictionaries of them.
    return [tuple(row.values()) if isinstance(row, dict) else row for row in answer[0][0]]


def _assert_whole_head(summary: Mapping[str, Any]) -> None:
    """Raise `Transient` unless an answer's head was whole.

    A head without an end passes for a whole one: http.client takes the stream's end for it, and without a length
    the body for empty, so a query found nothing and an insert is stored. The summary is the last of the head.
    Source: ClickHouse, WriteBufferFromHTTPServerResponse::finishSendHeaders
    """
    if _SUMMARY_FIELD not in summary:
        raise Transient(_CUT_OFF, retry_after_seconds=SOON_SECONDS)


def insert_isolating(
    client: Client,
    table: Table,
    columns: Sequence[Sequence[Any]],
    token: str,
    most: int = MAX_UNSTORABLE_ROWS,
) -> list[int]:
    """Do what `insert` does, but store what can be stored; return the other rows' indexes.

    The batch is halved until the rows at fault are alone. Raises `Transient` where the service fails on the
    way: repeat it with the same rows and token; and `Permanent` where more than `most` are at
    fault, which is then the program's fault.
    """
    unstorable: list[int] = []
    spans = [(0, len(columns[0]))]
    while spans:
        start, end = spans.pop()
        whole = end - start == len(columns[0])
        piece = columns if whole else [column[start:end] for column in columns]
        try:
            insert(client, table, piece, token if whole else f"{token}[{start}:{end}]")
        except Unstorable as error:
            if end - start > 1:
                middle = (start + end) // 2
                spans += [(middle, end), (start, middle)]
                continue
            unstorable.append(start)
            if len(unstorable) > most:
                text = f"More than {most} rows of one batch do not fit {table.name}"
                raise Permanent(f"{text}; the last: {error}") from error
    return unstorable


@contextlib.contextmanager
def driver_errors() -> Iterator[None]:
    """Turn every error of the driver and of HTTP inside it into one of ours, the cause chained."""
    try:
        yield
    except _FOREIGN_ERRORS as error:
        raise operating_error(error) from error


@contextlib.contextmanager
def _naming(address: str) -> Iterator[None]:
    """Say in a `Transient` error which server it was that did not answer; one that names an error did."""
    try:
        yield
    except Transient as error:
        if getattr(error.__cause__, "code", None):
            raise
        if _is_tls_fault(error):
            text = f"No TLS connection to ClickHouse at {address} ({_root_text(error)}): check"
            text += " MSGMETER_CLICKHOUSE_CA, MSGMETER_CLICKHOUSE_CERTIFICATE and MSGMETER_CLICKHOUSE_KEY"
            raise Permanent(text) from error.__cause__
        # A server that wants a certificate may just hang up on us, as one does that is about to stop.
        also = " or MSGMETER_CLICKHOUSE_CERTIFICATE" if address.startswith("https:") else ""
        text = (
            f"No ClickHouse answers at {address} ({_root_text(error)});"
            f" is `make run` running, or MSGMETER_CLICKHOUSE{also} wrong?"
        )
        raise Transient(text, retry_after_seconds=error.retry_after_seconds) from error.__cause__


def operating_error(error: Exception) -> MsgmeterError:
    """Say what an error of the driver, of urllib3 or of the system means for the caller."""
    code = getattr(error, "code", None)
    text = f"ClickHouse: {_text_of(error)}"
    if isinstance(code, int) and code:
        return _error_of_code(code, text)
    if isinstance(error, driver.DataError):
        return Unstorable(text)
    if isinstance(error, (driver.ProgrammingError, driver.NotSupportedError, ValueError)):
        # ValueError: urllib3 marks with it what is wrong with the request itself, like a malformed address.
        return Permanent(text)
    if isinstance(error, driver.DatabaseError) and not isinstance(error, driver.OperationalError):
        # An HTTP status without a ClickHouse error: a proxy before the server, or no ClickHouse at all.
        refused = "HTTP status 4" in text and f"HTTP status {_REQUEST_TIMEOUT}" not in text
        return Permanent(text) if refused else Transient(text, retry_after_seconds=LATER_SECONDS)
    return Transient(text, retry_after_seconds=SOON_SECONDS)


def _error_of_code(code: int, text: str) -> MsgmeterError:
    if code in _SOON_CODES:
        return Transient(text, retry_after_seconds=SOON_SECONDS)
    if code in _LATER_CODES:
        return Transient(text, retry_after_seconds=LATER_SECONDS)
    return Unstorable(text) if code in _ROW_CODES else Permanent(text)


def _text_of(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_TEXT_CHARACTERS]}"


def _root_text(error: MsgmeterError) -> str:
    """What the system said, such as "Connection refused", where it did; else the whole text."""
    said = (each.strerror for each in _causes(error) if isinstance(each, OSError) and each.strerror)
    return next(said, str(error))


def _is_tls_fault(error: MsgmeterError) -> bool:
    """Whether the two sides do not trust each other, which trying again does not change; an end in mid-way may pass."""
    return any(
        isinstance(each, ssl.SSLError) and not isinstance(each, ssl.SSLEOFError) for each in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
