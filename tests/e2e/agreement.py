"""What the running system says of a log, in the words of `simulate`, so that both can be compared.

Reads ClickHouse and the topics, as a stranger would; nothing of a worker's memory.
"""

import time
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import clickhouse_connect
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.simulation import Report

_COORDINATOR_COMES = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)

Rows = dict[tuple[Any, ...], tuple[int, ...]]


@dataclass
class Totals:
    """All that must agree."""

    facts: Rows
    """By (tenant, local day, country, kind): messages, segments, quantity, micro-credits, from the facts."""
    windows: Rows
    """By (tenant, window start, kind, direction, country, category), from the window snapshots."""
    identities: set[tuple[str, str, str]]
    """(tenant, source, id) of every charged message."""
    refusals: Counter[str]
    alerts: set[tuple[Any, ...]]
    """(id, level, used, limit)."""
    results: dict[tuple[str, str], tuple[str, str | None]]
    balances: dict[str, tuple[int, int]]
    """By tenant: balance less uncovered, used in the open period."""
    entries: dict[tuple[str, str], int]
    """By tenant and kind: the sum of ledger entries, where it is not 0."""

    def differences(self, other: "Totals") -> list[str]:
        """One line per part that differs, with a sample."""
        found = []
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine != theirs:
                found.append(f"{each.name}: {_sample(mine, theirs)}")
        return found


def _sample(mine: Any, theirs: Any) -> str:
    if isinstance(mine, set):
        more, missing = sorted(mine - theirs), sorted(theirs - mine)
        return f"{len(more)} too many {more[:3]}, {len(missing)} missing {missing[:3]}"
    keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
    return f"{len(keys)} differ, such as {[(key, mine.get(key), theirs.get(key)) for key in keys[:3]]}"


def simulated(report: Report) -> Totals:
    """The totals of a simulation."""
    facts: dict[tuple[Any, ...], list[int]] = {}
    identities = set()
    for fact in report.facts:
        row = dict(zip(FACT_COLUMNS, fact, strict=True))
        cell = facts.setdefault((row["tenant"], row["local_date"], row["country"], row["kind"]), [0, 0, 0, 0])
        for position, name in enumerate(("messages", "segments", "quantity", "credits_micros")):
            cell[position] += row[name]
        if row["messages"]:
            identities.add((row["tenant"], row["source"], row["message_id"]))
    entries: Counter[tuple[str, str]] = Counter()
    for tenant, entry in report.entries:
        entries[tenant, entry.kind] += entry.amount
    return Totals(
        facts={key: tuple(cell) for key, cell in facts.items()},
        windows={key: tuple(cell) for key, cell in report.windows.items()},
        identities=identities,
        refusals=Counter(refusal["reason"] for refusal in report.refusals),
        alerts={_alert(alert) for alert in report.alerts},
        results={
            (result["tenant"], result["command_id"]): (result["outcome"], result["reason"])
            for result in report.results
        },
        balances={
            tenant: (account.balance, account.period_at(account.clock_at).used)
            for tenant, account in report.accounts.items()
            if account.periods
        },
        entries={key: amount for key, amount in entries.items() if amount},
    )


def running(kafka: str, clickhouse_url: str) -> Totals:
    """The totals of what is stored and was published."""
    client = clickhouse_connect.get_client(dsn=clickhouse_url)

    def rows(statement: str) -> list[tuple[Any, ...]]:
        return list(client.query(statement).result_rows)

    refusals = {
        (each["partition"], each["offset"], each["reason"])
        for each in read_documents(kafka, "messages.refused")
    }
    return Totals(
        facts={
            tuple(row[:4]): tuple(row[4:])
            for row in rows(
                "SELECT tenant, toUInt16(local_date), country, kind, sum(messages), sum(segments), sum(quantity),"
                " sum(credits_micros) FROM rated_messages FINAL GROUP BY 1, 2, 3, 4"
            )
        },
        windows={
            tuple(row[:6]): tuple(row[6:])
            for row in rows(
                "SELECT tenant, toUnixTimestamp(window_start) * 1000, kind, direction, country, category,"
                " messages, segments, quantity, credits_micros FROM usage_15m FINAL WHERE messages > 0"
            )
        },
        identities=set(rows("SELECT tenant, source, message_id FROM rated_messages WHERE messages > 0")),
        refusals=Counter(reason for _, _, reason in refusals),
        alerts={_alert(alert) for alert in read_documents(kafka, "usage.alerts")},
        results={
            (each["tenant"], each["command_id"]): (each["outcome"], each["reason"])
            for each in read_documents(kafka, "account.results")
        },
        balances={
            row[0]: tuple(row[1:])
            for row in rows("SELECT tenant, balance_micros, used_micros FROM account_snapshots FINAL")
        },
        entries={
            (tenant, kind): amount
            for tenant, kind, amount in rows(
                "SELECT tenant, kind, sum(amount_micros) AS amount FROM ledger_entries FINAL GROUP BY 1, 2"
            )
            if amount
        },
    )


def _alert(alert: dict[str, Any]) -> tuple[Any, ...]:
    return (alert["id"], alert["level"], alert["used"], alert["limit"])


def read_documents(kafka: str, topic: str) -> list[dict[str, Any]]:
    """Every document of a topic, from its beginning to its present end."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "agreement",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    documents, ended = [], 0
    while ended < len(partitions):
        for message in consumer.consume(5_000, 1.0):
            if message.error():
                ended += 1
            else:
                documents.append(orjson.loads(message.value()))
    consumer.close()
    return documents


def committed(kafka: str, group: str, topic: str = "messages.raw") -> dict[int, int]:
    """The offset a group has committed of each partition of a topic; 0 where there is none."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False, "log_level": 2}
    )
    partitions = [
        TopicPartition(topic, number) for number in consumer.list_topics(topic, 30).topics[topic].partitions
    ]
    deadline = time.monotonic() + 60
    while True:
        try:
            offsets = consumer.committed(partitions, 30)
        except KafkaException as error:
            # A broker that has just started, or makes the offsets' topic at the first question.
            if error.args[0].code() not in _COORDINATOR_COMES or time.monotonic() > deadline:
                raise
        else:
            break
    consumer.close()
    return {each.partition: max(each.offset, 0) for each in offsets}


def uncommitted(kafka: str, group: str, topic: str = "messages.raw") -> int:
    """How many records of a topic a group has not committed."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False, "log_level": 2}
    )
    behind = 0
    for partition, offset in committed(kafka, group, topic).items():
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 30)
        behind += high - max(offset, low)
    consumer.close()
    return behind
