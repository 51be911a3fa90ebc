"""The whole of it: workers that are killed, stopped and joined count every record exactly once."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from table_scene import PARTITIONS, Tables, Worker

from pipeline.embedded.broker import EmbeddedBroker

KEYS = 20
RECORDS = 24_000
SLICE = 120


@pytest.fixture(params=["memory", "rocksdb"])
def scene(
    request: pytest.FixtureRequest,
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Tables:
    topic = create_topic("raw", partitions=PARTITIONS)
    tables = Tables(broker.bootstrap_servers, topic, unique_name("group"), tmp_path, request.param)
    tables.create_changelog()
    return tables


async def produce_slowly(scene: Tables, keys: list[bytes]) -> None:
    """Append the records over some ten seconds, so that whatever happens meanwhile falls among them."""
    for begin in range(0, len(keys), SLICE):
        await asyncio.to_thread(scene.produce, keys[begin : begin + SLICE])
        await asyncio.sleep(0.03)


async def test_counts_are_exact_over_kills_stops_and_joins_with_delays(scene: Tables) -> None:
    delays = ("--seek-delay-seconds=0.2", "--send-delay-seconds=0.05")
    workers: list[Worker] = []

    def join() -> None:
        workers.append(scene.process(f"process-{len(workers)}", *delays))

    keys = [b"key-%d" % (number % KEYS) for number in range(RECORDS)]
    producing = asyncio.create_task(produce_slowly(scene, keys))
    try:
        join()
        join()
        for number, (share, end) in enumerate(
            [(0.1, signal.SIGKILL), (0.3, signal.SIGTERM), (0.5, signal.SIGKILL), (0.7, signal.SIGKILL)]
        ):
            await scene.until_committed(int(RECORDS * share))
            workers[number].end(end)
            join()
        await producing
        await scene.until_committed(RECORDS)
    finally:
        producing.cancel()
        for worker in workers:
            worker.end(signal.SIGKILL)
    assert await scene.counts("process-0") == Counter(keys)
