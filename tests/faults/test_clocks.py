# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""Clocks that step an hour, forwards and back: a worker's own decides nothing, and the broker's is the log's."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import libfaketime
import orjson

from pipeline.logfile import LogRecord
from pipeline.traffic import Traffic, tenant_name
from tests.builders import DAY, message
from tests.e2e.conftest import MakeSystem
from tests.e2e.metered_models import send_at_stated_times, take_stated_times
from tests.e2e.system import log_now

SEED = int(os.environ.get("FAULTS_SEED", str(Random().getrandbits(32))))
HOUR_SECONDS = 3_600
HOUR_MILLISECONDS = HOUR_SECONDS * 1_000
_LIBRARY = next(Path(libfaketime.__file__).parent.rglob("libfaketime.so.1"))


class WallClock:
    """The wall clock of processes started with `environment`, also of the libraries in them; no other clock moves."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.step(0)

    def step(self, seconds: int) -> None:
        """Show so many seconds more than it is."""
        # In one piece, because it is read at every look at the clock.
        written = self._path.with_suffix(".new")
        written.write_text(f"{seconds:+d}")
        written.rename(self._path)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(_LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def traffic(messages: int) -> list[LogRecord]:
    print(f"FAULTS_SEED={SEED}")
    # Malformed records may be larger than a producer of stated times sends.
    return log_now(
        Traffic(
            start_at=0, seed=SEED, messages=messages, tenants=150, late=0.02, malformed=0, purchases=0.002
        )
    )


def test_a_workers_clock_that_steps_an_hour_changes_nothing(make_system: MakeSystem, tmp_path: Path) -> None:
    system = make_system(store="rocksdb")
    log = traffic(4_000)
    clock = WallClock(tmp_path / "offset")
    worker = system.worker(environment=clock.environment).start()
    pieces = (log[:1_000], log[1_000:2_000], log[2_000:3_000], log[3_000:])
    for piece, offset_seconds in zip(pieces, (0, HOUR_SECONDS, -HOUR_SECONDS, 0), strict=True):
        clock.step(offset_seconds)
        system.send(piece)
        system.await_all_committed()
        shown_at = worker.metric("epoch_last_success_timestamp_seconds")
        assert round((shown_at - time.time()) / HOUR_SECONDS) == offset_seconds / HOUR_SECONDS
    assert worker.rebalances() == 1
    system.assert_agreement(log, f"FAULTS_SEED={SEED}")


def ahead(number: int, received_at: int) -> LogRecord:
    """A message of a day and half an hour later: a broker whose clock is right, or behind, refuses it."""
    document = message(
        f"ahead-{number}", tenant=tenant_name(0), occurred_at=received_at + DAY + HOUR_MILLISECONDS // 2
    )
    return LogRecord(tenant_name(0).encode(), orjson.dumps(document), [], received_at)


def stepped(log: list[LogRecord]) -> Iterator[LogRecord]:
    """The log as a broker would have received it whose clock goes an hour ahead, two back and one ahead again.

    In the middle of each quarter is a message of which that clock decides.
    """
    quarter = len(log) // 4
    for number, offset in enumerate((0, HOUR_MILLISECONDS, -HOUR_MILLISECONDS, 0)):
        piece = log[number * quarter : (number + 1) * quarter]
        piece.insert(quarter // 2, ahead(number, piece[quarter // 2].received_at or 0))
        for record in piece:
            received_at = (record.received_at or 0) + offset
            yield LogRecord(
                record.key,
                record.value,
                record.headers,
                received_at,
                is_plain_command=record.is_plain_command,
            )


def test_a_brokers_clock_that_steps_an_hour_changes_what_the_log_says_and_nothing_else(
    make_system: MakeSystem,
) -> None:
    system = make_system()
    # A worker does not start on a topic that takes stated times.
    system.worker().start().await_ready()
    take_stated_times(system)
    log = list(stepped(traffic(4_000)))
    send_at_stated_times(system, log)
    system.await_all_committed()
    totals = system.assert_agreement(log, f"FAULTS_SEED={SEED}")
    accepted = {message_id for _, _, message_id in totals.identities if message_id.startswith("ahead")}
    assert accepted == {"ahead-1"}, "the broker's clock decided"
