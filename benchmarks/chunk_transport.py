"""What the chunk transport costs per record: fetch, decompress, parse, hand over to an idle agent.

    python benchmarks/chunk_transport.py [--records 1000000] [--partitions 32] [--codec lz4]

Starts an embedded broker in a temporary directory (or takes `--kafka host:port`), fills a topic with records
of about 300 bytes, reads it through an agent that only acknowledges, on uvloop. Then sends single records,
one after another has arrived, and measures how long each takes; then does nothing for 5 s. Prints one JSON
object. CPU and memory are the reader's: broker and producer are other processes.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import platform
import resource
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faust
import uvloop
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream.chunks import ChunkLimits, ChunkTransport, Untouched, calm_collector, transport_settings
from pipeline.stream.pins import PINNED_VERSIONS

_PROBES = 50


class Meter:
    """What the agent saw; the benchmark's only state."""

    def __init__(self) -> None:
        self.records = 0
        self.chunks = 0
        self.largest_chunk = 0
        self.arrived = asyncio.Condition()

    async def saw(self, count: int) -> None:
        """Count a chunk and wake whoever waits for it."""
        self.records += count
        self.chunks += 1
        self.largest_chunk = max(self.largest_chunk, count)
        async with self.arrived:
            self.arrived.notify_all()

    async def wait_for(self, records: int) -> None:
        """Return when the agent has seen so many records in all."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.records >= records)


def fill(servers: str, topic: str, count: int, codec: str) -> None:
    """Produce `count` records of 10 000 tenants; each value about 290 bytes of JSON."""
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "compression.type": codec,
            "partitioner": "murmur2_random",
            "linger.ms": 50,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 500_000,
        }
    )
    body = "The quick brown fox jumps over the lazy dog near the river bank"
    for number in range(count):
        tenant = f"tenant-{number * 7919 % 10_000:05d}"
        value = (
            f'{{"id":"{number * 2654435761 % 2**64:016x}{number:016x}","tenant":"{tenant}",'
            '"source":"gateway","kind":"sms","direction":"outbound","status":"delivered",'
            f'"occurred_at":{1_760_000_000_000 + number},"to":"+1415{number * 31 % 10_000_000:07d}",'
            f'"from":"+14155550100","body":"{body} {number}"}}'
        )
        while True:
            try:
                producer.produce(topic, value, tenant)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def application(servers: str, topic: str, meter: Meter, limits: ChunkLimits, directory: Path) -> Any:  # noqa: ANN401
    """Make the app whose agent only counts and acknowledges."""
    settings = {**transport_settings(), "broker_commit_interval": 1.0}
    app = faust.App(
        f"bench-{uuid.uuid4().hex[:8]}",
        broker=f"kafka://{servers}",
        datadir=directory,
        web_enabled=False,
        topic_disable_leader=True,
        **settings,
    )
    app.transport = ChunkTransport(app.conf.broker_consumer, app, topics={topic}, limits=limits)

    @app.agent(app.topic(topic, schema=Untouched()), isolated_partitions=True)
    async def count(stream: Any) -> None:  # noqa: ANN401
        async for event in stream.noack().events():
            await meter.saw(len(event.value.records))
            event.ack()

    return app


async def measure(servers: str, topic: str, arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Read what is there, then probe the latency of single records."""
    meter = Meter()
    limits = ChunkLimits(arguments.chunk_records, arguments.chunk_bytes)
    app = application(servers, topic, meter, limits, directory)
    if not arguments.stock_collector:
        calm_collector()
    await app.start()
    await meter.wait_for(1)
    seen, wall, cpu = meter.records, time.perf_counter(), time.process_time()
    await meter.wait_for(arguments.records)
    wall, cpu, seen = time.perf_counter() - wall, time.process_time() - cpu, meter.records - seen
    figures = {
        "records_per_second": round(seen / wall),
        "cpu_microseconds_per_record": round(cpu / seen * 1e6, 2),
        "chunks": meter.chunks,
        "largest_chunk": meter.largest_chunk,
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    figures |= await probe(servers, topic, meter)
    idle = time.process_time()
    await asyncio.sleep(5)
    figures["idle_cpu_percent"] = round((time.process_time() - idle) / 5 * 100, 1)
    await app.stop()
    return figures


async def probe(servers: str, topic: str, meter: Meter) -> dict[str, float]:
    """Send single records, one after another has arrived; milliseconds from produce to agent."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
    waits = []
    for number in range(_PROBES):
        before = meter.records
        sent = time.perf_counter()
        producer.produce(topic, b"{}", b"tenant-%d" % number)
        producer.poll(0)
        await meter.wait_for(before + 1)
        waits.append((time.perf_counter() - sent) * 1000)
        await asyncio.sleep(0.05)
    producer.flush()
    waits.sort()
    return {"probe_median_ms": round(waits[_PROBES // 2], 1), "probe_worst_ms": round(waits[-1], 1)}


@contextlib.contextmanager
def kafka(servers: str | None) -> Iterator[str]:
    """Give the servers named, or those of a broker of our own."""
    if servers:
        yield servers
        return
    with tempfile.TemporaryDirectory() as directory, EmbeddedBroker(Path(directory)) as broker:
        yield broker.bootstrap_servers
        broker.kill()


def main() -> None:
    """Fill a topic of its own, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--codec", default="lz4", choices=["none", "gzip", "snappy", "lz4", "zstd"])
    parser.add_argument("--chunk-records", type=int, default=ChunkLimits.records)
    parser.add_argument("--chunk-bytes", type=int, default=ChunkLimits.size_bytes)
    parser.add_argument("--stock-collector", action="store_true", help="leave Python's collector as it is")
    parser.add_argument("--kafka", help="host:port of a running broker")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    topic = f"bench_{uuid.uuid4().hex[:8]}"
    with kafka(arguments.kafka) as servers, tempfile.TemporaryDirectory() as directory:
        admin = AdminClient({"bootstrap.servers": servers})
        created = admin.create_topics([NewTopic(topic, arguments.partitions, 1)])
        created[topic].result(30)
        filling = multiprocessing.Process(
            target=fill, args=(servers, topic, arguments.records, arguments.codec)
        )
        filling.start()
        filling.join()
        figures = uvloop.run(measure(servers, topic, arguments, Path(directory)))
        admin.delete_topics([topic])[topic].result(30)
    setup = {"python": platform.python_version(), **PINNED_VERSIONS, **vars(arguments)}
    print(json.dumps({**setup, **figures}, indent=2))


if __name__ == "__main__":
    main()
