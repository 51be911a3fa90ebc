"""However the log is cut, crashed and replayed, the same comes out."""

from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import identity
from pipeline.core.identity import IdentityIndex
from pipeline.core.process import StateChanges
from pipeline.core.rules import Rules
from tests.builders import AT, Effects, Record, Tables, Worker, writes
from tests.properties.random_logs import make_log, seeds, small_rules

EXAMPLES = 300


@pytest.fixture(scope="module", autouse=True)
def small_deltas() -> Iterator[None]:
    """Deltas are cut and sealed after a handful of identities, so that logs of fifty records make several."""
    before = identity.SEALED_WEIGHT, identity.CUT_WEIGHT
    identity.SEALED_WEIGHT, identity.CUT_WEIGHT = 3, 5
    yield
    identity.SEALED_WEIGHT, identity.CUT_WEIGHT = before


def charged(index: IdentityIndex) -> dict[bytes, tuple[int, int, int]]:
    """The charged identities held: key to offset, statuses, fingerprint."""
    return {
        high.to_bytes(8, "little") + low.to_bytes(8, "little"): (word >> 16, word & 0xFFFF, fingerprint)
        for high, low, word, fingerprint in zip(
            index._highs[index._live :],
            index._lows[index._live :],
            index._words[index._live :],
            index._fingerprints[index._live :],
            strict=True,
        )
    }


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
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(("chunk", "epoch", "checkpoint"))), max_size=20),
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
        if cut == "epoch":
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
    "fold", "fold", "fold", "checkpoint", "checkpoint not committed", "crash", "crash after effects",
    "crash in checkpoint", "crash in checkpoint", "zombie",
)  # fmt: skip
actions = st.builds(
    lambda seed, count: [
        (chance.choice(ACTIONS), chance.randrange(1000)) for chance in [Random(seed)] for _ in range(count)
    ],
    st.integers(0, 2**32),
    st.integers(1, 30),
)


@settings(max_examples=EXAMPLES, deadline=None)
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
