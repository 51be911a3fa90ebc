"""Gateways that never stop: all that comes into a log, at a steady pace, while its brokers die.

Besides what `TrafficGenerator` makes (statuses, duplicates, late and malformed records, purchases) one tenant sends
a third of everything, some records come out of order, some in another partition than their tenant's, and all bodies
and numbers are marked, so that they can be searched for afterwards.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, count, islice
from random import Random

from confluent_kafka import KafkaError, Message, Producer

from pipeline.core.partitions import partition_of
from pipeline.logfile import LogRecord
from pipeline.topics import MESSAGES_RAW
from pipeline.traffic import Traffic, TrafficGenerator, tenant_name
from tests.e2e.system import System
from tests.faults.leaks import Marks, marked_oddities

_HOT_SHARE = 0.33
_ODD_SHARE = 0.000_5
"""Each time some thirty records."""
_HELD_BACK_SHARE = 0.02
_HELD_BACK_RECORDS = 20
"""Among so many held back the next one is chosen, so a record comes some thousand records late."""
_STRAY_SHARE = 0.003


def chaotic_log(
    random: Random, marks: Marks, messages: int, tenants: int, records_per_second: int
) -> Iterator[LogRecord]:
    """Records without end, from now on; allowances are cut to `messages`, so that alerts fire on the way."""
    seed = random.getrandbits(32)
    common = {
        "start_at": time.time_ns() // 1_000_000,
        "records_per_second": records_per_second,
        "late": 0.02,
        "malformed": 0.01,
    }
    many = chain.from_iterable(
        TrafficGenerator(
            Traffic(
                seed=seed + 2 * number,
                messages=messages,
                tenants=tenants,
                plans=number == 0,
                duplicates=0.03,
                purchases=0.002,
                **common,
            )
        )
        for number in count()
    )
    hot = iter(TrafficGenerator(Traffic(seed=seed + 1, messages=None, tenants=1, plans=False, **common)))
    yield from islice(many, tenants)
    held_back: list[LogRecord] = []
    while True:
        record = next(hot if random.random() < _HOT_SHARE else many)
        if random.random() < _ODD_SHARE:
            at = record.received_at or 0
            yield from marked_oddities(marks, tenant_name(random.randrange(tenants)), at)
        if random.random() < _HELD_BACK_SHARE:
            held_back.append(record)
        else:
            yield record
        if len(held_back) > _HELD_BACK_RECORDS:
            yield held_back.pop(random.randrange(len(held_back)))


class ChaoticGateway:
    """Sends from a thread until it is told to stop; `join` returns when the brokers have everything."""

    def __init__(
        self, system: System, random: Random, records_per_second: int, messages: int, tenants: int
    ) -> None:
        self.sent: Counter[int] = Counter()
        """How often each record was given to the producer, by the hash of its key and value."""
        self.sent_count = 0
        self._system = system
        self._random = random
        self._pace = records_per_second
        self.marks = Marks.of(random)
        self._log = chaotic_log(random, self.marks, messages, tenants, records_per_second)
        self._partitions = system.settings.partitions
        self._failures: list[str] = []
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": system.settings.kafka,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "message.max.bytes": 2 << 20,
                # A gateway waits for its brokers as long as it takes; nothing it was given may be dropped here.
                "message.timeout.ms": 0,
                "on_delivery": self._note,
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends nothing more; returns at once."""
        self._stopping.set()

    def join(self, deadline_seconds: float = 300) -> None:
        """Returns when the brokers have acknowledged everything."""
        self._stopping.set()
        self._thread.join(deadline_seconds)
        if self._error is not None:
            raise self._error
        left = self._producer.flush(deadline_seconds)
        assert not left, f"{left} records were not acknowledged in {deadline_seconds} s"
        assert not self._failures, self._failures[:5]

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._stopping.wait(0.02):
                while self.sent_count < (time.monotonic() - began) * self._pace:
                    self._send(next(self._log))
                self._producer.poll(0)
        except BaseException as error:  # noqa: BLE001 - raised again by `join`
            self._error = error

    def _send(self, record: LogRecord) -> None:
        (record,) = self._system.signed([self.marks.mark(record)])
        place = {}
        if record.key and self._random.random() < _STRAY_SHARE:
            place = {"partition": (partition_of(record.key, self._partitions) + 1) % self._partitions}
        while True:
            try:
                self._producer.produce(
                    MESSAGES_RAW, value=record.value, key=record.key, headers=record.headers or None, **place
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                break
        self.sent[hash((record.key, record.value))] += 1
        self.sent_count += 1

    def _note(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error.str())
