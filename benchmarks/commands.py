"""How long an account command takes from being sent to its result being read, alone and while messages flow.

    python -m benchmarks.commands [--messages 300000] [--rate 0] [--seconds 60] [--per-second 20] [--json]

Starts Kafka and the ClickHouse engine in a temporary directory and one worker, which first reads a backlog to find
its speed (`--rate` skips that). Then another process sends seeded traffic at half that speed, while this one sends
commands of random tenants at random instants (grants, and questions whether something may be sent) as
`msgmeter account` does, and reads `account.results`. Three parts of the way are told apart by the records'
timestamps, which are of one machine: to the log (the broker's append), in the worker (fetched, queued, folded), and
back (published, read).

Percentiles are by nearest rank, in milliseconds.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import msgspec
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.throughput import Worker, cpu_seconds, fill, measure_backlog, servers, traffic
from pipeline.logfile import LogRecord, sign_plain
from pipeline.settings import Settings
from pipeline.topics import ACCOUNT_RESULTS, MESSAGES_RAW
from pipeline.traffic import tenant_name

_ALONE_COMMANDS = 200
_ANSWER_SECONDS = 30.0
_SETTLING_SECONDS = 5.0
_PERCENTILES = (50, 90, 99, 100)


@dataclass(slots=True)
class Way:
    """Instants of one command, in milliseconds since 1970; 0 for not yet."""

    sent_at: float
    appended_at: int = 0
    answered_at: int = 0
    read_at: float = 0.0
    reason: str = ""


class Results:
    """Reads `account.results` in a thread, from its present end."""

    def __init__(self, settings: Settings, ways: Mapping[str, Way]) -> None:
        self._ways = ways
        self._stopped = False
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka,
                "group.id": "commands-benchmark",
                "enable.auto.commit": False,
            }
        )
        places = [TopicPartition(ACCOUNT_RESULTS, partition) for partition in range(settings.partitions)]
        for place in places:
            _, place.offset = self._consumer.get_watermark_offsets(place)
        self._consumer.assign(places)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopped:
            record = self._consumer.poll(0.2)
            if record is None or record.error() is not None:
                continue
            read_at = time.time() * 1000
            answer = orjson.loads(record.value())
            way = self._ways.get(answer["command_id"])
            if way is not None and not way.read_at:
                way.answered_at, way.read_at = record.timestamp()[1], read_at
                way.reason = answer["reason"]

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped = True
        self._thread.join()
        self._consumer.close()


def make_command(chance: Random, name: str, tenants: int) -> LogRecord:
    """A grant, or a question, of a random tenant, holding from now on."""
    tenant = tenant_name(chance.randrange(tenants))
    document: dict[str, object] = {"id": name, "tenant": tenant, "effective_at": int(time.time() * 1000)}
    if chance.random() < 0.5:
        document |= {"type": "grant", "credits": "1"}
    else:
        document |= {"type": "authorise", "sendings": [{"count": 100, "country": "US"}]}
    return LogRecord(tenant.encode(), msgspec.json.encode(document), is_plain_command=True)


def send_commands(
    settings: Settings, arguments: argparse.Namespace, label: str, count: int, per_second: float
) -> list[Way]:
    """Sends commands at random instants, so many a second on average, and waits for their results."""
    chance = Random(label)
    secret = settings.command_key.encode()
    ways: dict[str, Way] = {}
    results = Results(settings, ways)
    producer = Producer(
        {"bootstrap.servers": settings.kafka, "partitioner": "murmur2_random", "enable.idempotence": True}
    )
    for number in range(count):
        time.sleep(chance.expovariate(per_second))
        name = f"{label}-{number}"
        record = sign_plain(make_command(chance, name, arguments.tenants), secret)
        way = ways[name] = Way(sent_at=time.time() * 1000)

        def note(error: object, message: object, way: Way = way) -> None:
            assert error is None, error
            way.appended_at = message.timestamp()[1]  # type: ignore[attr-defined]

        producer.produce(MESSAGES_RAW, record.value, record.key, headers=record.headers, on_delivery=note)
        producer.flush()
    deadline = time.monotonic() + _ANSWER_SECONDS
    while not all(way.read_at for way in ways.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    results.stop()
    return list(ways.values())


def summary(ways: list[Way]) -> dict[str, object]:
    """Percentiles of the whole way and of its parts."""
    answered = [way for way in ways if way.read_at]
    parts = {
        "whole": sorted(way.read_at - way.sent_at for way in answered),
        "to the log": sorted(way.appended_at - way.sent_at for way in answered),
        "in the worker": sorted(float(way.answered_at - way.appended_at) for way in answered),
        "back": sorted(way.read_at - way.answered_at for way in answered),
    }
    return {
        "commands": len(ways),
        "unanswered": len(ways) - len(answered),
        "refused": sum(bool(way.reason) for way in answered),
        **{
            part: {
                f"p{percentile}": round(values[math.ceil(len(values) * percentile / 100) - 1], 1)
                for percentile in _PERCENTILES
            }
            for part, values in parts.items()
        },
        "within_250_ms": round(sum(each <= 250 for each in parts["whole"]) / len(ways), 4),
    }


def flow(settings: Settings, arguments: argparse.Namespace, rate: int, seconds: float) -> None:
    """Sends traffic at a rate; in a process of its own."""
    fill(settings, traffic(arguments, int(rate * seconds), 2, plans=False), rate)


def measure_under_load(
    settings: Settings, worker: Worker, pids: dict[str, int], arguments: argparse.Namespace, rate: int
) -> dict[str, object]:
    """Commands while messages flow, and what flowed meanwhile."""
    count = int(arguments.seconds * arguments.per_second)
    seconds = arguments.seconds * 1.15 + 2 * _SETTLING_SECONDS
    sending = multiprocessing.get_context("spawn").Process(
        target=flow, args=(settings, arguments, rate, seconds), daemon=True
    )
    sending.start()
    time.sleep(_SETTLING_SECONDS)
    before, began = worker.metrics(), time.monotonic()
    cpu_before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    ways = send_commands(settings, arguments, "loaded", count, arguments.per_second)
    elapsed = time.monotonic() - began
    after = worker.metrics()
    name = "msgmeter_messages_received_total"
    figures = {
        "sent_rate": rate,
        "records_per_second": round((after[name] - before[name]) / elapsed),
        "lag_at_end": int(after["msgmeter_consumer_lag_offsets"]),
        **{
            f"{name}_cpu_percent": round((cpu_seconds(pid) - cpu_before[name]) / elapsed * 100)
            for name, pid in pids.items()
        },
        "load": round(os.getloadavg()[0], 1),
        **summary(ways),
    }
    sending.terminate()
    sending.join()
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=300_000, help="of the backlog that shows the speed")
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=0, help="messages a second; half of the speed by default")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--per-second", type=float, default=20, help="commands")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with servers() as (settings, server_pids):
        report: dict[str, object] = {
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"
        }
        messages = 1 if arguments.rate else arguments.messages
        say(f"filling messages.raw with {messages:,} records of {arguments.tenants:,} tenants …")
        records = fill(settings, traffic(arguments, messages, 1, plans=True))
        worker = Worker(settings)
        pids = server_pids | {"worker": worker.pid}
        backlog = measure_backlog(worker, records, pids)
        rate = arguments.rate or int(backlog["records_per_second"] // 2)
        say("commands alone …")
        report["alone"] = summary(send_commands(settings, arguments, "alone", _ALONE_COMMANDS, 20))
        say(f"commands while {rate:,} records a second flow …")
        report["backlog_records_per_second"] = backlog["records_per_second"]
        report["under_load"] = measure_under_load(settings, worker, pids, arguments, rate)
        worker.process.stop(30)
    print(json.dumps(report, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
