"""Comparing two sides: what counts as a difference, what of it is told, and that moving on is none."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import reconciliation as parts
from pipeline.core.account import Account
from pipeline.core.kept import decode_kept
from pipeline.core.log_comparison import (
    COMPARED,
    LogComparison,
    StoredRow,
    account_values,
    document_row,
    entry_values,
)
from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.process import StateChanges
from pipeline.core.reconciliation import Part, Scope, Tally
from pipeline.core.refusals import Refusal
from pipeline.core.replay import Replay
from pipeline.core.rules import Rules
from tests.builders import AT, DAY, HOUR, NOON, Log, Record, Worker, instant, plan, rules
from tests.properties.random_logs import make_log, seeds, small_rules

_decoder = msgspec.msgpack.Decoder(Account)
DAY_NUMBER = NOON // DAY


# One row against another.


def fact(**fields: Any) -> tuple[Any, ...]:
    row = dict.fromkeys(FACT_COLUMNS, 0) | {
        "tenant": "acme",
        "message_id": "m1",
        "source": "gateway",
        "local_date": DAY_NUMBER,
        "messages": 1,
        "segments": 2,
        "quantity": 2,
        "credits_micros": 3,
    }
    return tuple((row | fields).values())


def test_equal_rows_are_counted_on_both_sides_and_differ_in_nothing() -> None:
    tally = Tally(parts.FACTS)
    tally.compare(("acme", b"1"), fact(), fact(), "UTC")
    assert (tally.one_rows, tally.other_rows, tally.differing, tally.differences) == (1, 1, 0, [])


def test_a_difference_names_what_differs_with_both_values_and_nothing_else() -> None:
    tally = Tally(parts.FACTS)
    tally.compare(("acme", b"1"), fact(), fact(segments=1, status="sent"), "UTC")
    (difference,) = tally.differences
    assert difference[1:] == (
        ("acme", b"1"),
        DAY_NUMBER,
        {"segments": 2, "status": 0},
        {"segments": 1, "status": "sent"},
        "gateway m1",
    )


@pytest.mark.parametrize(("one", "other"), [(fact(), None), (None, fact(messages=0))])
def test_a_row_that_one_side_lacks_differs(one: Any, other: Any) -> None:
    tally = Tally(parts.FACTS)
    tally.compare(("acme", b"1"), one, other, "UTC")
    (difference,) = tally.differences
    assert (difference.one is None, difference.other is None) == (one is None, other is None)
    assert difference.about == ("gateway m1" if one else "gateway m1 (refund)")
    assert (tally.one_rows, tally.other_rows, tally.differing) == (one is not None, other is not None, 1)


def test_a_hash_under_another_key_is_no_difference() -> None:
    tally = Tally(parts.FACTS)
    tally.compare(("acme", b"1"), fact(counterparty_hash=1), fact(counterparty_hash=2), "UTC")
    assert tally.differing == 0


def test_a_refusal_that_names_another_gateway_differs_and_one_of_a_release_that_named_none_does_not() -> None:
    said = {"tenant": "acme", "offset": 7, "reason": "not_json", "received_at": NOON}
    for theirs, differing in (
        ({}, 0),
        ({"source": "gateway-eu"}, 0),
        ({"source": "gateway-tr"}, 1),
        ({"source": None}, 1),
    ):
        tally = Tally(parts.REFUSALS)
        log, published = (
            document_row(parts.REFUSALS, said | source) for source in ({"source": "gateway-eu"}, theirs)
        )
        tally.compare(log.key, log.values, published.values, "UTC")
        assert tally.differing == differing, theirs


def test_refusals_of_a_release_that_repeated_any_text_do_not_differ() -> None:
    theirs = {
        "tenant": "not a tenant", "id": "+14155550100", "source": "+14155550100 your PIN is 4711",
        "offset": 7, "reason": "not_json", "received_at": NOON,
    }  # fmt: skip
    tally = Tally(parts.REFUSALS)
    log, published = (
        document_row(parts.REFUSALS, each)
        for each in (theirs | {"tenant": None, "id": None, "source": "gateway-eu"}, theirs)
    )
    assert log.key == published.key
    tally.compare(log.key, log.values, published.values, "UTC")
    assert tally.differing == 0


def test_a_window_that_is_not_there_is_one_of_zeros() -> None:
    tally = Tally(parts.WINDOWS)
    tally.compare(("acme", NOON), None, (0, 0, 0, 0, NOON), "UTC")
    tally.compare(("acme", NOON + 1), (1, 0, 0, 0, NOON), None, "UTC")
    (difference,) = tally.differences
    assert (difference.one, difference.other) == (
        {"messages": 1},
        {"messages": 0},
    )


def test_sums_by_tenant_and_local_day_are_of_all_rows_and_days_that_differ_are_marked() -> None:
    tally = Tally(parts.WINDOWS, most_kept=0)
    late = instant("2026-02-11T04:00")  # Still the 10th in New York.
    for key, one, other in (("a", (1, 1, 1, 5), (1, 1, 1, 5)), ("b", (1, 2, 2, 7), (1, 2, 2, 9))):
        tally.compare(("acme", late, key), (*one, late), (*other, late), "America/New_York")
    tally.compare(
        ("acme", late + DAY), (1, 1, 1, 1, late + DAY), (1, 1, 1, 1, late + DAY), "America/New_York"
    )
    sums = tally.by_day["acme", DAY_NUMBER]
    assert (sums.one, sums.other, sums.differing) == ([2, 3, 3, 12], [2, 3, 3, 14], 1)
    assert tally.by_day["acme", DAY_NUMBER + 1].differing == 0
    assert (tally.differing, tally.differences) == (1, [])


def test_only_the_days_of_the_scope_are_compared_and_accounts_always() -> None:
    scope = Scope(first_day=DAY_NUMBER, last_day=DAY_NUMBER)
    facts, accounts = Tally(parts.FACTS, scope), Tally(parts.ACCOUNTS, scope)
    for day in (-1, 0, 1):
        facts.compare(("acme", day), fact(local_date=DAY_NUMBER + day), None, "UTC")
    accounts.compare(("acme",), (0,) * len(parts.ACCOUNTS.fields), None, "UTC")
    assert (facts.differing, accounts.differing) == (1, 1)


def test_counts_are_whole_when_few_differences_are_kept() -> None:
    tally = Tally(parts.FACTS, most_kept=2)
    for number in range(5):
        tally.compare(("acme", number), fact(), None, "UTC")
    assert (tally.differing, len(tally.differences)) == (5, 2)


# A log against a store.


class Store:
    """What a worker has stored and published, as the rows a comparison takes."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.accounts: dict[str, Account] = {}

    def keep(self, changes: StateChanges) -> None:
        """The accounts of a checkpoint."""
        for value in changes.accounts.values():
            if value is not None:
                account = decode_kept(_decoder, value)
                self.accounts[account.tenant] = account

    def rows(self, part: Part) -> list[StoredRow]:
        effects = self.worker.effects
        if part is parts.FACTS:
            return [
                StoredRow(tuple(fact[AT[name]] for name in ("tenant", "message_key", "kind", "occurred_at")), fact,
                          fact[AT["kafka_offset"]])
                for fact in effects.facts.values()
            ]  # fmt: skip
        if part is parts.WINDOWS:
            return list(self._windows())
        if part is parts.ENTRIES:
            return [
                StoredRow(key, entry_values(entry), entry.offset) for key, entry in effects.entries.items()
            ]
        if part is parts.ACCOUNTS:
            return list(self._accounts())
        documents = {
            parts.ALERTS: effects.alerts,
            parts.PUBLISHED_ALERTS: effects.alerts,
            parts.RESULTS: effects.results,
            parts.REFUSALS: effects.refusals,
        }.get(part, {})
        return [document_row(part, document) for document in documents.values()]

    def _windows(self) -> Iterator[StoredRow]:
        """Those held, and those that are let go summed from the facts."""
        effects = self.worker.effects
        for (tenant, start), (version, cells) in effects.windows.items():
            if (tenant, start) not in effects.recomputed:
                for dimensions, cell in cells.items():
                    yield StoredRow((tenant, start, *dimensions), (*cell, start), version)
        summed: dict[tuple[Any, ...], list[int]] = {}
        for row in effects.facts.values():
            start = row[AT["occurred_at"]] - row[AT["occurred_at"]] % 900_000
            if (row[AT["tenant"]], start) in effects.recomputed:
                dimensions = (row[AT[name]] for name in ("kind", "direction", "country", "category"))
                cell = summed.setdefault((row[AT["tenant"]], start, *dimensions), [0, 0, 0, 0, 0])
                for at, name in enumerate(("messages", "segments", "quantity", "credits_micros")):
                    cell[at] += row[AT[name]]
                cell[4] = max(cell[4], row[AT["kafka_offset"]])
        for key, cell in summed.items():
            yield StoredRow(key, (*cell[:4], key[1]), cell[4])

    def _accounts(self) -> Iterator[StoredRow]:
        for account in self.accounts.values():
            if account.periods or account.plans or account.grants:
                terms = self.worker.rules.plan_at(account)
                values = account_values(account, terms.name if terms else "", terms.zone if terms else "UTC")
                yield StoredRow((account.tenant,), values, account.applied_offset)


