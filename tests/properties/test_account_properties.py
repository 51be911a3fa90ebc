"""What holds of an account in every history: however it is cut and reloaded, and after every record."""

import os
from collections import Counter
from typing import Any

from hypothesis import given, settings

from pipeline.core.account import UNCOVERED
from pipeline.core.accounts import LiveAccount
from pipeline.core.kept import encode_kept
from pipeline.core.outcomes import Outcomes
from tests.builders import Worker, rules
from tests.properties.random_accounts import make_history
from tests.properties.random_logs import seeds

EXAMPLES = int(os.environ.get("HISTORIES", "300"))
KEY = b"acme"


class Watched(Worker):
    """A worker that keeps everything it decided in order, and shows its account after every record."""

    def __init__(self) -> None:
        super().__init__(rules())
        self.decided: list[Outcomes] = []

    def close_epoch(self) -> None:
        outcomes = self.fold.take_outcomes()
        outcomes.counts.clear()  # They are for metrics only, and a reload is counted.
        self.effects.take(outcomes)
        self.decided.append(outcomes)

    @property
    def live(self) -> LiveAccount:
        return self.fold._accounts[KEY]

    def shown(self) -> bytes:
        return encode_kept(self.live.account.applied_offset, self.live.account)

    def reload(self) -> None:
        """Lets go of everything live: what a checkpoint did not change is forgotten with the next."""
        self.keep()
        self.keep()
        assert KEY not in self.fold._accounts


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_an_account_taken_up_anew_before_every_record_is_what_a_live_one_is(event_seeds: list[int]) -> None:
    records = make_history(event_seeds)
    living, reloaded = Watched(), Watched()
    for record in records:
        living.take([record])
        reloaded.take([record])
        assert living.live.account == reloaded.live.account, record
        assert living.shown() == reloaded.shown()
        living.close_epoch()
        reloaded.close_epoch()
        assert living.decided[-1] == reloaded.decided[-1], record
        reloaded.reload()


def histories(event_seeds: list[int], **first: Any) -> Any:
    """After every record of a history: the record, the worker and the account."""
    worker = Watched()
    for record in make_history(event_seeds, **first):
        worker.take([record])
        worker.keep()
        if KEY in worker.fold._accounts:
            yield record, worker, worker.live.account


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_after_every_record_the_entries_of_each_grant_sum_to_what_remains_of_it(
    event_seeds: list[int],
) -> None:
    for record, worker, account in histories(event_seeds):
        sums: Counter[str] = Counter()
        for entry in worker.effects.entries.values():
            sums[entry.grant_id] += entry.amount
        remaining = {each.id: each.remaining for each in account.grants if not each.is_expired}
        assert sums.pop(UNCOVERED, 0) == -account.uncovered, record
        assert {name: micros for name, micros in sums.items() if micros} == {
            name: micros for name, micros in remaining.items() if micros
        }, record


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_grants_are_in_burn_order_and_hold_no_less_than_nothing(event_seeds: list[int]) -> None:
    for record, _, account in histories(event_seeds):
        assert all(0 <= each.remaining <= each.amount for each in account.grants), record
        assert account.grants == sorted(account.grants, key=lambda each: each.burn_order)


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_what_is_reserved_is_covered_where_nothing_may_be_owed(event_seeds: list[int]) -> None:
    for record, worker, account in histories(event_seeds):
        terms = worker.live.terms_at(account.clock_at)
        if terms is None or terms.plan.overage == "hard_stop":
            covered = max(account.credits_at(account.clock_at) - account.owed, 0)
            assert 0 <= account.reserved <= covered, record
        assert all(0 < each.left <= each.amount for each in account.reservations.values())


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_the_open_periods_limit_less_its_usage_is_what_is_left_to_use_in_it(event_seeds: list[int]) -> None:
    for record, _, account in histories(event_seeds):
        if account.periods:
            period = account.periods[-1]
            left = sum(
                each.remaining
                for each in account.grants
                if each.starts_at < period.ends_at
                and each.expires_at > period.starts_at
                and not each.is_expired
            )
            assert period.limit - period.used == left - period.uncovered, record


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds)
def test_a_level_fires_once_per_arming(event_seeds: list[int]) -> None:
    alerts = [alert["id"] for _, worker, _ in histories(event_seeds) for alert in worker.decided.pop().alerts]
    assert len(set(alerts)) == len(alerts)
