"""What is uncovered is paid off by later grants, where the plan says so, and every payment is an entry of its own."""

from tests.builders import DAY, NOON, Log, instant, plan, run


def log_of(settled_by: str, allowance: str = "5") -> Log:
    log = Log()
    log.set_plan(plan_of(settled_by, allowance), effective_at=NOON - 5 * DAY)
    return log


def plan_of(settled_by: str, allowance: str) -> dict[str, object]:
    return plan(allowance, overage={"policy": "negative", "settled_by": settled_by})


def test_an_allowance_raised_twice_pays_off_twice_under_two_names() -> None:
    log = log_of("any_grant")
    log.message(body=None, segments=20)
    log.set_plan(plan_of("any_grant", "8"))
    log.set_plan(plan_of("any_grant", "11"))
    worker = run(log)
    paid = [e.amount for e in worker.effects.entries.values() if e.kind == "settlement" and not e.grant_id]
    assert paid == [3_000_000, 3_000_000]
    assert worker.account().uncovered == 9_000_000


def limits(log: Log) -> list[int]:
    """What is usable in each held period, in credits."""
    return [period.limit // 1_000_000 for period in run(log).account().periods]


def test_what_pays_for_an_earlier_period_is_not_usable_in_this_one() -> None:
    log = log_of("purchases")
    log.message(body=None, segments=12)
    log.tick(NOON + 40 * DAY)
    log.grant("30")
    assert limits(log) == [5 + 30 - 7]


def test_what_pays_for_the_period_itself_is_usable_in_it() -> None:
    log = log_of("purchases")
    log.message(body=None, segments=12)
    log.grant("30")
    assert limits(log) == [5 + 30], "12 of it are used, 23 are left"


def test_what_was_uncovered_first_is_paid_first() -> None:
    log = log_of("purchases")
    log.message(body=None, segments=12)
    log.tick(NOON + 40 * DAY)
    log.message("m2", body=None, segments=12)
    log.grant("8")
    account = run(log).account()
    assert account.uncovered == 6_000_000
    assert [period.uncovered for period in account.periods] == [6_000_000]


def test_what_a_rollovers_cap_cuts_off_pays_nothing() -> None:
    log = Log(instant("2026-02-10T00:00"))
    terms = {"overage": {"policy": "negative", "settled_by": "any_grant"}, "rollover": {"cap_credits": "0"}}
    log.set_plan(plan("10", **terms), effective_at=log.now)
    log.message(body=None, segments=10)
    log.tick(instant("2026-03-01T00:00"))
    log.message("late", body=None, segments=4, occurred_at=instant("2026-02-20T00:00"))
    log.tick(instant("2026-04-01T00:00"))
    paid = {e.grant_id for e in run(log).effects.entries.values() if e.kind == "settlement"}
    assert paid == {"", f"allowance:{log.now}"}
