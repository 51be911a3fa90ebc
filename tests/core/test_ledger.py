"""Periods, allowances and grants of one account, as its commands and its messages move it."""

from typing import Any

import pytest

from pipeline.core.account import FOREVER_AT, Account, Entry, Grant, Period
from pipeline.core.burning import burn
from tests.builders import DAY, HOUR, MINUTE, NOON, Log, Worker, instant, plan, rules, run, said

MICROS = 1_000_000


def credits_left(worker: Worker) -> dict[str, int]:
    """Whole credits by grant id."""
    return {grant.id: grant.remaining // MICROS for grant in worker.account().grants}


def entries_of(worker: Worker, *kinds: str) -> list[tuple[str, int]]:
    """(kind, whole credits) of the entries but usage, in the order in which they were posted."""
    entries = sorted(worker.effects.entries.values(), key=lambda entry: (entry.posted_at, entry.entry_id))
    wanted = kinds or ("allowance", "purchase", "promotion", "adjustment", "plan_change", "expiry")
    return [(entry.kind, entry.amount // MICROS) for entry in entries if entry.kind in wanted]


def log_at(text: str, allowance: str = "10", **terms: Any) -> Log:
    """A tenant under a plan that holds for a year already."""
    log = Log(instant(text))
    log.set_plan(plan(allowance, **terms), effective_at=log.now - 365 * DAY)
    return log


# Burning.


def make_grant(grant_id: str, amount: int = 10, **fields: Any) -> Grant:
    given = {
        "kind": "promotion",
        "starts_at": 0,
        "expires_at": FOREVER_AT,
        "priority": 500,
        "created_offset": 0,
    }
    return Grant(id=grant_id, amount=amount, remaining=amount, **given | fields)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"priority": 1, "expires_at": 900}, {"priority": 2, "expires_at": 500}),
        ({"expires_at": 500}, {"expires_at": 501}),
        ({"expires_at": 500}, {}),
        ({}, {"kind": "purchase"}),
        ({"starts_at": 1}, {"starts_at": 2}),
        ({"created_offset": 1}, {"created_offset": 2}),
    ],
)
def test_grants_burn_in_their_order_whatever_their_ids(first: dict[str, Any], second: dict[str, Any]) -> None:
    grants = sorted([make_grant("a", **second), make_grant("b", **first)], key=lambda each: each.burn_order)
    account = Account("acme", grants=grants)
    assert burn(account, 15, 100, Period(0, 1000, 20)) == ([("b", 10), ("a", 5)], [])


def test_equal_grants_burn_by_id() -> None:
    grants = sorted([make_grant("b"), make_grant("a")], key=lambda each: each.burn_order)
    assert [grant.id for grant in grants] == ["a", "b"]


def test_only_grants_valid_then_burn_and_the_rest_is_uncovered() -> None:
    grants = [make_grant("over", expires_at=100), make_grant("to come", starts_at=101), make_grant("good")]
    account = Account("acme", grants=grants)
    period = Period(0, 1000, 30)
    assert burn(account, 25, 100, period) == ([("good", 10), ("", 15)], [])
    assert account.uncovered == period.uncovered == 15
    assert [grant.remaining for grant in grants] == [10, 10, 0]
    assert (account.credits, account.balance) == (20, 5)


def test_a_charge_over_a_grants_end_is_split_and_told_so() -> None:
    log = log_at("2026-02-10T12:00", "3")
    log.grant("4")
    log.message("m1", body=None, segments=9)
    log.message("m2", body=None, segments=1)
    worker = run(log)
    splits = [
        tuple(said(fact, name) for name in ("grant_id", "grant_micros", "further_grants"))
        for fact in worker.effects.facts.values()
    ]
    allowance = f"allowance:{instant('2026-02-01')}"
    assert splits == [(allowance, 3 * MICROS, {"purchase:c1": 4 * MICROS, "": 2 * MICROS}), ("", MICROS, {})]
    assert worker.account().uncovered == 3 * MICROS


