"""The consumer group of an era's workers: whether it has metered all there is, and where the next one begins.

Takes settings of the era; asks the broker. `commit` is for a group that nobody has been in yet. Raises EraError where
the group is not as it must be, and what the clients of Kafka raise.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, MemberDescription

from pipeline.eras import EraError
from pipeline.kafka_clients import Connection
from pipeline.reading import TopicReader, committed_offsets, until_coordinated
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

_REQUEST_SECONDS = 30.0
_SHOWN = 5
_Answer = TypeVar("_Answer")


class LogGroup:
    """One group on `messages.raw`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.application
        self._connection = Connection(settings)
        self._admin = AdminClient(self._connection.configuration())

    def check_drained(self) -> list[int]:
        """By partition, where a worker would go on; raises where someone is in the group or records are left."""
        self._check_empty()
        committed = committed_offsets(self._settings, self._settings.partitions)
        with TopicReader(self._settings, MESSAGES_RAW) as reader:
            spans = {}
            for number, offset in sorted(committed.items()):
                low, high = reader.bounds(number)
                spans[number] = max(offset, low), high
            # Behind the last record there may be the broker's markers of transactions, which nobody is handed.
            waiting = Counter(message.partition() or 0 for message in reader.read(spans))
        if waiting:
            shown = ", ".join(
                f"{count} in partition {number}" for number, count in waiting.most_common(_SHOWN)
            )
            raise EraError(
                f"{waiting.total()} records of {MESSAGES_RAW} are not metered yet ({shown}): stop what writes, let"
                " workers run until msgmeter_consumer_lag_offsets is 0, stop them, and try again"
            )
        return [start for start, _ in spans.values()]

    def check_left(self, first_offsets: Sequence[int]) -> None:
        """Raises where somebody has been in the group since it was drained."""
        self._check_empty()
        committed = committed_offsets(self._settings, self._settings.partitions)
        # What the broker has forgotten since, nobody has committed anew.
        moved = [number for number, offset in committed.items() if offset not in (0, first_offsets[number])]
        if moved:
            steps = "\n".join(
                f"  kafka-consumer-groups.sh --group {self._name} --topic {MESSAGES_RAW}:{number} --reset-offsets"
                f" --to-offset {first_offsets[number]} --execute"
                for number in moved
            )
            raise EraError(
                f"the offsets of group {self._name} were changed since this began. If they were set by hand, set them"
                f" back and start it again:\n{steps}\nIf a worker ran, what it metered would be metered again: then put"
                " back what was saved before, state topics, database and offsets together"
            )

    def commit(self, offsets: Sequence[int]) -> None:
        """Commits an offset for every partition."""
        places = [TopicPartition(MESSAGES_RAW, number, offset) for number, offset in enumerate(offsets)]

        def ask() -> None:
            [answer] = self._admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(self._name, places)], request_timeout=_REQUEST_SECONDS
            ).values()
            for place in answer.result(_REQUEST_SECONDS).topic_partitions:
                if place.error is not None:
                    raise KafkaException(place.error)

        self._until_coordinated(ask)

    def _check_empty(self) -> None:
        members = self._until_coordinated(lambda: group_members(self._admin, self._name, _REQUEST_SECONDS))
        if members:
            where = ", ".join(sorted({member.host for member in members})[:_SHOWN])
            raise EraError(
                f"{len(members)} workers are in the group {self._name} (at {where}): stop them, with SIGTERM, and try"
                " again; one that was killed stays in it until its session has run out"
            )

    def _until_coordinated(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return until_coordinated(ask)
        except KafkaException as error:
            raise self._connection.error(error) from error


def group_members(admin: AdminClient, name: str, timeout_seconds: float) -> list[MemberDescription]:
    """Who is in a group; nobody where there is no such group. Raises KafkaException."""
    [answer] = admin.describe_consumer_groups([name], request_timeout=timeout_seconds).values()
    try:
        members: list[MemberDescription] = answer.result(timeout_seconds).members
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return []
        raise
    return members
