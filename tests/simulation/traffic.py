"""Logs of a few partitions: what `random_logs` makes, with strays, contacts, and plans that recharge."""

from collections.abc import Sequence
from random import Random

import orjson

from pipeline.core.partitions import partition_of
from tests.builders import DAY, Log, Record, message, plan
from tests.properties.random_logs import LEVELS, REFUNDED, START, append_event

MAX_PARTITIONS = 3
_NAMES = [f"tenant-{number}" for number in range(40)]


def tenants_of(partition: int, partitions: int) -> tuple[str, ...]:
    """Two tenants that live there."""
    return tuple(name for name in _NAMES if partition_of(name.encode(), partitions) == partition)[:2]


def make_logs(chance: Random) -> list[list[Record]]:
    """The log of each partition; some 20 to 90 records in all."""
    partitions = chance.randint(1, MAX_PARTITIONS)
    count = chance.randint(20, 90) // partitions
    tenants = [tenants_of(partition, partitions) for partition in range(partitions)]
    return [_make_log(chance, partition, tenants, count) for partition in range(partitions)]


def _make_log(chance: Random, partition: int, tenants: Sequence[Sequence[str]], count: int) -> list[Record]:
    log = Log(START)
    for tenant in tenants[partition]:
        terms = plan(
            "20",
            late_grace_hours=4,
            alert_levels=LEVELS[0],
            refunded_statuses=REFUNDED[0],
            recharge={"level_credits": "2", "block_credits": "5", "price": "0"},
        )
        log.set_plan(terms, tenant=tenant, effective_at=START - DAY)
    strangers = [tenant for number, each in enumerate(tenants) if number != partition for tenant in each]
    for _ in range(count):
        what = chance.random()
        if what < 0.04:
            state = chance.choice(("active", "inactive", "removed"))
            log.command("mark_contacts", contacts=[f"+1415555010{chance.randrange(3)}"], state=state)
        elif what < 0.08 and strangers:
            tenant = chance.choice(strangers)
            stray = message(f"s{partition}-{len(log.records)}", tenant=tenant, occurred_at=log.now)
            log.append(tenant.encode(), orjson.dumps(stray))
        else:
            append_event(log, Random(chance.getrandbits(32)), tenants=tenants[partition])
    return log.records
