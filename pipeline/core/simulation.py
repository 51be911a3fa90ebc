"""The core over a whole log at once: what the running system must agree with, record for record.

Takes the records of a log in order; gives a `Report`: accounts, usage by window and by tenant-local day, alerts,
results, refusals, entries. Uses the same folds, the same partitions and the same bounds as a worker, without
broker, database or clock: time ends where the log ends, or with a tick at `until`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import msgspec

from pipeline.core.account import Account, Entry
from pipeline.core.admission import FUTURE_MILLISECONDS, LATEST_AT, Admitted
from pipeline.core.contacts import count_contacts
from pipeline.core.identity_deltas import StoredCharge
from pipeline.core.instructions import Tick
from pipeline.core.kept import decode_kept
from pipeline.core.outcomes import FACT_COLUMNS, Document, Fact, Outcomes
from pipeline.core.partitions import partition_of
from pipeline.core.process import PartitionFold, StateChanges, Stored
from pipeline.core.refunds import NO_OFFSET, StoredMessage, refund_key
from pipeline.core.report_lines import Cell, Contacts, account_line, entry_lines, usage_lines
from pipeline.core.rules import Rules
from pipeline.core.signing import signed_headers
from pipeline.core.usage import usage_entries
from pipeline.core.windows import WINDOW_MILLISECONDS

_AT = {name: position for position, name in enumerate(FACT_COLUMNS)}
_TENANT, _OCCURRED, _DAY = _AT["tenant"], _AT["occurred_at"], _AT["local_date"]
_DIMENSIONS = tuple(_AT[name] for name in ("kind", "direction", "country", "category"))
_SUMS = tuple(_AT[name] for name in ("messages", "segments", "quantity", "credits_micros"))
_DIRECTION, _MESSAGES, _CONTACT = _AT["direction"], _AT["messages"], _AT["counterparty_hash"]
_IDENTITY, _FINGERPRINT, _OFFSET = _AT["message_key"], _AT["fingerprint"], _AT["kafka_offset"]


class FileRecord(Protocol):
    """A record of a log file."""

    @property
    def key(self) -> bytes | None:
        """The tenant, as bytes."""

    @property
    def value(self) -> bytes:
        """What a gateway or a program of ours wrote."""

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Names may come several times."""

    @property
    def received_at(self) -> int | None:
        """Epoch milliseconds, where the file says them."""


class _Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class _Kept:
    """The state of one partition between checkpoints, as tables would keep it."""

    def __init__(self, partition: int, rules: Rules) -> None:
        self.accounts: dict[bytes, bytes] = {}
        self.windows: dict[bytes, bytes] = {}
        self.fold = PartitionFold(partition, rules, self.accounts.get, self.windows.get)
        self.offset = 0
        self.waiting: list[_Record] = []

    def keep(self, changes: StateChanges) -> None:
        for table, values in ((self.windows, changes.windows), (self.accounts, changes.accounts)):
            for key, value in values.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value


@dataclass
class Report:
    """What came of a log. Sums are exact integers; credits are micro-credits until `document` shows them."""

    accounts: dict[str, Account] = field(default_factory=dict)
    windows: dict[tuple[Any, ...], Cell] = field(default_factory=dict)
    """By (tenant, window start, kind, direction, country, category)."""
    days: dict[tuple[Any, ...], Cell] = field(default_factory=dict)
    """By (tenant, days since 1970-01-01 in the tenant's zone, kind, direction, country, category)."""
    alerts: list[Document] = field(default_factory=list)
    results: list[Document] = field(default_factory=list)
    recharges: list[Document] = field(default_factory=list)
    contacts: dict[str, Contacts] = field(default_factory=dict)
    """By tenant, where its plan licenses contacts or it has marked some."""
    refusals: list[Document] = field(default_factory=list)
    entries: list[tuple[str, Entry]] = field(default_factory=list)
    """(tenant, entry): usage entries are one per window and grant."""
    facts: list[Fact] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def document(self) -> Document:
        """The report as `msgmeter simulate --json` prints it: sorted, credits as decimal strings."""
        return {
            "accounts": [
                account_line(account, self.contacts.get(tenant))
                for tenant, account in sorted(self.accounts.items())
            ],
            "usage": {
                "windows": usage_lines(self.windows, "window_start"),
                "days": usage_lines(self.days, "local_date"),
            },
            "alerts": sorted(
                self.alerts,
                key=lambda alert: (alert["tenant"], alert["period_start"], alert["arming"], alert["level"]),
            ),
            "results": self.results,
            "recharges": self.recharges,
            "refusals": self.refusals,
            "entries": entry_lines(self.entries),
            "counts": dict(sorted(self.counts.items())),
        }


