"""What the brokers say of themselves, of topics, of the workers' group and of our permissions.

Takes settings of the present era; asks, and gives what `kafka` judges. Joins no group, commits nothing, writes nothing.
Whatever this login may not ask is given as unknown, and no error. Raises `Transient` and `Permanent` as
`kafka_clients.Connection` does where no broker lets us in.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from pipeline.doctor.kafka import FoundGroup, FoundTopic, Member
from pipeline.kafka_clients import Connection
from pipeline.reading import TopicReader
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

_SECONDS = 10.0
_APPEND_SECONDS = 1.0
"""How long a record is waited for that shows the brokers' clock."""
_APPEND_POLL_SECONDS = 0.1
_LOOKED_THROUGH = 1_000
"""Offsets of a partition among which the first uncommitted record is looked for; others may be transactions' marks."""


class KafkaQuestions:
    """Questions to one cluster; the first says whether it lets us in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._admin = AdminClient(self._connection.configuration())
        metadata = self._connection.metadata(self._admin)
        self.brokers: list[tuple[str, int]] = [(each.host, each.port) for each in metadata.brokers.values()]
        self._broker_ids = sorted(metadata.brokers)

    def broker_config(self) -> dict[str, str | None] | None:
        """One broker's settings; None where they may not be described."""
        return self._configs([ConfigResource(ResourceType.BROKER, str(self._broker_ids[0]))])[0]

    def topics(self, names: Sequence[str]) -> tuple[dict[str, FoundTopic | None], dict[str, frozenset[str]]]:
        """Topics that are not hidden from us, None for one that is missing; and what we may do with each of all.

        With a hidden one we may do nothing; with a missing one, nobody knows.
        """
        answers = self._admin.describe_topics(
            TopicCollection(list(names)), include_authorized_operations=True, request_timeout=_SECONDS
        )
        described = {name: _result(future) for name, future in answers.items()}
        hidden = {name for name in names if described[name] is None and _is_hidden(answers[name])}
        there = [name for name in names if described[name] is not None]
        configs = dict(
            zip(
                there,
                self._configs([ConfigResource(ResourceType.TOPIC, name) for name in there]),
                strict=True,
            )
        )
        found = {
            name: _found_topic(described[name], configs.get(name)) for name in names if name not in hidden
        }
        nothing = dict.fromkeys(hidden, frozenset[str]())
        return found, nothing | {name: _operations(described[name]) for name in there}

    def group(self, partitions: int) -> tuple[FoundGroup | None, frozenset[str] | None]:
        """The workers' group and what we may do with it; None for each that this login may not know."""
        name = self._settings.application
        [answer] = self._admin.describe_consumer_groups(
            [name], include_authorized_operations=True, request_timeout=_SECONDS
        ).values()
        places = [TopicPartition(MESSAGES_RAW, number) for number in range(partitions)]
        [offsets] = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(name, places)], request_timeout=_SECONDS
        ).values()
        described, committed = _result(answer), _result(offsets)
        if committed is None:
            return None, _operations(described) if described is not None else None
        next_offsets = {
            place.partition: place.offset if place.offset >= 0 else None
            for place in committed.topic_partitions
        }
        bounds, oldest_at = self._unread(next_offsets)
        members = [] if described is None else [_member(each) for each in described.members]
        state = "unknown" if described is None else described.state.name
        group = FoundGroup(state, members, next_offsets, bounds, oldest_at)
        return group, _operations(described) if described is not None else None

    def _unread(
        self, committed: Mapping[int, int | None]
    ) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
        """The log's bounds, and the append times of the first records that are not committed."""
        oldest_at: dict[int, int] = {}
        with TopicReader(self._settings, MESSAGES_RAW) as reader:
            bounds = {number: reader.bounds(number) for number in committed}
            spans = {}
            for number, place in committed.items():
                low, high = bounds[number]
                start = max(place or 0, low)
                spans[number] = start, min(high, start + _LOOKED_THROUGH)
            open_spans = sum(start < end for start, end in spans.values())
            for message in reader.read(spans):
                oldest_at.setdefault(message.partition() or 0, message.timestamp()[1])
                if len(oldest_at) == open_spans:
                    break
        return bounds, oldest_at

    def append_times(self, partitions: int) -> tuple[int | None, int, int | None, int]:
        """The newest append time, when it was asked, a newer one if any came, and when that was answered.

        Instants in epoch milliseconds; None for an empty log.
        """
        before = self._newest(partitions)
        asked_at = _now()
        end = time.monotonic() + _APPEND_SECONDS
        while (after := self._newest(partitions)) == before and time.monotonic() < end:
            time.sleep(_APPEND_POLL_SECONDS)
        return before, asked_at, after, _now()

    def _newest(self, partitions: int) -> int | None:
        asked = {
            TopicPartition(MESSAGES_RAW, number): OffsetSpec.max_timestamp() for number in range(partitions)
        }
        answers = self._admin.list_offsets(asked, request_timeout=_SECONDS).values()
        found = [answer for answer in map(_result, answers) if answer is not None and answer.offset >= 0]
        return max((answer.timestamp for answer in found), default=None)

    def _configs(self, resources: list[ConfigResource]) -> list[dict[str, str | None] | None]:
        if not resources:
            return []
        answers = self._admin.describe_configs(resources, request_timeout=_SECONDS)
        found = [_result(answers[resource]) for resource in resources]
        return [
            None if each is None else {name: entry.value for name, entry in each.items()} for each in found
        ]


def _result(future: Future[Any]) -> Any:  # noqa: ANN401 - the client is untyped
    """An answer; None where it was refused, or what was asked about is not there."""
    try:
        return future.result(_SECONDS)
    except KafkaException:
        return None


def _is_hidden(future: Future[Any]) -> bool:
    error = future.exception(_SECONDS)
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def _found_topic(described: Any, config: dict[str, str | None] | None) -> FoundTopic | None:  # noqa: ANN401
    if described is None:
        return None
    partitions = described.partitions
    return FoundTopic(
        partitions=len(partitions),
        replicas=min((len(each.replicas) for each in partitions), default=0),
        in_sync=min((len(each.isr) for each in partitions), default=0),
        leaderless=sum(each.leader is None or each.leader.id < 0 for each in partitions),
        config=config,
    )


def _member(described: Any) -> Member:  # noqa: ANN401
    places = described.assignment.topic_partitions if described.assignment else []
    return Member(
        described.host.lstrip("/"), frozenset(each.partition for each in places if each.topic == MESSAGES_RAW)
    )


def _operations(described: Any) -> frozenset[str]:  # noqa: ANN401
    """What we may do, in the words of `pipeline.access`: DESCRIBE_CONFIGS is DescribeConfigs."""
    allowed = described.authorized_operations or []
    return frozenset(each.name.title().replace("_", "") for each in allowed)


def _now() -> int:
    return time.time_ns() // 1_000_000
