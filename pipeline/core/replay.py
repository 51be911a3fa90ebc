"""One partition's log folded from its beginning, as a worker would that never crashed and never stored anything.

Takes records in log order, in pieces of any size; gives, when asked, what came of those since the last time. Keeps
what tables and ClickHouse would keep: accounts, windows and every fact, because an old message is looked up among
them. Those facts are most of its memory.

Invariant: what comes of a record does not depend on how the log was cut into pieces and questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from pipeline.core.account import Account, Entry
from pipeline.core.admission import Admitted, LogRecord
from pipeline.core.identity_deltas import StoredCharge
from pipeline.core.kept import decode_kept
from pipeline.core.outcomes import FACT_COLUMNS, Fact, Outcomes
from pipeline.core.process import PartitionFold, StateChanges, Stored
from pipeline.core.refunds import NO_OFFSET, StoredMessage, refund_key
from pipeline.core.rules import Rules
from pipeline.core.usage import usage_entries

CHECKPOINT_RECORDS = 50_000

_IDENTITY, _FINGERPRINT, _OFFSET = (
    FACT_COLUMNS.index(name) for name in ("message_key", "fingerprint", "kafka_offset")
)
_decoder = msgspec.msgpack.Decoder(Account)


@dataclass
class Came:
    """What came of a stretch of the log."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    usage_entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """By (tenant, entry id): the entries of windows that changed, as they are at the stretch's end."""
    accounts: dict[str, Account] = field(default_factory=dict)
    """By tenant: those that changed, as they are at the stretch's end."""


class Replay:
    """The fold of one partition with everything that it would have stored."""

    def __init__(self, partition: int, rules: Rules, checkpoint_records: int = CHECKPOINT_RECORDS) -> None:
        self._accounts: dict[bytes, bytes] = {}
        self._windows: dict[bytes, bytes] = {}
        self._fold = PartitionFold(partition, rules, self._accounts.get, self._windows.get)
        self._checkpoint_records = checkpoint_records
        self._facts: dict[bytes, Fact] = {}
        self._came = Came()
        self._changed: set[bytes] = set()

    def fold(self, records: Sequence[LogRecord]) -> None:
        """Folds the next records of the partition."""
        if not records:
            return
        fold = self._fold
        admitted = fold.admit(records)
        fold.fold(admitted, self._look_up(admitted))
        fold.applied(records[-1].offset)
        self._keep_outcomes()
        # A checkpoint falls where the offset passes a multiple, so pieces may be of any size.
        every = self._checkpoint_records
        if (records[-1].offset + 1) // every != records[0].offset // every:
            self._checkpoint()

    def take(self) -> Came:
        """What came of the records since the last call; it is the caller's from here on."""
        self._checkpoint()
        came, self._came = self._came, Came()
        for key in self._changed:
            account = decode_kept(_decoder, self._accounts[key])
            came.accounts[account.tenant] = account
        self._changed.clear()
        return came

    def tenants(self) -> list[str]:
        """Those that have an account."""
        self._checkpoint()
        return [key.decode() for key in self._accounts]

    def _look_up(self, admitted: Sequence[Admitted]) -> Stored:
        facts, fold = self._facts, self._fold
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

    def _keep_outcomes(self) -> None:
        outcomes, total = self._fold.take_outcomes(), self._came.outcomes
        for fact in outcomes.facts:
            self._facts[fact[_IDENTITY]] = fact
        total.facts += outcomes.facts
        total.entries += outcomes.entries
        total.alerts += outcomes.alerts
        total.results += outcomes.results
        total.recharges += outcomes.recharges
        total.contacts += outcomes.contacts
        total.refusals += outcomes.refusals
        total.counts += outcomes.counts

    def _checkpoint(self) -> None:
        changes: StateChanges = self._fold.checkpoint()
        for table, values in ((self._windows, changes.windows), (self._accounts, changes.accounts)):
            for key, value in values.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
        self._changed.update(changes.accounts)
        for window in changes.changed_windows:
            for entry in usage_entries(window):
                self._came.usage_entries[window.tenant, entry.entry_id] = entry
