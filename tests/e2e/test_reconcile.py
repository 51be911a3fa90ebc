"""`msgmeter reconcile` finds nothing where nothing is wrong, also while workers run and die, and names what is."""

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.cli import main
from pipeline.cli.reconcile_stored import STORED_PARTS
from pipeline.core.partitions import partition_of
from pipeline.topics import MESSAGES_RAW, MESSAGES_REFUSED, USAGE_ALERTS, create_topics
from pipeline.traffic import Traffic
from tests.e2e.agreement import read_documents
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System, log_now

TRAFFIC = Traffic(
    start_at=0,
    seed=11,
    messages=3_000,
    tenants=40,
    records_per_second=30,
    duplicates=0.02,
    late=0.01,
    malformed=0.02,
)
PIECES, PIECE_RECORDS = 5, 1_000
Tampering = Callable[[System, str], object]


def reconcile(system: System, *arguments: str, **changes: Any) -> Result:
    settings = replace(system.settings, **changes)
    environment = {
        f"MSGMETER_{each.name.upper()}": str(getattr(settings, each.name)) for each in fields(settings)
    }
    return CliRunner().invoke(main, ["reconcile", *arguments], env=environment, catch_exceptions=False)


def document_of(system: System, *arguments: str) -> dict[str, Any]:
    result = reconcile(system, "--output", "json", "--limit", "1000", *arguments)
    document: dict[str, Any] = orjson.loads(result.stdout)
    agreed = 0 if document["complete"] else 5
    assert result.exit_code == (agreed if document["agrees"] else 4)
    return document


def differences(document: dict[str, Any]) -> set[tuple[str, str]]:
    """(part, tenant) of everything that differs."""
    return {(part["part"], each["tenant"]) for part in document["parts"] for each in part["differences"]}


def metered(system: System) -> None:
    system.send(log_now(TRAFFIC))
    worker = system.worker()
    worker.start()
    system.await_all_committed()
    worker.stop()


# Ways to tamper: each with one tenant's data, and the parts that have to name it.


def alter(statement: str) -> Tampering:
    return lambda system, tenant: system.rows(
        f"{statement.format(tenant=tenant)} SETTINGS mutations_sync = 1"
    )


def insert(table: str, *changes: str) -> Tampering:
    """Inserts one of the tenant's rows again with columns replaced."""
    replaced = f"REPLACE ({', '.join(changes)})"
    return lambda system, tenant: system.rows(
        f"INSERT INTO {table} SELECT * {replaced} FROM {table} FINAL WHERE tenant = '{tenant}' LIMIT 1"
    )


FIRST_FACT = "message_key IN (SELECT min(message_key) FROM rated_messages WHERE tenant = '{tenant}')"
TAMPERINGS: dict[str, tuple[Tampering, set[str]]] = {
    "a fact is gone": (
        alter(f"ALTER TABLE rated_messages DELETE WHERE tenant = '{{tenant}}' AND {FIRST_FACT}"),
        {"facts", "windows of facts", "usage of facts"},
    ),
    "a fact is there again under another key": (
        insert("rated_messages", "reverse(message_key)::FixedString(16) AS message_key"),
        {"facts", "windows of facts", "usage of facts"},
    ),
    "a fact costs more": (
        insert("rated_messages", "credits_micros + 1 AS credits_micros"),
        {"facts", "windows of facts"},
    ),
    "a window has another amount": (
        insert("usage_15m", "credits_micros + 1 AS credits_micros"),
        {"windows", "windows of facts"},
    ),
    "a window has another amount under a version that the log does not have": (
        insert("usage_15m", "segments + 1 AS segments", "version + 1000000 AS version"),
        {"windows"},
    ),
    "a window is gone": (
        alter("ALTER TABLE usage_15m DELETE WHERE tenant = '{tenant}'"),
        {"windows", "windows of facts"},
    ),
    "an entry is gone": (
        alter("ALTER TABLE ledger_entries DELETE WHERE tenant = '{tenant}' AND kind = 'allowance'"),
        {"entries", "balances"},
    ),
    "usage is booked twice": (
        insert("ledger_entries", "'again' AS entry_id", "'usage' AS kind", "-1 AS amount_micros"),
        {"entries", "balances", "usage of facts"},
    ),
    "a balance is other": (
        insert("account_snapshots", "balance_micros + 1 AS balance_micros"),
        {"accounts", "balances"},
    ),
    "an account is gone": (
        alter("ALTER TABLE account_snapshots DELETE WHERE tenant = '{tenant}'"),
        {"accounts"},
    ),
    "a stored alert has another level": (
        insert("alerts", "level + 1 AS level"),
        {"alerts"},
    ),
}


def publish(system: System, topic: str, documents: list[dict[str, Any]]) -> None:
    producer = Producer({"bootstrap.servers": system.settings.kafka})
    for document in documents:
        producer.produce(topic, orjson.dumps(document), (document["tenant"] or "").encode())
    assert not producer.flush(30)


