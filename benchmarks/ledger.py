"""What the ledger costs per message: charging the account and adding to the window, amortised over an epoch.

    python -m benchmarks.ledger [--messages 50000] [--repetitions 7] [--seed 1] [--json]

Makes the accounts of 10 000 tenants, and of 100, by case; draws an epoch of messages by seed (few tenants send most
of them, 1 % occurred hours ago) and books it as folds do, partition after partition: the account's time, the charge,
the window's cell and what was burned. Before the first measured epoch one is booked unmeasured, so that accounts are
held as they are in a worker that has been running for a while. Prints CPU nanoseconds per message, the least and the
median of the repetitions, without the loop around them, and how many of a thousand charges took the slow way.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

import msgspec

from pipeline.core.account import Account, Allocation, Grant, PlanInForce, Reservation
from pipeline.core.accounts import LiveAccount
from pipeline.core.amounts import MICROS
from pipeline.core.outcomes import Outcomes
from pipeline.core.plans import Plan, encode_plan
from pipeline.core.rules import HOUR_MILLISECONDS, Rules
from pipeline.core.usage import Window
from pipeline.core.windows import WINDOW_MILLISECONDS
from pipeline.data import load_plan, load_rate_cards
from pipeline.stream.chunks import calm_collector

_START_AT = 1_773_576_000_000
"""2026-03-15T12:00Z: the middle of a period."""
_DAY_MILLISECONDS = 24 * HOUR_MILLISECONDS
_RECORDS_PER_SECOND = 14_000
_PARTITIONS = 32
_PLENTY = str(10**9)
_LISTS = ("customers", "leads", "staff")
_COUNTRIES = ("US", "GB", "DE", "IN", "BR", "")


class Booking(NamedTuple):
    """What of a message reaches the ledger."""

    live: LiveAccount
    occurred_at: int
    appended_at: int
    offset: int
    kind: str
    country: str
    category: str
    segments: int
    amount: int
    listed: str
    campaign: str


Prepare = Callable[[LiveAccount, Outcomes], None]
Loop = Callable[[Sequence[Booking], frozenset[str], Outcomes], None]


class Case(NamedTuple):
    """A sort of account."""

    plan: Plan
    prepare: Prepare
    names_share: bool = False
    """Whether messages name a list and a campaign."""
    micros_by_kind: Mapping[str, int] = {}
    """What a unit costs, where it is not one credit."""


def plan(preset: str, allowance: str = _PLENTY, **changes: object) -> Plan:
    """A preset with another allowance."""
    return msgspec.structs.replace(load_plan(preset), allowance_credits=allowance, zone="UTC", **changes)


def nothing_more(_: LiveAccount, __: Outcomes) -> None:
    """The plan is all the account has."""


def add_purchases(live: LiveAccount, outcomes: Outcomes) -> None:
    """Five purchases of several ends."""
    for number in range(1, 6):
        starts_at, expires_at = (_START_AT + days * _DAY_MILLISECONDS for days in (-20 * number, 30 * number))
        amount = 10**6 * MICROS
        live.add(
            Grant(f"purchase:{number}", "purchase", amount, amount, starts_at, expires_at, 500, number),
            f"purchase-{number}",
            number,
            outcomes,
        )


def add_shares(live: LiveAccount, _: Outcomes) -> None:
    """A share for two lists; the third draws freely."""
    live.account.allocations = {name: Allocation(10**6 * MICROS) for name in _LISTS[:2]}
    live.changed()


def add_reservation(live: LiveAccount, _: Outcomes) -> None:
    """Credits held for one campaign, more than its messages cost."""
    ends_at = _START_AT + 7 * _DAY_MILLISECONDS
    live.account.reservations = {"held": Reservation(10**6 * MICROS, 10**6 * MICROS, ends_at, "spring")}
    live.changed()


def cases(messages: int, tenants: int) -> dict[str, Case]:
    """The cases by name; the last ones leave the ordinary way on purpose."""
    used_up = str(max(messages // tenants, 1))
    return {
        "allowance": Case(plan("starter"), nothing_more),
        "allowance and five purchases": Case(plan("starter"), add_purchases),
        "rollover": Case(plan("kind_credits"), nothing_more),
        "automatic recharge": Case(plan("allowance_plus_purchased"), nothing_more),
        "emails of a quota, free": Case(
            plan("contacts_email_sms"), nothing_more, micros_by_kind={"email": 0}
        ),
        "at the limit, uncovered": Case(plan("starter", "0"), nothing_more),
        "below the recharge level, asked": Case(plan("allowance_plus_purchased", "0"), nothing_more),
        "over levels and limit on the way": Case(plan("starter", used_up), add_purchases),
        "shares of two lists": Case(plan("starter"), add_shares, names_share=True),
        "a reservation of one campaign": Case(plan("starter"), add_reservation, names_share=True),
    }


def make_accounts(case: Case, tenants: int, rules: Rules) -> list[LiveAccount]:
    """Accounts of a case, their period open."""
    document, outcomes = encode_plan(case.plan), Outcomes()
    accounts = []
    for index in range(tenants):
        account = Account(
            f"tenant-{index:05d}", plans=[PlanInForce(_START_AT - 400 * _DAY_MILLISECONDS, document)]
        )
        live = LiveAccount(account, 0, rules.terms, None)
        live.advance(_START_AT, 0, outcomes)
        case.prepare(live, outcomes)
        accounts.append(live)
    return accounts


def make_epoch(
    case: Case, accounts: Sequence[LiveAccount], messages: int, number: int, seed: int
) -> list[Booking]:
    """The messages of an epoch, a chunk of each partition after the other; epochs follow each other in time."""
    chance = Random(f"{seed}-{number}")
    weights = list(itertools.accumulate(1 / (rank + 10) ** 0.9 for rank in range(len(accounts))))
    bookings = []
    for index, tenant in enumerate(chance.choices(range(len(accounts)), cum_weights=weights, k=messages)):
        offset = number * messages + index
        appended_at = _START_AT + offset * 1000 // _RECORDS_PER_SECOND
        lag = (
            chance.randrange(1, 40) * HOUR_MILLISECONDS
            if chance.random() < 0.01
            else chance.randrange(60_000)
        )
        segments, kind = chance.choice((1, 1, 1, 2, 3)), chance.choice(("sms", "email"))
        bookings.append(
            Booking(
                accounts[tenant],
                appended_at - lag,
                appended_at,
                offset,
                kind,
                # A tenant writes to two countries.
                _COUNTRIES[(tenant + chance.randrange(2)) % len(_COUNTRIES)],
                # An object per message, as decoding makes it: its hash is not known yet.
                b"black-friday".decode(),
                segments,
                case.micros_by_kind.get(kind, MICROS) * segments,
                chance.choice(_LISTS) if case.names_share else "",
                chance.choice(("spring", "summer")) if case.names_share else "",
            )
        )
    # A fold takes chunk after chunk, each of one partition; the sort keeps the order within each.
    return sorted(bookings, key=lambda booking: int(booking.live.tenant[-5:]) % _PARTITIONS)


# The loops repeat what `pipeline.core` does per message, so that nothing else of the fold is measured with it.


def charge(bookings: Sequence[Booking], quotas: frozenset[str], outcomes: Outcomes) -> None:
    """The account's time, and its charges."""
    for live, occurred_at, appended_at, offset, kind, _, _, segments, amount, listed, campaign in bookings:
        account = live.account
        if appended_at >= live.due_at:
            live.advance(appended_at, offset, outcomes)
        elif appended_at > account.clock_at:
            account.clock_at = appended_at
        account.applied_offset = offset
        _, _, _, _, period_start = live.charge(amount, occurred_at, offset, outcomes, listed, campaign)
        if kind in quotas:
            live.count_units(kind, segments, period_start)


