"""The second half of `msgmeter reconcile`: what is stored against what is stored, without the log.

Takes a client and a scope; ClickHouse compares windows with facts, usage entries with what facts burned, and balances
with entries and grants, for some hundred tenants at a time, and gives only what differs. Never writes.

What a checkpoint is storing at this moment may look like a difference: rows of its tables come one after the other. So
whatever differs is asked for again, and counts when it differs each time.
"""

from collections.abc import Mapping
from time import sleep
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.comparing import (
    TENANTS_PER_QUERY,
    ComparingQuery,
    Days,
    StoredComparison,
    compared_in_store,
    stored_tenants,
)
from pipeline.core import reconciliation as parts
from pipeline.core.reconciliation import Part, Scope, Tally, Values

_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0
_QUERIES: Mapping[Part, ComparingQuery] = {
    parts.FACTS_AND_WINDOWS: "windows_against_facts",
    parts.FACTS_AND_ENTRIES: "entries_against_facts",
    parts.ENTRIES_AND_BALANCES: "balances_against_entries",
}
STORED_PARTS = tuple(_QUERIES)
_KEY_LENGTH = {parts.FACTS_AND_WINDOWS: 6, parts.FACTS_AND_ENTRIES: 3, parts.ENTRIES_AND_BALANCES: 1}


class StoredReport(NamedTuple):
    """What came of the comparison besides the tallies."""

    moving_count: int
    """Rows that a checkpoint was storing all the time, and that were not compared."""
    unknown_count: int
    """Tenants without a stored account, of whom nothing was compared: new ones have none before a checkpoint."""


def compare_stored(client: Client, scope: Scope, days: Days, tallies: Mapping[Part, Tally]) -> StoredReport:
    """Compares all tenants of the scope."""
    tenants = [tenant for tenant in stored_tenants(client) if scope.has_tenant(tenant)]
    pieces = range(0, len(tenants), TENANTS_PER_QUERY)
    questions = [(part, tenants[start : start + TENANTS_PER_QUERY]) for start in pieces for part in _QUERIES]
    found = [compared_in_store(client, _QUERIES[part], some, days) for part, some in questions]
    for _ in range(_ATTEMPTS - 1):
        unsettled = [at for at, each in enumerate(found) if each.differing or each.moving]
        if unsettled:
            sleep(_PAUSE_SECONDS)
        for at in unsettled:
            part, some = questions[at]
            found[at] = _still(part, found[at], compared_in_store(client, _QUERIES[part], some, days))
    for (part, _), each in zip(questions, found, strict=True):
        _tell(tallies[part], each)
    accounts = sum(
        each.compared
        for (part, _), each in zip(questions, found, strict=True)
        if part is parts.ENTRIES_AND_BALANCES
    )
    return StoredReport(sum(each.moving for each in found), len(tenants) - accounts)


def _still(part: Part, before: StoredComparison, now: StoredComparison) -> StoredComparison:
    """What differs now and did before."""
    length = _KEY_LENGTH[part]
    keys = {row[:length] for row in before.rows}
    rows = [row for row in now.rows if row[:length] in keys]
    are_all_listed = len(now.rows) == now.differing
    return now._replace(
        rows=rows, differing=len(rows) if are_all_listed else min(before.differing, now.differing)
    )


def _tell(tally: Tally, found: StoredComparison) -> None:
    tally.agree(found.compared - found.moving - found.differing)
    for row in found.rows:
        key, one, other = _sides(tally.part, row)
        tally.compare(key, one, other, row[-1])
    # More than are listed are counted all the same.
    tally.differing += found.differing - len(found.rows)


def _sides(part: Part, row: tuple[Any, ...]) -> tuple[tuple[Any, ...], Values, Values]:
    key = row[: _KEY_LENGTH[part]]
    if part is parts.FACTS_AND_WINDOWS:
        return key, (*row[6:10], row[1]), (*row[10:14], row[1])
    if part is parts.FACTS_AND_ENTRIES:
        return key, (row[3], row[1]), (row[4], row[1])
    return key, (row[1], row[1], 0), row[2:5]
