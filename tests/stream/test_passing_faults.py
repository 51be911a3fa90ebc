"""Which answers of a broker a recovery waits out, and which end it."""

import pytest
from confluent_kafka import KafkaError

from pipeline.stream.changelog import passes


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        # Seen while brokers were killed under load: a leader that moved is behind or ahead of what was asked for.
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ],
)
def test_brokers_that_die_and_leaders_that_move_are_waited_out(code: int) -> None:
    assert passes(KafkaError(code))


@pytest.mark.parametrize(
    "code",
    [KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.OFFSET_OUT_OF_RANGE],
)
def test_what_waiting_does_not_cure_is_told(code: int) -> None:
    assert not passes(KafkaError(code))
