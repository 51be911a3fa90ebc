"""Bills are those of their own period, and every entry has an id of its own."""

from typing import Any

import pytest

from pipeline.core.simulation import simulate
from tests.builders import DAY, HOUR, MINUTE, NOON, Log, Worker, instant, plan, rules, run
from tests.core.test_simulation import as_file

ARREARS = {"policy": "arrears", "price": "0.03"}
HARD_STOP = {"policy": "hard_stop"}


def bills(log: Log) -> list[tuple[str, int, int]]:
    """(kind, whole credits, cents) of what closed periods came to."""
    return [
        (entry.kind, entry.amount // 1_000_000, entry.money_micros // 10_000)
        for entry in run(log).effects.entries.values()
        if entry.kind in ("arrears", "write_off")
    ]


@pytest.mark.parametrize(
    ("before", "after", "bill"),
    [
        (ARREARS, HARD_STOP, ("arrears", 100, 300)),
        (ARREARS, {"policy": "arrears", "price": "0.5"}, ("arrears", 100, 300)),
        (HARD_STOP, ARREARS, ("write_off", 100, 0)),
    ],
)
def test_a_period_is_billed_by_its_own_plan_whatever_the_next_one_says(
    before: dict[str, str], after: dict[str, str], bill: tuple[str, int, int]
) -> None:
    log = Log(instant("2026-01-10T12:00"))
    log.set_plan(plan("0", currency="EUR", overage=before))
    log.message("m1", body=None, segments=100)
    log.set_plan(plan("0", currency="EUR", overage=after), effective_at=instant("2026-02-01"))
    log.tick(instant("2026-02-05T00:00"))
    assert bills(log) == [bill]


@pytest.mark.parametrize(
    "commands",
    [
        [("adjust", "x", {"credits": "-10"}), ("adjust", "x:purchase:y", {"credits": "10"})],
        [("adjust", "5:purchase:y", {"credits": "10"}), ("adjust", "a", {"credits": "-3"})],
        [("adjust", "a", {"credits": "-3"}), ("adjust", "a:purchase:y", {"credits": "-3"})],
    ],
)
def test_no_choice_of_ids_lets_one_entry_replace_another(
    commands: list[tuple[str, str, dict[str, Any]]],
) -> None:
    log = Log()
    log.set_plan(plan("0"), effective_at=NOON - DAY)
    log.grant("50", command_id="y")
    for name, command_id, fields in commands:
        log.command(name, command_id, **fields)
    worker = run(log)
    assert {result["outcome"] for result in worker.effects.results.values()} == {"accepted"}
    assert sum(entry.amount for entry in worker.effects.entries.values()) == worker.account().balance


def test_each_allowance_of_a_period_is_a_grant_of_its_own() -> None:
    """Two trials of a day and a plan, one after the other in one month."""
    log = Log(instant("2026-02-10T12:00"))
    log.set_plan(plan("10", ends_after_days=1))
    log.tick(instant("2026-02-13T12:00"))
    second = instant("2026-02-13T12:00")
    log.set_plan(plan("20", ends_after_days=1), effective_at=second)
    log.tick(instant("2026-02-15T12:00"))
    log.set_plan(plan("30"), effective_at=second)
    account = run(log).account()
    assert len({grant.id for grant in account.grants}) == len(account.grants)
    assert account.balance == 30_000_000


def test_a_tenant_with_the_longest_name_renews_with_the_others() -> None:
    log = Log(instant("2026-01-20T00:00"))
    tenant = "t" * 128
    log.set_plan(plan("10"), tenant=tenant)
    report = simulate(as_file(log), rules(), until=instant("2026-03-05T00:00"))
    assert not report.refusals
    assert [entry.kind for _, entry in report.entries].count("allowance") == 3


def test_a_voided_purchase_takes_back_the_longer_life_it_has_given() -> None:
    log = Log(instant("2026-02-10T12:00"))
    log.set_plan(plan("0"), effective_at=log.now - DAY)
    for command_id, months in (("first", 1), ("second", 24)):
        log.grant("5", command_id=command_id, valid_months=months, is_extended=True)
    log.command("void_grant", "v", grant="purchase:second")
    (first,) = [grant for grant in run(log).account().grants if grant.kind == "purchase"]
    assert first.expires_at == instant("2026-03-10")


def test_a_lowered_plan_lowers_the_shares_of_lists_with_it() -> None:
    log = Log()
    log.set_plan(plan("100"), effective_at=NOON - DAY)
    log.command("allocate", "a", list="north", credits="90")
    log.now += MINUTE
    log.set_plan(plan("30"))
    account = run(log).account()
    assert account.allocations["north"].left == 30_000_000


def test_a_campaign_that_settles_its_reservation_is_no_reason_to_recharge_after_a_restart_alone() -> None:
    """A grant that is yet to begin pays for messages ahead of the log, so that more is available than before."""
    recharge = {"level_credits": "50", "block_credits": "50", "price": "10", "delay_minutes": 30}
    log = Log()
    log.set_plan(
        plan("0", currency="EUR", overage={"policy": "negative"}, alert_levels=[], recharge=recharge)
    )
    log.grant("100")
    log.grant("100", priority=50, effective_at=log.now + 5 * HOUR)
    log.command("reserve", "r", credits="80", campaign="s", expires_at=log.now + 2 * DAY)
    ahead = log.now + 9 * HOUR
    for number, segments in enumerate((10, 40, 1)):
        log.now += MINUTE
        log.message(
            f"m{number}", campaign="s", occurred_at=ahead, status_at=ahead, segments=segments, body=None
        )
    log.message("own", segments=55, body=None)
    log.tick(log.now + 2 * HOUR)
    one = run(log)
    many = Worker(rules())
    for record in log.records:
        many = Worker(many.rules, many.tables, many.effects)
        many.take([record])
        many.keep()
    assert one.account() == many.account()
