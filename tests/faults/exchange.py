"""One HTTP request between a client and ClickHouse, and the pieces of its answer, for faults to drive.

Takes a connection on which a request's head was read; gives the statement, the server's answer, and ways to pass it on.
Requests are re-framed for the server, answers are kept as they came.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.embedded.request_bodies import BodyDecoder

HEAD_END = b"\r\n\r\n"
BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 64 * 1024
_SLOW_PIECE_BYTES = 512
_SLOW_PAUSE_SECONDS = 0.002


class Answer(NamedTuple):
    """What the server answered, as it came: `head` ends with an empty line, `body` is framed as the head says."""

    head: bytes
    body: bytes


class Exchange:
    """One request and the way to its answer; a fault drives it."""

    def __init__(
        self,
        upstream: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head: bytes,
        head_fields: dict[str, str],
        remembered: dict[bytes, Answer] | None,
    ) -> None:
        self._upstream = upstream
        self._remembered = remembered
        self._reader = reader
        self._writer = writer
        self._head = head
        self._fields = head_fields
        self._body = b""
        self._left = int(head_fields.get("content-length", "0"))
        self._is_chunked = head_fields.get("transfer-encoding", "").lower() == "chunked"
        self.is_answered = False
        """Whether the client has a whole answer, so that the connection can carry the next request."""

    async def statement(self) -> bytes:
        """The request's line and the beginning of its body, decoded: enough to know what it asks for."""
        if self._is_chunked or self._left:
            self._body += await self._next_piece()
        decoder = BodyDecoder(self._fields.get("content-encoding", "").lower())
        return self._head + decoder.decode(self._body)

    async def read(self, slowly_seconds: float = 0.0) -> None:
        """Take the rest of the request; for so long in small pieces with a pause after each."""
        slow_until = asyncio.get_running_loop().time() + slowly_seconds
        pieces = [self._body]
        while piece := await self._next_piece(_SLOW_PIECE_BYTES if slowly_seconds else _PIECE_BYTES):
            pieces.append(piece)
            if slowly_seconds and asyncio.get_running_loop().time() < slow_until:
                await asyncio.sleep(_SLOW_PAUSE_SECONDS)
        self._body = b"".join(pieces)

    async def _next_piece(self, at_most: int = _PIECE_BYTES) -> bytes:
        if self._is_chunked and not self._left:
            size = int((await self._reader.readline()).split(b";")[0], 16)
            if not size:
                await self._reader.readline()
                self._is_chunked = False
                return b""
            self._left = size
        piece = await self._reader.readexactly(min(self._left, at_most))
        self._left -= len(piece)
        if self._is_chunked and not self._left:
            await self._reader.readline()
        return piece

    async def forward(self) -> Answer:
        """Let the server execute the request; its answer whole, framed for a connection that is kept."""
        await self.read()
        if self._remembered is None:
            return await self._executed()
        request = self._head + self._body
        if request not in self._remembered:
            self._remembered[request] = await self._executed()
        return self._remembered[request]

    async def _executed(self) -> Answer:
        lines = [
            line
            for line in self._head.removesuffix(HEAD_END).split(b"\r\n")
            if line.split(b":")[0].lower() not in (b"connection", b"transfer-encoding", b"content-length")
        ]
        lines += [b"Connection: close", b"Content-Length: %d" % len(self._body)]
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(b"\r\n".join(lines) + HEAD_END + self._body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        head, end, body = answer.partition(HEAD_END)
        if not end:
            raise ConnectionResetError("the server ended without an answer")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        # Its own server sends the summary last, because it counts until the head is written.
        lines.sort(key=lambda line: line.lower().startswith(b"x-clickhouse-summary:"))
        return Answer(b"\r\n".join(lines) + HEAD_END, body)

    async def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer; the connection goes on."""
        await self.send(answer.head + answer.body)
        self.is_answered = True

    def abort(self) -> None:
        """Drop the connection as a dying machine does, with a reset."""
        reset(self._writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other end sees a reset, not an end."""
    connection = writer.get_extra_info("socket")
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def framed(status: int, reason: str, fields: Sequence[tuple[str, str]], body: bytes) -> Answer:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields)]
    lines.append(f"Content-Length: {len(body)}")
    return Answer("\r\n".join(lines).encode() + HEAD_END, body)


def unframed(answer: Answer) -> Answer:
    """The same answer with its body's own length, whatever framing it came with."""
    lines = answer.head.removesuffix(HEAD_END).split(b"\r\n")
    body, framing = answer.body, (b"transfer-encoding", b"content-length")
    if any(line.lower().replace(b" ", b"") == b"transfer-encoding:chunked" for line in lines):
        body = _joined_chunks(body)
    lines = [line for line in lines if line.split(b":")[0].lower() not in framing]
    return Answer(b"\r\n".join(lines), body)


def _joined_chunks(framed: bytes) -> bytes:
    joined = b""
    while framed:
        size_line, _, framed = framed.partition(b"\r\n")
        size = int(size_line.split(b";")[0], 16)
        joined += framed[:size]
        framed = framed[size + 2 :]
    return joined
