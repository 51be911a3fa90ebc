"""Who answers at an address: asked where the one who should has not, because drivers' errors then mislead.

Takes host and port; says something and hears what comes back. Two questions, each on a connection of its own: one of
HTTP, and one of Kafka's protocol that any client may ask before it logs in. Neither changes anything.
"""

import enum
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_SECONDS = 3.0
_BYTES = 65_536
_HTTP_QUESTION = b"GET /ping HTTP/1.0\r\n\r\n"
_TLS_ALERT = b"\x15\x03"
"""What a TLS server says to those who do not begin with TLS."""
_NATIVE = b"clickhouse-client program"
"""From what ClickHouse's native port tells those who speak HTTP: "Port 9000 is for clickhouse-client program"."""
_API_VERSIONS = 18
_CORRELATION = 0x6D736731


class Listener(enum.Enum):
    """Who answers."""

    NOBODY = "nobody listens there"
    KAFKA = "a Kafka broker answers there"
    CLICKHOUSE = "ClickHouse's HTTP interface answers there"
    NATIVE = "ClickHouse's native port answers there, and its HTTP port is wanted (8123, 8443 with TLS)"
    HTTP = "an HTTP server answers there"
    TLS = "a server that wants TLS answers there"
    STILL = "it takes connections and does not answer: it stands still"
    SILENT = "something listens there, and answers neither HTTP nor Kafka's protocol"


class ApiSpan(NamedTuple):
    """The versions of one request that a broker takes."""

    lowest: int
    highest: int


class _SilenceError(OSError):
    """It took the connection, and not a byte came back."""


def who_listens(host: str, port: int) -> Listener:
    """Who answers at an address without TLS."""
    try:
        said = _heard(host, port, _HTTP_QUESTION)
        if said.startswith(b"HTTP/"):
            if _NATIVE in said:
                return Listener.NATIVE
            is_clickhouse = b"x-clickhouse" in said.lower() or said.endswith(b"\r\n\r\nOk.\n")
            return Listener.CLICKHOUSE if is_clickhouse else Listener.HTTP
        if broker_versions(host, port):
            return Listener.KAFKA
    except _SilenceError:
        return Listener.STILL
    except OSError:
        return Listener.NOBODY
    return Listener.TLS if said.startswith(_TLS_ALERT) else Listener.SILENT


def broker_versions(host: str, port: int, tls: ssl.SSLContext | None = None) -> dict[int, ApiSpan]:
    """The requests that a broker takes, by their number; nothing where no broker answers.

    Raises OSError where nobody listens. Source: https://kafka.apache.org/protocol.html (ApiVersions, version 0)
    """
    question = struct.pack(">hhih", _API_VERSIONS, 0, _CORRELATION, -1)
    said = _heard(host, port, struct.pack(">i", len(question)) + question, tls)
    head = struct.Struct(">iihi")
    if len(said) < head.size:
        return {}
    size, correlation, error, count = head.unpack_from(said)
    if correlation != _CORRELATION or error or size + 4 != len(said) or head.size + 6 * count != len(said):
        return {}
    return {key: ApiSpan(low, high) for key, low, high in struct.iter_unpack(">hhh", said[head.size :])}


def release_of(spans: dict[int, ApiSpan]) -> tuple[int, int]:
    """The oldest release of Apache Kafka that takes these requests; (0, 0) for older than 3.0."""
    found = [release for release, key, lowest in _RELEASES if key in spans and spans[key].lowest >= lowest]
    return max(found, default=(0, 0))


_RELEASES = (
    ((3, 0), 65, 0),  # DescribeTransactions
    ((3, 7), 71, 0),  # GetTelemetrySubscriptions
    ((3, 8), 75, 0),  # DescribeTopicPartitions
    ((4, 0), 1, 4),  # Fetch before version 4 was taken away
)
"""(release, a request that came with it, the lowest version of it). Source: KIP-664, KIP-714, KIP-966, KIP-896"""


def _heard(host: str, port: int, question: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """What is answered until it is whole, the other side hangs up, or it takes too long; raises OSError."""
    said = b""
    with _connected(host, port, tls) as connection:
        try:
            connection.sendall(question)
            while len(said) < _BYTES and not _is_whole(said) and (piece := connection.recv(_BYTES)):
                said += piece
        except OSError as error:
            if isinstance(error, TimeoutError) and not said:
                raise _SilenceError from error
            # It hung up, or fell silent: what it said until then is what it said.
            return said
    return said


def _is_whole(said: bytes) -> bool:
    """Whether this is a whole answer of Kafka, which does not hang up."""
    return (
        len(said) >= 8
        and said[4:8] == struct.pack(">i", _CORRELATION)
        and len(said) >= 4 + struct.unpack(">i", said[:4])[0]
    )


@contextmanager
def _connected(host: str, port: int, tls: ssl.SSLContext | None) -> Iterator[socket.socket]:
    with socket.create_connection((host, port), timeout=_SECONDS) as connection:
        if tls is None:
            yield connection
        else:
            with tls.wrap_socket(connection, server_hostname=host) as wrapped:
                yield wrapped