def simulate(
    records: Iterable[FileRecord],
    rules: Rules,
    *,
    until: int | None = None,
    chunk_records: int = 2_000,
    checkpoint_records: int = 50_000,
) -> Report:
    """Folds a log. How it is cut into chunks and checkpoints changes nothing in the report.

    Raises ValueError for a record without a time of receipt, which neither the file nor the record gives, and
    for an end `until` that lies before the log's own, or in 2100 or later.
    """
    run = _Run(rules, chunk_records, checkpoint_records)
    latest_at = 0
    for record in records:
        if record.received_at is None:
            raise ValueError(
                "the log's first record says neither received_at nor when it occurred; add one of them"
            )
        latest_at = max(latest_at, record.received_at)
        run.take(record.key, record.value, record.headers, record.received_at)
    run.fold_all()
    if until is not None:
        if until < latest_at:
            raise ValueError(f"it cannot end at {_shown(until)}: it goes on until {_shown(latest_at)}")
        if until >= LATEST_AT - FUTURE_MILLISECONDS:
            raise ValueError(f"it must end before {_shown(LATEST_AT)}")
        for tenant in sorted(run.tenants()):
            key, value = tenant.encode(), _tick(tenant, until)
            run.take(key, value, signed_headers(rules.command_key, "command", key, value), until)
        run.fold_all()
    return run.report()


class _Run:
    """A simulation under way."""

    def __init__(self, rules: Rules, chunk_records: int, checkpoint_records: int) -> None:
        self._rules = rules
        self._chunk_records = chunk_records
        self._checkpoint_records = checkpoint_records
        self._partitions: dict[int, _Kept] = {}
        self._stored: dict[bytes, Fact] = {}
        self._outcomes = Outcomes()
        self._usage_entries: dict[tuple[str, str], tuple[str, Entry]] = {}

    def take(
        self, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]], received_at: int
    ) -> None:
        number = partition_of(key, self._rules.partitions) if key else 0
        kept = self._partitions.get(number)
        if kept is None:
            kept = self._partitions[number] = _Kept(number, self._rules)
        kept.waiting.append(_Record(kept.offset, received_at, key, value, headers))
        kept.offset += 1
        if len(kept.waiting) >= self._chunk_records:
            self._fold(kept)

    def fold_all(self) -> None:
        for number in sorted(self._partitions):
            self._fold(self._partitions[number])

    def tenants(self) -> list[str]:
        self._keep_all()
        return [key.decode() for kept in self._partitions.values() for key in kept.accounts]

    def _fold(self, kept: _Kept) -> None:
        records, kept.waiting = kept.waiting, []
        if not records:
            return
        fold = kept.fold
        admitted = fold.admit(records)
        fold.fold(admitted, self._look_up(fold, admitted))
        fold.applied(records[-1].offset)
        self._take(fold)
        # A checkpoint falls where the offset passes a multiple, so chunks may be of any size.
        if kept.offset // self._checkpoint_records != records[0].offset // self._checkpoint_records:
            self._checkpoint(kept)

    def _look_up(self, fold: PartitionFold, admitted: Sequence[Admitted]) -> Stored:
        facts = self._stored
        charges = {
            key: StoredCharge(facts[key][_OFFSET], facts[key][_FINGERPRINT])
            for _, key in fold.look_ups(admitted)
            if key in facts
        }
        messages = {}
        for _, key in fold.refund_look_ups(admitted):
            if key in facts:
                refund = facts.get(refund_key(key))
                messages[key] = StoredMessage(facts[key], refund[_OFFSET] if refund else NO_OFFSET)
        return Stored(charges, messages)

    def _checkpoint(self, kept: _Kept) -> None:
        changes = kept.fold.checkpoint()
        kept.keep(changes)
        for window in changes.changed_windows:
            for entry in usage_entries(window):
                self._usage_entries[window.tenant, entry.entry_id] = (window.tenant, entry)

    def _take(self, fold: PartitionFold) -> None:
        outcomes = fold.take_outcomes()
        for fact in outcomes.facts:
            self._stored[fact[_IDENTITY]] = fact
        total = self._outcomes
        total.facts += outcomes.facts
        total.entries += outcomes.entries
        total.alerts += outcomes.alerts
        total.results += outcomes.results
        total.recharges += outcomes.recharges
        total.contacts += outcomes.contacts
        total.refusals += outcomes.refusals
        total.counts += outcomes.counts

    def _keep_all(self) -> None:
        for kept in self._partitions.values():
            self._checkpoint(kept)

    def report(self) -> Report:
        self._keep_all()
        decoder = msgspec.msgpack.Decoder(Account)
        accounts = [
            decode_kept(decoder, value)
            for kept in self._partitions.values()
            for value in kept.accounts.values()
        ]
        outcomes = self._outcomes
        windows, days = _sum(outcomes.facts)
        # Partitions are folded in turns, which depend on the size of chunks; positions do not.
        for told in (outcomes.results, outcomes.recharges, outcomes.refusals):
            told.sort(key=lambda each: (each["partition"], each["offset"]))
        return Report(
            accounts={account.tenant: account for account in accounts},
            windows=windows,
            days=days,
            alerts=outcomes.alerts,
            results=outcomes.results,
            recharges=outcomes.recharges,
            contacts=_contacts(accounts, outcomes, self._rules),
            refusals=outcomes.refusals,
            entries=[*outcomes.entries, *self._usage_entries.values()],
            facts=outcomes.facts,
            counts=outcomes.counts,
        )