def rewrite(system: System, topic: str, documents: list[dict[str, Any]]) -> None:
    """The topic with these documents only."""
    admin = AdminClient({"bootstrap.servers": system.settings.kafka})
    admin.delete_topics([topic])[topic].result(30)
    while topic in admin.list_topics(timeout=10).topics:
        time.sleep(0.05)
    create_topics(system.settings)
    publish(system, topic, documents)


def forget_first_record(system: System, partition: int) -> None:
    """What retention does to messages.raw in the end."""
    admin = AdminClient({"bootstrap.servers": system.settings.kafka})
    first = TopicPartition(MESSAGES_RAW, partition, 1)
    admin.delete_records([first])[first].result(30)


@pytest.mark.timeout(180)
def test_every_tampering_is_found_and_named_and_nothing_else(make_system: MakeSystem):
    system = make_system(partitions=4)
    metered(system)
    before = document_of(system)
    assert (before["agrees"], before["complete"], differences(before)) == (True, True, set())
    rows = {part["part"]: part["rows"] for part in before["parts"]}
    assert all(len(set(sides.values())) == 1 and set(sides.values()) != {0} for sides in rows.values()), rows

    tenants = [
        row[0] for row in system.rows("SELECT tenant FROM alerts FINAL GROUP BY tenant ORDER BY tenant")
    ]
    expected: dict[str, set[str]] = {}
    for what, (tamper, parts) in TAMPERINGS.items():
        tenant = tenants.pop()
        tamper(system, tenant)
        expected[tenant] = parts
        print(tenant, what)  # noqa: T201 - shown when it fails
    alerts = read_documents(system.settings.kafka, USAGE_ALERTS)
    missing, doubled = (
        next(each for each in alerts if each["tenant"] == tenant) for tenant in (tenants.pop(), tenants.pop())
    )
    others = [each for each in alerts if each != missing]
    rewrite(system, USAGE_ALERTS, [*others, {**doubled, "used": "1"}])
    refusals = read_documents(system.settings.kafka, MESSAGES_REFUSED)
    refused = next(each for each in refusals if each["tenant"] in tenants)
    rewrite(system, MESSAGES_REFUSED, [each for each in refusals if each != refused])
    for document, part in (
        (missing, "published alerts"),
        (doubled, "published alerts"),
        (refused, "refusals"),
    ):
        expected[document["tenant"]] = {part}

    after = document_of(system)
    assert differences(after) == {(part, tenant) for tenant, parts in expected.items() for part in parts}
    for part in after["parts"]:
        assert part["differing"] == len(part["differences"])
        named = {(each["tenant"], each["day"]) for each in part["differences"]}
        assert {(each["tenant"], each["day"]) for each in part["days"]} == named
    assert after["tenants_without_account"] == 1
    shown = reconcile(system, "--stored-only")
    assert shown.exit_code == 4
    assert {tenant for tenant in expected if tenant in shown.stdout} == {
        tenant for tenant, parts in expected.items() if parts & {part.name for part in STORED_PARTS}
    }
    tenants = [tenant for tenant in tenants if tenant not in expected]
    untouched = document_of(system, "--tenant", tenants[0], "--tenant", tenants[1])
    assert untouched["agrees"]

    stranger = reconcile(system, "--tenant", tenants[0], command_key="another key than the workers' own")
    assert stranger.exit_code == 4
    assert "MSGMETER_COMMAND_KEY" in stranger.stdout

    # Retention takes the beginning of one partition: the others are compared all the same.
    gone = partition_of(tenants[0].encode(), 4)
    forget_first_record(system, gone)
    incomplete = document_of(system, "--tenant", tenants[0])
    assert (incomplete["agrees"], incomplete["log"]["partitions_gone"]) == (True, [gone])


@pytest.mark.timeout(180)
def test_nothing_differs_while_traffic_flows_and_a_worker_dies(make_system: MakeSystem):
    system = make_system(partitions=4)
    log = log_now(replace(TRAFFIC, messages=PIECES * PIECE_RECORDS))
    pieces = [log[start : start + PIECE_RECORDS] for start in range(0, len(log), PIECE_RECORDS)]

    # It stores and does not commit: everything that is there is ahead of the committed offsets.
    worker = system.worker("first", checkpoint_milliseconds=600_000)
    worker.start()
    system.send(pieces[0])
    system.await_condition(
        lambda: system.rows("SELECT count() FROM rated_messages")[0][0], "facts were stored"
    )
    worker.kill()
    document = document_of(system)
    assert not differences(document), document
    assert document["log"]["records_compared"] == 0
    assert document["log"]["records_not_stored_yet"] == len(pieces[0])
    assert document["log"]["rows_stored_ahead"] > 0

    worker = system.worker("second")
    worker.start()
    for number, piece in enumerate(pieces[1:]):
        gateway = system.gateway(piece, records_per_second=PIECE_RECORDS / 2)
        worker.await_work()
        document = document_of(system)
        assert not differences(document), document
        print({name: value for name, value in document["log"].items() if value})  # noqa: T201 - shown when it fails
        if number == 1:
            worker.kill()
            assert not differences(document_of(system))
            worker.start()
        gateway.join()
    system.await_all_committed()
    worker.stop()
    document = document_of(system)
    assert (document["agrees"], document["complete"]) == (True, True)
    assert document["log"]["records_compared"] == len(log)