# Periods.


@pytest.mark.parametrize(
    ("zone", "anchor_day", "now", "starts"),
    [
        ("UTC", 1, "2026-01-15", ["2026-01-01", "2026-02-01", "2026-03-01", "2026-04-01"]),
        ("UTC", 31, "2026-01-31", ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]),
        ("UTC", 30, "2024-01-30", ["2024-01-30", "2024-02-29", "2024-03-30", "2024-04-30"]),
        ("UTC", 15, "2026-12-20", ["2026-12-15", "2027-01-15", "2027-02-15", "2027-03-15"]),
        (
            "America/New_York",
            1,
            "2026-02-10",
            ["2026-02-01T05:00", "2026-03-01T05:00", "2026-04-01T04:00", "2026-05-01T04:00"],
        ),
        (
            "Australia/Lord_Howe",
            1,
            "2026-03-10",
            ["2026-02-28T13:00", "2026-03-31T13:00", "2026-04-30T13:30", "2026-05-31T13:30"],
        ),
        (
            "Asia/Kathmandu",
            1,
            "2026-01-15",
            ["2025-12-31T18:15", "2026-01-31T18:15", "2026-02-28T18:15", "2026-03-31T18:15"],
        ),
    ],
)
def test_periods_follow_the_tenants_months(zone: str, anchor_day: int, now: str, starts: list[str]) -> None:
    log = log_at(
        f"{now}T12:00" if "T" not in now else now, zone=zone, anchor_day=anchor_day, late_grace_hours=0
    )
    expected = [instant(text) for text in starts]
    held = []
    for start in expected:
        log.tick(max(start, log.now))
        (*_, period) = run(log).account().periods
        held.append(period.starts_at)
    assert held == expected


def test_a_renewal_brings_a_new_allowance_and_the_old_one_lapses_at_that_instant() -> None:
    log = log_at("2026-01-20T00:00", late_grace_hours=72)
    log.message("m1", body=None, segments=4)
    log.tick(instant("2026-02-01T00:00") - 1)
    assert credits_left(run(log)) == {f"allowance:{instant('2026-01-01')}": 6}
    log.tick(instant("2026-02-01T00:00"))
    worker = run(log)
    assert worker.account().balance == 10 * MICROS
    assert entries_of(worker) == [("allowance", 10), ("allowance", 10), ("expiry", -6)]
    (expiry,) = (entry for entry in worker.effects.entries.values() if entry.kind == "expiry")
    assert expiry.effective_at == instant("2026-02-01") - 1, "it belongs to the period that ends"
    assert expiry.posted_at == instant("2026-02-01")
    assert expiry.balance_after == 0


def test_a_lapsed_allowance_is_kept_for_late_messages_until_the_grace_is_over() -> None:
    log = log_at("2026-01-20T00:00", late_grace_hours=72)
    log.tick(instant("2026-02-04T00:00") - 1)
    assert list(credits_left(run(log)).values()) == [10, 10]
    log.tick(instant("2026-02-04T00:00"))
    assert credits_left(run(log)) == {f"allowance:{instant('2026-02-01')}": 10}


def test_a_late_message_takes_back_what_had_lapsed_for_it() -> None:
    """The expiry took all ten; one of them was burned by a message sent before."""
    log = log_at("2026-01-31T12:00", late_grace_hours=72)
    log.now = instant("2026-02-02T00:00")
    log.message("m1", occurred_at=instant("2026-01-31T23:59"))
    worker = run(log)
    assert sorted(entries_of(worker, "expiry", "expiry_correction", "usage")) == [
        ("expiry", -10),
        ("expiry_correction", 1),
        ("usage", -1),
    ]
    assert worker.account().balance == 10 * MICROS


