"""One partition's log against what is stored and published of it, exactly, also while workers go on storing.

Takes a `Replay` of the partition and stored rows with their versions, which are offsets; gives tallies. The order in
which the caller does things is the proof that nothing that only moves is taken for a difference:

1. the group's committed offset is read, and the log is folded up to there;
2. stored rows are read: what lies below the committed offset was stored before it was committed, so a row that the
   log has by then and the store has not is missing;
3. a row whose version is at or beyond the committed offset was stored by an epoch that is not committed yet. It is
   compared with the log folded on: rows that are replaced with the log as it is at their version, where
   `asked_offsets` stop, and rows that follow from one record with the log as it is behind all of them.
4. A version that the log does not reach belongs to no record: the row differs.

Never reads anything itself, and keeps no row that was compared.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from msgspec import UNSET

from pipeline.core import reconciliation as parts
from pipeline.core.account import Account, Entry
from pipeline.core.outcomes import FACT_COLUMNS, Document, Fact
from pipeline.core.reconciliation import Key, Part, Scope, Tally, Values
from pipeline.core.refusals import Refusal
from pipeline.core.repeated import gateway_name, identity_name
from pipeline.core.replay import Replay
from pipeline.core.rules import Rules
from pipeline.core.windows import WINDOW_MILLISECONDS

_TENANT, _KEY, _KIND, _OCCURRED, _DIRECTION, _COUNTRY, _CATEGORY = (
    FACT_COLUMNS.index(name)
    for name in ("tenant", "message_key", "kind", "occurred_at", "direction", "country", "category")
)
_USED = [FACT_COLUMNS.index(name) for name in ("messages", "segments", "quantity", "credits_micros")]
_FACT_OFFSET = FACT_COLUMNS.index("kafka_offset")
COMPARED = (
    parts.FACTS,
    parts.WINDOWS,
    parts.ENTRIES,
    parts.ACCOUNTS,
    parts.ALERTS,
    parts.PUBLISHED_ALERTS,
    parts.RESULTS,
    parts.RECHARGES,
    parts.REFUSALS,
)
"""In the order they are shown."""


_REPLACED = (parts.WINDOWS, parts.ENTRIES, parts.ACCOUNTS)
"""Their rows are absolute, and replaced while the log goes on; all others follow from one record."""


class StoredRow(NamedTuple):
    """A row as it was found."""

    key: Key
    values: Values
    version: int
    """The offset applied last, or that of the record it came of."""


class LogComparison:
    """One partition, compared at its committed offset and, where rows are ahead of it, at theirs."""

    def __init__(
        self,
        replay: Replay,
        rules: Rules,
        scope: Scope,
        tallies: Mapping[Part, Tally],
        *,
        committed_offset: int,
        unstorable: frozenset[int] = frozenset(),
    ) -> None:
        """The replay has been folded up to `committed_offset`, which is the first that is not committed.

        `unstorable` are offsets whose facts were refused by the store and are on record as that.
        """
        self._replay = replay
        self._committed = committed_offset
        self._tallies = tallies
        self._unstorable = unstorable
        self._log = _LogSide(rules, scope)
        self._log.add(replay)
        self._ahead: list[tuple[Part, StoredRow]] = []
        """Rows to compare wherever the fold ends."""
        self._replaced_ahead: list[tuple[Part, StoredRow]] = []
        """Rows to compare at their versions, the last first once they are asked for."""
        self.ahead_count = 0
        """Rows compared at offsets that were not committed."""
        self.unstorable_count = 0

    def compare(self, part: Part, stored: Iterable[StoredRow]) -> None:
        """Compares all stored rows of one part that belong to this partition and scope."""
        log, tally, zones = self._log.rows[part], self._tallies[part], self._log.zones
        seen = set()
        for row in stored:
            expected = log.get(row.key)
            if expected is not None:
                seen.add(row.key)
            if row.version >= self._committed:
                ahead = self._replaced_ahead if part in _REPLACED else self._ahead
                ahead.append((part, row))
                continue
            if expected is None and _may_belong_later(part, row):
                self._ahead.append((part, row))
                continue
            tally.compare(row.key, expected, row.values, zones.get(row.key[0], "UTC"))
        for key, values in log.items():
            if key in seen:
                continue
            if part is parts.FACTS and values[_FACT_OFFSET] in self._unstorable:
                self.unstorable_count += 1
                continue
            tally.compare(key, values, None, zones.get(key[0], "UTC"))

    def asked_offsets(self, end_offset: int) -> list[int]:
        """The offsets, ascending, up to which the log has to be folded on one after the other.

        `end_offset` is where the log ends; versions that it does not reach are left out.
        """
        self._replaced_ahead.sort(key=lambda each: each[1].version, reverse=True)
        asked = {row.version for _, row in self._replaced_ahead}
        asked.add(max((row.version for _, row in self._ahead), default=self._committed))
        if any(_may_belong_later(part, row) for part, row in self._ahead):
            # Refused for want of content under the position of its first record, by a later one that is not named.
            asked.add(end_offset - 1)
        return sorted(offset for offset in asked if self._committed <= offset < end_offset)

    def answer(self, offset: int) -> None:
        """Compares what is to be compared at `offset`, which the replay has just been folded up to."""
        self._log.add(self._replay)
        rows = self._replaced_ahead
        while rows and rows[-1][1].version <= offset:
            self._compare_now(rows.pop())
            self.ahead_count += 1

    def close(self) -> None:
        """Compares what is left with the log as far as it was folded."""
        self.ahead_count += len(self._ahead)
        for each in (*self._replaced_ahead, *self._ahead):
            self._compare_now(each)
        self._replaced_ahead, self._ahead = [], []

    def _compare_now(self, ahead: tuple[Part, StoredRow]) -> None:
        part, row = ahead
        expected = self._log.rows[part].get(row.key)
        self._tallies[part].compare(row.key, expected, row.values, self._log.zones.get(row.key[0], "UTC"))


def _may_belong_later(part: Part, row: StoredRow) -> bool:
    return part is parts.REFUSALS and row.key[-1] == Refusal.CONTENT_MISSING


class _LogSide:
    """What must be stored of the log, by part and key, as far as it was folded."""

    def __init__(self, rules: Rules, scope: Scope) -> None:
        self.rows: dict[Part, dict[Key, Values]] = {part: {} for part in COMPARED}
        self.zones: dict[str, str] = {}
        self._rules = rules
        self._scope = scope

    def add(self, replay: Replay) -> None:
        """Takes in what the replay has folded since the last time."""
        came = replay.take()
        has = self._scope.has_tenant
        self._add_facts(fact for fact in came.outcomes.facts if has(fact[_TENANT]))
        entries = self.rows[parts.ENTRIES]
        for tenant, entry in (
            *came.outcomes.entries,
            *((key[0], each) for key, each in came.usage_entries.items()),
        ):
            if has(tenant):
                entries[tenant, entry.entry_id] = entry_values(entry)
        for account in came.accounts.values():
            if has(account.tenant):
                self._add_account(account)
        outcomes = came.outcomes
        for part, documents in (
            (parts.ALERTS, outcomes.alerts),
            (parts.PUBLISHED_ALERTS, outcomes.alerts),
            (parts.RESULTS, outcomes.results),
            (parts.RECHARGES, outcomes.recharges),
            (parts.REFUSALS, outcomes.refusals),
        ):
            for document in documents:
                if has(document["tenant"] or ""):
                    row = document_row(part, document)
                    self.rows[part][row.key] = row.values

    def _add_facts(self, facts: Iterable[Fact]) -> None:
        stored, cells = self.rows[parts.FACTS], self.rows[parts.WINDOWS]
        messages, segments, quantity, credits_micros = _USED
        for fact in facts:
            tenant, kind, occurred_at = fact[_TENANT], fact[_KIND], fact[_OCCURRED]
            stored[tenant, fact[_KEY], kind, occurred_at] = fact
            start = occurred_at - occurred_at % WINDOW_MILLISECONDS
            key = (tenant, start, kind, fact[_DIRECTION], fact[_COUNTRY], fact[_CATEGORY])
            cell = cells.get(key, (0, 0, 0, 0, start))
            cells[key] = (
                cell[0] + fact[messages],
                cell[1] + fact[segments],
                cell[2] + fact[quantity],
                cell[3] + fact[credits_micros],
                start,
            )

    def _add_account(self, account: Account) -> None:
        plan = self._rules.plan_at(account)
        # Who has neither plan nor credits has no account yet.
        if account.periods or account.plans or account.grants:
            zone = self.zones[account.tenant] = plan.zone if plan else "UTC"
            name = plan.name if plan else ""
            self.rows[parts.ACCOUNTS][account.tenant,] = account_values(account, name, zone)


def entry_values(entry: Entry) -> Values:
    """An entry as `ENTRIES` has it."""
    return (
        entry.kind, entry.grant_id, entry.window_start, entry.amount, entry.balance_after, entry.money_micros,
        entry.currency, entry.cause, entry.effective_at, entry.posted_at,
    )  # fmt: skip


def account_values(account: Account, plan: str, zone: str) -> Values:
    """An account as `ACCOUNTS` has it."""
    now = account.clock_at
    period = account.period_at(now) if account.periods else None
    starts_at, ends_at = (period.starts_at, period.ends_at) if period else (now, now)
    return (
        account.organization, plan, zone, starts_at, ends_at, period.limit if period else 0,
        period.used if period else 0, account.balance, account.uncovered, account.available, account.reserved,
        account.unassigned, {grant.id: grant.remaining for grant in account.grants},
    )  # fmt: skip


def document_row(part: Part, document: Document) -> StoredRow:
    """An alert, result, request or refusal under what names it."""
    tenant: str = document["tenant"] or ""
    names: tuple[Any, ...]
    if part is parts.REFUSALS:
        document = _as_repeated_now(document)
        tenant = document["tenant"] or ""
        names = (document["offset"], document["reason"])
    elif part is parts.RESULTS:
        names = (document["command_id"], document["offset"])
    else:
        names = (document["id"],)
    values = tuple(document.get(name) for name in part.fields)
    return StoredRow((tenant, *names), values, document["offset"])


def _as_repeated_now(document: Document) -> Document:
    """A refusal as this release would write it, as far as can be told.

    Those of older releases are in the topic for as long as it keeps them. They name no gateway, or name what looks like
    none: UNSET, which is not compared; and tenants and ids that look like none, which no release says now.
    """
    source = document.get("source", UNSET)
    if source and not gateway_name(source):
        source = UNSET
    names = {name: identity_name(document.get(name)) for name in ("tenant", "id")}
    return {**document, **names, "source": source}
