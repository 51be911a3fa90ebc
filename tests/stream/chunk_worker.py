"""An app on the chunk transport that notes what it is given, for test_chunks; also a process of its own.

A process (`python chunk_worker.py …`), because only a process can be killed or end by itself.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import faust

from pipeline.stream.chunks import Chunk, ChunkLimits, ChunkTransport, Untouched, transport_settings


class Notebook:
    """Events by partition in the order they came; `until` waits for what they show."""

    def __init__(self) -> None:
        self.events: dict[int, list[Any]] = defaultdict(list)
        self.changed = asyncio.Condition()

    def chunks(self, partition: int = 0) -> list[Chunk]:
        return [event.value for event in self.events[partition]]

    def offsets(self, partition: int = 0) -> list[int]:
        return [record.offset for chunk in self.chunks(partition) for record in chunk.records]

    def count(self) -> int:
        return sum(len(self.offsets(partition)) for partition in list(self.events))

    async def note(self, event: Any) -> None:
        self.events[event.message.partition].append(event)
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(condition), seconds)


def make_app(
    servers: str,
    group: str,
    topic: str,
    directory: Path,
    *,
    limits: ChunkLimits | None = None,
    transport: type[ChunkTransport] = ChunkTransport,
    **settings: Any,
) -> Any:
    directory.mkdir(parents=True, exist_ok=True)
    ours = {"broker_commit_interval": 0.2, "broker_session_timeout": 6, "broker_heartbeat_interval": 1}
    app = faust.App(
        group,
        broker=f"kafka://{servers}",
        datadir=directory,
        web_enabled=False,
        topic_disable_leader=True,
        worker_redirect_stdouts=False,
        **{**transport_settings(), **ours, **settings},
    )
    app.transport = transport(app.conf.broker_consumer, app, topics={topic}, limits=limits)
    return app


def add_reader(app: Any, topic: str, handle: Callable[[Any], Any]) -> None:
    """Give every event of the chunked topic to `handle`, one agent instance per partition."""

    @app.agent(app.topic(topic, schema=Untouched()), isolated_partitions=True, name="reader")
    async def reader(stream: Any) -> None:
        async for event in stream.noack().events():
            await handle(event)


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[Any]:
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


class LosingTransport(ChunkTransport):
    """Loses the second chunk it fetches, as a fetch before a seek did in Faust (issue 596)."""

    class Consumer(ChunkTransport.Consumer):
        chunks_seen = 0

        async def _getmany(self, *arguments: Any, **named: Any) -> Any:
            fetched = await super()._getmany(*arguments, **named)
            self.chunks_seen += len(fetched)
            return {} if fetched and self.chunks_seen == 2 else fetched


def main() -> None:
    """Print `chunk partition start_offset first_offset last_offset ack|hold` per chunk."""
    parser = argparse.ArgumentParser()
    parser.add_argument("servers")
    parser.add_argument("group")
    parser.add_argument("topic")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--acks", type=int, default=sys.maxsize, help="chunks per partition to acknowledge")
    parser.add_argument("--lose-one", action="store_true", help="lose a chunk between fetch and agent")
    arguments = parser.parse_args()
    seen: dict[int, int] = defaultdict(int)

    async def handle(event: Any) -> None:
        chunk, partition = event.value, event.message.partition
        seen[partition] += 1
        if seen[partition] <= arguments.acks:
            event.ack()
        verdict = "ack" if event.message.acked else "hold"
        offsets = f"{chunk.start_offset} {chunk.first_offset} {chunk.last_offset}"
        sys.stdout.write(f"chunk {partition} {offsets} {verdict}\n")
        sys.stdout.flush()

    app = make_app(
        arguments.servers,
        arguments.group,
        arguments.topic,
        arguments.directory,
        limits=ChunkLimits(records=100),
        transport=LosingTransport if arguments.lose_one else ChunkTransport,
    )
    add_reader(app, arguments.topic, handle)
    faust.Worker(app, loglevel="ERROR", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
