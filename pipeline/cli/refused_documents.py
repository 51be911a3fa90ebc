"""What workers published of refused records: the messages of `messages.refused`, thinly read.

Takes settings, a tenant and an instant; gives Kafka's messages, undecoded, those of a partition in order. `retry` and
`refusals` read by it. A replay publishes a refusal again: who counts must know it by partition, offset and reason.
"""

from collections.abc import Iterator, Sequence

from confluent_kafka import Message as KafkaMessage

from pipeline.cli.traffic import progress_bar
from pipeline.core.eras import partitions_over_eras
from pipeline.reading import TopicReader
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_REFUSED

_PROGRESS_RECORDS = 100


def refused_messages(
    settings: Settings, tenant: str | None = None, since_at: int | None = None
) -> Iterator[KafkaMessage]:
    """Every refusal up to now, published at `since_at` or later where that is given.

    Only the partitions of one tenant are read where a tenant is asked for, but those hold other tenants' as well.
    """
    with TopicReader(settings, MESSAGES_REFUSED) as reader:
        numbers: Sequence[int] = range(reader.partitions)
        if tenant is not None:
            numbers = sorted(partitions_over_eras(tenant.encode(), reader.partitions))
        spans = {number: reader.bounds(number, since_at) for number in numbers}
        with progress_bar("refusals read", sum(high - low for low, high in spans.values())) as bar:
            for number, message in enumerate(reader.read(spans)):
                if bar is not None and number % _PROGRESS_RECORDS == 0:
                    bar.update(bar.task_ids[0], completed=number)
                yield message