def compared(
    log: list[Record],
    given: Rules,
    committed: int,
    rows: Callable[[Part], list[StoredRow]],
    **options: Any,
) -> dict[Part, Tally]:
    """What comes of comparing a log of one partition with rows."""
    scope = Scope()
    tallies = {part: Tally(part, scope) for part in COMPARED}
    replay = Replay(0, given)
    replay.fold(log[:committed])
    comparison = LogComparison(replay, given, scope, tallies, committed_offset=committed, **options)
    for part in COMPARED:
        comparison.compare(part, rows(part))
    folded = committed
    for offset in comparison.asked_offsets(len(log)):
        replay.fold(log[folded : offset + 1])
        folded = offset + 1
        comparison.answer(offset)
    comparison.close()
    return tallies


def differing(tallies: dict[Part, Tally]) -> set[str]:
    return {part.name for part, tally in tallies.items() if tally.differing}


def a_log() -> list[Record]:
    log = Log()
    log.set_plan(plan("3", alert_levels=(80,)), effective_at=NOON - 40 * DAY)
    log.messages(2)
    log.now += HOUR
    log.grant("2")
    log.message("twice", body="x" * 161)
    log.message("twice", body="x" * 161)
    log.message("bad", occurred_at=NOON + 9 * DAY)
    return log.records


