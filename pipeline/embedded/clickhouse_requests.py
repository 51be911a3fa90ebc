"""What a request to the ClickHouse front asks for, told apart.

Decides which names of an address are the protocol's, which are settings, which are parameters, and
where credentials, sessions, formats and external tables stand. Takes an aiohttp request; gives
values. Runs nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import BodyPartReader, web

from pipeline.embedded.clickhouse_engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Query-string names that are the protocol's own and no settings of the engine.
# Source: clickhouse_connect's valid_transport_settings, and ClickHouse's HTTPHandler.cpp.
_PROTOCOL_NAMES = frozenset(
    {
        "add_http_cors_header",
        "buffer_size",
        "cancel_http_readonly_queries_on_client_close",
        "client_protocol_version",
        "compress",
        "database",
        "decompress",
        "default_format",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "password",
        "query",
        "query_id",
        "quota_key",
        "role",
        "send_progress_in_http_headers",
        "session_check",
        "session_id",
        "session_timeout",
        "user",
        "wait_end_of_query",
    }
)
_PARAMETER_PREFIX = "param_"
_FORM_BYTES_AT_MOST = 256 * 1024 * 1024
_FORM_TOO_LARGE = f"Code: 62. DB::Exception: the form exceeds {_FORM_BYTES_AT_MOST} bytes. (SYNTAX_ERROR)"


class Asked(NamedTuple):
    """One request for one statement."""

    statement: str
    """Empty while it may stand in the body."""
    database: str
    settings: dict[str, str]
    parameters: dict[str, str]
    """Values by bare name, as text."""
    default_format: str
    """Of the answer, where the statement names none."""
    session: str
    """Empty outside a session."""
    waits_for_end: bool
    """The client wants errors of the whole statement in the status, so nothing is streamed."""


class ExternalTable(NamedTuple):
    """A file of a form, which the statement reads as a table of that name."""

    name: str
    structure: str
    """Columns with types: `a Int64, b String`."""
    data_format: str
    data: bytes


def asked(fields: Mapping[str, str], headers: Mapping[str, str]) -> Asked:
    """Tell apart the names of an address (and of a form)."""
    return Asked(
        statement=fields.get("query", ""),
        database=fields.get("database") or headers.get("X-ClickHouse-Database") or "default",
        settings={
            name: value
            for name, value in fields.items()
            if name not in _PROTOCOL_NAMES and not name.startswith(_PARAMETER_PREFIX)
        },
        parameters={
            name.removeprefix(_PARAMETER_PREFIX): value
            for name, value in fields.items()
            if name.startswith(_PARAMETER_PREFIX)
        },
        default_format=fields.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
        session=fields.get("session_id", ""),
        waits_for_end=fields.get("wait_end_of_query", "0") not in {"0", ""},
    )


def credentials(request: web.Request) -> tuple[str, str]:
    """Give user and password from the Authorization header, ClickHouse's own headers or the address."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            user, _, password = base64.b64decode(encoded).decode().partition(":")
            return user, password
    if "X-ClickHouse-User" in request.headers:
        return request.headers["X-ClickHouse-User"], request.headers.get("X-ClickHouse-Key", "")
    return request.query.get("user", "default"), request.query.get("password", "")


def is_certified(request: web.Request, user: str) -> bool:
    """Whether the client logs in by its certificate, and that is the user's: its common name is the user."""
    if request.headers.get("X-ClickHouse-SSL-Certificate-Auth") != "on" or request.transport is None:
        return False
    certificate = request.transport.get_extra_info("peercert") or {}
    names = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return names == [user]


async def read_form(request: web.Request) -> tuple[dict[str, str], list[ExternalTable]]:
    """Give all fields (of address and form) and the external tables; EngineError when too large."""
    fields = dict(request.query)
    files: dict[str, bytes] = {}
    size = 0
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or not part.name:
            continue
        content = bytearray()
        while piece := await part.read_chunk(1024 * 1024):
            content += piece
            size += len(piece)
            if size > _FORM_BYTES_AT_MOST:
                raise EngineError(_FORM_TOO_LARGE)
        if part.filename is None:
            fields[part.name] = content.decode()
        else:
            files[part.name] = bytes(content)
    return fields, [_external_table(fields, name, data) for name, data in files.items()]


def _external_table(fields: dict[str, str], name: str, data: bytes) -> ExternalTable:
    """Build the table, taking its own names out of `fields`, where they would be settings."""
    structure = fields.pop(f"{name}_structure", "")
    types = fields.pop(f"{name}_types", "")
    if not structure:
        # Columns without names are called _1, _2, … Source: ClickHouse, ExternalTable.cpp
        structure = ", ".join(f"_{number} {kind}" for number, kind in enumerate(types.split(","), start=1))
    data_format = fields.pop(f"{name}_format", "TabSeparated")
    return ExternalTable(name=name, structure=structure, data_format=data_format, data=data)