def test_a_silent_year_is_twelve_renewals_whether_ticks_came_or_not() -> None:
    silent, ticked = log_at("2026-01-20T00:00"), log_at("2026-01-20T00:00")
    for day in range(365):
        ticked.tick(silent.now + day * DAY)
    silent.tick(ticked.now)

    def posted(log: Log) -> list[tuple[str, int, int, int, int | None]]:
        return [
            (entry.entry_id, entry.amount, entry.effective_at, entry.posted_at, entry.balance_after)
            for entry in run(log).effects.entries.values()
        ]

    assert posted(silent) == posted(ticked)
    assert len([each for each in posted(silent) if each[0].startswith("allowance")]) == 13


def test_a_late_message_counts_in_the_period_it_occurred_in_until_the_grace_is_over() -> None:
    log = log_at("2026-01-31T12:00", late_grace_hours=72)
    log.now = instant("2026-02-03T23:59")
    log.message("m1", occurred_at=instant("2026-01-31T23:59"))
    worker = run(log)
    assert list(credits_left(worker).values()) == [9, 10]
    log.now = instant("2026-02-04T00:00")
    log.message("m2", occurred_at=instant("2026-01-31T23:59"))
    worker = run(log)
    assert list(credits_left(worker).values()) == [9]
    assert [(period.starts_at, period.used) for period in worker.account().periods] == [
        (instant("2026-02-01"), MICROS)
    ]


def test_a_message_ahead_of_the_log_opens_its_period() -> None:
    log = log_at("2026-01-31T12:00")
    log.message("m1", occurred_at=instant("2026-02-01T00:00"), status_at=log.now)
    worker = run(log)
    assert list(credits_left(worker).values()) == [10, 9]
    log.tick(instant("2026-02-01T00:00"))
    assert entries_of(run(log), "allowance") == entries_of(worker, "allowance"), "it comes once"


def test_a_message_ahead_of_its_own_plan_has_a_period() -> None:
    """The gateway's clock is ahead and the plan begins tomorrow: sent is sent."""
    log = Log()
    log.set_plan(effective_at=NOON + HOUR)
    log.message("m1", occurred_at=NOON + 2 * HOUR, status_at=NOON)
    worker = run(log)
    assert not worker.effects.refusals
    assert worker.account().uncovered == 0


# Plans.


def test_an_upgrade_adds_the_difference_at_once() -> None:
    log = log_at("2026-02-10T12:00", "10")
    log.message("m1", body=None, segments=4)
    log.set_plan(plan("25"), command_id="up")
    worker = run(log)
    (period,) = worker.account().periods
    assert list(credits_left(worker).values()) == [21]
    assert (period.limit, period.used) == (25 * MICROS, 4 * MICROS)
    assert entries_of(worker) == [("allowance", 10), ("plan_change", 15)]
    (change,) = (entry for entry in worker.effects.entries.values() if entry.kind == "plan_change")
    assert change.cause == "up"


@pytest.mark.parametrize(("burned", "left", "limit"), [(4, 1, 5), (5, 0, 5), (8, 0, 8)])
def test_a_downgrade_takes_no_more_than_is_left(burned: int, left: int, limit: int) -> None:
    log = log_at("2026-02-10T12:00", "10")
    log.message("m1", body=None, segments=burned)
    log.set_plan(plan("5"))
    worker = run(log)
    (period,) = worker.account().periods
    assert list(credits_left(worker).values()) == [left]
    assert period.limit == limit * MICROS
    assert worker.account().uncovered == 0


def test_down_and_up_again_gives_back_what_was_taken_and_no_more() -> None:
    log = log_at("2026-02-10T12:00", "10")
    log.message("m1", body=None, segments=8)
    for allowance in ("5", "10", "1", "10"):
        log.now += MINUTE
        log.set_plan(plan(allowance))
    worker = run(log)
    assert list(credits_left(worker).values()) == [2]
    assert worker.account().periods[0].limit == 10 * MICROS