def stored(log: list[Record], given: Rules) -> Store:
    worker = Worker(given)
    worker.take(log)
    store = Store(worker)
    store.keep(worker.keep())
    return store


def test_what_a_worker_stored_of_a_log_agrees_with_it() -> None:
    log, given = a_log(), rules()
    tallies = compared(log, given, len(log), stored(log, given).rows)
    assert differing(tallies) == set()
    seen = {part.name: tally.one_rows for part, tally in tallies.items()}
    assert seen.pop("recharges") == 0
    assert all(seen.values()), seen


CHANGED: dict[str, tuple[Part, Callable[[list[StoredRow]], list[StoredRow]]]] = {
    "a fact is missing": (parts.FACTS, lambda rows: rows[1:]),
    "a fact is there twice": (
        parts.FACTS,
        lambda rows: [*rows, rows[0]._replace(key=("acme", b"other", "sms", NOON))],
    ),
    "a window is missing": (parts.WINDOWS, lambda rows: rows[1:]),
    "a window is of another amount": (
        parts.WINDOWS,
        lambda rows: [rows[0]._replace(values=(9, *rows[0].values[1:])), *rows[1:]],
    ),
    "a window is of another amount and of a version beyond the log": (
        parts.WINDOWS,
        lambda rows: [rows[0]._replace(values=(9, *rows[0].values[1:]), version=10**6), *rows[1:]],
    ),
    "an entry is missing": (parts.ENTRIES, lambda rows: rows[:-1]),
    "an account is missing": (parts.ACCOUNTS, lambda rows: rows[1:]),
    "an account of nobody": (parts.ACCOUNTS, lambda rows: [*rows, rows[0]._replace(key=("nobody",))]),
    "an alert is missing": (parts.PUBLISHED_ALERTS, lambda rows: rows[1:]),
    "an alert's id is there with another content": (
        parts.PUBLISHED_ALERTS,
        lambda rows: [*rows, rows[0]._replace(values=("other", *rows[0].values[1:]))],
    ),
    "a result is missing": (parts.RESULTS, lambda rows: rows[1:]),
    "a refusal is missing": (parts.REFUSALS, lambda rows: rows[1:]),
    "a refusal for want of content that no record explains": (
        parts.REFUSALS,
        lambda rows: [*rows, rows[0]._replace(key=("acme", 2, Refusal.CONTENT_MISSING.value))],
    ),
}


