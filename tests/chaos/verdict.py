"""Whether what came of a run is what has to come of its log: message for message, not only in number.

The oracle is the core over what lies in messages.raw, partition by partition. `msgmeter reconcile` is asked too, but
not believed alone.
"""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from pipeline.core.replay import Replay
from pipeline.core.rules import Rules
from pipeline.core.signing import ORIGIN_HEADER
from pipeline.core.simulation import Report, report_of
from pipeline.rules import make_rules
from pipeline.topics import MESSAGES_RAW, USAGE_ALERTS
from tests.chaos.deployment import Deployment
from tests.e2e.agreement import Totals, read_documents, running, simulated


class Placed(NamedTuple):
    """A record of the log, as a worker reads it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


def read_raw_log(kafka: str) -> dict[int, list[Placed]]:
    """All of messages.raw by partition, in the order of offsets."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "verdict",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    log: dict[int, list[Placed]] = {}
    for number in consumer.list_topics(MESSAGES_RAW, 30).topics[MESSAGES_RAW].partitions:
        consumer.assign([TopicPartition(MESSAGES_RAW, number, 0)])
        log[number] = []
        is_open = True
        while is_open:
            for message in consumer.consume(5_000, 5.0):
                if message.error():
                    is_open = False
                else:
                    place = message.offset(), message.timestamp()[1]
                    record = message.key(), message.value(), message.headers() or []
                    log[number].append(Placed(*place, *record))
    consumer.close()
    return log


def simulated_report(log: dict[int, list[Placed]], rules: Rules) -> Report:
    """What has to come of the log; strays are forwarded, and count where they were forwarded to."""
    came = []
    for number, records in sorted(log.items()):
        replay = Replay(number, rules)
        replay.fold(records)
        came.append(replay.take())
    return report_of(came, rules)


@dataclass
class Verdict:
    """What was found; `differences` is empty where all agrees."""

    differences: list[str]
    totals: Totals
    records: int
    forwarded: int


def judge(deployment: Deployment, sent: Counter[int]) -> Verdict:
    """Compares everything that is stored and was published with the simulation of the log."""
    system = deployment.system
    log = read_raw_log(system.settings.kafka)
    records = sum(map(len, log.values()))
    # A worker that dies after it has forwarded does so again: the log has both, and identities absorb that.
    forwarded = sum(
        any(name == ORIGIN_HEADER for name, _ in record.headers) for part in log.values() for record in part
    )
    report = simulated_report(log, make_rules(system.settings))
    totals, expected = running(system.settings.kafka, deployment.direct_url), simulated(report)
    differences = totals.differences(expected)
    # A producer whose brokers die may append a batch twice, for all its idempotence; what was acknowledged has to
    # be there.
    found = Counter(hash((record.key, record.value)) for part in log.values() for record in part)
    if lost := sum((sent - found).values()):
        differences.append(f"{lost} records that were acknowledged are not in the log")
    differences += (
        _more_than_once(system.rows) + _entries(system.rows, report) + _alerts(system.settings.kafka)
    )
    return Verdict(differences, totals, records, forwarded)


def _more_than_once(rows: Any) -> list[str]:
    twice = rows(
        "SELECT tenant, source, message_id, count() FROM rated_messages FINAL WHERE messages > 0"
        " GROUP BY 1, 2, 3 HAVING count() > 1 LIMIT 3"
    )
    return [f"messages counted more than once: {twice}"] if twice else []


def _entries(rows: Any, report: Report) -> list[str]:
    """Ledger entries one by one."""
    stored = {
        (tenant, entry_id): (kind, amount)
        for tenant, entry_id, kind, amount in rows(
            "SELECT tenant, entry_id, kind, amount_micros FROM ledger_entries FINAL"
        )
    }
    wanted = {(tenant, entry.entry_id): (entry.kind, entry.amount) for tenant, entry in report.entries}
    wrong = [key for key in stored | wanted if stored.get(key) != wanted.get(key)]
    return (
        [f"{len(wrong)} entries: {[(key, stored.get(key), wanted.get(key)) for key in wrong[:3]]}"]
        if wrong
        else []
    )


def _alerts(kafka: str) -> list[str]:
    """An alert may be told twice, but then word for word."""
    told = {tuple(sorted(alert.items())) for alert in read_documents(kafka, USAGE_ALERTS)}
    ids = Counter(dict(alert)["id"] for alert in told)
    twice = [alert_id for alert_id, count in ids.items() if count > 1]
    return [f"alerts of one id with different content: {twice[:3]}"] if twice else []


def reconcile(deployment: Deployment) -> subprocess.CompletedProcess[str]:
    """What `msgmeter reconcile` says."""
    settings = deployment.system.settings
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "reconcile"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={
            "MSGMETER_KAFKA": settings.kafka,
            "MSGMETER_CLICKHOUSE": deployment.direct_url,
            "MSGMETER_APPLICATION": settings.application,
            "MSGMETER_PARTITIONS": str(settings.partitions),
            "MSGMETER_COMMAND_KEY": settings.command_key,
            "MSGMETER_COUNTERPARTY_KEY": settings.counterparty_key,
        },
    )
