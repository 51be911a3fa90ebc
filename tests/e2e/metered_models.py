"""The scenarios of the billing models on a deployment: sent at their own times, and what is stored of them.

A scenario spans years, and time is the log's: so the raw topic takes the times that the records state, where a
deployment's takes the broker's own. Nothing else is different. All scenarios are one log, in the order of time, as
tenants share a broker.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from pipeline.cli import main
from pipeline.clickhouse.client import Table, connect
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.queries import run_query
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, ENTRIES, USAGE
from pipeline.core.account import Account
from pipeline.core.contacts import messaged_since
from pipeline.core.partitions import partition_of
from pipeline.core.plans import PlanTerms
from pipeline.core.simulation import Report
from pipeline.logfile import LogRecord
from pipeline.rules import make_rules
from pipeline.topics import MESSAGES_RAW
from tests.e2e.system import System
from tests.golden.models.scenarios import one_log

Rows = dict[tuple[Any, ...], tuple[Any, ...]]

KEYS = {
    FACTS: ("tenant", "message_key"),
    ACCOUNTS: ("tenant",),
    ENTRIES: ("tenant", "entry_id"),
    ALERTS: ("tenant", "alert_id"),
    USAGE: ("tenant", "window_start", "kind", "direction", "country", "category"),
}
"""What tells a table's rows apart."""


def take_stated_times(system: System) -> None:
    """Lets the raw topic keep the times its records come with, and the records however old they are."""
    changes = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
    resource = ConfigResource(
        ResourceType.TOPIC,
        MESSAGES_RAW,
        incremental_configs=[
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in changes.items()
        ],
    )
    admin = AdminClient({"bootstrap.servers": system.settings.kafka, "log_level": 2})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def send_at_stated_times(system: System, records: Iterable[LogRecord]) -> None:
    """What a gateway and our programs would have sent, each at its own time."""
    producer = Producer(
        {"bootstrap.servers": system.settings.kafka, "partitioner": "murmur2_random", "log_level": 2}
    )
    for record in system.signed(records):
        assert record.received_at is not None
        producer.produce(
            MESSAGES_RAW,
            value=record.value,
            key=record.key,
            headers=record.headers or None,
            timestamp=record.received_at,
        )
    assert producer.flush(60) == 0


def stored(system: System, table: Table) -> Rows:
    """A table's rows by their keys, instants and dates as numbers, as they are inserted."""
    shown = ", ".join(_shown(name, column_type) for name, column_type in table.columns)
    rows = system.rows(f"SELECT {shown} FROM {table.name} FINAL")
    assert rows, table.name
    return _by_key(table, rows)


def _shown(name: str, column_type: str) -> str:
    if "DateTime64" in column_type:
        return f"toUnixTimestamp64Milli({name})"
    if column_type.startswith("DateTime"):
        return f"toUnixTimestamp({name})"
    if column_type == "Date":
        return f"toUInt16({name})"
    return f"hex({name})" if column_type.startswith("FixedString") else name


def expected(table: Table, columns: Sequence[Sequence[Any]]) -> Rows:
    """Columns as they would be inserted, as rows by their keys."""
    return _by_key(table, zip(*columns, strict=True))


def _by_key(table: Table, rows: Iterable[Sequence[Any]]) -> Rows:
    names = [name for name, _ in table.columns]
    positions = [names.index(name) for name in KEYS[table]]
    found: Rows = {}
    for row in rows:
        values = tuple(each.hex().upper() if isinstance(each, bytes) else each for each in row)
        found[tuple(values[position] for position in positions)] = values
    return found


def documents(told: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Documents in the order of the log; of one told twice, one."""
    by_place = {(each["partition"], each["offset"], each.get("level"), each.get("id")): each for each in told}
    return [by_place[place] for place in sorted(by_place, key=str)]


@dataclass(frozen=True)
class Metered:
    """All scenarios, sent and metered, and what they are in simulation."""

    system: System
    report: Report
    accounts: list[tuple[int, Account, PlanTerms | None]]
    """(partition, account, its plan) of the simulation."""

    def run(self, *arguments: str) -> Result:
        """What a command of ours says."""
        environment = {"MSGMETER_CLICKHOUSE": self.system.settings.clickhouse}
        result = CliRunner().invoke(main, arguments, env=environment)
        assert result.exit_code == 0, result.output
        return result

    def ask(self, *arguments: str) -> Any:
        """The same as JSON."""
        return orjson.loads(self.run(*arguments, "--output", "json").stdout)


def stored_usage(system: System) -> Rows:
    """The windows, in the words of a report."""
    place = [name for name, _ in USAGE.columns].index("messages")
    return {
        (row[0], row[1] * 1_000, *row[2:place]): row[place:-1]
        for row in stored(system, USAGE).values()
        if any(row[place:-1])
    }


def stored_contacts(metered: Metered) -> dict[str, dict[str, int]]:
    """What the stored facts and marks say of contacts, at the times of the simulated accounts."""
    client = connect(metered.system.settings.clickhouse)
    found = {}
    for _, account, plan in metered.accounts:
        if plan is not None and plan.licensed_contacts:
            at = account.clock_at
            parameters = {
                "tenant": account.tenant,
                "since": messaged_since(at, plan.contact_active_days),
                "at": at,
            }
            ((active, inactive, removed),) = run_query(client, "contacts_of_tenant", parameters)
            found[account.tenant] = {"active": active, "inactive": inactive, "removed": removed}
    client.close()
    return found


def meter_scenarios(system: System, further: Iterable[LogRecord] = ()) -> Metered:
    """Sends all scenarios, and what is given in its place in time; returns when a worker has metered them."""
    # A worker does not start on such a topic.
    system.worker().start().await_ready()
    take_stated_times(system)
    log = sorted([*one_log(), *further], key=lambda record: record.received_at or 0)
    rules, report = make_rules(system.settings), system.report(log)
    send_at_stated_times(system, log)
    system.await_all_committed()
    accounts = [
        (partition_of(tenant.encode(), rules.partitions), account, rules.plan_at(account))
        for tenant, account in report.accounts.items()
    ]
    return Metered(system, report, accounts)
