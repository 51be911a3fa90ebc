"""Two histories of an account that say the same have the same end: cut, crashed, repeated, reordered, split."""

import os
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.account import MAX_ANSWERS, Account
from pipeline.core.outcomes import Outcomes
from tests.builders import AT, DAY, HOUR, MINUTE, Effects, Log, Record, Worker, instant, plan, rules
from tests.properties.random_accounts import make_history
from tests.properties.random_logs import seeds
from tests.properties.test_folds import Chaos, actions, assert_same

EXAMPLES = int(os.environ.get("HISTORIES", "300"))


class AllEffects(Effects):
    """Effects with the requests to recharge, which are known by their ids."""

    def take(self, outcomes: Outcomes) -> None:
        super().take(outcomes)
        for request in outcomes.recharges:
            self._once(self.alerts, f"{request['tenant']}:{request['id']}", request)


def folded(records: list[Record]) -> Worker:
    worker = Worker(rules(), effects=AllEffects())
    worker.take(records)
    worker.keep()
    return worker


def numbered(records: list[Record]) -> list[Record]:
    """The records at the offsets of their places."""
    return [record._replace(offset=place) for place, record in enumerate(records)]


def totals(account: Account) -> dict[str, Any]:
    """What an account comes to, however its records were numbered."""
    return {
        "balance": account.balance,
        "available": account.available,
        "uncovered": account.uncovered,
        "periods": [(each.starts_at, each.limit, each.used, each.uncovered) for each in account.periods],
        "shares": {name: each.left for name, each in account.allocations.items()},
        "held": account.reserved,
    }


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds, actions)
def test_a_worker_killed_anywhere_ends_where_an_unbroken_one_does(
    event_seeds: list[int], steps: list[tuple[str, int]]
) -> None:
    records = make_history(event_seeds)
    chaos = Chaos(records, rules())
    chaos.worker = Worker(chaos.rules, effects=AllEffects())
    for action, number in steps:
        chaos.step(action, number)
    assert_same(folded(records), chaos.finish())


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=10))
def test_repeated_messages_and_commands_change_nothing(
    event_seeds: list[int], repeats: list[tuple[int, int]]
) -> None:
    records = make_history(event_seeds[:MAX_ANSWERS])
    longer = list(records)
    # What came before any plan is no repetition: it is charged once a plan is set for its time.
    early = {refusal["offset"] for refusal in folded(numbered(records)).effects.refusals.values()}
    for first, distance in repeats:
        if first % len(records) in early:
            continue
        original = records[first % len(records)]
        place = min(longer.index(original) + 1 + distance, len(longer))
        longer.insert(place, original._replace(timestamp=longer[place - 1].timestamp))
    end = Log(records[-1].timestamp)
    end.command("tick", "the end")  # What a refund makes due is due with the next record.
    once, again = (folded(numbered([*each, *end.records])).account() for each in (records, longer))
    assert totals(once) == totals(again)
    assert [(each.id, each.remaining) for each in once.grants] == [
        (each.id, each.remaining) for each in again.grants
    ]


@settings(max_examples=EXAMPLES, deadline=None)
@given(seeds, st.integers(0, 60), st.integers(1, 29), st.booleans())
def test_a_purchase_split_in_two_changes_no_total(
    event_seeds: list[int], place: int, part: int, ends: bool
) -> None:
    records = [
        each
        for each in make_history(event_seeds)
        # To a grant that was used up long ago nothing is refunded, and the smaller one is used up earlier.
        if not {b'"status":"failed"', b'"status":"undelivered"'} & set(_fields(each))
    ]
    place = 1 + place % len(records)
    at = records[place - 1].timestamp
    expires_at = max(each.timestamp for each in records[:place]) + 9 * DAY if ends else None
    accounts = []
    for amounts in ([30], [part, 30 - part]):
        log = Log(at)
        for number, amount in enumerate(amounts):
            log.grant(str(amount), command_id=f"part {number}", effective_at=at, expires_at=expires_at)
        accounts.append(folded(numbered([*records[:place], *log.records, *records[place:]])).account())
    assert totals(accounts[0]) == totals(accounts[1])


def _fields(record: Record) -> list[bytes]:
    return (record.value or b"").split(b",")


MARCH = instant("2026-03-01T00:00")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30))
def test_the_order_of_messages_that_share_no_grant_changes_nothing(seed: int, count: int) -> None:
    """February's allowance, March's, and a promotion of one hour that never runs out: three rows of messages."""
    chance = Random(seed)
    places = (MARCH - DAY, MARCH + HOUR, MARCH + 5 * HOUR)
    rows: list[list[dict[str, Any]]] = [[], [], []]
    for number in range(count):
        row = chance.randrange(3)
        at, segments = places[row] + number * MINUTE, chance.choice((1, 3, 7))
        rows[row].append({"message_id": f"m{number}", "occurred_at": at, "segments": segments})
    one, other = (_interleaved([list(row) for row in rows], chance) for _ in range(2))
    assert one.account() == other.account()
    assert _told(one) == _told(other)


def _interleaved(rows: list[list[dict[str, Any]]], chance: Random) -> Worker:
    """A worker that has folded the rows, each in its order, in turns of chance; one long after they occurred."""
    log = Log(MARCH - 20 * DAY)
    log.set_plan(plan("20", overage={"policy": "negative"}), effective_at=log.now)
    log.tick(MARCH + 10 * HOUR)
    log.grant(
        "1000", priority=1, effective_at=MARCH + 5 * HOUR, expires_at=MARCH + 11 * HOUR, command_id="hour"
    )
    while any(rows):
        fields = chance.choice([row for row in rows if row]).pop(0)
        log.message(body=None, status_at=log.now, **fields)
    return folded(log.records)


def _told(worker: Worker) -> list[Any]:
    """What was charged and told of each message, but for the offset at which it was."""
    names = ("message_id", "period_start", "grant_id", "grant_micros")
    facts = sorted(
        (*(fact[AT[name]] for name in names), sorted(fact[AT["further_grants"]].items()))
        for fact in worker.effects.facts.values()
    )
    alerts = sorted((each["id"], each["used"], each["limit"]) for each in worker.effects.alerts.values())
    entries = sorted((name, entry.amount) for name, entry in worker.effects.entries.items())
    return [facts, alerts, entries]


def test_levels_are_told_in_order_within_an_arming() -> None:
    """As long as the plan's levels stay what they are."""
    for seed in range(EXAMPLES):
        chances = [Random(f"{seed} {place}").getrandbits(32) for place in range(40)]
        records = [
            each
            for each in make_history(chances)
            if each.offset == 0 or b'"type":"set_plan"' not in each.value
        ]
        alerts = [each for each in folded(numbered(records)).effects.alerts.values() if "level" in each]
        for before, after in pairwise(alerts):
            if all(before[name] == after[name] for name in ("period_start", "arming")):
                assert before["level"] < after["level"]
