"""What a fold has decided and the shell has to carry out: rows, alerts, results, refusals, forwards, entries.

Each is a deterministic function of the log and carries an id made of it, so carrying it out twice does no harm.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from pipeline.core.account import Entry, Period
from pipeline.core.amounts import format_credits
from pipeline.core.refusals import Refusal
from pipeline.core.repeated import gateway_name, identity_name
from pipeline.core.thresholds import run_out_at

FACT_COLUMNS = (
    "tenant", "message_key", "message_id", "source", "kind", "direction", "status", "country", "category", "list",
    "member", "inbox", "campaign", "encoding", "occurred_at", "received_at", "local_date", "period_start",
    "messages", "segments", "quantity", "rate_micros", "credits_micros", "rate_version", "counterparty_hash",
    "grant_id", "grant_micros", "further_grants", "fingerprint", "kafka_partition", "kafka_offset",
)  # fmt: skip
"""The order of a fact's fields: one row of `rated_messages` per charged message, see sql/."""

Fact = tuple[Any, ...]
Document = dict[str, Any]


@dataclass(slots=True)
class Forward:
    """A record for the partition its tenant lives in."""

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes | None]]


class ContactMark(NamedTuple):
    """What a tenant says of one of its contacts."""

    tenant: str
    contact_hash: int
    """The keyed hash that facts have of the other party's address."""
    state: str
    """active, inactive or removed."""
    effective_at: int
    partition: int
    offset: int


@dataclass(slots=True)
class Outcomes:
    """Everything decided since the last epoch, in log order."""

    facts: list[Fact] = field(default_factory=list)
    entries: list[tuple[str, Entry]] = field(default_factory=list)
    """(tenant, entry): all but the usage entries of held windows, which are made of windows at checkpoints."""
    alerts: list[Document] = field(default_factory=list)
    results: list[Document] = field(default_factory=list)
    recharges: list[Document] = field(default_factory=list)
    """Requests for a block of credits, as `recharge.v1`."""
    contacts: list[ContactMark] = field(default_factory=list)
    refusals: list[Document] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    recomputed: dict[tuple[str, int], int] = field(default_factory=dict)
    """(tenant, window start) no longer held, to be summed from the stored rows; the offset is its version."""
    counts: Counter[str] = field(default_factory=Counter)
    """For metrics only: a replay counts again."""

    def __bool__(self) -> bool:
        """Whether there is anything to carry out."""
        return bool(
            self.facts
            or self.entries
            or self.alerts
            or self.results
            or self.recharges
            or self.contacts
            or self.refusals
            or self.forwards
        )


def alert_document(tenant: str, period: Period, level: int, at: int, partition: int, offset: int) -> Document:
    """An `alert.v1`; its id is (tenant, period start, level, arming)."""
    return {
        "id": f"{tenant}:{period.starts_at}:{level}:{period.arming}",
        "tenant": tenant,
        "period_start": period.starts_at,
        "period_end": period.ends_at,
        "level": level,
        "arming": period.arming,
        "used": format_credits(period.used),
        "limit": format_credits(period.limit),
        "remaining": format_credits(max(period.limit - period.used, 0)),
        "run_out_at": run_out_at(period.used, period.limit, period.starts_at, at),
        "occurred_at": at,
        "partition": partition,
        "offset": offset,
    }


def refusal_document(
    partition: int,
    offset: int,
    reason: Refusal,
    value: bytes,
    tenant: str | None,
    source: str | None,
    message_id: str | None,
    received_at: int,
) -> Document:
    """A `refusal.v1`: where the record is and why it was refused, never what it says.

    A source or an id that does not look like one is left out. The tenant is the caller's to judge.
    """
    return {
        "partition": partition,
        "offset": offset,
        "reason": reason.value,
        "retryable": reason.retryable,
        "size_bytes": len(value),
        "digest": blake2b(value, digest_size=16).hexdigest(),
        "tenant": tenant,
        "source": gateway_name(source),
        "id": identity_name(message_id),
        "received_at": received_at,
    }
