"""Shares of lists: what they may spend, and what they give up when credits expire."""

import pytest

from pipeline.core.account import Account, Allocation, Grant
from pipeline.core.allocations import cut_shares, spend, spendable, unspend
from pipeline.core.refusals import Refusal
from tests.builders import DAY, NOON, Log, plan, run


def account_of(credits_micros: int, shares: dict[str, int]) -> Account:
    grant = Grant("g", "purchase", credits_micros, credits_micros, 0, 2 * NOON, 500, 0)
    allocations = {name: Allocation(left) for name, left in shares.items()}
    return Account("acme", clock_at=NOON, grants=[grant], allocations=allocations)


def left(account: Account) -> dict[str, int]:
    return {name: share.left for name, share in account.allocations.items()}


@pytest.mark.parametrize(
    ("credits_micros", "shares", "expected"),
    [
        (10, {"a": 4, "b": 6}, {"a": 4, "b": 6}),
        (11, {"a": 4, "b": 6}, {"a": 4, "b": 6}),
        # 5 of 10 are missing: 2 and 3, exactly in proportion.
        (5, {"a": 4, "b": 6}, {"a": 2, "b": 3}),
        # 1 of 3 equal shares of 1: thirds; the first by name gives the whole micro-credit.
        (2, {"c": 1, "b": 1, "a": 1}, {"a": 0, "b": 1, "c": 1}),
        (1, {"c": 1, "b": 1, "a": 1}, {"a": 0, "b": 0, "c": 1}),
        # 5 are missing of 7+2+1: 3.5, 1.0 and 0.5, so the halves tie and the name decides.
        (5, {"x": 7, "y": 2, "z": 1}, {"x": 3, "y": 1, "z": 1}),
        # 4 are missing of 7+2+1: 2.8, 0.8 and 0.4; the two micro-credits left over go to the largest fractions.
        (6, {"x": 7, "y": 2, "z": 1}, {"x": 4, "y": 1, "z": 1}),
        (6, {"x": 1, "y": 2, "z": 7}, {"x": 1, "y": 1, "z": 4}),
        # What a list has overspent is nobody's share: nothing is taken from it, and it takes from nobody.
        (4, {"a": -3, "b": 6}, {"a": -3, "b": 4}),
        (0, {"a": 4, "b": 6}, {"a": 0, "b": 0}),
        (10**18 - 1, {"a": 10**18, "b": 0}, {"a": 10**18 - 1, "b": 0}),
    ],
)
def test_what_is_missing_is_taken_in_proportion_to_the_last_micro_credit(
    credits_micros: int, shares: dict[str, int], expected: dict[str, int]
) -> None:
    account = account_of(credits_micros, shares)
    cut_shares(account)
    assert left(account) == expected


def test_the_order_of_lists_changes_nothing() -> None:
    shares = {"a": 5, "b": 5, "c": 5, "d": 1}
    one, other = account_of(9, shares), account_of(9, dict(reversed(shares.items())))
    cut_shares(one)
    cut_shares(other)
    assert left(one) == left(other)
    assert sum(left(one).values()) == 9


@pytest.mark.parametrize(
    ("listed", "expected"),
    [("small", 3), ("large", 8), ("overspent", 0), ("unknown", 0), ("", 0)],
)
def test_a_list_may_spend_its_share_and_others_what_is_assigned_to_nobody(listed: str, expected: int) -> None:
    account = account_of(8, {"small": 3, "large": 10, "overspent": -2})
    assert spendable(account, listed) == expected


def test_a_list_without_a_share_draws_on_what_is_unassigned() -> None:
    assert spendable(account_of(10, {"a": 4}), "b") == 6


def test_what_is_sent_beyond_a_share_is_counted_below_zero_and_a_refund_comes_back_to_it() -> None:
    account = account_of(10, {"a": 4})
    spend(account, "a", 6)
    assert account.allocations["a"] == Allocation(-2, 6)
    unspend(account, "a", [("g", 5)], [])
    assert account.allocations["a"] == Allocation(3, 1)


@pytest.mark.parametrize(
    ("spent", "burned", "lapsed", "expected"),
    [
        (7, [("g", 5)], [], Allocation(2, 2)),
        (7, [("g", 5)], [("g", 5)], Allocation(-3, 7)),
        (7, [("g", 3), ("h", 2)], [("h", 2)], Allocation(0, 4)),
        # The share is younger than the message, or was set anew since: it gets what it has paid.
        (2, [("g", 5)], [], Allocation(4, 0)),
        (0, [("g", 5)], [], Allocation(4, 0)),
        # What nothing had covered is no credits again: it makes up for what was overspent.
        (7, [("", 5)], [], Allocation(0, 4)),
        (7, [("g", 1), ("", 5)], [], Allocation(1, 3)),
        (7, [("g", 1), ("", 5)], [("", 4)], Allocation(-1, 5)),
        (3, [("", 2)], [], Allocation(1, 3)),
    ],
)
def test_a_refund_gives_a_share_what_it_paid_and_what_has_not_lapsed(
    spent: int, burned: list[tuple[str, int]], lapsed: list[tuple[str, int]], expected: Allocation
) -> None:
    account = account_of(10, {"a": 4})
    spend(account, "a", spent)
    unspend(account, "a", burned, lapsed)
    assert account.allocations["a"] == expected


