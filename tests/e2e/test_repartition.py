# ruff: noqa: T201 - the seed of a run is shown when it fails, or with -s.
"""A log in use gets more partitions: nothing is lost, counted twice or told twice, and the old workers stay out."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from pipeline.cli import main
from pipeline.core.partitions import partition_of
from pipeline.eras import settings_in
from pipeline.logfile import LogRecord
from pipeline.topics import MESSAGES_RAW
from pipeline.traffic import Traffic, tenant_name
from tests.builders import message, plan
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, delete_topics, environment_of, log_now

SEED = int(os.environ.get("AGREEMENT_SEED", str(Random().getrandbits(32))))
BEFORE, AFTER = 4, 8
TENANTS = 60
REPARTITION = ("repartition", "--partitions", str(AFTER))
KILLED_BEFORE_STEP = """
import os, signal, sys
from pipeline.repartition import repartition
from pipeline.settings import load_settings
left = int(sys.argv[1])
def tell(step):
    global left
    print(step, flush=True)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
repartition(load_settings(), int(sys.argv[2]), tell)
"""


def log_in_parts() -> tuple[list[LogRecord], list[LogRecord], list[LogRecord]]:
    """Generated traffic with messages that wait for their content, cut in three; a message in each of the first two
    parts is completed, and one of the first repeated, in the last.
    """
    traffic = Traffic(start_at=0, seed=SEED, messages=6_000, tenants=TENANTS, duplicates=0.1, purchases=0.002)
    log = log_now(traffic)
    first, second, third = log[:3_000], log[3_000:3_300], log[3_300:]
    at = first[-1].received_at or 0
    for part, name in ((first, "first"), (second, "second")):
        for number in range(TENANTS):
            part.append(sms(f"waits-{name}-{number}", number, at, body=None, status="delivered"))
            third.append(sms(f"waits-{name}-{number}", number, at))
    third += first[TENANTS:1_000]
    first.append(sms("m1", "no plan", at))
    third.append(sms("m2", "no plan", at))
    return first, second, third


def sms(identity: str, tenant: int | str, at: int, **fields: object) -> LogRecord:
    name = tenant_name(tenant) if isinstance(tenant, int) else tenant
    document = message(identity, tenant=name, occurred_at=at, **fields)
    return LogRecord(name.encode(), orjson.dumps(document), received_at=at)


def send_by_old_metadata(system: System, records: Sequence[LogRecord]) -> None:
    """What a gateway does that has not heard of the new partitions yet."""
    producer = Producer({"bootstrap.servers": system.settings.kafka})
    for record in system.signed(records):
        partition = partition_of(record.key, BEFORE) if record.key else 0
        producer.produce(MESSAGES_RAW, record.value, record.key, partition, headers=record.headers)
    assert producer.flush(60) == 0


def repartition(system: System, *, killed_before: int) -> str:
    """Runs the procedure until it is killed before one of its steps, which it gives."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_STEP, str(killed_before), str(AFTER)],
        env=os.environ | environment_of(system.settings),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.splitlines()[-1]


def msgmeter(system: System, *arguments: str, code: int = 0) -> str:
    """What a command says."""
    done = CliRunner().invoke(main, arguments, env=environment_of(system.settings))
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def set_plan(tenant: str, effective_at: int) -> LogRecord:
    document = {
        "type": "set_plan", "id": f"plan of {tenant}", "tenant": tenant, "plan": plan(), "effective_at": effective_at
    }  # fmt: skip
    return LogRecord(tenant.encode(), orjson.dumps(document), is_plain_command=True)


def refusal_of_worker(system: System) -> str:
    """What a worker says that must not run."""
    worker = system.worker("refused").start()
    assert worker.wait() == 3, worker.log_tail()
    return worker.log()


@pytest.mark.timeout(300)
def test_a_log_in_use_gets_twice_the_partitions_though_the_procedure_is_killed(
    make_system: MakeSystem,
) -> None:
    print(f"seed {SEED}")
    system = make_system(partitions=BEFORE)
    after = System(replace(system.settings, partitions=AFTER), system.directory)
    after.workers = system.workers  # They end with the test.
    after.group = settings_in(after.settings, 1).application
    first, second, third = log_in_parts()
    worker = system.worker("before").start()
    worker.await_ready()
    assert "1 workers are in the group" in msgmeter(system, *REPARTITION, code=3)
    assert worker.stop() == 0
    system.send(first)
    assert f"{len(first)} records of messages.raw are not metered yet" in msgmeter(
        system, *REPARTITION, code=3
    )
    # Nothing has begun: what is left is metered as before.
    worker.start()
    system.await_all_committed()
    assert worker.stop() == 0

    assert repartition(system, killed_before=1) == "everything is metered; recording where the new era begins"
    assert "run `msgmeter repartition --partitions 8`" in refusal_of_worker(system)
    print("killed before", repartition(system, killed_before=Random(SEED).randrange(2, 10)))
    assert "run `msgmeter repartition --partitions 8`" in refusal_of_worker(after)
    send_by_old_metadata(system, second)
    done = msgmeter(system, *REPARTITION)
    assert done.splitlines()[-1] == "done: start workers with MSGMETER_PARTITIONS=8"
    assert "set it to 8" in refusal_of_worker(system)

    workers = [after.worker("one").start()]
    # Before anything else: strays lose their order against what is sent to the new partitions, on which it depends
    # what an alert says; and those that a rebalance forwards again are refused again, where they cannot be read.
    after.await_all_committed()
    workers.append(after.worker("other").start())
    workers[1].await_ready()
    after.send(third)
    after.await_all_committed()
    assert [each.metric("partitions_owned") for each in workers] == [AFTER / 2, AFTER / 2]
    log = [*first, *second, *third]
    totals = after.assert_agreement(log, f"AGREEMENT_SEED={SEED}")
    assert totals.differences(system.simulated(log)) == []
    assert {
        ("tenant-00007", "gateway", f"waits-{part}-6") for part in ("first", "second")
    } <= totals.identities

    after.send([set_plan("no plan", first[-1].received_at or 0)])
    retried = orjson.loads(msgmeter(after, "retry", "--tenant", "no plan", "--json"))
    assert retried == {"refused": 2, "sent": 2, "gone": 0, "refused_by_broker": 0}
    after.await_all_committed()
    assert after.rows(
        "SELECT message_id FROM rated_messages FINAL WHERE tenant = 'no plan' ORDER BY ALL"
    ) == [("m1",), ("m2",)]
    delete_topics(settings_in(after.settings, 1))
