"""The Kafka effects of folding: results at once; with an epoch, alerts, recharges, refusals and forwarded records.

Each carries an id made of the log, so a repeat is recognised by whoever reads it. `publish` returns when the
broker has acknowledged all of them.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from pipeline.core.outcomes import Document, Outcomes
from pipeline.core.partitions import partition_of
from pipeline.stream.batches import Headers, append_records
from pipeline.topics import (
    ACCOUNT_RECHARGES,
    ACCOUNT_RESULTS,
    MESSAGES_RAW,
    MESSAGES_REFUSED,
    USAGE_ALERTS,
)


class Publication(NamedTuple):
    """A record to be written."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Headers


def answers(results: Iterable[Document], partitions: int) -> list[Publication]:
    """The results of commands, in log order."""
    return [_document(ACCOUNT_RESULTS, result, partitions) for result in results]


def publications(outcomes: Outcomes, partitions: int) -> list[Publication]:
    """What an epoch of one partition has to say to other programs besides results, in log order per topic."""
    return [
        *(_document(USAGE_ALERTS, alert, partitions) for alert in outcomes.alerts),
        *(_document(ACCOUNT_RECHARGES, request, partitions) for request in outcomes.recharges),
        *(_document(MESSAGES_REFUSED, refusal, partitions) for refusal in outcomes.refusals),
        *(
            Publication(MESSAGES_RAW, partition_of(each.key, partitions), each.key, each.value, each.headers)
            for each in outcomes.forwards
        ),
    ]


async def publish(producer: Any, records: Iterable[Publication]) -> None:  # noqa: ANN401 - aiokafka is untyped
    """Writes records with an aiokafka producer; raises what the broker answered for the first that failed."""
    by_partition: dict[tuple[str, int], list[tuple[bytes, bytes | None, Headers]]] = {}
    for topic, partition, key, value, headers in records:
        by_partition.setdefault((topic, partition), []).append((key, value, headers))
    await asyncio.gather(
        *(append_records(producer, *place, appended) for place, appended in by_partition.items())
    )


def _document(topic: str, document: Document, partitions: int) -> Publication:
    """A document under its tenant; what has none is spread by its source partition."""
    tenant = (document["tenant"] or "").encode()
    partition = partition_of(tenant, partitions) if tenant else document["partition"]
    return Publication(topic, partition, tenant, orjson.dumps(document), [])
