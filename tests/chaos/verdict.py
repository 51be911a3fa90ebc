"""Whether what came of a run is what has to come of its log: message for message, not only in number.

The oracle is `simulate` over what lies in messages.raw. Records in another partition than their tenant's are left
out there: what counts is the copy that was forwarded. `msgmeter reconcile` is asked too, but not believed alone.
"""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from pipeline.core.partitions import partition_of
from pipeline.core.simulation import Report
from pipeline.logfile import LogRecord
from pipeline.topics import MESSAGES_RAW, USAGE_ALERTS
from tests.chaos.deployment import Deployment
from tests.chaos.gateway import MARKED_BODY, MARKED_DIGITS
from tests.e2e.agreement import Totals, read_documents, running, simulated
from tests.faults.leaks import assert_nothing_leaked

_FORWARDED = "rerouted"


class Placed(NamedTuple):
    """A record and where it lies."""

    partition: int
    record: LogRecord

    @property
    def is_forwarded(self) -> bool:
        """Whether a worker wrote it here, since it lay elsewhere first."""
        return any(name == _FORWARDED for name, _ in self.record.headers)


def read_raw_log(kafka: str) -> list[Placed]:
    """All of messages.raw, partition by partition in the order of offsets."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "verdict",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    found: list[Placed] = []
    for number in consumer.list_topics(MESSAGES_RAW, 30).topics[MESSAGES_RAW].partitions:
        consumer.assign([TopicPartition(MESSAGES_RAW, number, 0)])
        is_open = True
        while is_open:
            for message in consumer.consume(5_000, 5.0):
                if message.error():
                    is_open = False
                    continue
                headers = [(name, value) for name, value in message.headers() or []]
                record = LogRecord(message.key(), message.value(), headers, message.timestamp()[1])
                found.append(Placed(number, record))
    consumer.close()
    return found


def counted_records(log: list[Placed], partitions: int) -> list[LogRecord]:
    """Those that the worker of their partition counts, which is every one but strays."""
    return [
        placed.record
        for placed in log
        if placed.is_forwarded
        or not placed.record.key
        or partition_of(placed.record.key, partitions) == placed.partition
    ]


@dataclass
class Verdict:
    """What was found; `differences` is empty where all agrees."""

    differences: list[str]
    totals: Totals
    records: int
    forwarded: int


def judge(deployment: Deployment, sent_count: int) -> Verdict:
    """Compares everything that is stored and was published with the simulation of the log."""
    system = deployment.system
    log = read_raw_log(system.settings.kafka)
    # A worker that dies after forwarding forwards again: identities absorb that, and counts of records do not.
    forwarded = sum(placed.is_forwarded for placed in log)
    report = system.report(counted_records(log, system.settings.partitions))
    totals, expected = running(system.settings.kafka, deployment.direct_url), simulated(report)
    differences = totals.differences(expected)
    if len(log) - forwarded != sent_count:
        differences.append(f"the log has {len(log) - forwarded} records, and {sent_count} were sent")
    differences += (
        _more_than_once(system.rows) + _entries(system.rows, report) + _alerts(system.settings.kafka)
    )
    return Verdict(differences, totals, len(log), forwarded)


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
            "PATH": "",
            "MSGMETER_KAFKA": settings.kafka,
            "MSGMETER_CLICKHOUSE": deployment.direct_url,
            "MSGMETER_APPLICATION": settings.application,
            "MSGMETER_PARTITIONS": str(settings.partitions),
            "MSGMETER_COMMAND_KEY": settings.command_key,
            "MSGMETER_COUNTERPARTY_KEY": settings.counterparty_key,
        },
    )


def assert_no_leak(deployment: Deployment) -> None:
    """Neither bodies nor numbers are anywhere but in messages.raw."""
    metrics = [
        "\n".join(worker.process.metrics()) for worker in deployment.wanted if worker.process.is_running
    ]
    assert_nothing_leaked(
        (MARKED_BODY, MARKED_DIGITS),
        deployment.system.settings.kafka,
        deployment.direct_url,
        deployment.system.directory,
        metrics,
    )
