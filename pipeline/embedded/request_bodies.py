"""Request bodies as the ClickHouse driver sends them: compressed, with the statement at their head.

Decides how a `Content-Encoding` is undone piece by piece, and where an insert's data begins. Takes
a body as it arrives; gives an insert and its data in pieces, or a whole statement. Invariants:
frames may follow each other without end, because the driver compresses each block of rows on its
own; of an insert's data no more than a piece is held.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Protocol

import lz4.frame

from pipeline.embedded import statements
from pipeline.embedded.clickhouse_engine import EngineError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import StreamReader

_BODY_IS_BROKEN = "Code: 271. DB::Exception: {reason}. (CANNOT_DECOMPRESS)"
_STATEMENT_TOO_LONG = "Code: 62. DB::Exception: the statement exceeds {bytes} bytes. (SYNTAX_ERROR)"
_STATEMENT_BYTES_AT_MOST = 64 * 1024 * 1024
# An insert's columns and settings fit in this.
_INSERT_HEAD_BYTES_AT_MOST = 256 * 1024


class _FrameDecoder(Protocol):
    """What lz4, zstd and zlib decoders have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class BodyDecoder:
    """Undoes one body's encoding: `lz4`, `zstd`, `gzip`, `deflate`, or none (empty or `identity`).

    Raises EngineError for any other encoding and for bytes that are not so encoded.
    """

    def __init__(self, encoding: str) -> None:
        if encoding not in _FRAME_DECODERS:
            raise EngineError(_BODY_IS_BROKEN.format(reason=f"unknown Content-Encoding {encoding!r}"))
        self._new_frame = _FRAME_DECODERS[encoding]
        self._frame: _FrameDecoder | None = None

    def decode(self, piece: bytes) -> bytes:
        """Give what `piece` decodes to, empty while a frame's head is incomplete."""
        if self._new_frame is None:
            return piece
        decoded = []
        while piece:
            if self._frame is None:
                self._frame = self._new_frame()
            try:
                decoded.append(self._frame.decompress(piece))
            except (RuntimeError, zlib.error, zstd.ZstdError) as broken:
                raise EngineError(_BODY_IS_BROKEN.format(reason=broken)) from broken
            piece = b""
            if self._frame.eof:
                piece = self._frame.unused_data or b""
                self._frame = None
        return decoded[0] if len(decoded) == 1 else b"".join(decoded)

    def end(self) -> None:
        """Refuse a body that was cut off inside a frame."""
        if self._frame is not None:
            raise EngineError(_BODY_IS_BROKEN.format(reason="the body ends inside a compressed frame"))


class Body:
    """A request's body; `statement` is what its address said already, empty or the beginning."""

    def __init__(self, content: StreamReader, encoding: str, statement: str) -> None:
        self._content = content
        self._decoder = BodyDecoder(encoding)
        self._head = f"{statement}\n".encode() if statement else b""

    async def insert_statement(self) -> statements.InsertStatement | None:
        """Find an insert with data at the start; what follows it is then in `data()`."""
        while True:
            found = statements.insert_statement(self._head)
            # At the very end of what has come, the format's name may go on in the next piece.
            if found is not None and found.data_at < len(self._head):
                break
            undecided = not self._head or found is not None or statements.begins_insert(self._head)
            if not undecided or len(self._head) > _INSERT_HEAD_BYTES_AT_MOST:
                return None
            piece = await self._next_piece()
            self._head += piece
            if not piece:
                break
        if found is not None:
            self._head = self._head[found.data_at :]
        return found

    async def data(self) -> AsyncIterator[bytes]:
        """Give the rest of the body in pieces, none of them empty."""
        piece = self._head or await self._next_piece()
        while piece:
            yield piece
            piece = await self._next_piece()

    async def text(self) -> str:
        """Give the whole as a statement; EngineError above the bound."""
        pieces = [self._head]
        size = len(self._head)
        while piece := await self._next_piece():
            pieces.append(piece)
            size += len(piece)
            if size > _STATEMENT_BYTES_AT_MOST:
                raise EngineError(_STATEMENT_TOO_LONG.format(bytes=_STATEMENT_BYTES_AT_MOST))
        return b"".join(pieces).decode("utf-8", "surrogateescape").strip()

    async def _next_piece(self) -> bytes:
        """Give decoded bytes, empty only at the body's end."""
        while not self._content.at_eof():
            if piece := self._decoder.decode(await self._content.readany()):
                return piece
        self._decoder.end()
        return b""


_FRAME_DECODERS: dict[str, Callable[[], _FrameDecoder] | None] = {
    "": None,
    "identity": None,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    # 32 adds the detection of gzip and zlib heads. Source: zlib's inflateInit2.
    "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 32),
    "deflate": lambda: zlib.decompressobj(zlib.MAX_WBITS | 32),
}