def test_a_refund_to_a_list_that_has_no_share_any_more_is_nobodys() -> None:
    account = account_of(10, {"a": 4})
    unspend(account, "b", [("g", 5)], [])
    assert left(account) == {"a": 4}


# By commands and messages.


def log_of(*shares: tuple[str, str]) -> Log:
    """100 credits, 40 of which are gone in ten days, and shares of lists."""
    log = Log()
    log.set_plan(plan("0"), effective_at=NOON - DAY)
    log.grant("40", expires_at=NOON + 10 * DAY)
    log.grant("60")
    for name, share in shares:
        log.command("allocate", list=name, credits=share)
    return log


def test_expired_credits_come_from_the_unassigned_first() -> None:
    log = log_of(("north", "30"), ("south", "30"))
    log.tick(NOON + 11 * DAY)
    assert left(run(log).account()) == {"north": 30_000_000, "south": 30_000_000}


def test_what_is_then_missing_comes_from_the_shares_in_proportion() -> None:
    log = log_of(("north", "60"), ("south", "30"))
    log.tick(NOON + 11 * DAY)
    assert left(run(log).account()) == {"north": 40_000_000, "south": 20_000_000}


def test_a_message_is_taken_off_its_lists_share_whatever_grant_it_burns() -> None:
    log = log_of(("north", "60"))
    log.message(list="north")
    log.message("m2", list="south")
    account = run(log).account()
    assert left(account) == {"north": 59_000_000}
    assert account.credits == 98_000_000


@pytest.mark.parametrize(
    ("listed", "share", "reason"),
    [
        ("south", "40", None),
        ("south", "40.000001", Refusal.CREDITS_INSUFFICIENT),
        ("north", "100", None),
        ("north", "100.000001", Refusal.CREDITS_INSUFFICIENT),
        ("south", "-1", Refusal.AMOUNT_INVALID),
        ("south", "much", Refusal.AMOUNT_INVALID),
        ("south", "0", None),
    ],
)
def test_no_more_is_assigned_than_is_left_to_assign(listed: str, share: str, reason: Refusal | None) -> None:
    log = log_of(("north", "60"))
    record = log.command("allocate", list=listed, credits=share)
    assert run(log).effects.results[record.offset]["reason"] == reason


def reserved(log: Log, amount: str, listed: str = "") -> str | None:
    """What a reservation is answered."""
    record = log.command("reserve", credits=amount, expires_at=NOON + DAY, list=listed)
    reason: str | None = run(log).effects.results[record.offset]["reason"]
    return reason


def allocated(log: Log, listed: str, share: str) -> str | None:
    record = log.command("allocate", list=listed, credits=share)
    reason: str | None = run(log).effects.results[record.offset]["reason"]
    return reason


@pytest.mark.parametrize("listed", ["", "south"])
def test_what_is_assigned_is_reserved_by_nobody_else(listed: str) -> None:
    assert reserved(log_of(("north", "60")), "40.000001", listed) == Refusal.CREDITS_INSUFFICIENT
    assert reserved(log_of(("north", "60")), "40", listed) is None


@pytest.mark.parametrize("policy", ["hard_stop", "negative"])
def test_no_more_is_reserved_for_a_list_than_is_left_of_its_share(policy: str) -> None:
    log = log_of(("north", "60"))
    log.set_plan(plan("0", overage={"policy": policy}))
    assert reserved(log, "50", "north") is None
    assert reserved(log, "10.000001", "north") == Refusal.CREDITS_INSUFFICIENT
    assert reserved(log, "10", "north") is None


def test_who_may_owe_reserves_beyond_what_is_assigned_to_others() -> None:
    log = log_of(("north", "60"))
    log.set_plan(plan("0", overage={"policy": "negative"}))
    assert reserved(log, "50") is None


@pytest.mark.parametrize("listed", ["", "south"])
def test_what_is_reserved_is_assigned_to_nobody_else(listed: str) -> None:
    log = log_of()
    assert reserved(log, "80", listed) is None
    assert allocated(log, "north", "20.000001") == Refusal.CREDITS_INSUFFICIENT
    assert allocated(log, "north", "20") is None


def test_what_is_reserved_for_a_list_is_part_of_its_share() -> None:
    log = log_of()
    assert reserved(log, "80", "north") is None
    assert allocated(log, "north", "100") is None


def test_what_a_list_has_reserved_beyond_its_share_is_still_promised_to_it() -> None:
    log = log_of(("north", "50"))
    assert reserved(log, "50", "north") is None
    assert allocated(log, "north", "0") is None
    assert allocated(log, "south", "50.000001") == Refusal.CREDITS_INSUFFICIENT
    assert allocated(log, "south", "50") is None


def test_a_share_may_be_made_smaller_whatever_is_promised() -> None:
    log = log_of(("north", "90"))
    log.set_plan(plan("0", overage={"policy": "negative"}))
    assert reserved(log, "150") is None
    assert allocated(log, "north", "90.000001") == Refusal.CREDITS_INSUFFICIENT
    assert allocated(log, "north", "60") is None
    assert allocated(log, "south", "0") is None
    log.message(body=None, segments=1, list="south")
    assert allocated(log, "south", "0") is None


def test_free_access_gives_a_share_back() -> None:
    log = log_of(("north", "60"))
    record = log.command("allocate", list="north")
    worker = run(log)
    assert left(worker.account()) == {}
    assert worker.effects.results[record.offset]["details"] == {"unassigned": "100"}
