"""What holds of an account in every history: however it is cut and reloaded, and after every record."""

import os
from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings

from pipeline.core.account import UNCOVERED, Account, Entry
from pipeline.core.accounts import LiveAccount
from pipeline.core.kept import encode_kept
from pipeline.core.outcomes import Outcomes
from tests.builders import DAY, NOON, Log, Record, Worker, message, plan, rules
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
