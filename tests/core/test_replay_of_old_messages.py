"""A crash after facts were stored: what the replay finds stored is its own doing, not somebody's before it."""

import pytest

from pipeline.core import identity
from tests.builders import HOUR, NOON, Log, Worker, rules


def worker_that_has_forgotten_noon(log: Log) -> Worker:
    """A worker that looks up whatever occurred up to noon."""
    worker = Worker(rules(identity_milliseconds=HOUR))
    log.set_plan(effective_at=NOON - HOUR)
    log.message("held once")
    worker.take(log.records)
    worker.keep()
    for _ in range(3):
        log.now += 3 * HOUR
        worker.take([log.message(f"later {len(log.records)}")])
        worker.keep()
    return worker


def test_a_late_message_of_two_records_is_charged_in_a_replay_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identity, "SEALED_WEIGHT", 1)
    log = Log()
    worker = worker_that_has_forgotten_noon(log)
    # The first record tells the content, the second one charges; only look-ups can say they are new.
    late = [
        log.message("late", status="queued", occurred_at=NOON - 1, status_at=NOON - 1),
        log.message("late", status="sent", body=None, occurred_at=NOON - 1, status_at=NOON),
    ]
    assert worker.fold.identities.horizon_at >= NOON - 1
    before = worker.account().periods[0].used

    worker.take(late)
    worker.close_epoch()
    successor = Worker(worker.rules, worker.tables, worker.effects)
    successor.take(late)
    successor.keep()
    assert successor.account().periods[0].used > before

    repeated = [log.message("late", status="sent", body=None, occurred_at=NOON - 1, status_at=NOON)]
    used = successor.account().periods[0].used
    successor.take(repeated)
    successor.keep()
    assert successor.account().periods[0].used == used
