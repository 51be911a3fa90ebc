"""What may happen to a request to ClickHouse, as `FaultProxy.inject` takes it.

Each fault is a name and what is done to one request instead of passing it and its answer on; `FAULTS` has one of each
kind for injecting at random. Those that are constants take no measure.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import lz4.frame

from tests.faults.exchange import HEAD_END, Answer, Exchange, framed, unframed


@dataclass(frozen=True)
class Fault:
    """What is done to one request instead of forwarding it and passing its answer on."""

    name: str
    act: Callable[[Exchange], Awaitable[None]]

    def __repr__(self) -> str:
        return self.name


def delay(seconds: float) -> Fault:
    """The request waits before it is executed."""

    async def act(exchange: Exchange) -> None:
        await exchange.read()
        await asyncio.sleep(seconds)
        await exchange.answer(await exchange.forward())

    return Fault("delay", act)


async def _drop_before(exchange: Exchange) -> None:
    await exchange.read()
    exchange.abort()


async def _drop_after(exchange: Exchange) -> None:
    await exchange.forward()
    exchange.abort()


def _answered_instead(name: str, answer: Answer) -> Fault:
    async def act(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.answer(answer)

    return Fault(name, act)


def _exception_text(code: int, text: str, code_name: str) -> bytes:
    return (
        f"Code: {code}. DB::Exception: {text}. ({code_name}) (version 25.8.1.1 (official build))\n".encode()
    )


def exception(code: int, text: str, code_name: str) -> Answer:
    """How ClickHouse's own server refuses: status 500 for these codes, and the number in a header.

    Source: ClickHouse, exceptionCodeToHTTPStatus.cpp and HTTPHandler.cpp
    """
    fields = (
        ("Content-Type", "text/plain; charset=UTF-8"),
        ("X-ClickHouse-Server-Display-Name", "faulty"),
        ("X-ClickHouse-Exception-Code", str(code)),
    )
    return framed(500, "Internal Server Error", fields, _exception_text(code, text, code_name))


_MEMORY = exception(
    241, "(total) memory limit exceeded: would use 9.32 GiB, maximum: 9.31 GiB", "MEMORY_LIMIT_EXCEEDED"
)


async def _truncate(exchange: Exchange) -> None:
    answer = await exchange.forward()
    await exchange.send(answer.head + answer.body[: len(answer.body) // 2])
    exchange.abort()


async def _truncate_head(exchange: Exchange) -> None:
    """The end of the stream within the head: what http.client takes for the end of the head."""
    answer = await exchange.forward()
    lines = answer.head.split(b"\r\n")
    await exchange.send(b"\r\n".join(lines[:2]) + b"\r\n")


async def _truncate_exception(exchange: Exchange) -> None:
    await exchange.read()
    await exchange.send(_MEMORY.head + _MEMORY.body[: len(_MEMORY.body) // 2])
    exchange.abort()


async def _truncate_late_exception(exchange: Exchange) -> None:
    """Rows, then the beginning of an exception, as when the server dies while it tells why it stops."""
    head, body = unframed(await exchange.forward())
    tag = b"cafe0123cafe0123"
    text = _exception_text(241, "memory limit exceeded", "MEMORY_LIMIT_EXCEEDED")
    block = b"\r\n__exception__\r\n%b\r\n%b" % (tag, text)
    sent = body[: len(body) // 2] + block[: len(block) * 2 // 3]
    lines = [head, b"X-ClickHouse-Exception-Tag: " + tag, b"Content-Length: %d" % (len(body) + len(block))]
    await exchange.send(b"\r\n".join(lines) + HEAD_END + sent)
    exchange.abort()


def cut(share: float, *, with_reset: bool) -> Fault:
    """This share of the whole answer, head included, and then the end of the stream or a reset."""

    async def act(exchange: Exchange) -> None:
        answer = await exchange.forward()
        whole = answer.head + answer.body
        await exchange.send(whole[: int(len(whole) * share)])
        if with_reset:
            exchange.abort()

    return Fault(f"cut at {share:.3f}, {'reset' if with_reset else 'ended'}", act)


def ended_early(share: float, *, compressed: bool = False) -> Fault:
    """This share of the answer's body, as a well-formed whole one.

    A balancer that speaks HTTP/1.0 with the server takes its death for the end, and passes that on in good order.
    """

    async def act(exchange: Exchange) -> None:
        head, body = unframed(await exchange.forward())
        if compressed:
            head, body = head + b"\r\nContent-Encoding: lz4", lz4.frame.compress(body)
        body = body[: int(len(body) * share)]
        await exchange.answer(Answer(head + b"\r\nContent-Length: %d" % len(body) + HEAD_END, body))

    return Fault("ended_early" if share else "emptied", act)


def stall(seconds: float) -> Fault:
    """The request is not taken for so long."""

    async def act(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await exchange.answer(await exchange.forward())

    return Fault("stall", act)


def trickle(seconds: float, pieces: int = 200) -> Fault:
    """The answer comes in so many pieces with pauses between them; with more pieces than bytes, byte by byte."""

    async def act(exchange: Exchange) -> None:
        answer = await exchange.forward()
        data = answer.head + answer.body
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            await exchange.send(data[start : start + size])
            await asyncio.sleep(seconds / pieces)
        exchange.is_answered = True

    return Fault("trickle", act)


def slow_reading(seconds: float) -> Fault:
    """The request's body is taken in small pieces, and what has not come after so long at once."""

    async def act(exchange: Exchange) -> None:
        await exchange.read(seconds)
        await exchange.answer(await exchange.forward())

    return Fault("slow_reading", act)


