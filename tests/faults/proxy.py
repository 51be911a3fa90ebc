"""An HTTP proxy before ClickHouse that does to single requests what networks, balancers and busy servers do.

Takes faults to inject, each for so many of the next inserts or queries; gives an address for `MSGMETER_CLICKHOUSE`
and counts of what was done. It runs in a thread of its own, so any number of processes may go through it. Every
request goes to the server over a connection of its own and is read whole before, so a fault meets one request and
never its neighbour on a kept connection.
"""

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from random import Random
from typing import Any, Literal, NamedTuple, Self

from pipeline.embedded.statements import begins_insert
from tests.faults.exchange import BUFFER_BYTES, HEAD_END, Answer, Exchange, reset
from tests.faults.kinds import FAULTS, Fault

_RECEIVE_BYTES = 256 * 1024

Only = Literal["insert", "query", "any"]


class Held:
    """A request that has arrived whole and waits here; the server has not seen it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: Future[bytes] = Future()
        self._released = asyncio.Event()
        self._answered: Future[bytes] = Future()
        self.fault = Fault("held", self._act)

    async def _act(self, exchange: Exchange) -> None:
        await exchange.read()
        self._arrived.set_result(b"")
        await self._released.wait()
        answer = await exchange.forward()
        self._answered.set_result(answer.head.split(b"\r\n")[0])
        with contextlib.suppress(ConnectionError):
            # Whoever sent it may be gone.
            await exchange.answer(answer)

    def await_arrival(self, deadline_seconds: float = 60) -> None:
        """Return when a request is held."""
        self._arrived.result(deadline_seconds)

    @property
    def has_arrived(self) -> bool:
        """Whether a request is held, or was."""
        return self._arrived.done()

    def release(self, deadline_seconds: float = 60) -> str:
        """Let the server have it; gives the status line of its answer once it has executed it."""
        self._loop.call_soon_threadsafe(self._released.set)
        return self._answered.result(deadline_seconds).decode()


class _Order(NamedTuple):
    fault: Fault
    only: Only
    naming: bytes


class FaultProxy:
    """A proxy before the ClickHouse at `upstream_host:upstream_port`; a context manager.

    `host` is the address it listens at, `port` 0 takes a free one and keeps it, also while `away`. With `remembers` a
    request that was answered once is not executed again, but answered (and maybe faulted) from memory.
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        remembers: bool = False,
    ) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._remembered: dict[bytes, Answer] | None = {} if remembers else None
        self.host = host
        # Bound and never listening: while we are away the port stays ours and refuses connections.
        self._reservation = self._bound(port)
        self.port: int = self._reservation.getsockname()[1]
        self._lock = threading.Lock()
        self._orders: list[_Order] = []
        self._disturbance: tuple[Random, float, Iterator[Fault]] | None = None
        self.injected: Counter[str] = Counter()
        """How often each fault was done, by its name."""
        self.passed: Counter[str] = Counter()
        """How many inserts and queries went through without one."""
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://{self.host}:{self.port}"

    # What happens to requests.

    def inject(self, fault: Fault, count: int = 1, only: Only = "any", *, naming: str = "") -> None:
        """Do this to the next `count` requests of the kind whose statement contains `naming`.

        Orders are served in the order they were given in, each request by the first that fits it.
        """
        with self._lock:
            self._orders += [_Order(fault, only, naming.encode())] * count

    def hold(self, only: Only = "any", *, naming: str = "") -> Held:
        """Keep the next such request here until it is released."""
        held = Held(self._loop)
        self.inject(held.fault, only=only, naming=naming)
        return held

    def disturb(self, random: Random, share: float, faults: Sequence[Fault] = FAULTS) -> None:
        """From now on do to this share of all other requests one of the faults, at random, and each as often."""
        with self._lock:
            self._disturbance = (random, share, _dealt(random, faults))

    def calm(self) -> None:
        """Do nothing more to requests; what is held stays held."""
        with self._lock:
            self._disturbance = None
            self._orders.clear()

    def away(self) -> None:
        """Refuse connections, and reset those there are."""
        self._run(self._close())

    def back(self) -> None:
        """Take connections again."""
        self._run(self._listen())

    # Its life.

    def __enter__(self) -> Self:
        self._thread.start()
        self.back()
        return self

    def __exit__(self, *_: object) -> None:
        self.away()
        self._run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reservation.close()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def _bound(self, port: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Small, so that a sender soon notices that nobody reads.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        bound.bind((self.host, port))
        return bound

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, sock=self._bound(self.port), limit=BUFFER_BYTES
            )

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._connections):
            reset(writer)

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # One connection.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while await self._serve_request(reader, writer):
                pass
        except (OSError, EOFError):
            # One of the two ends is gone: the other one is told in the same way.
            reset(writer)
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(HEAD_END)
        lines = head.decode("latin-1").split("\r\n")[1:]
        fields = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        exchange = Exchange(self._upstream, reader, writer, head, fields, self._remembered)
        fault = self._fault_for(await exchange.statement())
        if fault is None:
            await exchange.answer(await exchange.forward())
        else:
            await fault.act(exchange)
        return exchange.is_answered

    def _fault_for(self, statement: bytes) -> Fault | None:
        kind = _kind(statement)
        with self._lock:
            for order in self._orders:
                if order.only in ("any", kind) and order.naming in statement:
                    self._orders.remove(order)
                    self.injected[order.fault.name] += 1
                    return order.fault
            if self._disturbance is not None:
                random, share, faults = self._disturbance
                if random.random() < share:
                    fault = next(faults)
                    self.injected[fault.name] += 1
                    return fault
            self.passed[kind] += 1
        return None


def _dealt(random: Random, faults: Sequence[Fault]) -> Iterator[Fault]:
    """All of them in some order, and again in another one."""
    while True:
        yield from random.sample(faults, len(faults))


def _kind(request: bytes) -> Only:
    """An insert brings its statement at the head of its body; whatever else is asked is a query."""
    return "insert" if begins_insert(request.partition(HEAD_END)[2]) else "query"
