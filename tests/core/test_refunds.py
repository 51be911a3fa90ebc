"""A charged message that finally fails is refunded: once, to the grants it burned, whatever is still held of it."""

from collections.abc import Iterable
from typing import Any

import pytest

from pipeline.core.account import Allocation
from pipeline.core.identity import message_key
from pipeline.core.outcomes import FACT_COLUMNS
from pipeline.core.refunds import RecentFacts, refund_key
from pipeline.core.refusals import Refusal
from pipeline.core.rules import Rules
from tests.builders import AT, DAY, HOUR, NOON, Log, Worker, instant, plan, rules, run

FAILURES = ["undelivered", "failed"]
LONG = "x" * 161
"""Two segments."""


def log_of(document: dict[str, Any] | None = None, *statuses: str, **fields: Any) -> Log:
    """A tenant under a plan that refunds, and statuses of one message, an hour apart; the first has the content."""
    log = Log()
    terms = plan("10", refunded_statuses=FAILURES) if document is None else document
    log.set_plan(terms, effective_at=NOON - 40 * DAY)
    for status in statuses:
        log.message(**{"status": status, "occurred_at": NOON, **fields})
        fields["body"] = None
        log.now += HOUR
    return log


def facts_of(worker: Worker) -> list[dict[str, Any]]:
    return [dict(zip(FACT_COLUMNS, fact, strict=True)) for fact in worker.effects.facts.values()]