def test_a_future_plan_waits_for_its_instant() -> None:
    log = log_at("2026-02-10T12:00", "10")
    log.set_plan(plan("25"), effective_at=instant("2026-02-12T00:00"))
    log.tick(instant("2026-02-12T00:00") - 1)
    assert list(credits_left(run(log)).values()) == [10]
    log.tick(instant("2026-02-12T00:00"))
    assert list(credits_left(run(log)).values()) == [25]


def test_each_period_that_passed_unseen_had_the_plan_of_its_time() -> None:
    """Upgraded from March on, heard of again in April: February's allowance was the old one."""
    log = log_at("2026-01-20T00:00", "10")
    log.set_plan(plan("50"), effective_at=instant("2026-03-01T00:00"))
    log.tick(instant("2026-04-10T00:00"))
    allowances = [("allowance", 10), ("allowance", 10), ("allowance", 50), ("allowance", 50)]
    assert entries_of(run(log), "allowance") == allowances


def test_a_change_of_zone_or_anchor_takes_effect_with_the_next_period() -> None:
    log = log_at("2026-02-10T12:00", late_grace_hours=0)
    log.set_plan(plan("10", zone="Asia/Kathmandu", anchor_day=15))
    assert run(log).account().periods[0].ends_at == instant("2026-03-01")
    log.tick(instant("2026-03-02T00:00"))
    (*_, period) = run(log).account().periods
    assert (period.starts_at, period.ends_at) == (instant("2026-03-01"), instant("2026-04-14T18:15")), (
        "less than half a month is no period of its own"
    )


