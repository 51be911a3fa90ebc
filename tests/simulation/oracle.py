"""What must have come of a world's logs, and where its servers say something else.

The truth is one fold over each partition's whole log, in one piece and without a crash, stored by the same code into a
warehouse of its own. `test_simulation.py` holds it against `simulate`.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from pipeline.clickhouse.client import Table
from pipeline.clickhouse.facts import FACTS, fact_columns
from pipeline.clickhouse.snapshots import ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.identity import IdentityIndex
from pipeline.core.outcomes import Document, Outcomes
from pipeline.core.process import PartitionFold, StateChanges
from pipeline.core.rules import Rules
from pipeline.stream import storing
from pipeline.stream.agreement import MARK_KEY
from pipeline.stream.changelog import PartitionReplay
from pipeline.topics import ACCOUNT_RECHARGES, ACCOUNT_RESULTS, MESSAGES_REFUSED, USAGE_ALERTS
from tests.builders import AT, Record
from tests.simulation.broker import Broker
from tests.simulation.stores import MemoryFiles
from tests.simulation.warehouse import TABLES, Row, Warehouse, WarehouseClient

_USAGE_SUMS = slice(USAGE.column_names.index("messages"), USAGE.column_names.index("version"))


class Truth:
    """One partition's log, folded at once."""

    def __init__(self, records: list[Record], rules: Rules, partition: int) -> None:
        self.partition = partition
        self.fold = PartitionFold(partition, rules)
        if records:
            self.fold.fold(self.fold.admit(records))
            self.fold.applied(records[-1].offset)
        self.outcomes: Outcomes = self.fold.take_outcomes()
        self.changes: StateChanges = self.fold.checkpoint()


def stored_by(truths: list[Truth], rules: Rules) -> Warehouse:
    """The warehouse that holds the truth."""
    warehouse = Warehouse()
    client: Any = WarehouseClient(warehouse)

    def insert(table: Table, columns: list[list[Any]]) -> None:
        if columns and columns[0]:
            warehouse.insert(table.name, columns, f"{table.name} {len(warehouse.tables[table.name].tokens)}")

    for partition, truth in enumerate(truths):
        outcomes = truth.outcomes
        insert(FACTS, fact_columns(outcomes.facts))
        insert(ENTRIES, storing.entry_columns((partition, *each) for each in outcomes.entries))
        insert(CONTACTS, storing.contact_columns(outcomes.contacts))
        insert(ALERTS, storing.alert_columns(outcomes.alerts))
        for table, columns in storing.snapshots([(partition, truth.changes)], rules.plan_at):
            insert(table, columns)
        insert(USAGE, storing.recompute(client, outcomes.recomputed))
    return warehouse


def differences(broker: Broker, warehouse: Warehouse, rules: Rules) -> Iterator[str]:
    """One line for each part that is not as it must be in the end."""
    truths = [Truth(log, rules, partition) for partition, log in enumerate(broker.logs)]
    for partition, log in enumerate(broker.logs):
        if broker.committed[partition] != len(log):
            yield f"partition {partition} is committed up to {broker.committed[partition]} of {len(log)}"
    stored = stored_by(truths, rules)
    for table in TABLES:
        mine, theirs = (_final(each, table) for each in (warehouse, stored))
        yield from _differing(table.name, mine, theirs)
    for topic, name, key in (
        (USAGE_ALERTS, "alerts", ("tenant", "id")),
        (ACCOUNT_RECHARGES, "recharges", ("tenant", "id")),
        (ACCOUNT_RESULTS, "results", ("partition", "offset")),
        (MESSAGES_REFUSED, "refusals", ("partition", "offset", "reason")),
    ):
        expected = {
            tuple(each[part] for part in key): each
            for truth in truths
            for each in getattr(truth.outcomes, name)
        }
        told: dict[Row, Document] = {}
        for each in _documents(broker, topic):
            place = tuple(each[part] for part in key)
            if told.setdefault(place, each) != each:
                yield f"{topic}: {place} was told as {told[place]} and as {each}"
        yield from _differing(topic, told, expected)
    for partition, truth in enumerate(truths):
        yield from _state_differences(broker, partition, truth, rules)


def _final(warehouse: Warehouse, table: Table) -> dict[Row, Row]:
    rows = warehouse.tables[table.name].final()
    if table is USAGE:
        # What a window has no more is stored as zeros.
        return {key: row for key, row in rows.items() if any(row[_USAGE_SUMS])}
    return rows


def _documents(broker: Broker, topic: str) -> Iterator[Document]:
    for (name, _), appended in sorted(broker.topics.items()):
        if name == topic:
            for record in appended.records:
                yield orjson.loads(record.value_bytes or b"")


def _state_differences(broker: Broker, partition: int, truth: Truth, rules: Rules) -> Iterator[str]:
    """What a worker that starts now would know, against the truth."""
    accounts, windows, identities = (
        recovered(broker, name, partition) for name in ("accounts", "windows", "ids")
    )
    yield from _differing(f"accounts of partition {partition}", accounts, truth.changes.accounts)
    # A window is forgotten at a checkpoint, of which the truth has none.
    kept = {key: value for key, value in truth.changes.windows.items() if key in windows}
    yield from _differing(f"windows of partition {partition}", windows, kept)
    yield from identity_differences(list(identities.values()), truth, rules)


def identity_differences(deltas: list[bytes], truth: Truth, rules: Rules) -> Iterator[str]:
    """Where deltas are not what there is to know at the end of the truth's log."""
    index = IdentityIndex(
        hold_milliseconds=rules.identity_milliseconds,
        limit=rules.identity_limit,
        pending_milliseconds=rules.pending_milliseconds,
        pending_limit=rules.pending_limit,
    )
    index.load(deltas)
    yield from _differing(
        f"drafts of partition {truth.partition}", index.pending, truth.fold.identities.pending
    )
    for fact in truth.outcomes.facts:
        name, offset = fact[AT["message_id"]], fact[AT["kafka_offset"]]
        slot = index.find(fact[AT["message_key"]]) if fact[AT["messages"]] else -1
        if slot >= 0 and index.charged_by(slot) != offset:
            yield f"{name} is held as charged by {index.charged_by(slot)}, not {offset}"
        if slot < 0 and fact[AT["messages"]] and fact[AT["occurred_at"]] > index.horizon_at:
            yield f"{name} is neither held nor looked up"


def recovered(broker: Broker, name: str, partition: int) -> dict[bytes, bytes]:
    """The values of one changelog, by the rule of recovery."""
    store = MemoryFiles(name)
    store.open_partition(partition)
    records = broker.topic(f"{name}-changelog", partition).records
    if records:
        PartitionReplay(store, partition).take(records)
    return {key: value for key, value in store.items_of(partition) if key != MARK_KEY}


def _differing(what: str, mine: dict[Any, Any], theirs: dict[Any, Any]) -> Iterator[str]:
    keys = [key for key in {**theirs, **mine} if mine.get(key) != theirs.get(key)]
    if keys:
        key = keys[0]
        yield f"{what}: {len(keys)} differ, such as {key}:\n   is {mine.get(key)}\n  not {theirs.get(key)}"
