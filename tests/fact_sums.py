"""What a period used, summed from facts in memory: the reference for the query that statements ask."""

from collections.abc import Iterable
from typing import Any

from pipeline.core.outcomes import FACT_COLUMNS, Fact
from pipeline.core.statement import UsageSum

FIELDS = (
    "tenant", "kind", "direction", "country", "occurred_at", "period_start", "messages", "segments", "quantity",
    "credits_micros",
)  # fmt: skip
POSITIONS = tuple(FACT_COLUMNS.index(name) for name in FIELDS)


def usage_of_facts(facts: Iterable[Fact], tenant: str, starts_at: int) -> list[UsageSum]:
    """What the tenant's messages that count in the period beginning at `starts_at` used, by sort of message."""
    sums: dict[tuple[Any, ...], UsageSum] = {}
    for fact in facts:
        its = dict(zip(FIELDS, (fact[position] for position in POSITIONS), strict=True))
        if its["tenant"] != tenant or its["period_start"] != starts_at:
            continue
        key = (its["kind"], its["direction"], its["country"], its["occurred_at"] < starts_at)
        cell = sums.setdefault(key, UsageSum(*key))
        cell.messages += its["messages"]
        cell.segments += its["segments"]
        cell.quantity += its["quantity"]
        if its["messages"]:
            cell.credits += its["credits_micros"]
        else:
            cell.refunded -= its["credits_micros"]
    return [sums[key] for key in sorted(sums)]