def test_the_plan_in_force_when_a_message_occurred_rates_it() -> None:
    log = log_at("2026-02-10T12:00", "100")
    dearer = plan("100", rates=[{"kind": "sms", "credits": "7", "per": "segment"}])
    log.set_plan(dearer, effective_at=NOON + HOUR)
    log.now = NOON + 2 * HOUR
    log.message("m1", occurred_at=NOON + HOUR - 1)
    log.message("m2", occurred_at=NOON + HOUR)
    assert [said(fact, "credits_micros") // MICROS for fact in run(log).effects.facts.values()] == [1, 7]


def test_the_default_plan_holds_until_the_tenants_own_begins() -> None:
    log = Log()
    log.message("m1")
    log.set_plan(plan("100"), effective_at=NOON + HOUR)
    log.now += HOUR
    log.tick()
    worker = run(log, rules(default_plan=plan("3")))
    assert list(credits_left(worker).values()) == [99]
    assert [kind for kind, _ in entries_of(worker)] == ["allowance", "plan_change"]


# Grants.


def test_a_purchase_rolls_over_and_counts_in_the_next_limit() -> None:
    log = log_at("2026-01-20T00:00", "10")
    log.grant("5")
    log.message("m1", body=None, segments=12)
    log.tick(instant("2026-02-10T00:00"))
    worker = run(log)
    assert list(credits_left(worker).values()) == [10, 3]
    assert worker.account().periods[-1].limit == 13 * MICROS


def test_a_grant_counts_in_the_periods_it_is_valid_in() -> None:
    log = log_at("2026-01-20T00:00", "10")
    log.grant("5", effective_at=instant("2026-03-10T00:00"), expires_at=instant("2026-03-20T00:00"))
    limits = []
    for start in ("2026-01-25", "2026-02-10", "2026-03-02", "2026-04-10"):
        log.tick(instant(f"{start}T00:00"))
        limits.append(run(log).account().periods[-1].limit // MICROS)
    assert limits == [10, 10, 15, 10]


def test_an_expired_grant_is_for_messages_sent_before_it_expired() -> None:
    log = log_at("2026-02-10T12:00", "0", late_grace_hours=72)
    log.grant("5", expires_at=NOON + HOUR)
    log.now = NOON + 2 * HOUR
    log.message("m1", occurred_at=NOON + HOUR - 1)
    log.message("m2", occurred_at=NOON + HOUR)
    assert [said(fact, "grant_id") for fact in run(log).effects.facts.values()] == ["purchase:c1", ""]
    log.tick(NOON + HOUR + 72 * HOUR)
    assert sorted(entries_of(run(log), "purchase", "expiry", "expiry_correction")) == [
        ("expiry", -5),
        ("expiry_correction", 1),
        ("purchase", 5),
    ]


def test_grants_that_are_used_up_are_forgotten_a_period_later() -> None:
    """A tenant that buys every day has few more grants than it has credits in; refunds may come for a month."""
    log = log_at("2026-01-20T00:00", "0", late_grace_hours=0)
    for _ in range(20):
        log.grant("1")
        log.messages(1)
    log.grant("5", command_id="left")
    log.tick(instant("2026-02-01T00:00"))
    assert len(run(log).account().grants) == 22
    log.tick(instant("2026-03-01T00:00"))
    assert credits_left(run(log)) == {"purchase:left": 5, f"allowance:{instant('2026-03-01')}": 0}


def test_what_was_used_beyond_all_grants_stays_uncovered() -> None:
    log = log_at("2026-02-10T12:00", "1")
    log.message("m1", body=None, segments=3)
    log.grant("10")
    worker = run(log)
    account = worker.account()
    assert (account.credits, account.uncovered, account.balance) == (10 * MICROS, 2 * MICROS, 8 * MICROS)


# Entries.


def test_the_balance_after_each_entry_is_told() -> None:
    log = log_at("2026-02-10T12:00", "10")
    log.message("m1", body=None, segments=4)
    log.grant("5")
    log.set_plan(plan("2"))
    entries = [entry for entry in run(log).effects.entries.values() if entry.kind != "usage"]
    assert [entry.balance_after // MICROS for entry in entries if entry.balance_after is not None] == [
        10,
        11,
        5,
    ]


def test_usage_is_one_entry_per_window_and_grant() -> None:
    log = log_at("2026-02-10T12:00", "2")
    log.grant("1")
    log.messages(2)
    log.now += 15 * MINUTE
    log.messages(2)
    usage = {
        (entry.window_start, entry.grant_id): entry.amount // MICROS
        for entry in run(log).effects.entries.values()
        if entry.kind == "usage"
    }
    allowance = f"allowance:{instant('2026-02-01')}"
    later = NOON + 15 * MINUTE
    assert usage == {(NOON, allowance): -2, (later, "purchase:c1"): -1, (later, ""): -1}


def test_no_entry_is_for_nothing_used() -> None:
    log = log_at("2026-02-10T12:00")
    log.message("m1", kind="rcs", body=None)
    worker = run(log)
    assert len(worker.effects.facts) == 1
    assert not any(entry.kind == "usage" for entry in worker.effects.entries.values())


def test_entry_ids_are_unique_when_several_things_are_due_at_one_record() -> None:
    log = log_at("2026-01-20T00:00", "10", late_grace_hours=0)
    for month, allowance in ((2, "20"), (3, "30"), (4, "5")):
        log.set_plan(plan(allowance, late_grace_hours=0), effective_at=instant(f"2026-0{month}-10T00:00"))
    log.tick(instant("2026-05-20T00:00"))
    outcomes = Worker(rules())
    admitted = outcomes.fold.admit(log.records)
    outcomes.fold.fold(admitted)
    entries: list[tuple[str, Entry]] = outcomes.fold.take_outcomes().entries
    assert len({entry.entry_id for _, entry in entries}) == len(entries)
    assert sum(entry.amount for _, entry in entries) == 5 * MICROS


def test_a_period_keeps_its_fields_in_one_order() -> None:
    """Kept values are arrays: a new field goes to the end."""
    assert Period.__struct_fields__[:6] == ("starts_at", "ends_at", "limit", "used", "fired", "arming")
    assert Grant.__struct_fields__[:4] == ("id", "kind", "amount", "remaining")
