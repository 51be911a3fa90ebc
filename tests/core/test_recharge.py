"""When a block of credits is asked for, and what the answer to it does."""

from typing import Any

import pytest

from pipeline.core.outcomes import Document
from pipeline.core.refusals import Refusal
from tests.builders import DAY, HOUR, MINUTE, NOON, Log, Worker, instant, plan, rules

RECHARGE = {
    "level_credits": "10",
    "block_credits": "50",
    "price": "5",
    "cool_down_minutes": 60,
    "daily_cap": 100,
    "back_off_minutes": 10,
}


def log_of(allowance: str = "20", zone: str = "UTC", policy: str = "hard_stop", **fields: Any) -> Log:
    log = Log()
    document = plan(
        allowance,
        zone=zone,
        currency="USD",
        overage={"policy": policy, "price": "0.02", "settled_by": "purchases"},
        recharge=RECHARGE | fields,
    )
    log.set_plan(document, effective_at=NOON - DAY)
    return log


def use(log: Log, *amounts: int) -> None:
    for amount in amounts:
        log.message(f"u{len(log.records)}", body=None, segments=amount)


def answer(log: Log, answered: str, number: int = 1) -> None:
    log.command(f"{answered}_recharge", recharge=f"recharge-{number}")


def folded(log: Log) -> tuple[Worker, list[Document]]:
    """A worker that has folded the log record by record, and the requests it made."""
    worker, requests = Worker(rules()), []
    for record in log.records:
        worker.take([record])
        outcomes = worker.fold.take_outcomes()
        worker.effects.take(outcomes)
        requests += outcomes.recharges
    worker.keep()
    return worker, requests


def asked_at(log: Log) -> list[int]:
    """When a block was asked for."""
    return [request["occurred_at"] for request in folded(log)[1]]


@pytest.mark.parametrize(
    ("amounts", "requests"), [([10], 0), ([11], 1), ([10, 1], 1), ([5, 5, 1, 1], 1), ([30], 1)]
)
def test_a_block_is_asked_for_below_the_level_and_not_at_it(amounts: list[int], requests: int) -> None:
    log = log_of()
    use(log, *amounts)
    assert len(asked_at(log)) == requests


def test_a_request_says_the_block_what_is_owed_and_what_is_charged_in_all() -> None:
    log = log_of("4500", "UTC", "negative", block_credits="1000", price="50", level_credits="0")
    use(log, *[250] * 20)
    (request,) = folded(log)[1]
    assert request == {
        "id": "recharge-1",
        "tenant": "acme",
        "available": "-250",
        "credits": "1000",
        "due_credits": "250",
        "currency": "USD",
        "due": "5",
        "top_up": "50",
        "charge": "55",
        "occurred_at": NOON,
        "partition": 0,
        "offset": 19,
    }


def test_a_delay_lets_one_request_cover_a_whole_sending() -> None:
    log = log_of("4500", "UTC", "negative", price="50", level_credits="0", delay_minutes=1)
    use(log, *[250] * 20)
    log.tick(NOON + MINUTE)
    (request,) = folded(log)[1]
    assert (request["due"], request["top_up"], request["charge"]) == ("10", "50", "60")


def test_what_is_reserved_is_not_available() -> None:
    log = log_of()
    log.command("reserve", credits="11", expires_at=NOON + DAY)
    assert asked_at(log) == [NOON]


def test_credits_that_expire_are_missed_at_their_instant() -> None:
    log = log_of()
    log.grant("15", expires_at=NOON + HOUR)
    use(log, 20)
    log.tick(NOON + 2 * HOUR)
    assert asked_at(log) == [NOON + HOUR], (
        "the allowance burned first, and five were left of it and the grant"
    )


def test_one_request_is_in_flight_until_it_is_answered() -> None:
    log = log_of()
    use(log, 11)
    log.now += 3 * DAY
    use(log, 9)
    assert asked_at(log) == [NOON]


def test_a_cool_down_passes_between_two_requests() -> None:
    log = log_of(block_credits="1")
    use(log, 15)
    answer(log, "confirm")
    log.tick(NOON + HOUR - 1)
    assert asked_at(log) == [NOON]
    log.tick(NOON + HOUR)
    assert asked_at(log) == [NOON, NOON + HOUR]


def test_no_more_than_the_daily_cap_is_asked_for_in_a_local_day() -> None:
    """Kathmandu's day ends at 18:15 UTC."""
    log = log_of(zone="Asia/Kathmandu", block_credits="1", daily_cap=2, cool_down_minutes=1)
    use(log, 19)
    for number in (1, 2):
        answer(log, "confirm", number)
        log.tick(log.now + MINUTE)
    assert asked_at(log) == [NOON, NOON + MINUTE]
    log.tick(instant("2026-02-10T18:15") - 1)
    assert len(asked_at(log)) == 2
    log.tick(instant("2026-02-11T12:00"))
    assert asked_at(log)[2:] == [instant("2026-02-10T18:15")], "at its own instant, not when somebody looked"


