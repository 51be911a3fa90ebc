"""The core over a whole log at once: what the running system must agree with, record for record.

Takes the records of a log in order; gives a `Report`: accounts, usage by window and by tenant-local day, alerts,
results, refusals, entries. Uses the same folds, the same partitions and the same bounds as a worker, without
broker, database or clock: time ends where the log ends, or with a tick at `until`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import msgspec

from pipeline.core.account import Account, Entry
from pipeline.core.admission import FUTURE_MILLISECONDS, LATEST_AT
from pipeline.core.contacts import count_contacts
from pipeline.core.instructions import Tick
from pipeline.core.outcomes import FACT_COLUMNS, ContactMark, Document, Fact
from pipeline.core.partitions import partition_of
from pipeline.core.replay import CHECKPOINT_RECORDS, Came, Replay
from pipeline.core.report_lines import Cell, Contacts, account_line, entry_lines, usage_lines
from pipeline.core.rules import Rules
from pipeline.core.signing import signed_headers
from pipeline.core.windows import WINDOW_MILLISECONDS

_AT = {name: position for position, name in enumerate(FACT_COLUMNS)}
_TENANT, _OCCURRED, _DAY = _AT["tenant"], _AT["occurred_at"], _AT["local_date"]
_DIMENSIONS = tuple(_AT[name] for name in ("kind", "direction", "country", "category"))
_SUMS = tuple(_AT[name] for name in ("messages", "segments", "quantity", "credits_micros"))
_DIRECTION, _MESSAGES, _CONTACT = _AT["direction"], _AT["messages"], _AT["counterparty_hash"]


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
    counts: Counter[str] = field(default_factory=Counter)

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
    checkpoint_records: int = CHECKPOINT_RECORDS,
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


class _Log:
    """A partition's log as far as it was taken, and what of it is yet to be folded."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.end_offset = 0
        self.waiting: list[_Record] = []

    def fold(self) -> None:
        records, self.waiting = self.waiting, []
        self.replay.fold(records)


class _Run:
    """A simulation under way."""

    def __init__(self, rules: Rules, chunk_records: int, checkpoint_records: int) -> None:
        self._rules = rules
        self._chunk_records = chunk_records
        self._checkpoint_records = checkpoint_records
        self._partitions: dict[int, _Log] = {}

    def take(
        self, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]], received_at: int
    ) -> None:
        number = partition_of(key, self._rules.partitions) if key else 0
        log = self._partitions.get(number)
        if log is None:
            log = self._partitions[number] = _Log(Replay(number, self._rules, self._checkpoint_records))
        log.waiting.append(_Record(log.end_offset, received_at, key, value, headers))
        log.end_offset += 1
        if len(log.waiting) >= self._chunk_records:
            log.fold()

    def fold_all(self) -> None:
        for log in self._partitions.values():
            log.fold()

    def tenants(self) -> list[str]:
        return [tenant for log in self._partitions.values() for tenant in log.replay.tenants()]

    def report(self) -> Report:
        return report_of((log.replay.take() for _, log in sorted(self._partitions.items())), self._rules)


def report_of(partitions: Iterable[Came], rules: Rules) -> Report:
    """The report of a log, from what came of each of its partitions, in the order of their numbers."""
    report = Report()
    contacts: list[ContactMark] = []
    for came in partitions:
        outcomes = came.outcomes
        report.accounts |= came.accounts
        report.facts += outcomes.facts
        report.alerts += outcomes.alerts
        # A partition's results come in log order, its refusals may be those of earlier records.
        report.results += outcomes.results
        report.recharges += outcomes.recharges
        report.refusals += sorted(outcomes.refusals, key=lambda each: each["offset"])
        report.entries += outcomes.entries
        report.entries += [(tenant, entry) for (tenant, _), entry in came.usage_entries.items()]
        report.counts += outcomes.counts
        contacts += outcomes.contacts
    report.windows, report.days = _sum(report.facts)
    report.contacts = _contacts(report.accounts.values(), contacts, report.facts, rules)
    return report


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


def _contacts(
    accounts: Iterable[Account], marks: Iterable[ContactMark], facts: Iterable[Fact], rules: Rules
) -> dict[str, Contacts]:
    """The contacts of each tenant that has some to count, at its account's time."""
    states: dict[str, dict[int, str]] = defaultdict(dict)
    for mark in sorted(marks, key=lambda each: each.offset):
        states[mark.tenant][mark.contact_hash] = mark.state
    messaged: dict[str, dict[int, int]] = defaultdict(dict)
    for fact in facts:
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
