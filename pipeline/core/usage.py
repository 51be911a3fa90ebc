"""What a tenant used in one 15-minute window: sums by dimension, and what was burned from which grant.

A window's value is absolute. It carries the offset it has applied, so a record at or below changes nothing.
It depends on the messages and the account as it was before each of them; the account is written after its
windows, so whenever a record's effect on the account is kept, its effect on the window is kept too.
"""

from collections.abc import Mapping

from msgspec import Struct

from pipeline.core.account import Entry
from pipeline.core.windows import WINDOW_MILLISECONDS

Dimensions = tuple[str, str, str, str]
"""kind, direction, country (or empty), category (or empty)."""

MESSAGES, SEGMENTS, QUANTITY, CREDITS = range(4)
"""Positions in a cell; credits are micro-credits."""


Split = tuple[str, int, Mapping[str, int]]
"""The first grant burned, the micro-credits taken from it, and the same for further ones; id "" is uncovered."""


MAX_CELLS = 1024
"""Combinations of dimensions told apart in one window, so that its value stays below what Kafka takes."""
OTHER_CATEGORY = "(other)"


class Window(Struct, array_like=True):
    """One tenant's usage in [start, start + 15 minutes)."""

    tenant: str
    start: int
    applied_offset: int = -1
    cells: dict[Dimensions, list[int]] = {}
    """By dimensions: messages, segments, quantity, micro-credits."""
    burned: dict[str, int] = {}
    """By grant id (empty: uncovered): micro-credits; a refund takes its part off again."""
    lapsed: dict[str, int] = {}
    """By grant id: the part of `burned` that an expiry had been posted for, and is corrected."""

    @property
    def is_full(self) -> bool:
        """Whether further categories are counted under `OTHER_CATEGORY`: they are the senders' own words."""
        return len(self.cells) >= MAX_CELLS

    def add(
        self,
        offset: int,
        dimensions: Dimensions,
        segments: int,
        quantity: int,
        credits_micros: int,
        messages: int = 1,
    ) -> None:
        """Adds one message, or takes off what was refunded of one that is counted already (`messages` 0)."""
        self.applied_offset = offset
        cell = self.cells.get(dimensions)
        if cell is None:
            self.cells[dimensions] = [messages, segments, quantity, credits_micros]
        else:
            cell[0] += messages
            cell[1] += segments
            cell[2] += quantity
            cell[3] += credits_micros

    def add_burned(self, split: Split, lapsed: Mapping[str, int]) -> None:
        """Adds what one message took from its grants: the first, and further ones; and what of it had lapsed."""
        grant_id, micros, further = split
        burned = self.burned
        if micros:
            burned[grant_id] = burned.get(grant_id, 0) + micros
        for further_id, further_micros in further.items():
            burned[further_id] = burned.get(further_id, 0) + further_micros
        for lapsed_id, lapsed_micros in lapsed.items():
            self.lapsed[lapsed_id] = self.lapsed.get(lapsed_id, 0) + lapsed_micros


def window_key(tenant_key: bytes, start: int) -> bytes:
    """A window's key among the state of its partition."""
    return start.to_bytes(8, "big") + tenant_key


def usage_entries(window: Window) -> list[Entry]:
    """The ledger's lines of a window: one per grant, absolute, replaced by offset while the window is held.

    Also where the sum has come back to nothing, as it may have been stored as something before.
    """
    return [
        Entry(
            entry_id=f"{name}:{window.start}:{grant_id}",
            kind=name,
            grant_id=grant_id,
            amount=sign * micros,
            cause="",
            effective_at=window.start,
            posted_at=window.start + WINDOW_MILLISECONDS,
            offset=window.applied_offset,
            window_start=window.start,
        )
        for name, sign, sums in (("usage", -1, window.burned), ("expiry_correction", 1, window.lapsed))
        for grant_id, micros in sums.items()
    ]


def late_entries(
    split: Split,
    lapsed: Mapping[str, int],
    start: int,
    effective_at: int,
    received_at: int,
    partition: int,
    offset: int,
    kind: str = "late_usage",
) -> list[Entry]:
    """One entry per grant for a message, or a refund, that its window's own entries do not hold.

    Because they are immutable by now, or because it counts in another period than its window's.
    """
    grant_id, micros, further = split
    burned = ((kind, kind, -1, each, part) for each, part in ((grant_id, micros), *further.items()))
    # One record may charge and refund, so the correction's id has to say of which it is.
    corrected_name = f"{kind}_correction"
    corrected = ((corrected_name, "expiry_correction", 1, each, part) for each, part in lapsed.items())
    return [
        Entry(
            entry_id=f"{id_name}:{partition}:{offset}:{burned_id}",
            kind=name,
            grant_id=burned_id,
            amount=sign * part,
            cause="",
            effective_at=effective_at,
            posted_at=received_at,
            offset=offset,
            window_start=start,
        )
        for id_name, name, sign, burned_id, part in (*burned, *corrected)
        if part
    ]
