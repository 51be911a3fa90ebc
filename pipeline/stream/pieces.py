"""Large pieces of work on the event loop, cut into small ones, so that commands are answered meanwhile.

Takes what a checkpoint keeps; gives the rows it stores, and time to others between two pieces. Not in a thread: rows
are made by Python, so a thread would hold the interpreter as long, and give it up later than a piece ends.

Invariant: the rows are those that `storing.snapshots` makes of everything at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.clickhouse.client import Table
from pipeline.core.account import Account
from pipeline.core.plans import PlanTerms
from pipeline.core.process import StateChanges
from pipeline.stream import storing

_REST = 2
"""Others get so many times what a piece took: folding keeps up with the log at half the worker's speed."""


async def leave_room(seconds: float) -> None:
    """Lets others go on, for longer than the piece of work that took so many seconds."""
    await asyncio.sleep(_REST * seconds)


async def snapshots_by_partition(
    changes: Sequence[tuple[int, StateChanges]],
    plan_at: Callable[[Account], PlanTerms | None],
    clock: Callable[[], float],
) -> list[tuple[Table, list[list[Any]]]]:
    """What a checkpoint stores of (partition, changes), made of one partition after the other.

    `clock` gives monotonic seconds.
    """
    whole = storing.snapshots([], plan_at)
    for each in changes:
        began_at = clock()
        for (_, columns), (_, further) in zip(whole, storing.snapshots([each], plan_at), strict=True):
            for column, values in zip(columns, further, strict=True):
                column.extend(values)
        await leave_room(clock() - began_at)
    return whole
