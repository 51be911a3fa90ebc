"""Limit less usage is what is left, also after refunds and messages of an earlier period."""

from pipeline.core.account import Account
from tests.builders import DAY, HOUR, NOON, Log, Worker, instant, plan, rules, run

START = instant("2026-02-01T00:00")


def log_of(allowance: str, **fields: object) -> Log:
    log = Log()
    log.set_plan(plan(allowance, refunded_statuses=["failed"], **fields), effective_at=START)
    return log


def send_and_fail(log: Log, segments: int, **fields: int) -> None:
    """A message that is charged; it fails when the log has gone on by `after`."""
    after = fields.pop("after", 0)
    sent = {"body": None, "segments": segments, "occurred_at": log.now, "status_at": log.now}
    log.message("m", **sent)
    log.now += after
    log.message("m", **sent, status="failed")


def figures(account: Account) -> list[tuple[int, int]]:
    """(limit, used) of each held period, in credits."""
    return [(each.limit // 1_000_000, each.used // 1_000_000) for each in account.periods]


def test_what_comes_back_in_its_own_period_was_in_the_limit_already() -> None:
    log = log_of("10")
    send_and_fail(log, 4)
    assert figures(run(log).account()) == [(10, 0)]


def test_what_comes_back_to_a_grant_that_is_gone_is_not_usable() -> None:
    log = log_of("10", late_grace_hours=1)
    log.grant("5", priority=1, expires_at=NOON + HOUR)
    send_and_fail(log, 5, after=DAY)
    assert figures(run(log).account()) == [(10, 0)]


def test_what_comes_back_for_a_closed_period_is_usable_where_its_grant_is() -> None:
    log = log_of("10")
    log.grant("5", priority=1)
    send_and_fail(log, 5, after=40 * DAY)
    assert figures(run(log).account()) == [(15, 0)]


def test_less_owed_for_a_closed_period_is_nothing_to_use_in_this_one() -> None:
    log = log_of("0", overage={"policy": "negative"})
    send_and_fail(log, 5, after=40 * DAY)
    assert figures(run(log).account()) == [(0, 0)]


def test_a_lowered_allowance_takes_what_comes_back_whether_the_account_stayed_at_work_or_not() -> None:
    log = log_of("10")
    log.message("m", body=None, segments=2)
    log.message("n", body=None, segments=6)
    log.set_plan(plan("5", refunded_statuses=["failed"]))
    log.message("m", body=None, segments=2, status="failed")
    log.tick()
    worker = Worker(rules())
    for record in log.records:
        worker.take([record])
        worker.keep()
        worker.keep()
    assert worker.effects.entries == run(log).effects.entries
    assert [grant.remaining for grant in worker.account().grants] == [0]


def test_late_messages_that_burn_what_was_carried_over_leave_less_to_use_in_the_open_period() -> None:
    log = log_of("10")
    log.grant("50", priority=1)
    log.tick(instant("2026-03-01T12:00"))
    for number in range(5):
        log.message(f"late{number}", body=None, segments=2, occurred_at=NOON + number)
        assert figures(run(log).account())[-1] == (60 - 2 * number - 2, 0)
