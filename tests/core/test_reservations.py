"""Reservations: credits held for what is scheduled, out of what is available and not of the balance."""

from typing import Any

import pytest

from pipeline.core.account import Account
from pipeline.core.refusals import Refusal
from tests.builders import DAY, HOUR, NOON, Log, Worker, instant, plan, run


def log_of(allowance: str = "100", **fields: Any) -> Log:
    log = Log()
    log.set_plan(plan(allowance, **fields), effective_at=NOON - DAY)
    return log


def reserve(log: Log, name: str, amount: str, **fields: Any) -> None:
    log.command("reserve", name, credits=amount, **{"expires_at": NOON + DAY, **fields})


def answers(worker: Worker) -> list[tuple[str | None, dict[str, Any] | None]]:
    """(reason, details) of all results but the plan's."""
    return [(each["reason"], each.get("details")) for each in list(worker.effects.results.values())[1:]]


def held(account: Account) -> dict[str, int]:
    return {name: each.left // 1_000_000 for name, each in account.reservations.items()}


def test_no_more_is_held_than_a_trillion_credits() -> None:
    log = log_of(overage={"policy": "negative"})
    for name, amount in (("a", "999999999999"), ("b", "1.000001"), ("c", "1"), ("d", "0.000001")):
        reserve(log, name, amount)
    worker = run(log)
    assert [reason for reason, _ in answers(worker)] == [
        None,
        Refusal.AMOUNT_INVALID,
        None,
        Refusal.AMOUNT_INVALID,
    ]
    assert worker.account().reserved == 10**18


def test_no_more_is_used_in_a_period_than_a_trillion_credits() -> None:
    log = log_of("2")
    log.grant("999999999998")
    reserve(log, "a", "999999999999")
    log.command("commit_reservation", reservation="a", credits="999999999999")
    log.grant("999999999998")
    reserve(log, "b", "2")
    log.command("commit_reservation", reservation="b", credits="1.000001")
    log.command("commit_reservation", reservation="b", credits="1")
    worker = run(log)
    assert [reason for reason, _ in answers(worker)[-2:]] == [Refusal.AMOUNT_INVALID, None]
    assert [period.used for period in worker.account().periods] == [10**18]
    assert held(worker.account()) == {"b": 1}


def test_what_is_held_reduces_what_is_available_and_not_the_balance() -> None:
    log = log_of()
    reserve(log, "r", "30")
    worker = run(log)
    account = worker.account()
    assert (account.balance, account.available, account.reserved) == (100_000_000, 70_000_000, 30_000_000)
    assert answers(worker) == [(None, {"reservation": "r", "available": "70"})]


@pytest.mark.parametrize(
    ("amount", "ends_at", "policy", "reason"),
    [
        ("100", NOON + DAY, "hard_stop", None),
        ("100.000001", NOON + DAY, "hard_stop", Refusal.CREDITS_INSUFFICIENT),
        ("100.000001", NOON + DAY, "negative", None),
        ("100.000001", NOON + DAY, "arrears", None),
        ("1", NOON, "hard_stop", Refusal.EXPIRY_INVALID),
        ("1", "2100-01-01T00:00:00Z", "hard_stop", Refusal.EXPIRY_INVALID),
        ("0", NOON + DAY, "hard_stop", Refusal.AMOUNT_INVALID),
        ("-1", NOON + DAY, "hard_stop", Refusal.AMOUNT_INVALID),
    ],
)
def test_a_reservation_that_cannot_be_is_refused(
    amount: str, ends_at: int | str, policy: str, reason: Refusal | None
) -> None:
    log = log_of(overage={"policy": policy})
    reserve(log, "r", amount, expires_at=ends_at)
    assert answers(run(log))[0][0] == reason


@pytest.mark.parametrize(
    ("command", "amount", "reason", "left", "balance"),
    [
        ("commit_reservation", "10", None, {"r": 20}, 90),
        ("commit_reservation", "30", None, {}, 70),
        ("commit_reservation", "31", Refusal.RESERVATION_EXCEEDED, {"r": 30}, 100),
        ("commit_reservation", "0", Refusal.AMOUNT_INVALID, {"r": 30}, 100),
        ("release_reservation", "10", None, {"r": 20}, 100),
        ("release_reservation", "31", Refusal.RESERVATION_EXCEEDED, {"r": 30}, 100),
        ("release_reservation", "-1", Refusal.AMOUNT_INVALID, {"r": 30}, 100),
        ("release_reservation", None, None, {}, 100),
    ],
)
def test_a_part_is_committed_or_released_and_no_more_than_is_held(
    command: str, amount: str | None, reason: Refusal | None, left: dict[str, int], balance: int
) -> None:
    log = log_of()
    reserve(log, "r", "30")
    log.command(command, reservation="r", credits=amount)
    worker = run(log)
    assert answers(worker)[1][0] == reason
    assert held(worker.account()) == left
    assert worker.account().balance == balance * 1_000_000


@pytest.mark.parametrize(
    ("command", "fields"), [("release_reservation", {}), ("commit_reservation", {"credits": "1"})]
)
def test_a_reservation_that_is_not_held_is_refused(command: str, fields: dict[str, str]) -> None:
    log = log_of()
    log.command(command, reservation="r", **fields)
    assert answers(run(log)) == [(Refusal.RESERVATION_UNKNOWN, None)]


def test_a_reservation_ends_by_itself_at_its_instant() -> None:
    log = log_of()
    reserve(log, "r", "30", expires_at=NOON + HOUR)
    log.tick(NOON + HOUR - 1)
    assert held(run(log).account()) == {"r": 30}
    log.tick(NOON + HOUR)
    assert held(run(log).account()) == {}


def test_the_messages_of_its_campaign_settle_it_oldest_first() -> None:
    log = log_of()
    reserve(log, "first", "3", campaign="spring")
    reserve(log, "other", "3", campaign="summer")
    reserve(log, "second", "3", campaign="spring")
    log.message(body=None, segments=4, campaign="spring")
    log.message("m2", body=None, segments=5)
    account = run(log).account()
    assert held(account) == {"other": 3, "second": 2}
    assert account.available == (100 - 4 - 5 - 3 - 2) * 1_000_000


def test_where_credits_run_short_the_newest_lets_go_first() -> None:
    log = log_of("10")
    for name in ("first", "second", "third"):
        reserve(log, name, "3")
    log.message(body=None, segments=5)
    assert held(run(log).account()) == {"first": 3, "second": 2}


def test_where_the_balance_may_be_negative_nothing_lets_go() -> None:
    log = log_of("10", overage={"policy": "negative"})
    reserve(log, "r", "9")
    log.message(body=None, segments=15)
    account = run(log).account()
    assert held(account) == {"r": 9}
    assert account.available == (-5 - 9) * 1_000_000


def test_what_expires_is_no_longer_held() -> None:
    log = log_of("0")
    log.grant("10", expires_at=NOON + HOUR)
    reserve(log, "r", "8")
    log.tick(NOON + HOUR)
    assert held(run(log).account()) == {}


def test_what_the_account_is_owed_back_can_be_reserved_and_stays_so() -> None:
    """A message that was billed fails: the account has no credits, but 10 are available to it."""
    log = log_of("0", overage={"policy": "arrears"}, refunded_statuses=["failed"])
    log.message(body=None, segments=10)
    log.tick(instant("2026-03-05"))
    log.message(body=None, status="failed", occurred_at=NOON)
    log.set_plan(plan("0", overage={"policy": "hard_stop", "settled_by": "purchases"}))
    reserve(log, "r", "10", expires_at=log.now + DAY, campaign="spring")
    reserve(log, "too much", "1", expires_at=log.now + DAY)
    worker = run(log)
    assert [reason for reason, _ in answers(worker)[-2:]] == [None, Refusal.CREDITS_INSUFFICIENT]
    assert held(worker.account()) == {"r": 10}
    assert (worker.account().credits, worker.account().available) == (0, 0)
    log.message("m2", body=None, segments=4)
    assert held(run(log).account()) == {"r": 6}
