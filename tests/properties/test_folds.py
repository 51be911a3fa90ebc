"""However the log is cut, crashed and replayed, the same comes out."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import identity
from pipeline.core.amounts import parse_credits
from pipeline.core.process import StateChanges
from pipeline.core.rules import Rules
from tests.builders import AT, HOUR, MINUTE, NOON, Log, Record, Worker, message, plan, rules, writes
from tests.properties.random_logs import TENANTS, make_log, seeds, small_rules

EXAMPLES = 400


@pytest.fixture(scope="module", autouse=True)
def small_deltas() -> Iterator[None]:
    """Deltas are cut and sealed after a handful of identities, so that logs of fifty records make several."""
    before = identity.SEALED_WEIGHT, identity.CUT_WEIGHT
    identity.SEALED_WEIGHT, identity.CUT_WEIGHT = 3, 5
    yield
    identity.SEALED_WEIGHT, identity.CUT_WEIGHT = before


def outcome(worker: Worker) -> dict[str, Any]:
    """All that a log leaves behind, but for the metrics and what is held of charged identities."""
    effects, tables = worker.effects, worker.tables
    return {
        "facts": effects.facts,
        "entries": effects.entries,
        "alerts": effects.alerts,
        "results": effects.results,
        "refusals": effects.refusals,
        "usage": effects.windows,
        "recomputed": effects.recomputed,
        "accounts": tables.accounts,
        "pending": worker.fold.identities.pending,
    }


def folded_at_once(records: list[Record], rules: Rules) -> Worker:
    worker = Worker(rules)
    worker.take(records)
    worker.keep()
    return worker


def assert_same(one: Worker, other: Worker) -> None:
    left, right = outcome(one), outcome(other)
    for part, value in left.items():
        assert value == right[part], part


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    seeds,
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from(("chunk", "epoch begun", "epoch", "checkpoint"))),
        max_size=20,
    ),
)
def test_cutting_into_chunks_epochs_and_checkpoints_changes_nothing(
    event_seeds: list[int], cuts: list[tuple[int, str]]
) -> None:
    records, rules = make_log(event_seeds), small_rules()
    whole = folded_at_once(records, rules)
    worker = Worker(rules)
    position = 0
    for count, cut in cuts:
        worker.take(records[position : position + count])
        position += count
        if cut == "epoch begun":
            worker.take_epoch()
        elif cut == "epoch":
            worker.close_epoch()
        elif cut == "checkpoint":
            worker.keep()
    worker.take(records[position:])
    worker.keep()
    assert_same(whole, worker)


class Chaos:
    """A worker that folds, keeps state, dies at any place and is taken up again, and zombies of it."""

    def __init__(self, records: list[Record], rules: Rules) -> None:
        self.records = records
        self.rules = rules
        self.worker = Worker(rules)
        self.position = 0
        self.committed = 0
        self.written: list[StateChanges] = []

    def fold(self, count: int) -> None:
        self.worker.take(self.records[self.position : self.position + count])
        self.position = min(self.position + count, len(self.records))

    def crash(self) -> None:
        self.worker = Worker(self.rules, self.worker.tables, self.worker.effects)
        self.position = self.committed

    def step(self, action: str, number: int) -> None:
        if action == "fold":
            self.fold(1 + number % 8)
        elif action == "crash":
            self.crash()
        elif action == "epoch begun":
            self.worker.take_epoch()
        elif action == "crash after effects":
            self.worker.close_epoch()
            self.crash()
        elif action == "checkpoint":
            self.written.append(self.worker.keep())
            self.committed = self.position
        elif action == "checkpoint not committed":
            self.written.append(self.worker.keep())
        elif action == "crash in checkpoint":
            changes = self.worker.checkpoint()
            self.written.append(changes)
            self.worker.write(changes, number % (len(writes(changes)) + 1))
            self.crash()
        elif self.written:  # A zombie wakes up and writes an old checkpoint again.
            for write in writes(self.written[number % len(self.written)]):
                self.worker.tables.offer(*write)

    def finish(self) -> Worker:
        self.fold(len(self.records))
        self.worker.keep()
        return self.worker


ACTIONS = (
    "fold", "fold", "fold", "epoch begun", "checkpoint", "checkpoint not committed", "crash", "crash after effects",
    "crash in checkpoint", "crash in checkpoint", "zombie",
)  # fmt: skip
actions = st.builds(
    lambda seed, count: [
        (chance.choice(ACTIONS), chance.randrange(1000)) for chance in [Random(seed)] for _ in range(count)
    ],
    st.integers(0, 2**32),
    st.integers(1, 30),
)


@settings(max_examples=3 * EXAMPLES, deadline=None)
@given(seeds, actions)
def test_a_worker_killed_anywhere_ends_where_an_unbroken_one_does(
    event_seeds: list[int], steps: list[tuple[str, int]]
) -> None:
    records, rules = make_log(event_seeds), small_rules()
    whole = folded_at_once(records, rules)
    chaos = Chaos(records, rules)
    for action, number in steps:
        chaos.step(action, number)
    assert_same(whole, chaos.finish())


def test_a_zombie_with_an_older_value_loses() -> None:
    log = Log()
    log.set_plan()
    log.messages(2)
    worker = Worker(rules())
    worker.take(log.records[:2])
    older = worker.keep()
    worker.take(log.records[2:])
    worker.keep()
    kept = deepcopy(worker.tables)
    for write in writes(older):
        worker.tables.offer(*write)
    assert worker.tables == kept


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds, st.lists(st.integers(1, 9), max_size=20))
def test_what_is_evicted_is_found_among_what_is_stored(event_seeds: list[int], cuts: list[int]) -> None:
    """A memory for three identities gives what a memory for all gives."""
    records = make_log(event_seeds)
    forgetful, remembering = Worker(small_rules()), Worker(small_rules(identity_limit=10_000))
    position = 0
    for count in [*cuts, len(records)]:
        for worker in (forgetful, remembering):
            worker.take(records[position : position + count])
            worker.keep()
        position += count
    assert_same(remembering, forgetful)


roomy = small_rules(pending_milliseconds=1000 * HOUR, pending_limit=1000)


def totals(worker: Worker) -> dict[str, Any]:
    """What was billed, whichever records charged it."""
    sums: Counter[tuple[Any, ...]] = Counter()
    for fact in worker.effects.facts.values():
        place = tuple(
            fact[AT[name]] for name in ("tenant", "message_id", "country", "category", "local_date")
        )
        for name in ("messages", "segments", "quantity", "credits_micros"):
            sums[*place, name] += fact[AT[name]]
    return {
        "sums": sums,
        "accounts": {
            tenant: (account.balance, [period.used for period in account.periods])
            for tenant in TENANTS
            for account in [worker.account(tenant)]
        },
        "uncovered": [worker.account(tenant).uncovered for tenant in TENANTS],
        "levels": {
            (alert["tenant"], alert["period_start"], alert["level"])
            for alert in worker.effects.alerts.values()
        },
    }


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=10))
def test_repeating_records_changes_no_totals(event_seeds: list[int], repeats: list[tuple[int, int]]) -> None:
    records = make_log(event_seeds, is_orderly=True)
    ends = Log(max(record.timestamp for record in records))
    for tenant in TENANTS:  # A repeated record lets time pass, like any other.
        ends.command("tick", f"end of {tenant}", tenant=tenant)
    longer = list(records)
    for first, distance in repeats:
        original = records[first % len(records)]
        place = min(longer.index(original) + 1 + distance, len(longer))
        longer.insert(place, original._replace(timestamp=longer[place - 1].timestamp))
    once, again = (
        folded_at_once([each._replace(offset=at) for at, each in enumerate([*log, *ends.records])], roomy)
        for log in (records, longer)
    )
    assert totals(once) == totals(again)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.integers(1, 5),
    st.integers(2, 8),
    st.sampled_from(((), ("failed",), ("undelivered", "failed"))),
)
def test_the_order_of_statuses_changes_no_totals(
    chance: Random, message_count: int, status_count: int, refunded: tuple[str, ...]
) -> None:
    """Receipts come in any order, before the body too, and are repeated; failures are refunded or not."""
    log = Log()
    for tenant in TENANTS:
        log.set_plan(plan("3", refunded_statuses=refunded), tenant=tenant)
    statuses = []
    for number in range(message_count):
        kind = chance.choice(("sms", "sms", "mms"))
        content = {"body": "x" * chance.choice((1, 161, 400)), "category": "campaign", "country": "DE"}
        for position in range(status_count):
            said = content if position == 0 or chance.random() < 0.3 else {"body": None}
            status = chance.choice(("accepted", "queued", "sent", "delivered", "undelivered", "failed"))
            statuses.append(message(f"m{number}", kind=kind, status=status, **said))
    # Content is told by every record of an MMS, since the first of them may charge it.
    statuses = [
        each | {"category": "campaign", "country": "DE"} if each["kind"] == "mms" else each
        for each in statuses
    ]
    billed = []
    for _ in range(3):
        chance.shuffle(statuses)
        records = [Record(2 + at, NOON, b"acme", orjson.dumps(each)) for at, each in enumerate(statuses)]
        billed.append(totals(folded_at_once([*log.records, *records], roomy)))
    if refunded:
        # A refund that comes before another charge leaves it more to burn, and brings usage under a level again.
        for each in billed:
            del each["levels"], each["uncovered"]
    assert billed[0] == billed[1] == billed[2]


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_accounts_windows_and_alerts_agree_with_entries_and_facts(event_seeds: list[int]) -> None:
    worker = folded_at_once(make_log(event_seeds), small_rules())
    effects = worker.effects
    entries: Counter[str] = Counter()
    for (tenant, _), entry in effects.entries.items():
        entries[tenant] += entry.amount
    for tenant in TENANTS:
        account = worker.account(tenant)
        assert entries[tenant] == account.balance
        assert all(0 <= grant.remaining <= grant.amount for grant in account.grants)
        assert account.grants == sorted(account.grants, key=lambda grant: grant.burn_order)
        for before, after in pairwise(account.periods):
            assert before.ends_at == after.starts_at
    windows: dict[tuple[str, int], Counter[tuple[Any, ...]]] = defaultdict(Counter)
    names = ("messages", "segments", "quantity", "credits_micros")
    for fact in effects.facts.values():
        assert (
            fact[AT["grant_micros"]] + sum(fact[AT["further_grants"]].values()) == fact[AT["credits_micros"]]
        )
        start = fact[AT["occurred_at"]] // (15 * MINUTE) * 15 * MINUTE
        dimensions = tuple(fact[AT[name]] for name in ("kind", "direction", "country", "category"))
        cell = windows[fact[AT["tenant"]], start]
        for name in names:
            cell[*dimensions, name] += fact[AT[name]]
    for place, (_, cells) in effects.windows.items():
        if place not in effects.recomputed:
            held = {
                (*key, name): each
                for key, cell in cells.items()
                for name, each in zip(names, cell, strict=True)
            }
            assert held == windows.pop(place)
    assert windows.keys() <= effects.recomputed, "what no window holds is summed from the facts"


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_alerts_are_told_once_each_in_order_and_only_when_reached(event_seeds: list[int]) -> None:
    fold = Worker(small_rules()).fold
    # A plan with other levels may bring a lower one after a higher one.
    fold.fold(fold.admit(make_log(event_seeds, levels=[(1, 50, 80, 95, 100)])))
    alerts = fold.take_outcomes().alerts
    assert len({alert["id"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert parse_credits(alert["used"]) * 100 >= alert["level"] * parse_credits(alert["limit"]) > 0
    for before, after in pairwise(alerts):
        if all(before[name] == after[name] for name in ("tenant", "period_start", "arming")):
            assert before["level"] < after["level"]
