"""Alerts of an account at work: each level once per arming, in order, whatever moved usage or limit."""

from typing import Any

import pytest

from tests.builders import DAY, HOUR, MINUTE, NOON, Log, Worker, instant, plan, run, said

LEVELS = (80, 85, 90, 95)


def log_of(allowance: str = "100", **terms: Any) -> Log:
    log = Log()
    log.set_plan(plan(allowance, **terms), effective_at=NOON - 60 * DAY)
    return log


def use(log: Log, amount: int, **fields: Any) -> None:
    """One message of so many segments."""
    log.message(f"u{len(log.records)}", body=None, segments=amount, **fields)


def told(worker: Worker, *names: str) -> list[tuple[Any, ...]]:
    """These fields of all alerts, in the order in which they fired."""
    return [tuple(alert[name] for name in names) for alert in worker.effects.alerts.values()]


@pytest.mark.parametrize(
    ("amounts", "levels"),
    [
        ([79], []),
        ([80], [80]),
        ([79, 1], [80]),
        ([84, 1, 5], [80, 85, 90]),
        ([100], [80, 85, 90, 95]),
        ([95, 5, 100], [80, 85, 90, 95]),
        ([1] * 96, [80, 85, 90, 95]),
    ],
)
def test_levels_fire_when_they_are_reached(amounts: list[int], levels: list[int]) -> None:
    log = log_of()
    for amount in amounts:
        use(log, amount)
    assert run(log).effects.levels() == [(1, level) for level in levels]


def test_an_alert_says_tenant_period_level_amounts_and_how_long_the_rest_lasts() -> None:
    log = log_of("1000")
    log.now = instant("2026-02-05T00:00")
    use(log, 160)
    use(log, 200)
    use(log, 200)
    use(log, 241)
    (alert,) = run(log).effects.alerts.values()
    assert alert == {
        "id": f"acme:{instant('2026-02-01')}:80:1",
        "tenant": "acme",
        "period_start": instant("2026-02-01"),
        "period_end": instant("2026-03-01"),
        "level": 80,
        "arming": 1,
        "used": "801",
        "limit": "1000",
        "remaining": "199",
        "run_out_at": NOON + 199 * (NOON - instant("2026-02-01")) // 801,
        "occurred_at": NOON,
        "partition": 0,
        "offset": 4,
    }, "the log was at noon of the 10th already, when its plan was set"


def test_an_alert_is_dated_by_the_log_and_not_by_a_late_message() -> None:
    log = log_of()
    log.now += HOUR
    use(log, 90, occurred_at=NOON - DAY)
    assert told(run(log), "level", "occurred_at") == [(80, NOON + HOUR), (85, NOON + HOUR), (90, NOON + HOUR)]


def test_a_purchase_arms_what_is_no_longer_reached() -> None:
    log = log_of()
    use(log, 92)
    log.grant("10")  # 92 of 110 is 83 %: 80 stays fired.
    use(log, 2)
    use(log, 50)
    worker = run(log)
    assert worker.effects.levels() == [(1, 80), (1, 85), (1, 90), (2, 85), (2, 90), (2, 95)]


def test_a_purchase_that_changes_nothing_arms_nothing() -> None:
    log = log_of()
    use(log, 100)
    log.grant("1")
    use(log, 1)
    assert run(log).effects.levels() == [(1, level) for level in LEVELS]


def test_an_upgrade_arms_and_a_downgrade_fires() -> None:
    log = log_of()
    use(log, 82)
    log.set_plan(plan("200"))
    log.set_plan(plan("90"))
    assert run(log).effects.levels() == [(1, 80), (2, 80), (2, 85), (2, 90)]


def test_every_period_has_levels_of_its_own() -> None:
    log = log_of()
    use(log, 80)
    log.now = instant("2026-03-10T12:00")
    use(log, 85)
    starts = instant("2026-02-01"), instant("2026-03-01")
    expected = [(starts[0], 80, 1), (starts[1], 80, 1), (starts[1], 85, 1)]
    assert told(run(log), "period_start", "level", "arming") == expected


