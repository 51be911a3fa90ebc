"""Where a changelog ends: where the broker says so when it is asked, not where a fetch finds nothing more.

The twin stands where librdkafka's consumer does, and answers as a leader does that has just been elected.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from table_scene import make_app, value

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream import changelog
from pipeline.stream.changelog import Bounds, ChangelogError, TopicAndPartition, read_to_end
from pipeline.stream.replaying import Replaying
from pipeline.stream.tables import StateTable

WHERE = ("changelog", 0)


class Fetched(NamedTuple):
    """A message, as confluent_kafka gives it; one with a code is an event."""

    at: int
    code: int | None = None

    def topic(self) -> str:
        return WHERE[0]

    def partition(self) -> int:
        return WHERE[1]

    def offset(self) -> int:
        return self.at

    def error(self) -> KafkaError | None:
        return None if self.code is None else KafkaError(self.code)


def end(at: int) -> Fetched:
    return Fetched(at, KafkaError._PARTITION_EOF)


class Leader:
    """A consumer that gets these answers, one after the other, then nothing."""

    def __init__(self, *answers: list[Fetched]) -> None:
        self._answers = list(answers)

    def __call__(self, _: dict[str, Any]) -> "Leader":
        return self

    def assign(self, _: list[TopicPartition]) -> None:
        pass

    def consume(self, *_: float) -> list[Fetched]:
        return self._answers.pop(0) if self._answers else []

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        pass


def read(monkeypatch: pytest.MonkeyPatch, leader: Leader) -> list[int]:
    """The offsets read of a changelog that ends at 5."""
    monkeypatch.setattr(changelog, "Consumer", leader)
    taken: list[int] = []

    def take(_: tuple[str, int], records: list[Any]) -> None:
        taken.extend(record.offset() for record in records)

    read_to_end({}, {WHERE: 0}, {WHERE: Bounds(0, 5, b"")}, take, lambda: False)
    return taken


def test_an_end_that_a_new_leader_tells_too_early_is_not_taken_for_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    early = [Fetched(0), Fetched(1), end(2)]
    assert read(monkeypatch, Leader(early, [], [Fetched(2), Fetched(3), Fetched(4), end(5)])) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_changelog_may_have_grown_since_its_end_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, Leader([Fetched(0), Fetched(4), Fetched(6), end(7)])) == [0, 4, 6]


def test_a_changelog_that_goes_on_ending_too_early_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changelog, "_EARLY_END_SECONDS", -1.0)
    with pytest.raises(ChangelogError, match="partition 0 of changelog has lost its last records"):
        read(monkeypatch, Leader([Fetched(0), end(1)]))


def test_a_changelog_that_ended_too_early_once_may_be_read_for_as_long_as_something_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.count(step=25)
    monkeypatch.setattr(changelog, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    early = [Fetched(0), end(1)]
    assert read(
        monkeypatch,
        Leader(early, [Fetched(1)], [Fetched(2)], [Fetched(3), end(4)], [], [Fetched(4)], [end(5)]),
    ) == [0, 1, 2, 3, 4]
    with pytest.raises(ChangelogError, match="has lost its last records"):
        read(monkeypatch, Leader(early, [Fetched(1), end(2)], [], [], [], [], []))


def test_what_others_lean_on_is_read_up_to_an_end_behind_theirs(
    broker: EmbeddedBroker,
    unique_name: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that has lost the partition may still write while accounts, which are written last, are read."""
    kafka = {"bootstrap.servers": broker.bootstrap_servers}
    app = make_app(broker.bootstrap_servers, unique_name("group"), unique_name("raw"), tmp_path)
    tables = [StateTable(app, name, partitions=1)._table for name in ("ids", "accounts")]
    leant_on, last = names = [table.changelog_topic_name for table in tables]
    admin = AdminClient(kafka)
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        made.result(30)
    producer = Producer(kafka)

    def append(topic: str) -> None:
        producer.produce(topic, value(5), b"k", 0)
        assert producer.flush(30) == 0

    real_take = Replaying._take

    def take(replaying: Replaying, where: TopicAndPartition, records: list[Message]) -> None:
        real_take(replaying, where, records)
        if where[0] == last:
            append(leant_on)

    monkeypatch.setattr(Replaying, "_take", take)
    append(last)
    replaying = Replaying(kafka, tables, [0], lambda: False)
    replaying.open()
    replaying.read_to_end()
    assert [dict(table.data.items_of(0)) for table in tables] == [{b"k": value(5)}, {b"k": value(5)}]