def _sum(facts: Iterable[Fact]) -> tuple[dict[tuple[Any, ...], Cell], dict[tuple[Any, ...], Cell]]:
    """The facts by window and by tenant-local day, each with its dimensions."""
    windows: dict[tuple[Any, ...], Cell] = defaultdict(lambda: [0, 0, 0, 0])
    days: dict[tuple[Any, ...], Cell] = defaultdict(lambda: [0, 0, 0, 0])
    for fact in facts:
        dimensions = tuple(fact[at] for at in _DIMENSIONS)
        start = fact[_OCCURRED] - fact[_OCCURRED] % WINDOW_MILLISECONDS
        for cell in (
            windows[fact[_TENANT], start, *dimensions],
            days[fact[_TENANT], fact[_DAY], *dimensions],
        ):
            for position, at in enumerate(_SUMS):
                cell[position] += fact[at]
    return dict(windows), dict(days)


def _contacts(accounts: Iterable[Account], outcomes: Outcomes, rules: Rules) -> dict[str, Contacts]:
    """The contacts of each tenant that has some to count, at its account's time."""
    states: dict[str, dict[int, str]] = defaultdict(dict)
    for mark in sorted(outcomes.contacts, key=lambda each: each.offset):
        states[mark.tenant][mark.contact_hash] = mark.state
    messaged: dict[str, dict[int, int]] = defaultdict(dict)
    for fact in outcomes.facts:
        if fact[_DIRECTION] == "outbound" and fact[_MESSAGES]:
            last_at = messaged[fact[_TENANT]]
            last_at[fact[_CONTACT]] = max(last_at.get(fact[_CONTACT], 0), fact[_OCCURRED])
    contacts = {}
    for account in accounts:
        tenant, now, plan = account.tenant, account.clock_at, rules.plan_at(account)
        if plan is not None and (plan.licensed_contacts or states[tenant]):
            sent = {contact: at for contact, at in messaged[tenant].items() if at <= now}
            counts = count_contacts(sent, states[tenant], now, plan.contact_active_days)
            contacts[tenant] = Contacts(plan.licensed_contacts, counts)
    return contacts


def _shown(at: int) -> str:
    whole_seconds = timedelta(seconds=min(at, LATEST_AT) // 1000)
    return (datetime(1970, 1, 1, tzinfo=UTC) + whole_seconds).isoformat()


def _tick(tenant: str, at: int) -> bytes:
    return msgspec.json.encode(Tick(id=f"tick:{at}", tenant=tenant, effective_at=at))
