"""ClickHouse's HTTP interface before the engine, `python -m pipeline.embedded.clickhouse_http`.

Decides how statements, inserts and sessions run, how answers and errors are told, and who may ask.
Takes what an unmodified clickhouse-connect client sends; gives what ClickHouse's own server would.
Never keeps data: that is the engine's, and one process serves a data directory at a time.

Invariants: an insert is answered 200 only when it is committed, and what was cut off is not
inserted at all; an error's answer carries ClickHouse's error number.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import ssl
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import uvloop
from aiohttp import web

from pipeline.embedded import clickhouse_requests, statements
from pipeline.embedded.clickhouse_engine import (
    STREAMABLE_FORMATS,
    Engine,
    EngineError,
    Handle,
    Rows,
    quoted_name,
    setting_assignments,
)
from pipeline.embedded.owned import DirectoryLock, StartError
from pipeline.embedded.request_bodies import Body
from pipeline.logs import set_up_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from pipeline.embedded.clickhouse_requests import Asked, ExternalTable

_Result = TypeVar("_Result")

# HTTP status by error number; others are 500. Source: ClickHouse, exceptionCodeToHTTPStatus.cpp
_STATUS_OF_CODE = {
    **dict.fromkeys(
        (6, 26, 27, 36, 38, 41, 42, 43, 53, 62, 69, 70, 72, 117, 131, 321, 467), HTTPStatus.BAD_REQUEST
    ),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115), HTTPStatus.NOT_FOUND),
    **dict.fromkeys((192, 193, 516), HTTPStatus.FORBIDDEN),
    48: HTTPStatus.NOT_IMPLEMENTED,
    159: HTTPStatus.REQUEST_TIMEOUT,
    202: HTTPStatus.SERVICE_UNAVAILABLE,
}
_AUTHENTICATION_FAILED = "Code: 516. DB::Exception: {user}: Authentication failed. (AUTHENTICATION_FAILED)"
_SESSION_IS_LOCKED = (
    "Code: 373. DB::Exception: Session {name} is locked by a concurrent client. (SESSION_IS_LOCKED)"
)
_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values",
    "CSV": "text/csv",
    "JSON": "application/json",
    "JSONEachRow": "application/x-ndjson",
}
_READ_BUFFER_BYTES = 1024 * 1024
_CONCURRENT_STATEMENTS = 8
_SESSIONS_AT_MOST = 64
_STOP_SECONDS = 10.0


class Front:
    """The HTTP handlers over one engine; `users` maps names to passwords, empty lets everybody in."""

    def __init__(self, engine: Engine, users: Mapping[str, str]) -> None:
        self._engine = engine
        self._users = users
        self._threads = ThreadPoolExecutor(_CONCURRENT_STATEMENTS, thread_name_prefix="statement")
        self._sessions: dict[str, Handle] = {}
        self._busy_sessions: set[str] = set()

    def application(self) -> web.Application:
        """Give the aiohttp application."""
        application = web.Application()
        application.router.add_get("/ping", self._ping)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = {
            "X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": "UTC",
            "X-ClickHouse-Server-Display-Name": "msgmeter-embedded",
        }
        try:
            self._authenticate(request)
            return await self._serve(request, headers)
        except EngineError as refused:
            # What the client is still sending is read and dropped by aiohttp after the answer.
            headers["X-ClickHouse-Exception-Code"] = str(refused.code)
            status = _STATUS_OF_CODE.get(refused.code, HTTPStatus.INTERNAL_SERVER_ERROR)
            return web.Response(status=status, text=f"{refused}\n", headers=headers)

    def _authenticate(self, request: web.Request) -> None:
        if not self._users:
            return
        user, password = clickhouse_requests.credentials(request)
        if clickhouse_requests.is_certified(request, user):
            return
        expected = self._users.get(user)
        # Compared for unknown users too, so that the time an answer takes names nobody.
        same = hmac.compare_digest((expected or "").encode(), password.encode())
        if expected is None or not same:
            raise EngineError(_AUTHENTICATION_FAILED.format(user=user))

    async def _serve(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        if request.content_type == "multipart/form-data":
            fields, tables = await clickhouse_requests.read_form(request)
            asked = clickhouse_requests.asked(fields, request.headers)
            return await self._run_statement(request, asked, headers, tables)
        asked = clickhouse_requests.asked(request.query, request.headers)
        if request.method == "GET" and not asked.statement:
            return await self._ping(request)
        body = Body(request.content, request.headers.get("Content-Encoding", "").lower(), asked.statement)
        insert = await body.insert_statement()
        if insert is not None:
            return await self._run_insert(asked, headers, insert, body.data())
        asked = asked._replace(statement=await body.text())
        return await self._run_statement(request, asked, headers, [])

    async def _in_thread(self, call: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    @contextlib.asynccontextmanager
    async def _handle(self, asked: Asked, settings: Mapping[str, str]) -> AsyncIterator[Handle]:
        """Lend a handle: the session's own where it has one, else any.

        A session gets its own by the first statement that changes it. Outside a session such a
        statement must leave no trace, so its handle is closed.
        """
        changes = statements.changes_session(asked.statement)
        if asked.session and (changes or asked.session in self._sessions):
            async with self._session_handle(asked, settings) as handle:
                yield handle
            return
        handle = await self._in_thread(self._engine.take, asked.database, settings)
        try:
            yield handle
        finally:
            if changes:
                await self._in_thread(handle.close)
            else:
                self._engine.give_back(handle)

    @contextlib.asynccontextmanager
    async def _session_handle(self, asked: Asked, settings: Mapping[str, str]) -> AsyncIterator[Handle]:
        name = asked.session
        if name in self._busy_sessions:
            raise EngineError(_SESSION_IS_LOCKED.format(name=name))
        self._busy_sessions.add(name)
        try:
            handle = self._sessions.pop(name, None)
            if handle is None:
                handle = await self._in_thread(self._engine.take, "default", {})
            # Put back at the end: the first one is the session that was idle longest.
            self._sessions[name] = handle
            await self._in_thread(handle.adopt, asked.database, settings)
            yield handle
        finally:
            self._busy_sessions.discard(name)
            if len(self._sessions) > _SESSIONS_AT_MOST:
                oldest = next(other for other in self._sessions if other not in self._busy_sessions)
                await self._in_thread(self._sessions.pop(oldest).close)

    async def _run_insert(
        self,
        asked: Asked,
        headers: dict[str, str],
        insert: statements.InsertStatement,
        data: AsyncIterator[bytes],
    ) -> web.Response:
        rows = Rows(self._engine.spill_directory)
        try:
            async for piece in data:
                rows.append(piece)
            # Settings stand in the statement: the token differs with each insert, and setting it
            # on the handle would cost two statements more.
            clauses = ", ".join(filter(None, (setting_assignments(asked.settings), insert.settings)))
            async with self._handle(asked, {}) as handle:
                counts = await self._in_thread(
                    handle.insert, insert.target, clauses, insert.data_format, rows
                )
        finally:
            rows.close()
        return web.Response(headers={**headers, "X-ClickHouse-Summary": _summary(counts)})

    async def _run_statement(
        self, request: web.Request, asked: Asked, headers: dict[str, str], tables: list[ExternalTable]
    ) -> web.StreamResponse:
        answer_format = statements.output_format(asked.statement, asked.default_format)
        streamable = answer_format in STREAMABLE_FORMATS and statements.begins_query(asked.statement)
        async with self._handle(asked, asked.settings) as handle:
            try:
                for table in tables:
                    await self._in_thread(_create_external, handle, table, self._engine.spill_directory)
                if streamable and not asked.waits_for_end:
                    response = await self._stream(request, asked, headers, handle)
                else:
                    response = await self._whole(asked, headers, handle)
            finally:
                for table in tables:
                    await self._in_thread(_drop_external, handle, table)
        if response.prepared:
            # Only now: who reads the end may use the session again, so it must be free by then.
            await response.write_eof()
        return response

    async def _whole(self, asked: Asked, headers: dict[str, str], handle: Handle) -> web.StreamResponse:
        body, counts = await self._in_thread(
            handle.query, asked.statement, asked.default_format, asked.parameters
        )
        answer_format = statements.output_format(asked.statement, asked.default_format)
        headers["X-ClickHouse-Summary"] = _summary(counts)
        if body:
            headers["X-ClickHouse-Format"] = answer_format
        return web.Response(body=body, headers=headers, content_type=_content_type(answer_format))

    async def _stream(
        self, request: web.Request, asked: Asked, headers: dict[str, str], handle: Handle
    ) -> web.StreamResponse:
        """Send an answer block by block, all but its end."""
        blocks = handle.blocks(asked.statement, asked.default_format, asked.parameters)
        try:
            # The first block is awaited before the status, so most errors still have their own.
            block = await self._in_thread(next, blocks, None)
            tag = uuid.uuid4().hex[:16]
            answer_format = statements.output_format(asked.statement, asked.default_format)
            headers.update({"X-ClickHouse-Format": answer_format, "X-ClickHouse-Exception-Tag": tag})
            response = web.StreamResponse(headers=headers)
            response.content_type = _content_type(answer_format)
            await response.prepare(request)
            try:
                while block is not None:
                    await response.write(block)
                    block = await self._in_thread(next, blocks, None)
            except EngineError as broken:
                await response.write(_exception_block(str(broken), tag))
            return response
        finally:
            await self._in_thread(blocks.close)


def _create_external(handle: Handle, table: ExternalTable, spill_directory: Path) -> None:
    handle.query(f"CREATE TEMPORARY TABLE {quoted_name(table.name)} ({table.structure})", "Null", {})
    rows = Rows(spill_directory)
    try:
        rows.append(table.data)
        handle.insert(quoted_name(table.name), "", table.data_format, rows)
    finally:
        rows.close()


def _drop_external(handle: Handle, table: ExternalTable) -> None:
    handle.query(f"DROP TEMPORARY TABLE IF EXISTS {quoted_name(table.name)}", "Null", {})


def _summary(counts: Mapping[str, int]) -> str:
    return json.dumps({name: str(count) for name, count in counts.items()})


def _content_type(answer_format: str) -> str:
    return _CONTENT_TYPES.get(answer_format, "application/octet-stream")


def _exception_block(message: str, tag: str) -> bytes:
    """Give what follows the rows when a query breaks after the status was sent.

    Source: ClickHouse, WriteBufferFromHTTPServerResponse::cancelWithException
    """
    text = f"{message}\n".encode()
    return b"\r\n__exception__\r\n%b\r\n%b\r\n%d %b\r\n__exception__\r\n" % (
        tag.encode(),
        text,
        len(text),
        tag.encode(),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.embedded.clickhouse_http", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where the data is, one process each")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--users", type=Path, help="JSON file of passwords by user; everybody without it")
    parser.add_argument("--certificate", type=Path, help="the server's, PEM: TLS instead of plain HTTP")
    parser.add_argument("--key", type=Path, help="the certificate's private key, PEM")
    parser.add_argument("--client-ca", type=Path, help="asks clients for a certificate of this CA, PEM")
    parser.add_argument("--memory-mebibytes", type=int, default=1536, help="the engine refuses beyond it")
    parser.add_argument("--query-threads", type=int, default=2)
    parser.add_argument("--merge-threads", type=int, default=1)
    return parser.parse_args()


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    # Whoever starts it has checked the settings; started by itself it logs for people.
    log_format = "json" if os.environ.get("MSGMETER_LOG_FORMAT") == "json" else "console"
    set_up_logs("clickhouse", log_format, "warning")
    options = _options()
    directory = options.directory.absolute()
    try:
        # Held until the process ends. The engine itself lets two processes write one directory.
        lock = DirectoryLock(directory)
    except StartError as taken:
        sys.exit(str(taken))
    users = json.loads(options.users.read_text("utf-8")) if options.users else {}
    engine = Engine(
        directory,
        memory_mebibytes=options.memory_mebibytes,
        query_threads=options.query_threads,
        merge_threads=options.merge_threads,
    )
    web.run_app(
        Front(engine, users).application(),
        host=options.host,
        port=options.port,
        ssl_context=_tls(options.certificate, options.key, options.client_ca),
        print=lambda _text: None,
        access_log=None,
        shutdown_timeout=_STOP_SECONDS,
        # Bodies are decoded by request_bodies, which knows lz4 and many frames in one body.
        auto_decompress=False,
        read_bufsize=_READ_BUFFER_BYTES,
        loop=uvloop.new_event_loop(),
    )
    lock.release()


if __name__ == "__main__":
    main()
