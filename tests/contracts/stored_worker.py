"""A log folded and stored in ClickHouse as a worker would store it, for the commands that ask."""

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.client import insert
from pipeline.clickhouse.facts import FACTS, fact_columns
from pipeline.clickhouse.snapshots import ENTRIES
from pipeline.core.account import Account
from pipeline.core.plans import PlanTerms
from pipeline.core.rules import Rules
from pipeline.core.terms import find_terms
from pipeline.stream.storing import entry_columns, insert_rows, snapshots
from tests.builders import Log, Worker, rules


def fold_and_store(client: Client, log: Log, given: Rules | None = None) -> Worker:
    """Fold a log in one checkpoint and store all that came of it."""
    worker = Worker(rules() if given is None else given)
    worker.take(log.records)
    changes = worker.keep()

    def plan_at(account: Account) -> PlanTerms | None:
        found = find_terms(account.plans, account.clock_at, worker.rules.terms, None)
        return found.plan if found else None

    for table, columns in snapshots([(0, changes)], plan_at):
        insert_rows(client, table, columns, f"{log.tenant}:{table.name}")
    entries = [(0, tenant, entry) for (tenant, _), entry in worker.effects.entries.items()]
    insert_rows(client, ENTRIES, entry_columns(entries), f"{log.tenant}:entries")
    if worker.effects.facts:
        insert(client, FACTS, fact_columns(list(worker.effects.facts.values())), f"{log.tenant}:facts")
    return worker