def test_a_late_message_reaches_a_level_of_its_own_period() -> None:
    log = log_of()
    use(log, 79)
    log.now = instant("2026-03-01T12:00")
    use(log, 1, occurred_at=instant("2026-02-28T12:00"))
    assert told(run(log), "period_start", "level") == [(instant("2026-02-01"), 80)]


def test_a_plan_without_levels_is_silent_until_one_has_some() -> None:
    log = log_of(alert_levels=())
    use(log, 100)
    assert not run(log).effects.alerts
    log.set_plan(plan("100", alert_levels=(50, 100)))
    assert run(log).effects.levels() == [(1, 50), (1, 100)]


def test_new_levels_of_a_future_plan_fire_when_it_begins() -> None:
    log = log_of(alert_levels=())
    use(log, 60)
    log.set_plan(plan("100", alert_levels=(50,)), effective_at=NOON + HOUR)
    log.tick(NOON + HOUR)
    assert told(run(log), "level", "occurred_at") == [(50, NOON + HOUR)]


def test_without_anything_usable_no_level_fires_and_usage_is_metered() -> None:
    log = log_of("0")
    use(log, 5)
    worker = run(log)
    assert not worker.effects.alerts
    assert worker.account().uncovered == 5_000_000


def test_usage_beyond_the_limit_has_nothing_remaining() -> None:
    log = log_of()
    use(log, 79)
    use(log, 200)
    assert told(run(log), "used", "remaining", "run_out_at")[0] == ("279", "0", NOON)


# What makes charging cheap must not show.


def test_a_grant_that_is_used_up_exactly_hands_over_to_the_next() -> None:
    log = log_of("2")
    log.grant("2")
    for _ in range(5):
        use(log, 1)
    grants = [said(fact, "grant_id") for fact in run(log).effects.facts.values()]
    allowance = f"allowance:{instant('2026-02-01')}"
    assert grants == [allowance, allowance, "purchase:c1", "purchase:c1", ""]


def test_messages_of_two_periods_take_turns() -> None:
    """Late ones burn the old allowance, new ones the new, in any order."""
    log = log_of("5")
    log.now = instant("2026-03-01T12:00")
    for number in range(6):
        use(log, 1, occurred_at=instant("2026-02-28T12:00") if number % 2 else log.now)
    used = [(period.starts_at, period.used // 1_000_000) for period in run(log).account().periods]
    assert used == [(instant("2026-02-01"), 3), (instant("2026-03-01"), 3)]


def test_a_grant_of_the_same_minute_burns_as_soon_as_it_is_valid() -> None:
    log = log_of("0")
    log.grant("5", effective_at=NOON + MINUTE)
    for milliseconds in (MINUTE - 1, MINUTE):
        log.now = NOON + milliseconds
        use(log, 1)
    assert [said(fact, "grant_id") for fact in run(log).effects.facts.values()] == ["", "purchase:c1"]


def test_a_better_grant_is_burned_from_the_moment_it_is_given() -> None:
    log = log_of("10")
    use(log, 1)
    log.grant("2", kind="promotion", priority=1)
    for _ in range(3):
        use(log, 1)
    grants = [said(fact, "grant_id").split(":")[0] for fact in run(log).effects.facts.values()]
    assert grants == ["allowance", "promotion", "promotion", "allowance"]


def test_a_free_message_is_on_no_grant() -> None:
    log = log_of("10")
    for _ in range(2):
        log.message(f"f{len(log.records)}", kind="rcs", body=None)
        use(log, 1)
    splits = [
        tuple(said(fact, name) for name in ("grant_id", "grant_micros", "further_grants"))
        for fact in run(log).effects.facts.values()
        if said(fact, "kind") == "rcs"
    ]
    assert splits == [("", 0, {}), ("", 0, {})]