def book(bookings: Sequence[Booking], quotas: frozenset[str], outcomes: Outcomes) -> None:
    """The same, and the window: its cell, and what was burned from which grant."""
    for (
        live, occurred_at, appended_at, offset, kind, country, category, segments, amount, listed, campaign
    ) in bookings:  # fmt: skip
        account = live.account
        if appended_at >= live.due_at:
            live.advance(appended_at, offset, outcomes)
        elif appended_at > account.clock_at:
            account.clock_at = appended_at
        account.applied_offset = offset
        start = occurred_at - occurred_at % WINDOW_MILLISECONDS
        window = live.windows.get(start)
        if window is None:
            window = live.windows[start] = Window(live.tenant, start)
        grant_id, micros, further, lapsed, period_start = live.charge(
            amount, occurred_at, offset, outcomes, listed, campaign
        )
        if kind in quotas:
            live.count_units(kind, segments, period_start)
        window.add(offset, (kind, "outbound", country, category), segments, segments, amount)
        window.add_burned((grant_id, micros, further), lapsed)
        live.changed_windows[start] = window


def pass_over(bookings: Sequence[Booking], _quotas: frozenset[str], _outcomes: Outcomes) -> None:
    """The loop without what it does."""
    for (
        _live, _occurred_at, _appended_at, _offset, _kind, _country, _category, _segments, _amount, _listed, _campaign
    ) in bookings:  # fmt: skip
        pass