@pytest.mark.parametrize(
    ("declines", "minutes"), [(1, 10), (2, 20), (3, 40), (7, 640), (8, 1280), (9, 1440), (15, 1440)]
)
def test_the_back_off_doubles_with_each_decline_up_to_a_day(declines: int, minutes: int) -> None:
    log = log_of(cool_down_minutes=1)
    use(log, 11)
    for number in range(1, declines + 1):
        answer(log, "decline", number)
        declined_at = log.now
        log.tick(log.now + DAY)
    assert asked_at(log)[declines] == declined_at + minutes * MINUTE


def test_a_confirmation_ends_the_back_off() -> None:
    log = log_of(cool_down_minutes=1, block_credits="1")
    use(log, 15)
    for number, answered in enumerate(("decline", "decline", "confirm", "decline"), start=1):
        answer(log, answered, number)
        declined_at = log.now
        log.tick(log.now + DAY)
    assert asked_at(log)[4] == declined_at + 10 * MINUTE


def test_a_confirmation_grants_the_block_and_says_what_it_cost() -> None:
    log = log_of()
    use(log, 11)
    answer(log, "confirm")
    worker, _ = folded(log)
    (entry,) = [each for each in worker.effects.entries.values() if each.kind == "purchase"]
    assert (entry.amount, entry.money_micros, entry.currency) == (50_000_000, 5_000_000, "USD")
    assert worker.account().balance == 59_000_000


def test_a_payment_settles_what_was_due_when_it_was_asked_for() -> None:
    log = log_of("4500", "UTC", "negative", level_credits="0", price="50", delay_minutes=1)
    use(log, *[250] * 20)
    log.tick(NOON + MINUTE)
    use(log, 7)
    answer(log, "confirm")
    worker, _ = folded(log)
    (paid,) = [each for each in worker.effects.entries.values() if each.kind == "payment"]
    assert (paid.amount, paid.money_micros) == (500_000_000, 10_000_000)
    account = worker.account()
    assert (account.uncovered, account.balance) == (0, 43_000_000), "what came after is paid off by the block"


def test_what_was_due_and_is_settled_meanwhile_comes_as_credits() -> None:
    log = log_of("0", "UTC", "negative", level_credits="0")
    use(log, 20)
    log.grant("30")
    answer(log, "confirm")
    assert folded(log)[0].account().balance == (30 + 50) * 1_000_000


@pytest.mark.parametrize("answered", ["confirm", "decline"])
@pytest.mark.parametrize("number", [0, 2])
def test_an_answer_to_nothing_that_waits_is_refused(answered: str, number: int) -> None:
    log = log_of()
    use(log, 11)
    answer(log, answered, number)
    assert folded(log)[0].effects.results[2]["reason"] == Refusal.RECHARGE_UNKNOWN


def test_a_request_is_answered_once() -> None:
    log = log_of()
    use(log, 11)
    answer(log, "confirm")
    answer(log, "confirm")
    worker, _ = folded(log)
    assert [worker.effects.results[at]["reason"] for at in (2, 3)] == [None, Refusal.RECHARGE_UNKNOWN]
    assert worker.account().balance == 59_000_000


def test_what_is_owed_is_asked_for_also_when_a_renewal_has_filled_the_account_before() -> None:
    """Five were sent on credit an hour before the month ended; the new allowance pays for none of them."""
    log = log_of(policy="negative", level_credits="0", delay_minutes=120)
    log.now = instant("2026-02-28T23:00")
    use(log, 25)
    log.tick(instant("2026-03-01T02:00"))
    ((*_, request),) = (folded(log)[1],)
    assert (request["due_credits"], request["due"], request["charge"]) == ("5", "0.1", "5.1")
    answer(log, "confirm")
    worker, requests = folded(log)
    assert len(requests) == 1
    assert worker.account().uncovered == 0
    assert worker.account().balance == 70_000_000


def test_what_is_owed_first_is_asked_for_at_once_also_where_messages_of_the_time_cost_nothing() -> None:
    log = log_of("0", "UTC", "negative", level_credits="0")
    log.grant("100")
    log.now += HOUR
    before = {"occurred_at": NOON - HOUR, "status_at": log.now}
    log.message("free", kind="rcs", body=None, **before)
    log.message("late", body=None, segments=1, **before)
    log.message("next", body=None, segments=1)
    assert [(each["offset"], each["due_credits"]) for each in folded(log)[1]] == [(3, "1")]
