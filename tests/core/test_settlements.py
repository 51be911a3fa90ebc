"""What is uncovered is paid off by later grants, where the plan says so, and every payment is an entry of its own."""

from tests.builders import DAY, NOON, Log, plan, run


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