class SlowCharges:
    """Counts charges that take the ledger's slow way."""

    def __init__(self) -> None:
        self.count = 0
        self._charge = LiveAccount._charge_slowly  # noqa: SLF001 - what the fast way avoids has no public name

    def counted(self, bookings: Sequence[Booking], quotas: frozenset[str], outcomes: Outcomes) -> int:
        """Books an epoch, unmeasured, and gives their number."""
        original, before = self._charge, self.count

        def charge(live: LiveAccount, *arguments: object) -> object:
            self.count += 1
            return original(live, *arguments)  # type: ignore[arg-type]

        LiveAccount._charge_slowly = charge  # type: ignore[assignment,method-assign]  # noqa: SLF001
        try:
            book(bookings, quotas, outcomes)
        finally:
            LiveAccount._charge_slowly = original  # type: ignore[method-assign]  # noqa: SLF001
        return self.count - before


def nanoseconds(loop: Loop, bookings: Sequence[Booking], quotas: frozenset[str], outcomes: Outcomes) -> float:
    """CPU time of a loop in this process, per message."""
    began = time.process_time_ns()
    loop(bookings, quotas, outcomes)
    return (time.process_time_ns() - began) / len(bookings)


def measure(case: Case, tenants: int, arguments: argparse.Namespace, rules: Rules) -> dict[str, float]:
    """Nanoseconds per message of one case, and how much of it went the slow way."""
    accounts = make_accounts(case, tenants, rules)
    outcomes, quotas = Outcomes(), frozenset(case.plan.quotas)
    epochs = (
        make_epoch(case, accounts, arguments.messages, number, arguments.seed) for number in itertools.count()
    )
    book(next(epochs), quotas, outcomes)
    slow = SlowCharges().counted(next(epochs), quotas, outcomes)
    spent: dict[str, list[float]] = {"charge": [], "all": []}
    for _ in range(arguments.repetitions):
        for name, loop in (("charge", charge), ("all", book)):
            bookings = next(epochs)
            around = min(nanoseconds(pass_over, bookings, quotas, outcomes) for _ in range(3))
            spent[name].append(nanoseconds(loop, bookings, quotas, outcomes) - around)
    return {
        **{f"{name}_ns_least": round(min(each)) for name, each in spent.items()},
        **{f"{name}_ns_median": round(statistics.median(each)) for name, each in spent.items()},
        "slow_per_thousand": round(slow * 1000 / arguments.messages, 1),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=50_000, help="of an epoch")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rules = Rules(cards=load_rate_cards())
    calm_collector()
    report: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
    }
    for tenants in (10_000, 100):
        report[f"{tenants} tenants"] = {
            name: measure(case, tenants, arguments, rules)
            for name, case in cases(arguments.messages, tenants).items()
        }
        gc.collect()
    print(json.dumps(report, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
