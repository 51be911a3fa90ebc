"""Short builders: rules and plans, a log record by record, and a worker that can be cut, killed and restarted.

`Log` writes records the way gateways and our own programs would. `Worker` drives one partition's fold the way
the stream does, against `Tables` and `Effects` that outlive it, so that a crash is a line of a test.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import orjson

from pipeline.core.account import Account, Entry
from pipeline.core.identity_deltas import StoredCharge
from pipeline.core.kept import decode_kept
from pipeline.core.outcomes import FACT_COLUMNS, Outcomes
from pipeline.core.plans import Plan, decode_plan
from pipeline.core.process import PartitionFold, StateChanges, Stored
from pipeline.core.refunds import NO_OFFSET, StoredMessage, refund_key
from pipeline.core.rules import Rules
from pipeline.core.signing import signed_headers
from pipeline.core.usage import usage_entries
from pipeline.data import load_rate_cards

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
COMMAND_KEY = b"a key that only tests hold"
CARDS = load_rate_cards()
AT = {name: position for position, name in enumerate(FACT_COLUMNS)}
"""Fact column to its position."""
_account_decoder = msgspec.msgpack.Decoder(Account)


def instant(text: str) -> int:
    """Milliseconds of an RFC 3339 instant; without an offset it is UTC."""
    moment = datetime.fromisoformat(text if "+" in text or text.endswith("Z") else f"{text}+00:00")
    return round(moment.timestamp() * 1000)


NOON = instant("2026-02-10T12:00")


def plan(allowance: str = "1000", **fields: Any) -> dict[str, Any]:
    """A plan document: one credit per SMS segment, three per MMS, 0.1 per email recipient; RCS is free."""
    rates = [
        {"kind": "sms", "credits": "1", "per": "segment"},
        {"kind": "mms", "credits": "3", "per": "message"},
        {"kind": "email", "credits": "0.1", "per": "recipient"},
        {"kind": "rcs", "credits": "0", "per": "message"},
    ]
    document = {
        "name": "test",
        "zone": "UTC",
        "anchor_day": 1,
        "allowance_credits": allowance,
        "rate_card": "standard",
        "rates": rates,
    }
    return document | fields


def rules(default_plan: dict[str, Any] | None = None, **fields: Any) -> Rules:
    """Rules of a log of one partition."""
    compiled: Plan | None = None if default_plan is None else decode_plan(orjson.dumps(default_plan))
    given = {"partitions": 1, "command_key": COMMAND_KEY, "counterparty_key": b"hashes", **fields}
    return Rules(cards=CARDS, default_plan=compiled, **given)


class Record(NamedTuple):
    """A record as the log hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def message(message_id: str = "m1", **fields: Any) -> dict[str, Any]:
    """A sent SMS of one segment; `from_` is the sender; None leaves a field out."""
    document = {
        "id": message_id,
        "tenant": "acme",
        "source": "gateway",
        "kind": "sms",
        "direction": "outbound",
        "status": "sent",
        "occurred_at": NOON,
        "to": "+14155550100",
        "from": "Acme",
        "body": "hello",
    }
    document |= {name.rstrip("_"): value for name, value in fields.items()}
    document.setdefault("status_at", document["occurred_at"])
    return {name: value for name, value in document.items() if value is not None}