@pytest.mark.parametrize("what", CHANGED)
@pytest.mark.parametrize("behind", [0, 2])
def test_what_was_changed_is_found_at_a_standstill_and_ahead_of_a_commit(what: str, behind: int) -> None:
    """With `behind` records not committed, what is stored of them is compared all the same."""
    part, change = CHANGED[what]
    log, given = a_log(), rules()
    store = stored(log, given)
    tallies = compared(
        log,
        given,
        len(log) - behind,
        lambda each: change(store.rows(each)) if each is part else store.rows(each),
    )
    # A row of the last records that is missing may be on its way: it is not committed.
    is_on_its_way = behind and "missing" in what and part in (parts.REFUSALS, parts.ENTRIES, parts.WINDOWS)
    assert differing(tallies) == (set() if is_on_its_way and not tallies[part].differing else {part.name})


def test_a_fact_that_the_store_did_not_take_is_on_record_and_no_difference() -> None:
    log, given = a_log(), rules()
    store = stored(log, given)
    lost = store.rows(parts.FACTS)[0]
    comparison_rows = lambda part: [row for row in store.rows(part) if row != lost]  # noqa: E731 - shorter here
    assert differing(compared(log, given, len(log), comparison_rows)) == {"facts"}
    tallies = compared(log, given, len(log), comparison_rows, unstorable=frozenset({lost.version}))
    assert differing(tallies) == set()


@settings(max_examples=300, deadline=None)
@given(seeds, st.randoms(use_true_random=False))
def test_wherever_a_worker_stands_or_dies_nothing_differs(event_seeds: list[int], chance: Random) -> None:
    """Epochs and checkpoints fall anywhere; what of them is stored, written and committed ends anywhere."""
    log, given = make_log(event_seeds), small_rules()
    worker = Worker(given)
    store = Store(worker)
    committed = folded = 0
    while folded < len(log):
        end = folded + chance.randrange(1, 8)
        worker.take(log[folded:end])
        folded = min(end, len(log))
        what = chance.random()
        if what < 0.3:
            worker.close_epoch()
        elif what < 0.6:
            changes = worker.checkpoint()
            store.keep(changes)
            if chance.random() < 0.3:
                break  # Killed between storing and committing.
            worker.write(changes)
            committed = folded
    tallies = compared(log, given, committed, store.rows)
    assert differing(tallies) == set(), [each for tally in tallies.values() for each in tally.differences]
