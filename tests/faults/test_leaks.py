# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""No body and no whole number in any topic of ours, table, log or metric, whatever the records are and whoever dies."""

import os
from base64 import b64encode
from random import Random

import pytest

from pipeline.logfile import LogRecord
from pipeline.traffic import Traffic, tenant_name
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import log_now
from tests.faults.leaks import Marks, assert_nothing_leaked, marked_oddities

SEED = int(os.environ.get("FAULTS_SEED", str(Random().getrandbits(32))))
MARKS = Marks.of(Random(1))


@pytest.mark.parametrize(
    "content",
    [
        MARKS.word.encode(),
        b'{"to":"+' + MARKS.numbers[2].encode() + b'"}',
        *(b64encode(b"x" * before + MARKS.numbers[0].encode() + b"after") for before in range(3)),
        MARKS.word.encode().hex().encode(),
        b"\xcf" + int(MARKS.numbers[1]).to_bytes(8, "big"),
        b"\0" + int(MARKS.numbers[1]).to_bytes(8, "little"),
    ],
)
def test_marks_are_found_in_every_form(content: bytes) -> None:
    assert MARKS.pattern.search(content)


@pytest.mark.parametrize("content", [b"", MARKS.numbers[0][-4:].encode(), MARKS.word[:6].encode(), b"+1415"])
def test_parts_of_marks_are_not_taken_for_them(content: bytes) -> None:
    assert not MARKS.pattern.search(content)


def test_every_content_is_marked() -> None:
    value = b'{"to":"+14155550100","from":"ann.b@example.com","body":"hello","campaign":"spring"}'
    marked = MARKS.mark(LogRecord(b"tenant", value)).value
    assert b"+14155550100" not in marked
    assert b"ann.b@" not in marked
    assert f'"body":"{MARKS.word} hello","campaign":"spring"'.encode() in marked
    assert MARKS.mark(LogRecord(b"tenant", value[:-3])).value == marked[:-3]


@pytest.mark.timeout(300)
def test_nothing_leaks_from_refused_and_malformed_traffic_while_workers_die(make_system: MakeSystem) -> None:
    print(f"FAULTS_SEED={SEED}")
    random = Random(SEED)
    # Of the two formats the one that says more, and all that there is to say.
    system, marks = make_system(log_format="json", log_level="debug"), Marks.of(random)
    traffic = log_now(
        Traffic(
            start_at=0, seed=SEED, messages=6_000, tenants=100, late=0.02, malformed=0.15, purchases=0.002
        )
    )
    log = [marks.mark(record) for record in traffic]
    at = log[-1].received_at or 0
    for index in range(20):
        log += marked_oddities(marks, tenant_name(index), at)
    # A tenant without a plan: every message of it is refused.
    log += marked_oddities(marks, "unknown", at)

    worker = system.worker().start()
    gateway = system.gateway(log, records_per_second=1_000)
    metrics = []
    for _ in range(2):
        worker.await_work()
        worker.await_later(random.uniform(0.5, 2))
        metrics.append(worker.metrics_text())
        worker.kill()
        worker.start()
    # Until it listens to signals, SIGTERM ends it as any other process.
    worker.await_ready()
    gateway.join()
    system.await_all_committed()
    metrics.append(worker.metrics_text())
    assert worker.stop() == 0
    totals = system.assert_agreement(log, f"FAULTS_SEED={SEED}")
    # What is hard to keep back was there.
    assert len(totals.refusals) > 12
    assert all(metrics)
    assert_nothing_leaked(
        marks,
        kafka=system.settings.kafka,
        clickhouse=system.settings.clickhouse,
        directory=system.directory,
        metrics=metrics,
    )