class Log:
    """Records in order; `now` is the time of the next one and is moved by hand."""

    def __init__(self, now: int = NOON, tenant: str = "acme") -> None:
        self.now = now
        self.tenant = tenant
        self.records: list[Record] = []

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        at: int | None = None,
    ) -> Record:
        """Any record."""
        record = Record(len(self.records), self.now if at is None else at, key, value, headers)
        self.records.append(record)
        return record

    def message(self, message_id: str = "m1", **fields: Any) -> Record:
        """A message that occurs now unless told otherwise."""
        document = message(message_id, **{"tenant": self.tenant, "occurred_at": self.now, **fields})
        return self.append(document["tenant"].encode(), orjson.dumps(document))

    def messages(self, count: int, **fields: Any) -> None:
        """So many messages, each with an id of its own."""
        for _ in range(count):
            self.message(f"n{len(self.records)}", **fields)

    def command(self, command_type: str, /, command_id: str | None = None, **fields: Any) -> Record:
        """A signed command, effective now unless told otherwise."""
        document = {
            "type": command_type,
            "id": command_id or f"c{len(self.records)}",
            "tenant": self.tenant,
            "effective_at": self.now,
            **fields,
        }
        key, value = document["tenant"].encode(), orjson.dumps(document)
        return self.append(key, value, signed_headers(COMMAND_KEY, "command", key, value))

    def set_plan(self, document: dict[str, Any] | None = None, **fields: Any) -> Record:
        """Puts the tenant under a plan."""
        return self.command("set_plan", plan=plan() if document is None else document, **fields)

    def grant(self, amount: str, **fields: Any) -> Record:
        """Gives credits."""
        return self.command("grant", credits=amount, **fields)

    def tick(self, at: int | None = None) -> Record:
        """Lets time pass up to `at`."""
        self.now = self.now if at is None else at
        return self.command("tick")


@dataclass
class Tables:
    """What survives a worker: kept values by key, each with the offset it has applied."""

    identities: dict[bytes, bytes] = field(default_factory=dict)
    windows: dict[bytes, bytes] = field(default_factory=dict)
    accounts: dict[bytes, bytes] = field(default_factory=dict)
    _applied: dict[tuple[str, bytes], tuple[int, bool]] = field(default_factory=dict)

    def offer(self, name: str, key: bytes, value: bytes | None, applied: int) -> None:
        """Keeps a value or a deletion unless one with a higher applied offset is kept."""
        if value is not None:
            applied = int.from_bytes(value[:8], "big")
        held, is_deleted = self._applied.get((name, key), (-1, False))
        if applied < held or (applied == held and is_deleted and value is not None):
            return
        self._applied[name, key] = applied, value is None
        table: dict[bytes, bytes] = getattr(self, name)
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


def writes(changes: StateChanges) -> list[tuple[str, bytes, bytes | None, int]]:
    """The writes of a checkpoint in their order, as arguments of `Tables.offer`."""
    return [
        (name, key, value, changes.applied_offset + 1)
        for name in ("identities", "windows", "accounts")
        for key, value in getattr(changes, name).items()
    ]


@dataclass
class Effects:
    """What was carried out, by the keys under which a repetition is recognised; all of it replaces itself."""

    facts: dict[bytes, tuple[Any, ...]] = field(default_factory=dict)
    alerts: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    forwards: list[Any] = field(default_factory=list)
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    windows: dict[tuple[str, int], tuple[int, dict[Any, list[int]]]] = field(default_factory=dict)
    """By (tenant, start): version and cells, as `usage_15m` has them."""
    recomputed: set[tuple[str, int]] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, outcomes: Outcomes) -> None:
        """Carries out an epoch. What is carried out again must be what it was."""
        for fact in outcomes.facts:
            self._once(self.facts, fact[AT["message_key"]], fact)
        for alert in outcomes.alerts:
            self._once(self.alerts, alert["id"], alert)
        for result in outcomes.results:
            self._once(self.results, result["offset"], result)
        for refusal in outcomes.refusals:
            self._once(self.refusals, (refusal["offset"], refusal["reason"]), refusal)
        for tenant, entry in outcomes.entries:
            self._once(self.entries, (tenant, entry.entry_id), entry)
        self.forwards += outcomes.forwards
        self.recomputed |= outcomes.recomputed.keys()
        for name, count in outcomes.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    @staticmethod
    def _once(carried_out: dict[Any, Any], place: object, what: object) -> None:
        before = carried_out.setdefault(place, what)
        assert before == what, f"{place} was {before} and is {what}"

    def take_windows(self, changes: StateChanges) -> None:
        """Stores window snapshots and their entries: the highest version is the window."""
        for window in changes.changed_windows:
            place, cells = (window.tenant, window.start), {key: list(c) for key, c in window.cells.items()}
            held = self.windows.get(place, (-1, {}))
            assert held[0] != window.applied_offset or held[1] == cells
            if window.applied_offset > held[0]:
                self.windows[place] = window.applied_offset, cells
            for entry in usage_entries(window):
                entry_place = window.tenant, entry.entry_id
                before = self.entries.get(entry_place)
                if before is None or entry.offset >= before.offset:
                    self.entries[entry_place] = entry

    def reasons(self) -> list[str]:
        """The reasons of all refusals, in log order."""
        return [reason for _, reason in sorted(self.refusals)]

    def levels(self) -> list[tuple[int, int]]:
        """(arming, level) of all alerts, in the order in which they fired."""
        return [(alert["arming"], alert["level"]) for alert in self.alerts.values()]