def signed(worker: Worker) -> list[int]:
    """What each fact charged or gave back, in credits."""
    return [fact["credits_micros"] // 1_000_000 for fact in facts_of(worker)]


def entered(worker: Worker) -> dict[str, int]:
    """The sums of the account's entries by kind, in credits; zeros left out."""
    sums: dict[str, int] = {}
    for entry in worker.effects.entries.values():
        sums[entry.kind] = sums.get(entry.kind, 0) + entry.amount // 1_000_000
    return {kind: amount for kind, amount in sums.items() if amount}


def assert_entered(worker: Worker) -> None:
    entries = worker.effects.entries.values()
    assert sum(entry.amount for entry in entries) == worker.account().balance


def remaining(worker: Worker) -> dict[str, int]:
    """What remains of each grant, in credits."""
    return {grant.id: grant.remaining // 1_000_000 for grant in worker.account().grants}


def taken_up_again(worker: Worker) -> Worker:
    """The successor of a worker that was killed."""
    return Worker(worker.rules, worker.tables, worker.effects)


# What a refund is.


def test_a_refund_is_a_fact_of_its_own_that_takes_back_the_charge() -> None:
    charge, refund = facts_of(run(log_of(None, "sent", "failed", body=LONG, category="campaign", list="vip")))
    assert charge["message_key"] == message_key("acme", "gateway", "m1")
    assert refund == charge | {
        "message_key": refund_key(charge["message_key"]),
        "status": "failed",
        "received_at": NOON + HOUR,
        "messages": 0,
        "segments": 0,
        "quantity": -2,
        "credits_micros": -2_000_000,
        "grant_micros": -2_000_000,
        "kafka_offset": 2,
    }


@pytest.mark.parametrize(
    ("refunded", "statuses", "charged"),
    [
        (FAILURES, ["sent", "delivered"], [1]),
        (FAILURES, ["sent", "failed"], [1, -1]),
        (FAILURES, ["failed", "sent"], [1, -1]),
        (FAILURES, ["undelivered"], [1, -1]),
        (FAILURES, ["failed"], []),
        (FAILURES, ["sent", "failed", "undelivered", "failed", "delivered"], [1, -1]),
        (FAILURES, ["failed", "undelivered", "sent", "failed"], [1, -1]),
        (["failed"], ["undelivered", "sent"], [1]),
        (["failed"], ["undelivered", "failed"], [1, -1]),
        ([], ["sent", "undelivered", "failed"], [1]),
    ],
)
def test_a_message_is_refunded_once_iff_it_was_charged_and_the_plan_refunds_its_failure(
    refunded: list[str], statuses: list[str], charged: list[int]
) -> None:
    worker = run(log_of(plan("10", refunded_statuses=refunded), *statuses))
    assert signed(worker) == charged
    assert worker.account().balance == (10 - sum(charged)) * 1_000_000
    assert [period.used for period in worker.account().periods] == [sum(charged) * 1_000_000]
    assert_entered(worker)


def test_a_failure_known_before_the_charge_is_named_in_the_refund() -> None:
    charge, refund = facts_of(run(log_of(None, "failed", "sent")))
    assert (charge["status"], refund["status"]) == ("sent", "failed")
    assert charge["kafka_offset"] == refund["kafka_offset"] == 2


def test_a_refund_goes_to_the_grants_that_were_burned() -> None:
    log = log_of(plan("1", refunded_statuses=FAILURES))
    log.grant("5", command_id="bought")
    log.message(status="sent", body=LONG)
    charged = run(log)
    assert list(remaining(charged).values()) == [0, 4]
    log.message(status="failed", body=None)
    worker = run(log)
    assert list(remaining(worker).values()) == [1, 5]
    charge, refund = facts_of(worker)
    assert refund["grant_id"] == charge["grant_id"]
    assert refund["further_grants"] == {grant: -micros for grant, micros in charge["further_grants"].items()}
    assert_entered(worker)


def test_a_refund_takes_off_its_messages_window() -> None:
    worker = run(log_of(None, "sent", "failed", body=LONG))
    assert worker.effects.windows["acme", NOON][1] == {("sms", "outbound", "US", ""): [1, 2, 0, 0]}
    assert entered(worker) == {"allowance": 10}


def test_a_charge_refunded_at_once_is_in_the_window_whole() -> None:
    worker = run(log_of(None, "undelivered"))
    assert worker.effects.windows["acme", NOON][1] == {("sms", "outbound", "US", ""): [1, 1, 0, 0]}


def test_a_refund_to_a_grant_that_has_ended_lapses() -> None:
    log = log_of(plan("0", refunded_statuses=FAILURES))
    log.grant("5", expires_at=NOON + 2 * HOUR)
    log.message(status="sent", occurred_at=NOON)
    log.now += 3 * HOUR
    log.message(status="failed", occurred_at=NOON)
    worker = run(log)
    assert signed(worker) == [1, -1]
    assert worker.account().balance == 0
    assert entered(worker) == {"purchase": 5, "expiry": -4, "expiry_correction": -1}
    assert_entered(worker)


def test_a_refund_for_a_closed_period_counts_in_the_open_one_by_entries_of_its_own() -> None:
    log = log_of(plan("10", refunded_statuses=FAILURES, late_grace_hours=4), "sent")
    log.now = instant("2026-03-02")
    log.message(status="failed", occurred_at=NOON)
    worker = run(log, rules(window_milliseconds=30 * DAY))
    charge, refund = facts_of(worker)
    assert (charge["period_start"], refund["period_start"]) == (instant("2026-02-01"), instant("2026-03-01"))
    assert refund["local_date"] == charge["local_date"]
    assert entered(worker)["refund"] == 1
    assert worker.effects.windows["acme", NOON][1] == {("sms", "outbound", "US", ""): [1, 1, 0, 0]}
    assert_entered(worker)


def test_a_window_that_is_let_go_is_summed_with_the_refund() -> None:
    log = log_of(None, "sent")
    log.now += 5 * DAY
    log.message(status="failed", occurred_at=NOON)
    worker = run(log, rules(window_milliseconds=DAY))
    assert worker.effects.recomputed == {("acme", NOON)}
    assert entered(worker)["refund"] == 1
    assert_entered(worker)


def test_a_charge_and_a_refund_that_both_correct_an_expiry_have_entries_of_their_own() -> None:
    """A late message burns a grant whose expiry was posted, fails, and its windows are let go."""
    log = log_of(plan("0", refunded_statuses=FAILURES, late_grace_hours=96))
    log.grant("5", expires_at=NOON + 2 * HOUR)
    log.now += 3 * DAY
    log.message(status="undelivered", occurred_at=NOON)
    worker = run(log, rules(window_milliseconds=DAY))
    corrections = [entry for entry in worker.effects.entries.values() if entry.kind == "expiry_correction"]
    assert sorted(entry.amount for entry in corrections) == [-1_000_000, 1_000_000]
    assert_entered(worker)


def test_a_message_from_before_its_lists_share_adds_nothing_to_it() -> None:
    log = log_of(None, "sent", list="vip")
    log.command("allocate", list="vip", credits="5")
    log.message(status="failed", occurred_at=NOON, list="vip")
    assert run(log).account().allocations == {"vip": Allocation(5_000_000, 0)}


def test_what_lapses_comes_back_to_no_share() -> None:
    log = log_of(plan("0", refunded_statuses=FAILURES))
    log.grant("10", expires_at=NOON + 2 * HOUR)
    log.command("allocate", list="vip", credits="10")
    log.message(status="sent", occurred_at=NOON, list="vip", body=None, segments=10)
    log.now += 3 * HOUR
    log.message(status="failed", occurred_at=NOON, list="vip", body=None)
    account = run(log).account()
    assert (account.credits, account.allocations) == (0, {"vip": Allocation(0, 10_000_000)})


def test_a_refund_gives_units_of_a_quota_back() -> None:
    log = log_of(plan("10", refunded_statuses=FAILURES, quotas={"sms": 5}), "sent", body=LONG)
    assert run(log).account().periods[0].units == {"sms": 2}
    log.message(status="failed", occurred_at=NOON)
    assert run(log).account().periods[0].units == {"sms": 0}


QUOTED = plan("10", refunded_statuses=FAILURES, quotas={"sms": 5}, late_grace_hours=4)


def units(log: Log) -> dict[str, int]:
    """What the open period has counted of its quotas."""
    return run(log).account().periods[-1].units


def test_a_refund_that_counts_in_a_later_period_takes_nothing_off_its_quota() -> None:
    log = log_of(QUOTED, "sent", body=LONG)
    log.now = instant("2026-03-02")
    log.message(status="failed", occurred_at=NOON)
    assert units(log) == {}
    log.message("m2", status="sent", body=LONG)
    assert units(log) == {"sms": 2}


def test_units_of_a_late_message_are_given_back_where_they_were_counted() -> None:
    log = log_of(QUOTED)
    log.now = instant("2026-03-02")
    log.message(status="sent", occurred_at=NOON, body=LONG)
    assert units(log) == {"sms": 2}
    log.message(status="failed", occurred_at=NOON, body=None)
    assert units(log) == {"sms": 0}


def test_a_quota_of_a_plan_set_meanwhile_for_the_messages_time_is_not_below_nothing() -> None:
    log = log_of(plan("10", refunded_statuses=FAILURES), "sent", body=LONG)
    log.set_plan(QUOTED, effective_at=NOON - 40 * DAY)
    log.message(status="failed", occurred_at=NOON)
    assert units(log) == {"sms": 0}


def test_a_contradicting_failure_refunds_nothing() -> None:
    log = log_of(None, "sent")
    log.message(status="failed", occurred_at=NOON, to="+4915112345678")
    worker = run(log)
    assert signed(worker) == [1]
    assert worker.effects.reasons() == [Refusal.IDENTITY_CONFLICT]


# Where the charge is found.


def asked(worker: Worker, records: Iterable[Any]) -> list[bytes]:
    return [key for _, key in worker.fold.refund_look_ups(worker.fold.admit(records))]


KEY = message_key("acme", "gateway", "m1")


def stored_worker(log: Log, given: Rules | None = None) -> Worker:
    """One that has stored all facts of the log and remembers none of them."""
    worker = Worker(given or rules())
    worker.take(log.records)
    worker.keep()
    worker.close_epoch()
    return worker


def test_what_may_be_refunded_is_asked_for() -> None:
    worker = stored_worker(log_of(None, "sent"))
    log = log_of(None, "sent", "failed")
    assert asked(worker, log.records[2:]) == [KEY]


@pytest.mark.parametrize(
    ("refunded", "before", "status"),
    [
        (FAILURES, "sent", "delivered"),
        ([], "sent", "failed"),
        (["failed"], "sent", "undelivered"),
        (FAILURES, "failed", "failed"),
    ],
    ids=["no failure", "not refunded", "another failure", "never charged"],
)
def test_nothing_else_is_asked_for(refunded: list[str], before: str, status: str) -> None:
    terms = plan("10", refunded_statuses=refunded)
    worker = stored_worker(log_of(terms, before))
    assert not asked(worker, log_of(terms, before, status).records[2:])


def test_a_charge_is_remembered_until_the_epoch_after_its_own_is_taken() -> None:
    """Its own may not be stored before that."""
    worker = Worker(rules())
    log = log_of(None, "sent", "failed")
    worker.take(log.records[:2])
    for _ in range(2):
        assert not asked(worker, log.records[2:])
        worker.take_epoch()
    assert asked(worker, log.records[2:]) == [KEY]


def test_a_plan_that_comes_with_the_failure_is_asked_for_too() -> None:
    terms = plan("10")
    worker = stored_worker(log_of(terms, "sent"))
    log = log_of(terms, "sent")
    log.set_plan(plan("10", refunded_statuses=FAILURES), effective_at=NOON - 40 * DAY)
    log.message(status="failed", occurred_at=NOON)
    worker.take(log.records[2:])
    worker.keep()
    assert signed(worker) == [1, -1]


def test_the_charge_is_taken_back_as_it_was_stored() -> None:
    log = log_of(None, "sent", "failed", body=LONG)
    at_once = run(log)
    worker = stored_worker(log_of(None, "sent", body=LONG))
    worker.take(log.records[2:])
    worker.keep()
    assert worker.effects.facts == at_once.effects.facts
    assert worker.account() == at_once.account()


def test_a_charge_that_was_not_storable_is_not_refunded() -> None:
    worker = stored_worker(log_of(None, "sent"))
    worker.effects.facts.clear()
    worker.take(log_of(None, "sent", "failed").records[2:])
    worker.close_epoch()
    assert not worker.effects.facts
    assert worker.effects.reasons() == [Refusal.UNSTORABLE]


# Identities that are no longer held.


def evicting_log() -> Log:
    """A charge, and so much time and so many messages that it is not held any more."""
    log = log_of(plan("100", refunded_statuses=FAILURES), "sent")
    for number in range(3):
        log.now += 12 * HOUR
        log.message(f"n{number}")
    return log


SMALL = rules(identity_limit=1, identity_milliseconds=HOUR)


def evicting_worker(log: Log) -> Worker:
    worker = Worker(SMALL)
    for record in log.records:
        worker.take([record])
        worker.keep()
    assert worker.fold.identities.find(KEY) < 0
    return worker


def test_a_message_no_longer_held_is_refunded_once() -> None:
    log = evicting_log()
    worker = evicting_worker(log)
    for status in ("failed", "failed", "undelivered"):
        record = log.message(status=status, occurred_at=NOON)
        assert asked(worker, [record]) == [KEY]
        worker.take([record])
        worker.keep()
    assert sum(signed(worker)) == 3
    assert len(worker.effects.facts) == 5
    assert_entered(worker)


def test_two_failures_in_one_chunk_refund_once() -> None:
    log = evicting_log()
    worker = evicting_worker(log)
    worker.take([log.message(status=status, occurred_at=NOON) for status in FAILURES])
    worker.keep()
    assert sum(signed(worker)) == 3


# Crashes.


@pytest.mark.parametrize("is_held", [True, False])
def test_an_account_that_had_not_kept_a_refund_is_refunded_by_the_replay(is_held: bool) -> None:
    """The checkpoint dies after the identities and windows, before the accounts."""
    log = log_of(None, "sent") if is_held else evicting_log()
    worker = stored_worker(log) if is_held else evicting_worker(log)
    failed = log.message(status="failed", occurred_at=NOON)
    worker.take([failed])
    changes = worker.checkpoint()
    worker.write(changes, len(changes.identities) + len(changes.windows))
    balance_before = worker.account().balance
    again = taken_up_again(worker)
    assert not asked(again, [failed])
    again.take([failed])
    again.keep()
    assert again.effects.facts == worker.effects.facts
    assert again.account().balance == balance_before + 1_000_000
    assert_entered(again)


def test_a_refund_stored_before_the_crash_is_repeated_by_its_own_record_and_by_no_other() -> None:
    log = log_of(None, "sent")
    worker = stored_worker(log)
    failures = [log.message(status=status, occurred_at=NOON) for status in ("failed", "undelivered")]
    worker.take(failures[:1])
    worker.close_epoch()
    again = taken_up_again(worker)
    for failure in failures:
        again.take([failure])
        again.keep()
    assert signed(again) == [1, -1]
    assert again.account().balance == 10_000_000
    assert_entered(again)


def test_an_identity_that_comes_back_with_an_older_checkpoint_is_not_refunded_again() -> None:
    """It was refunded while it was not held, so what is held again knows nothing of it."""
    log = evicting_log()
    worker = evicting_worker(log)
    worker.take([log.message(status="failed", occurred_at=NOON)])
    worker.keep()
    again = taken_up_again(worker)
    assert again.fold.identities.find(KEY) >= 0
    again.take([log.message(status="undelivered", occurred_at=NOON)])
    again.keep()
    assert sum(signed(again)) == 3
    assert_entered(again)


# Recent facts.


def fact_of(key: bytes) -> tuple[Any, ...]:
    fact: list[Any] = [""] * len(FACT_COLUMNS)
    fact[AT["message_key"]] = key
    return tuple(fact)


def test_recent_facts_are_found_as_they_come_for_two_epochs() -> None:
    recent = RecentFacts()
    first, second, third = (fact_of(key) for key in (b"1", b"2", b"3"))
    facts = [first]
    recent.begin(facts)
    assert (recent.find(b"1"), recent.find(b"2")) == (first, None)
    facts.append(second)
    assert recent.find(b"2") == second
    recent.begin([third])
    assert (recent.find(b"1"), recent.find(b"3")) == (first, third)
    recent.begin([])
    assert (recent.find(b"1"), recent.find(b"3")) == (None, third)
