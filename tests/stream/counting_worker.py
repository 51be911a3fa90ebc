"""A worker process that counts the records of each key in a table, for the tests that kill it.

The smallest thing that works like the meter: chunks are folded in memory, a checkpoint writes the table and
then acknowledges. Its options inject what goes wrong. Each line it prints is one thing that happened.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust
from table_scene import PARTITIONS, add_agent, make_app

from pipeline.stream.stores import RocksStore
from pipeline.stream.tables import NotOwnedError, StateTable
from pipeline.stream.watchdog import Watchdog, confirm_ownership

CHECKPOINT_SECONDS = 0.2


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Counter:
    """Counts by partition and key; a value is (applied offset + 1, count), 8 bytes each."""

    def __init__(self, app: Any, table: StateTable, *, confirms: bool) -> None:
        self.app = app
        self.table = table
        self.confirms = confirms
        self.generation_id = -1
        self.values: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.changed: dict[int, set[bytes]] = defaultdict(set)
        self.events: dict[int, list[Any]] = defaultdict(list)
        self.paused = False

    async def take(self, event: Any) -> None:
        chunk, partition = event.value, event.message.partition
        if chunk.generation_id != self.generation_id:
            self.generation_id = chunk.generation_id
            for kept in (self.values, self.changed, self.events):
                kept.clear()
        values = self.values[partition]
        for record in chunk.records:
            held = values.get(record.key) or self.table.get(partition, record.key) or bytes(16)
            applied, count = int.from_bytes(held[:8], "big"), int.from_bytes(held[8:], "big")
            if record.offset + 1 > applied:
                values[record.key] = (record.offset + 1).to_bytes(8, "big") + (count + 1).to_bytes(8, "big")
                self.changed[partition].add(record.key)
        self.events[partition].append(event)

    async def checkpoint(self) -> None:
        for partition in list(self.events):
            if self.confirms and not await confirm_ownership(self.app):
                tell("not confirmed")
                return
            events = self.events.pop(partition, [])
            if not events:
                continue
            changes = {key: self.values[partition][key] for key in self.changed.pop(partition, ())}
            try:
                await self.table.write(partition, changes, applied_offset=events[-1].value.last_offset + 1)
            except NotOwnedError:
                tell("not owned")
                return
            for event in events:
                event.ack()
            tell(f"checkpoint {partition}")


def delayed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    async def delaying(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(seconds)
        return await function(*arguments, **named)

    return delaying


def kill_before_apply(count: int) -> None:
    """End as by kill -9 between the changelog's acknowledgement and the local store, at the n-th write."""
    apply, left = RocksStore.apply, [count]

    def apply_or_die(*arguments: Any) -> None:
        left[0] -= 1
        if not left[0]:
            tell("killed before apply")
            os.kill(os.getpid(), signal.SIGKILL)
        apply(*arguments)

    RocksStore.apply = apply_or_die


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers")
    parser.add_argument("group")
    parser.add_argument("topic")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--store", default="memory")
    parser.add_argument("--seek-delay-seconds", type=float, default=0)
    parser.add_argument("--send-delay-seconds", type=float, default=0)
    parser.add_argument("--kill-before-apply", type=int, default=0)
    parser.add_argument("--watchdog-seconds", type=float, default=0)
    parser.add_argument("--unconfirmed", action="store_true", help="write without asking the group")
    options = parser.parse_args()
    app = make_app(
        options.servers,
        options.group,
        options.topic,
        options.directory,
        store=f"{options.store}://",
        broker_session_timeout=3,
        broker_heartbeat_interval=0.5,
    )
    table = StateTable(app, "state", partitions=PARTITIONS)
    counter = Counter(app, table, confirms=not options.unconfirmed)
    add_agent(app, options.topic, counter.take)
    if options.kill_before_apply:
        kill_before_apply(options.kill_before_apply)

    @app.task
    async def inject_and_watch() -> None:
        app.consumer.perform_seek = delayed(app.consumer.perform_seek, options.seek_delay_seconds)
        producer = app.producer._ensure_producer()
        producer.send_batch = delayed(producer.send_batch, options.send_delay_seconds)
        if options.watchdog_seconds:
            Watchdog(asyncio.get_running_loop(), options.watchdog_seconds).start()

    @app.timer(CHECKPOINT_SECONDS)
    async def checkpoint() -> None:
        await counter.checkpoint()

    tell("started")
    faust.Worker(app, loglevel="WARNING", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