class Worker:
    """One partition's fold at work; throwing it away is a crash.

    It reads its own copy of the tables, as they were when it started and with what it has written since.
    """

    def __init__(
        self, given: Rules, tables: Tables | None = None, effects: Effects | None = None, partition: int = 0
    ) -> None:
        self.rules = given
        self.tables = tables or Tables()
        self.effects = effects or Effects()
        self._own = deepcopy(self.tables)
        self._taken = Outcomes()
        self.fold = PartitionFold(
            partition,
            given,
            self._own.accounts.get,
            self._own.windows.get,
            list(self._own.identities.values()),
            list(self._own.windows),
        )

    def take(self, records: Sequence[Record]) -> None:
        """Folds one chunk."""
        if not records:
            return
        admitted = self.fold.admit(records)
        self.fold.fold(
            admitted,
            self.stored(
                {key for _, key in self.fold.look_ups(admitted)},
                {key for _, key in self.fold.refund_look_ups(admitted)},
            ),
        )
        self.fold.applied(records[-1].offset)

    def stored(self, charges: Iterable[bytes], messages: Iterable[bytes]) -> Stored:
        """What the stored facts say of identities."""
        facts = self.effects.facts
        refunds = {key: facts.get(refund_key(key)) for key in messages}
        return Stored(
            {
                key: StoredCharge(facts[key][AT["kafka_offset"]], facts[key][AT["fingerprint"]])
                for key in charges
                if key in facts
            },
            {
                key: StoredMessage(facts[key], refund[AT["kafka_offset"]] if refund else NO_OFFSET)
                for key, refund in refunds.items()
                if key in facts
            },
        )

    def close_epoch(self) -> None:
        """Carries out what was decided."""
        self.take_epoch()
        self.carry_out()

    def take_epoch(self) -> None:
        """Takes what was decided, to be carried out while folding goes on; what was taken before is, by now."""
        self.carry_out()
        self._taken = self.fold.take_outcomes()

    def carry_out(self) -> None:
        """Carries out what was taken."""
        taken, self._taken = self._taken, Outcomes()
        self.effects.take(taken)

    def checkpoint(self) -> StateChanges:
        """Carries out what was decided and takes the changes that a checkpoint writes."""
        self.close_epoch()
        changes = self.fold.checkpoint()
        self.effects.take_windows(changes)
        return changes

    def write(self, changes: StateChanges, count: int | None = None) -> None:
        """Writes the first `count` of a checkpoint's values, or all."""
        for write in writes(changes)[:count]:
            self.tables.offer(*write)
            self._own.offer(*write)

    def keep(self) -> StateChanges:
        """A whole checkpoint."""
        changes = self.checkpoint()
        self.write(changes)
        return changes

    def account(self, tenant: str = "acme") -> Account:
        """A tenant's account as it was kept last."""
        return decode_kept(_account_decoder, self.tables.accounts[tenant.encode()])


def run(records: Iterable[Record] | Log, given: Rules | None = None, partition: int = 0) -> Worker:
    """A worker that has folded the records in one chunk and kept its state."""
    worker = Worker(rules() if given is None else given, partition=partition)
    worker.take(records.records if isinstance(records, Log) else list(records))
    worker.keep()
    return worker


def said(fact: tuple[Any, ...], name: str) -> Any:
    """One field of a fact, by its name."""
    return fact[FACT_COLUMNS.index(name)]
