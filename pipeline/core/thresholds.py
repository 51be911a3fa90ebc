"""When usage has reached a share of what is usable in the period.

Takes integers; gives levels. An alert fires at `used * 100 >= level * limit`, each level once per arming, in
ascending order, also when one message jumps over several. A rise of the limit that brings usage back under
fired levels re-arms exactly those, under the next arming number.

A period in which nothing is usable (limit 0) has no percentage, so no level of it fires.
"""

from collections.abc import Sequence

from pipeline.core.account import Period

NEVER_REACHED = 1 << 62


def reached(used: int, limit: int, level: int) -> bool:
    """Whether `used` is at or above `level` per cent of `limit`, both in micro-credits."""
    return limit > 0 and used * 100 >= level * limit


def crossed(used: int, limit: int, levels: Sequence[int], fired: Sequence[int]) -> list[int]:
    """The levels that fire now, ascending: reached and not yet fired."""
    return [level for level in levels if level not in fired and reached(used, limit, level)]


def still_fired(used: int, limit: int, fired: Sequence[int]) -> list[int]:
    """The fired levels that usage still reaches; the others are armed again."""
    return [level for level in fired if reached(used, limit, level)]


def next_amount(limit: int, levels: Sequence[int], fired: Sequence[int]) -> int:
    """The least usage, in micro-credits, at which a level fires; `NEVER_REACHED` when none is left."""
    if limit <= 0:
        return NEVER_REACHED
    return min((-(-level * limit // 100) for level in levels if level not in fired), default=NEVER_REACHED)


def run_out_at(used: int, limit: int, period_start: int, at: int) -> int | None:
    """When the limit is used up if usage goes on as it did from the period's start to `at`, in epoch ms.

    Rounded down. None when nothing was used or no time has passed; `at` itself when nothing is left.
    """
    elapsed = at - period_start
    if used >= limit:
        return at
    if used <= 0 or elapsed <= 0:
        return None
    return at + (limit - used) * elapsed // used


def rearm(period: Period) -> None:
    """Arms again the fired levels of a period that usage no longer reaches, under the next arming number."""
    kept = tuple(still_fired(period.used, period.limit, period.fired))
    if kept != period.fired:
        period.fired = kept
        period.arming += 1


def fire(period: Period, levels: Sequence[int]) -> list[int]:
    """The levels of a period that fire now, ascending; they do so once per arming."""
    fired = crossed(period.used, period.limit, levels, period.fired)
    period.fired = (*period.fired, *fired)
    return fired
