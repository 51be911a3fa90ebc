"""Writing many records to one Kafka partition at the price of a few.

`producer.send` costs some 60 us a record (a future, a task step and a partitioner's look each); building the batches
ourselves costs 2. Takes records in order; gives the offset behind the last one once the broker has acknowledged
all of them. Never retries: aiokafka's idempotent producer does, in place and once.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder

Headers = Sequence[tuple[str, bytes | None]]


async def append_records(
    producer: Any,  # noqa: ANN401 - aiokafka is untyped
    topic: str,
    partition: int,
    records: Iterable[tuple[bytes, bytes | None, Headers]],
) -> int:
    """Append records (key, value or None, headers) and wait for the broker.

    Gives the offset behind the last one, or 0 where the broker does not tell (it had them already).
    Raises the first failure once all batches are answered; some records may have been written.
    """
    answers = []
    batch = producer.create_batch()
    for record in records:
        if not _append(batch, *record):
            answers.append(
                (batch.record_count(), await producer.send_batch(batch, topic, partition=partition))
            )
            batch = producer.create_batch()
            _append(batch, *record)
    if batch.record_count():
        answers.append((batch.record_count(), await producer.send_batch(batch, topic, partition=partition)))
    await asyncio.gather(*(answer for _, answer in answers), return_exceptions=True)
    ends = [(answer.result().offset, count) for count, answer in answers]
    return max((offset + count for offset, count in ends if offset >= 0), default=0)


def _append(batch: BatchBuilder, key: bytes, value: bytes | None, headers: Headers) -> bool:
    """Add a record; False where the batch is full. The first record of a batch always fits."""
    return batch.append(timestamp=None, key=key, value=value, headers=headers) is not None
