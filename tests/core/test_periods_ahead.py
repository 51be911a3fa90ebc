"""A gateway's clock may run ahead and begin a period before the log reaches it: it then renews as any other."""

from pipeline.core.account import Account
from tests.builders import DAY, HOUR, Log, Worker, instant, plan, run

END = instant("2026-03-01T00:00")


def log_of(**rollover: str) -> Log:
    """An hour before a period of 10 credits ends that roll over."""
    log = Log(END - HOUR)
    log.set_plan(plan("10", rollover=rollover), effective_at=END - 20 * DAY)
    return log


def remaining(account: Account) -> list[int]:
    return sorted(grant.remaining for grant in account.grants if not grant.is_expired)


def with_and_without_one_ahead(log: Log) -> tuple[Worker, Worker]:
    """The log with a free message of the next period in it, and without."""
    ahead = Log(log.now)
    ahead.records = list(log.records)
    ahead.message("ahead", kind="rcs", occurred_at=END + HOUR, status_at=log.now)
    workers = []
    for each in (ahead, log):
        each.tick(END - HOUR // 2)
        each.tick(END + 2 * HOUR)
        workers.append(run(each))
    return workers[0], workers[1]


def test_no_more_rolls_over_into_a_period_begun_ahead_than_the_cap() -> None:
    for worker in with_and_without_one_ahead(log_of(cap_credits="3")):
        assert remaining(worker.account()) == [3_000_000, 10_000_000]
        assert worker.account().periods[-1].limit == 13_000_000


def test_an_allowance_is_not_given_twice_where_its_period_was_begun_ahead() -> None:
    for worker in with_and_without_one_ahead(log_of()):
        assert remaining(worker.account()) == [10_000_000, 10_000_000]


def test_the_floor_is_given_when_the_log_reaches_the_period() -> None:
    log = log_of(floor_credits="4")
    log.message(body=None, segments=9)
    for worker in with_and_without_one_ahead(log):
        assert remaining(worker.account()) == [1_000_000, 3_000_000, 10_000_000]
        assert worker.account().periods[-1].limit == 14_000_000


def test_an_upgrade_before_a_period_begun_ahead_counts_in_both() -> None:
    log = log_of()
    log.message("ahead", kind="rcs", occurred_at=END + HOUR, status_at=log.now)
    log.set_plan(plan("25", rollover={}))
    assert [period.limit for period in run(log).account().periods] == [25_000_000, 35_000_000]
