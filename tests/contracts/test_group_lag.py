"""What lags behind the log, over all partitions, on a real broker: the rules of the figure."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from cluster_clients import until
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from log_topics import PARTITIONS, ends

from pipeline.group_lag import GroupLag, GroupWatch
from pipeline.kafka_clients import kafka_configuration
from pipeline.log_groups import LogGroup
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

NOTHING_LAGS = GroupLag(0, 0, 0)


class Log:
    """The log as one new group sees it that has committed everything there is."""

    def __init__(self, settings: Settings) -> None:
        self.settings = replace(settings, application=f"meter-{uuid.uuid4().hex[:8]}")
        self.ends = ends(settings, MESSAGES_RAW)
        self.commit()
        self._watch = GroupWatch(self.settings)

    def commit(self, **behind: int) -> None:
        """Commit the ends there were at first; of a partition `p3=2` two records more, or `p3=-2` fewer."""
        offsets = [end + behind.get(f"p{number}", 0) for number, end in enumerate(self.ends)]
        LogGroup(self.settings).commit(offsets)

    def append(self, partition: int, *values: bytes, transaction: str = "") -> list[int]:
        """Records, in a transaction that ends so where that is said; their append times."""
        times: list[int] = []
        configuration = kafka_configuration(self.settings)
        if transaction:
            configuration |= {"transactional.id": uuid.uuid4().hex}
        producer = Producer(configuration)
        if transaction:
            producer.init_transactions(30)
            producer.begin_transaction()
        for value in values:
            producer.produce(
                MESSAGES_RAW,
                value,
                b"key",
                partition,
                on_delivery=lambda error, sent: times.append(sent.timestamp()[1]) if not error else None,
            )
            assert producer.flush(30) == 0
        if transaction == "open":
            self.open_one = producer
        elif transaction:
            getattr(producer, f"{transaction}_transaction")(30)
        return times

    def lag(self) -> GroupLag:
        return self._watch.lag(self._watch.partitions())

    def close(self) -> None:
        self._watch.close()


@pytest.fixture
def log(settings: Settings) -> Iterator[Log]:
    with closing(Log(settings)) as made:
        yield made


def test_a_group_that_has_committed_everything_does_not_lag(log: Log) -> None:
    assert log.lag() == NOTHING_LAGS


def test_partitions_that_nobody_owns_lag_too_since_their_oldest_record(log: Log) -> None:
    first, *_ = log.append(1, b"a", b"b")
    log.append(5, b"c")
    assert log.lag() == GroupLag(0, 3, first)
    log.commit(p1=2)
    assert log.lag().lag_offsets == 1


def test_what_was_committed_in_part_lags_from_there(log: Log) -> None:
    _, second, _ = log.append(2, b"a", b"b", b"c")
    log.commit(p2=1)
    assert log.lag() == GroupLag(0, 2, second)


def test_a_group_that_has_committed_nothing_lags_from_the_first_record_still_there(log: Log) -> None:
    *_, last = log.append(0, b"a", b"b", b"c")
    log.settings = replace(log.settings, application=f"never-{uuid.uuid4().hex[:8]}")
    with closing(GroupWatch(log.settings)) as watch:
        before = watch.lag(PARTITIONS)
        assert before.lag_offsets == sum(ends(log.settings, MESSAGES_RAW))
        keep_last(log, 0)
        assert before.lag_offsets - watch.lag(PARTITIONS).lag_offsets == log.ends[0] + 2
        # Retention takes everything: the log is empty, whatever its offsets are.
        empty(log)
        assert watch.lag(PARTITIONS) == NOTHING_LAGS
    # What was overtaken by retention lags from what is left.
    times = log.append(0, b"d")
    log.commit(p0=-log.ends[0])
    with closing(GroupWatch(log.settings)) as watch:
        assert watch.lag(PARTITIONS) == GroupLag(0, 1, times[0])
    assert last <= times[0]


def keep_last(log: Log, partition: int) -> None:
    delete_before(log, {partition: ends(log.settings, MESSAGES_RAW)[partition] - 1})


def empty(log: Log) -> None:
    delete_before(log, dict(enumerate(ends(log.settings, MESSAGES_RAW))))


def delete_before(log: Log, offsets: dict[int, int]) -> None:
    """What retention does in the end."""
    admin = AdminClient(kafka_configuration(log.settings))
    places = [TopicPartition(MESSAGES_RAW, number, offset) for number, offset in offsets.items()]
    for future in admin.delete_records(places).values():
        future.result(30)


def test_markers_of_transactions_and_what_was_aborted_do_not_lag(log: Log) -> None:
    log.append(3, b"a", transaction="commit")
    log.commit(p3=1)
    assert log.lag() == NOTHING_LAGS
    log.append(3, b"b", transaction="abort")
    assert log.lag() == NOTHING_LAGS
    # From a record on, whatever takes an offset counts: the two records and their two markers.
    times = log.append(3, b"c", transaction="commit") + log.append(3, b"d", transaction="commit")
    assert log.lag() == GroupLag(0, 4, times[0])


def test_what_an_open_transaction_has_written_lags_once_it_is_committed(log: Log) -> None:
    times = log.append(4, b"a", transaction="open")
    assert log.lag() == NOTHING_LAGS
    log.open_one.commit_transaction(30)
    assert log.lag() == GroupLag(0, 2, times[0])


def test_a_large_record_in_every_partition_is_read_all_the_same(log: Log) -> None:
    times = [log.append(number, bytes(900_000))[0] for number in range(PARTITIONS)]
    assert log.lag() == GroupLag(0, PARTITIONS, min(times))


def test_members_are_those_in_the_group(log: Log) -> None:
    member = Consumer({**kafka_configuration(log.settings), "group.id": log.settings.application})
    with closing(member):
        member.subscribe([MESSAGES_RAW])
        until(lambda: member.poll(0.1) is None and member.assignment())
        assert log.lag().members == 1
    assert log.lag().members == 0
