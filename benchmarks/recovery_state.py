"""The state of a large deployment, written straight into its changelogs, for `benchmarks.recovery`.

Decides what a worker would have left: accounts and their windows once each, identities as deltas that were written
again at every checkpoint until they were full. Takes settings and sizes; gives records in Kafka. The log itself gets
one record per checkpoint and partition, below the committed offsets: it is not what is measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.accounts import make_account
from pipeline.core.identity import KEY_BYTES, IdentityIndex
from pipeline.core.kept import encode_kept
from pipeline.core.partitions import partition_of
from pipeline.core.usage import Window, window_key
from pipeline.core.windows import WINDOW_MILLISECONDS
from pipeline.settings import Settings
from pipeline.stream.agreement import MARK_KEY, mark_of
from pipeline.topics import MESSAGES_RAW, changelog_names
from pipeline.traffic import tenant_name

_HOUR_MILLISECONDS = 3_600_000
_STATUSES = 0b11
_DIMENSIONS = (("sms", "outbound", "US", "campaign"), ("sms", "outbound", "DE", "transactional"))

Send = Callable[[str, int, bytes, bytes | None], None]
"""(topic, partition, key, value)."""


@dataclass(frozen=True)
class Sizes:
    """How much state there is."""

    accounts: int
    identities: int
    checkpoint_identities: int
    """New identities of one partition between two checkpoints; a delta is written again until it holds 4 096."""
    now_at: int

    def checkpoints(self, partitions: int) -> int:
        """How many checkpoints it took, in each partition; the log has one record for each."""
        return max(1, -(-self.identities // partitions // self.checkpoint_identities))


def write_log(settings: Settings, sizes: Sizes) -> None:
    """A record in the log for every checkpoint, and the group's offsets behind them."""
    count = sizes.checkpoints(settings.partitions)
    with _Writer(settings) as send:
        for partition in range(settings.partitions):
            for _ in range(count):
                send(MESSAGES_RAW, partition, b"nobody", b"")
    group = Consumer({"bootstrap.servers": settings.kafka, "group.id": settings.application})
    offsets = [TopicPartition(MESSAGES_RAW, partition, count) for partition in range(settings.partitions)]
    group.commit(offsets=offsets, asynchronous=False)
    group.close()


def write_accounts(settings: Settings, sizes: Sizes) -> None:
    """Every account, and one window of the last hour for each."""
    accounts, windows, _ = changelog_names(settings.application)
    last_offset = sizes.checkpoints(settings.partitions) - 1
    start = sizes.now_at // WINDOW_MILLISECONDS * WINDOW_MILLISECONDS
    with _Writer(settings) as send:
        for number in range(sizes.accounts):
            tenant = tenant_name(number)
            key = tenant.encode()
            partition = partition_of(key, settings.partitions)
            account = msgspec.structs.replace(
                make_account(number, sizes.now_at), tenant=tenant, applied_offset=last_offset
            )
            window = Window(tenant, start, last_offset)
            for dimensions in _DIMENSIONS:
                window.add(last_offset, dimensions, 2, 2, 2_000_000)
            window.add_burned((account.grants[0].id, 4_000_000, {}), {})
            send(accounts, partition, key, encode_kept(last_offset, account))
            send(windows, partition, window_key(key, start), encode_kept(last_offset, window))
        for partition in range(settings.partitions):
            send(accounts, partition, MARK_KEY, mark_of(last_offset + 1))
            send(windows, partition, MARK_KEY, mark_of(last_offset + 1))


def write_identities(settings: Settings, sizes: Sizes, partitions: range) -> None:
    """The deltas of some partitions, through the index that a worker keeps them in."""
    _, _, changelog = changelog_names(settings.application)
    count = sizes.checkpoints(settings.partitions)
    with _Writer(settings) as send:
        for partition in partitions:
            prefix = partition.to_bytes(2, "big")
            for key, value in _checkpoints(sizes, count, sizes.identities // settings.partitions, partition):
                send(changelog, partition, prefix + key, value)
            send(changelog, partition, MARK_KEY, mark_of(count))


def _checkpoints(
    sizes: Sizes, checkpoints: int, identities: int, seed: int
) -> Iterator[tuple[bytes, bytes | None]]:
    """What one partition's checkpoints write, the last of them now."""
    chance = Random(seed)
    index = IdentityIndex(
        hold_milliseconds=24 * _HOUR_MILLISECONDS,
        limit=identities * 2,
        pending_milliseconds=72 * _HOUR_MILLISECONDS,
        pending_limit=1,
    )
    for offset in range(checkpoints):
        at = sizes.now_at - (checkpoints - offset) * 10_000
        for _ in range(min(sizes.checkpoint_identities, identities - len(index))):
            index.charge(chance.randbytes(KEY_BYTES), offset, _STATUSES, chance.getrandbits(32), at, at)
        index.advance(offset)
        yield from index.checkpoint(at).items()


class _Writer:
    """Sends fast, and ends only when the broker has everything."""

    def __init__(self, settings: Settings) -> None:
        self._failures: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka,
                "enable.idempotence": True,
                # What a worker's own producer uses.
                "compression.type": "lz4",
                "linger.ms": 20,
                "batch.size": 256 * 1024,
                "message.max.bytes": 4 << 20,
                "queue.buffering.max.kbytes": 128 * 1024,
                "queue.buffering.max.messages": 100_000,
                "delivery.report.only.error": True,
                "on_delivery": lambda error, _: self._failures.append(error.str()),
            }
        )

    def __enter__(self) -> Send:
        return self._send

    def __exit__(self, *_: object) -> None:
        left = self._producer.flush(300)
        assert not left, f"{left} records were not acknowledged"
        assert not self._failures, self._failures[0]

    def _send(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
            except BufferError:
                self._producer.poll(0.05)
            else:
                return
