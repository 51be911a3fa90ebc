"""The ledger does what the one written for clarity does, whatever happens in whatever order."""

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.account import Account
from tests.builders import DAY, HOUR, NOON, Log, Worker, plan, rules
from tests.properties.naive_ledger import FOREVER, NaiveLedger, NaivePlan

EXAMPLES = 300
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Chatham", "Australia/Lord_Howe")
MICROS = 1_000_000


class Pair:
    """A log for the fold, and the same told to the naive ledger."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.log = Log(NOON + chance.randrange(365) * DAY)
        self.naive = NaiveLedger()
        self.naive.now = self.log.now
        self.set_plan(self.log.now - 400 * DAY)

    def step(self) -> None:
        chance = self.chance
        self.log.now += chance.choice((0, 0, HOUR, HOUR, 5 * HOUR, DAY, 3 * DAY, 20 * DAY, 70 * DAY))
        self.naive.pass_time(self.log.now)
        what = chance.random()
        if what < 0.6:
            self.charge()
        elif what < 0.8:
            self.grant()
        elif what < 0.92:
            self.set_plan(self.log.now + chance.choice((0, 0, 0, -DAY, DAY, 10 * DAY)))
        else:
            self.log.tick()

    def set_plan(self, since: int) -> None:
        chance = self.chance
        terms = NaivePlan(
            since=since,
            allowance=chance.choice((0, 5, 10, 40)),
            zone=chance.choice(ZONES),
            anchor=chance.choice((1, 15, 28, 29, 30, 31)),
            grace_hours=chance.choice((0, 2, 72)),
            levels=chance.choice(((80, 85, 90, 95), (1, 50, 100), (), (100,))),
        )
        document = plan(
            str(terms.allowance),
            zone=terms.zone,
            anchor_day=terms.anchor,
            late_grace_hours=terms.grace_hours,
            alert_levels=terms.levels,
        )
        self.log.set_plan(document, effective_at=since)
        self.naive.set_plan(terms)

    def grant(self) -> None:
        chance, now = self.chance, self.log.now
        amount, priority = chance.choice((1, 7, 30)), chance.choice((50, 100, 500))
        kind = chance.choice(("purchase", "promotion"))
        start = now + chance.choice((0, 0, -DAY, 2 * DAY, 40 * DAY))
        end = max(start, now) + chance.choice((HOUR, 2 * DAY, 60 * DAY)) if chance.random() < 0.6 else None
        record = self.log.grant(str(amount), kind=kind, priority=priority, effective_at=start, expires_at=end)
        name = f"{kind}:c{record.offset}"
        is_paid = kind == "purchase"
        self.naive.give(name, amount, start, end or FOREVER, priority, is_paid=is_paid, number=record.offset)

    def charge(self) -> None:
        now = self.log.now
        at = now + self.chance.choice((0, 0, 0, -HOUR, -DAY, -4 * DAY, -40 * DAY, 20 * HOUR))
        amount = self.chance.choice((1, 1, 2, 5, 13))
        self.log.message(
            f"m{len(self.log.records)}", body=None, segments=amount, occurred_at=at, status_at=now
        )
        self.naive.charge(amount, at)


def shown(account: Account) -> dict[str, Any]:
    return {
        "grants": {
            each.id: (each.amount, each.remaining, each.starts_at, each.expires_at) for each in account.grants
        },
        "periods": [
            (each.starts_at, each.ends_at, each.limit, each.used, each.arming, set(each.fired))
            for each in account.periods
        ],
        "uncovered": account.uncovered,
    }


def shown_naively(ledger: NaiveLedger) -> dict[str, Any]:
    return {
        "grants": {
            each.name: (each.given * MICROS, each.left * MICROS, each.start, each.end)
            for each in ledger.grants
        },
        "periods": [
            (each.start, each.end, each.limit * MICROS, each.used * MICROS, each.arming, each.fired)
            for each in ledger.periods
        ],
        "uncovered": ledger.uncovered * MICROS,
    }


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 10))
def test_the_ledger_agrees_with_the_naive_one(seed: int, steps: int, chunk: int) -> None:
    pair = Pair(Random(seed))
    for _ in range(steps):
        pair.step()
    worker = Worker(rules())
    for start in range(0, len(pair.log.records), chunk):
        worker.take(pair.log.records[start : start + chunk])
        worker.keep()
    assert not worker.effects.refusals
    assert shown(worker.account()) == shown_naively(pair.naive)
    fired = [(each["period_start"], each["arming"], each["level"]) for each in worker.effects.alerts.values()]
    assert fired == pair.naive.alerts