DROP_BEFORE = Fault("drop_before", _drop_before)
"""The connection is reset, and the server never saw the request."""
DROP_AFTER = Fault("drop_after", _drop_after)
"""The server executed the request, and its answer is lost."""
INTERNAL_ERROR = _answered_instead(
    "internal_error", framed(500, "Internal Server Error", (), b"<html>500 Internal Server Error</html>")
)
"""Of a balancer, not of ClickHouse."""
UNAVAILABLE = _answered_instead(
    "unavailable", framed(503, "Service Unavailable", (("Retry-After", "1"),), b"<html>503</html>")
)
REQUEST_TIMEOUT = _answered_instead(
    "request_timeout", framed(408, "Request Timeout", (), b"<html>408</html>")
)
"""Of a balancer that has waited for the request for too long."""
QUOTA = _answered_instead(
    "quota",
    exception(201, "Quota for user `meter` for 60s has been exceeded: queries = 11/10", "QUOTA_EXCEEDED"),
)
MEMORY = _answered_instead("memory", _MEMORY)
TOO_MANY_PARTS = _answered_instead(
    "too_many_parts",
    exception(
        252,
        "Too many parts (3000 with average size of 1.00 KiB) in table 'default.rated_messages'. Merges are"
        " processing significantly slower than inserts",
        "TOO_MANY_PARTS",
    ),
)
TRUNCATED = Fault("truncated", _truncate)
"""The connection is reset in the middle of the answer's body."""
TRUNCATED_HEAD = Fault("truncated_head", _truncate_head)
"""The stream ends within the answer's head."""
TRUNCATED_EXCEPTION = Fault("truncated_exception", _truncate_exception)
"""The connection is reset in the middle of an exception."""
TRUNCATED_LATE_EXCEPTION = Fault("truncated_late_exception", _truncate_late_exception)
"""The same, of an exception that follows rows."""
ENDED_EARLY = ended_early(0.5)
"""Half of the answer, as a well-formed whole one."""
EMPTIED = ended_early(0)
"""No body at all, and well-formed."""

FAULTS = (
    delay(0.3), DROP_BEFORE, DROP_AFTER, INTERNAL_ERROR, UNAVAILABLE, REQUEST_TIMEOUT, QUOTA, MEMORY,
    TOO_MANY_PARTS, TRUNCATED, TRUNCATED_HEAD, TRUNCATED_EXCEPTION, TRUNCATED_LATE_EXCEPTION, ENDED_EARLY,
    EMPTIED, trickle(0.5), slow_reading(0.5),
)  # fmt: skip
"""One of each kind, for injecting at random."""
