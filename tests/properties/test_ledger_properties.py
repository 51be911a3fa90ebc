"""The ledger does what the one written for clarity does, whatever happens in whatever order.

`HISTORIES=10000` in the environment runs as many; a quick run does with fewer.
"""

import os
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.amounts import MICROS, format_credits, parse_credits
from tests.builders import DAY, HOUR, MINUTE, NOON, Log, plan
from tests.properties.naive_ledger import NaiveLedger
from tests.properties.naive_promises import allocate, answer, let_go, reserve
from tests.properties.naive_records import FOREVER, NaivePlan
from tests.properties.test_account_properties import Watched

HISTORIES = int(os.environ.get("HISTORIES", "400"))
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Chatham", "Australia/Lord_Howe")
USAGE = ("usage", "late_usage", "refund", "expiry_correction")
LISTS = ("", "", "", "north", "south", "west")
CAMPAIGNS = ("", "", "spring", "summer")


class Pair:
    """A log for the fold, and the same told to the naive ledger, with the answers both give."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.log = Log(NOON + chance.randrange(365) * DAY)
        self.naive = NaiveLedger(self.log.now)
        self.sent: list[dict[str, Any]] = []
        self.given: list[str] = []
        self.reserved: list[str] = []
        self.answers: list[str] = []
        self.set_plan(self.log.now - 400 * DAY)

    def step(self) -> None:
        chance, naive = self.chance, self.naive
        self.log.now += chance.choice((0, 0, MINUTE, HOUR, HOUR, 5 * HOUR, DAY, 3 * DAY, 20 * DAY, 70 * DAY))
        naive.record = len(self.log.records)
        naive.pass_time(self.log.now)
        what: Callable[[Pair], None] = chance.choices(_KINDS, _WEIGHTS)[0]
        what(self)

    def end(self) -> None:
        """What a last change makes due is due with the next record."""
        self.naive.record = len(self.log.records)
        self.naive.pass_time(self.log.now)
        self.tick()

    def _command(self, command_type: str, **fields: Any) -> str:
        """The id of a command of which the naive ledger is told too."""
        return f"c{self.log.command(command_type, **fields).offset}"

    def set_plan(self, since: int | None = None) -> None:
        chance, now = self.chance, self.log.now
        terms = NaivePlan(
            since=now + chance.choice((0, 0, 0, -DAY, DAY, 10 * DAY)) if since is None else since,
            allowance=chance.choice((0, 5, 10, 40)) * MICROS,
            zone=chance.choice(ZONES),
            anchor=chance.choice((1, 15, 28, 29, 30, 31)),
            grace=chance.choice((0, 2, 72)) * HOUR,
            levels=chance.choice(((80, 85, 90, 95), (1, 50, 100), (), (100,))),
            policy=chance.choice(("hard_stop", "hard_stop", "negative", "arrears")),
            settled_by=chance.choice(("nothing", "purchases", "any_grant")),
            rolls=chance.random() < 0.5,
            months=chance.choice((0, 1, 2, 12)),
            cap=chance.choice((None, 0, 7 * MICROS, 30 * MICROS)),
            floor=chance.choice((0, 0, 3 * MICROS)),
            trial_days=14 if chance.random() < 0.1 else 0,
            level=chance.choice((None, None, 0, 4 * MICROS, 15 * MICROS)),
            block=chance.choice((5, 30)) * MICROS,
            cool_down=chance.choice((1, 60, 1440)) * MINUTE,
            delay=chance.choice((0, 0, 30)) * MINUTE,
            daily_cap=chance.choice((1, 1, 2, 50)),
            back_off=chance.choice((1, 60, 1000)) * MINUTE,
        )
        self.log.set_plan(document_of(terms), effective_at=terms.since)
        naive = self.naive
        naive.plans = [each for each in naive.plans if each.since != terms.since] + [terms]
        naive.happen()
        self.answers.append("")

    def charge(self) -> None:
        chance, now = self.chance, self.log.now
        at = now - chance.choice((0, 0, 0, HOUR, DAY, 4 * DAY, 40 * DAY))
        fields = {
            "segments": chance.choice((1, 1, 2, 5, 13)),
            "list": chance.choice(LISTS),
            "campaign": chance.choice(CAMPAIGNS),
            "occurred_at": at,
        }
        name = f"m{len(self.log.records)}"
        self.log.message(name, body=None, status_at=now, **fields)
        if at >= min(each.since for each in self.naive.plans):
            taken = self.naive.charge(fields["segments"] * MICROS, at, fields["list"], fields["campaign"])
            self.sent.append({"name": name, "taken": taken, **fields})

    def fail(self) -> None:
        """One of the last messages fails, and is refunded."""
        if not self.sent:
            return self.tick()
        message = self.sent.pop(self.chance.randrange(max(len(self.sent) - 5, 0), len(self.sent)))
        taken, name = message.pop("taken"), message.pop("name")
        self.log.message(name, body=None, status="failed", **message)
        self.naive.refund(taken, message["occurred_at"], message["list"])
        return None

    def grant(self) -> None:
        chance, now = self.chance, self.log.now
        amount, priority = chance.choice((1, 7, 30)), chance.choice((50, 100, 500))
        kind = chance.choice(("purchase", "promotion"))
        start = now + chance.choice((0, 0, -DAY, 2 * DAY, 40 * DAY))
        end = max(start, now) + chance.choice((HOUR, 2 * DAY, 60 * DAY)) if chance.random() < 0.6 else None
        extended = chance.random() < 0.4
        fields = {"kind": kind, "priority": priority, "effective_at": start, "is_extended": extended}
        name = self._command("grant", credits=str(amount), expires_at=end, **fields)
        self.given.append(f"{kind}:{name}")
        self.naive.give(
            kind, f"{kind}:{name}", amount * MICROS, start, end or FOREVER, priority, is_extended=extended
        )
        self.answers.append("")

    def void(self) -> None:
        name = self.chance.choice(self.given[-3:] or ["none"])
        self._command("void_grant", grant=name)
        self.answers.append(self.naive.void(name))

    def adjust(self) -> None:
        amount = self.chance.choice((1, 6, 30))
        self._command("adjust", credits=str(-amount))
        self.answers.append(self.naive.adjust(amount * MICROS))

    def allocate(self) -> None:
        listed, share = self.chance.choice(LISTS[3:]), self.chance.choice((None, 0, 3, MICROS, 11 * MICROS))
        self._command("allocate", list=listed, credits=None if share is None else format_credits(share))
        self.answers.append(allocate(self.naive, listed, share))

    def reserve(self) -> None:
        amount, campaign = self.chance.choice((1, 2, 8, 30)), self.chance.choice(CAMPAIGNS)
        end = self.log.now + self.chance.choice((HOUR, DAY, 30 * DAY))
        listed = self.chance.choice(LISTS)
        fields = {"campaign": campaign, "list": listed}
        name = self._command("reserve", credits=str(amount), expires_at=end, **fields)
        self.reserved.append(name)
        self.answers.append(reserve(self.naive, name, amount * MICROS, end, campaign, listed))

    def commit(self) -> None:
        name, amount = self.chance.choice(self.reserved[-3:] or ["none"]), self.chance.choice((1, 2, 8))
        self._command("commit_reservation", reservation=name, credits=str(amount))
        self.answers.append(let_go(self.naive, name, amount * MICROS, is_commit=True))

    def release(self) -> None:
        name, amount = self.chance.choice(self.reserved[-3:] or ["none"]), self.chance.choice((None, 1, 8))
        self._command(
            "release_reservation", reservation=name, credits=None if amount is None else str(amount)
        )
        micros = None if amount is None else amount * MICROS
        self.answers.append(let_go(self.naive, name, micros, is_commit=False))

    def answer(self) -> None:
        is_paid = self.chance.random() < 0.6
        number = max(self.naive.recharge.number + self.chance.choice((0, 0, 0, 1, -1)), 1)
        kind = "confirm_recharge" if is_paid else "decline_recharge"
        name = self._command(kind, recharge=f"recharge-{number}")
        self.answers.append(answer(self.naive, number, is_paid=is_paid, name=f"purchase:{name}"))

    def tick(self) -> None:
        self.log.tick()
        self.answers.append("")


_KINDS, _WEIGHTS = zip(
    (Pair.charge, 40), (Pair.fail, 6), (Pair.set_plan, 7), (Pair.grant, 10), (Pair.void, 2), (Pair.adjust, 3),
    (Pair.allocate, 5), (Pair.reserve, 5), (Pair.commit, 3), (Pair.release, 2), (Pair.answer, 6), (Pair.tick, 6),
    strict=True,
)  # fmt: skip


def document_of(terms: NaivePlan) -> dict[str, Any]:
    """The plan as a tenant is put under it."""
    document = plan(
        format_credits(terms.allowance),
        zone=terms.zone,
        anchor_day=terms.anchor,
        late_grace_hours=terms.grace // HOUR,
        alert_levels=terms.levels,
        overage={"policy": terms.policy, "settled_by": terms.settled_by},
        refunded_statuses=["failed"],
        ends_after_days=terms.trial_days,
    )
    if terms.rolls:
        cap = None if terms.cap is None else format_credits(terms.cap)
        floor = format_credits(terms.floor)
        document["rollover"] = {"valid_months": terms.months, "cap_credits": cap, "floor_credits": floor}
    if terms.level is not None:
        document["recharge"] = {
            "level_credits": format_credits(terms.level),
            "block_credits": format_credits(terms.block),
            "price": "0",
            "delay_minutes": terms.delay // MINUTE,
            "cool_down_minutes": terms.cool_down // MINUTE,
            "daily_cap": terms.daily_cap,
            "back_off_minutes": terms.back_off // MINUTE,
        }
    return document


def shown(worker: Watched) -> dict[str, Any]:
    account = worker.live.account
    posted: Counter[tuple[str, str]] = Counter()
    for entry in worker.effects.entries.values():
        if entry.kind not in USAGE:
            posted[entry.kind, entry.grant_id] += entry.amount
    last = account.periods[-1]
    recharge = account.recharge
    return {
        "balance": account.balance,
        "available": account.available,
        "grants": {
            each.id: (each.amount, each.remaining, each.starts_at, each.expires_at, each.is_expired)
            for each in account.grants
            if each.remaining
        },
        "periods": [(each.starts_at, each.ends_at, each.used, each.uncovered) for each in account.periods],
        "open": (last.limit, last.arming, set(last.fired)),
        "uncovered": account.uncovered,
        "shares": {name: share.left for name, share in account.allocations.items()},
        "holds": [(name, each.left, each.expires_at) for name, each in account.reservations.items()],
        "recharge": (recharge.asked_count, bool(recharge.in_flight), recharge.declined_count)
        if recharge
        else (0, False, 0),
        "posted": {place: amount for place, amount in posted.items() if amount},
        "alerts": [
            (each["period_start"], each["arming"], each["level"])
            for outcomes in worker.decided
            for each in outcomes.alerts
            if each["occurred_at"] < each["period_end"]
        ],
        "requests": [
            (parse_credits(str(each["credits"])), parse_credits(str(each["due_credits"])))
            for outcomes in worker.decided
            for each in outcomes.recharges
        ],
        "answers": [each["reason"] or "" for outcomes in worker.decided for each in outcomes.results],
    }


def shown_naively(pair: Pair) -> dict[str, Any]:
    ledger = pair.naive
    recharge = ledger.recharge
    return {
        "balance": ledger.balance,
        "available": ledger.available,
        "grants": {
            each.name: (each.given, each.left, each.start, each.end, each.is_over)
            for each in ledger.grants
            if each.left
        },
        "periods": [(each.start, each.end, each.used, each.uncovered) for each in ledger.periods],
        "open": (ledger.limit, ledger.open.arming, ledger.open.fired),
        "uncovered": ledger.uncovered,
        "shares": ledger.shares,
        "holds": [(each.name, each.left, each.end) for each in ledger.holds],
        "recharge": (recharge.number, recharge.is_open, recharge.declines),
        "posted": {place: amount for place, amount in ledger.posted.items() if amount},
        "alerts": ledger.alerts,
        "requests": ledger.requests,
        "answers": pair.answers,
    }


@settings(max_examples=HISTORIES, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 10))
def test_the_ledger_agrees_with_the_naive_one(seed: int, steps: int, chunk: int) -> None:
    pair = Pair(Random(seed))
    for _ in range(steps):
        pair.step()
    pair.end()
    worker = Watched()
    for start in range(0, len(pair.log.records), chunk):
        worker.take(pair.log.records[start : start + chunk])
        worker.keep()
    left, right = shown(worker), shown_naively(pair)
    for part, value in left.items():
        assert value == right[part], part
