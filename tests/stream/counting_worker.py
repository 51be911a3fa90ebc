"""A worker process that counts the records of each key in a table, for the tests that kill it.

The smallest thing that works like the meter: chunks are folded in memory, a checkpoint writes the table and
then acknowledges. Its options inject what goes wrong. Each line it prints is one thing that happened.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust
from table_scene import PARTITIONS, add_agent, make_app, value

from pipeline.eras import EraError
from pipeline.stream.stores import RocksStore
from pipeline.stream.tables import NotOwnedError, StateTable
from pipeline.stream.watchdog import Watchdog, confirm_ownership

CHECKPOINT_SECONDS = 0.2


def tell(text: str) -> None:
    # Faust's worker turns what goes to sys.stdout into log lines.
    sys.__stdout__.write(text + "\n")
    sys.__stdout__.flush()


class Counter:
    """Counts by partition and key; a value is the count, in 8 bytes."""

    def __init__(self, app: Any, table: StateTable, *, confirms: bool) -> None:
        self.app = app
        self.table = table
        self.confirms = confirms
        self.generation_id = -1
        self.values: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.changed: dict[int, set[bytes]] = defaultdict(set)
        self.events: dict[int, list[Any]] = defaultdict(list)

    def forget(self) -> None:
        """Let go of what was not written: a successor, or this worker again, reads it once more."""
        for kept in (self.values, self.changed, self.events):
            kept.clear()

    async def take(self, event: Any) -> None:
        chunk, partition = event.value, event.message.partition
        if chunk.generation_id != self.generation_id:
            self.generation_id = chunk.generation_id
            self.forget()
        values = self.values[partition]
        for record in chunk.records:
            held = values.get(record.key) or self.table.get(partition, record.key) or value(0)
            applied, count = int.from_bytes(held[:8], "big"), int.from_bytes(held[9:], "big")
            if record.offset + 1 > applied:
                values[record.key] = value(record.offset + 1, (count + 1).to_bytes(8, "big"))
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


def before_call(number: int, happening: Callable[[], None]) -> Callable[[], None]:
    """Something that happens at the n-th time only; never when n is 0."""
    left = [number]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            happening()

    return count


def kill_myself() -> None:
    tell("killed")
    os.kill(os.getpid(), signal.SIGKILL)


def pause_myself() -> None:
    tell("paused")
    os.kill(os.getpid(), signal.SIGSTOP)
    tell("woken")


def inject(app: Any, options: argparse.Namespace) -> None:
    """Put delays and ends of the process before calls into Faust, aiokafka and RocksDB."""
    perform_seek = app.consumer.perform_seek
    producer = app.producer._ensure_producer()
    send_batch, apply = producer.send_batch, RocksStore.apply
    before_send = before_call(options.kill_before_send, kill_myself)
    before_apply = before_call(options.kill_before_apply, kill_myself)
    pause_before_send = before_call(options.pause_before_send, pause_myself)

    async def slow_seek() -> None:
        await asyncio.sleep(options.seek_delay_seconds)
        await perform_seek()

    async def slow_send(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(options.send_delay_seconds)
        before_send()
        pause_before_send()
        return await send_batch(*arguments, **named)

    def late_apply(*arguments: Any) -> None:
        before_apply()
        apply(*arguments)

    app.consumer.perform_seek = slow_seek
    producer.send_batch = slow_send
    RocksStore.apply = late_apply


def refuse(_: Callable[[], bool]) -> None:
    raise EraError("the log is in another era")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers")
    parser.add_argument("group")
    parser.add_argument("topic")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--store", default="memory")
    parser.add_argument("--seek-delay-seconds", type=float, default=0)
    parser.add_argument("--send-delay-seconds", type=float, default=0)
    parser.add_argument("--kill-before-send", type=int, default=0, help="at the n-th batch of a write")
    parser.add_argument("--pause-before-send", type=int, default=0, help="SIGSTOP at the n-th batch")
    parser.add_argument("--kill-before-apply", type=int, default=0, help="at the n-th write, acknowledged")
    parser.add_argument("--watchdog-seconds", type=float, default=0)
    parser.add_argument("--stall-seconds", type=float, default=0, help="keep the event loop busy, once")
    parser.add_argument("--unconfirmed", action="store_true", help="write without asking the group")
    parser.add_argument("--alert-topic", help="send something there")
    parser.add_argument("--alert-bytes", type=int, default=0)
    parser.add_argument("--fail-at-offset", type=int, default=-1, help="the agent raises at this offset")
    parser.add_argument("--standbys", type=int, default=0)
    parser.add_argument("--fail-in-callback", action="store_true", help="a table's recovery callback raises")
    parser.add_argument("--other-era", action="store_true", help="whoever recovers is told so")
    options = parser.parse_args()
    app = make_app(
        options.servers,
        options.group,
        options.topic,
        options.directory,
        store=f"{options.store}://",
        broker_session_timeout=3,
        broker_heartbeat_interval=0.5,
        table_standby_replicas=options.standbys,
    )
    table = StateTable(app, "state", partitions=PARTITIONS)
    app.tables.check_era = refuse if options.other_era else app.tables.check_era
    counter = Counter(app, table, confirms=not options.unconfirmed)

    async def take(event: Any) -> None:
        if event.value.start_offset <= options.fail_at_offset <= event.value.last_offset:
            raise LookupError("nobody expected this")
        await counter.take(event)

    add_agent(app, options.topic, take)

    @app.on_partitions_revoked.connect(weak=False)
    async def forget(*_: Any, **__: Any) -> None:
        counter.forget()

    @app.task
    async def start() -> None:
        inject(app, options)
        if options.watchdog_seconds:
            Watchdog(asyncio.get_running_loop(), options.watchdog_seconds).start()
        if options.alert_topic:
            app.topic(options.alert_topic, value_serializer="raw").send_soon(value=bytes(options.alert_bytes))
        tell("running")
        time.sleep(options.stall_seconds)  # noqa: ASYNC251 - a loop that stands still is what is wanted

    if options.fail_in_callback:

        @app.tables["state"].on_recover
        async def fail() -> None:
            raise LookupError("nobody expected this")

    @app.timer(CHECKPOINT_SECONDS)
    async def checkpoint() -> None:
        await counter.checkpoint()

    faust.Worker(app, loglevel="WARNING", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
