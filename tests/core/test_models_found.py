"""What the five billing models found wrong in the core, each as the smallest case."""

from pathlib import Path
from typing import get_args

import orjson
import pytest

from pipeline.core.instructions import Command
from pipeline.data import load_plan
from pipeline.logfile import read_log
from pipeline.rules import make_rules
from pipeline.settings import Settings, SettingsError
from tests.builders import DAY, NOON, Log, instant, plan, run

COMMAND_TYPES = [command.__struct_config__.tag for command in get_args(Command)]


@pytest.mark.parametrize("command_type", COMMAND_TYPES)
def test_a_log_file_knows_every_command_there_is(tmp_path: Path, command_type: str) -> None:
    """A type it does not know would pass for a message, go out unsigned and be refused."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(orjson.dumps({"type": command_type, "tenant": "acme", "effective_at": NOON}))
    assert [record.is_plain_command for record in read_log(path)] == [True]


def test_who_subscribes_after_a_trial_has_credits_at_once() -> None:
    """The trial's allowance had lapsed, so the plan that followed waited for the next period to give its own."""
    log = Log(now=instant("2026-02-02T12:00"))
    log.set_plan(plan("100", ends_after_days=14))
    log.now = instant("2026-02-20T12:00")
    log.set_plan(plan("500"))
    log.message(segments=5, body=None)
    log.now += DAY
    log.set_plan(plan("600"))
    log.tick()
    worker = run(log)
    account = worker.account()
    assert (account.balance, account.uncovered) == (595_000_000, 0)
    assert sum(entry.amount for entry in worker.effects.entries.values()) == account.balance
    (period,) = account.periods
    assert period.limit - period.used == account.balance


def test_a_trial_that_is_over_gives_nothing_again() -> None:
    log = Log(now=instant("2026-02-02T12:00"))
    log.set_plan(plan("100", ends_after_days=14))
    for day in ("2026-02-16T00:00", "2026-02-25T00:00", "2026-03-05T00:00"):
        log.tick(instant(day))
    assert run(log).account().balance == 0


@pytest.mark.parametrize("settings", [Settings(default_plan="trial"), Settings()])
def test_a_trial_is_no_default_plan(settings: Settings) -> None:
    """It would have no beginning: the first message ended the worker with an overflow."""
    given = None if settings.default_plan else load_plan("trial")
    with pytest.raises(SettingsError, match="trial cannot be the default plan"):
        make_rules(settings, given)


@pytest.mark.parametrize("rollover", [None, {"valid_months": 12}])
def test_who_moves_west_gets_one_allowance_a_month(rollover: dict[str, int] | None) -> None:
    """Between midnight in New York and in Los Angeles lay a period of three hours, with an allowance."""
    log = Log(now=instant("2026-01-10T12:00"))
    log.set_plan(plan("1000", zone="America/New_York", rollover=rollover))
    log.now = instant("2026-01-20T12:00")
    log.set_plan(plan("1000", zone="America/Los_Angeles", rollover=rollover))
    log.tick(instant("2026-02-01T05:00"))
    log.tick(instant("2026-02-01T12:00"))
    worker = run(log)
    given = [entry.effective_at for entry in worker.effects.entries.values() if entry.kind == "allowance"]
    assert given == [instant("2026-01-01T05:00"), instant("2026-02-01T05:00")]
    assert worker.account().periods[-1].ends_at == instant("2026-03-01T08:00")


@pytest.mark.parametrize("policy", ["hard_stop", "negative", "arrears"])
def test_a_quota_holds_under_every_plan(policy: str) -> None:
    """Emails cost no credits, so a plan that lets the balance go negative neither bounded nor billed them."""
    log = Log()
    log.set_plan(plan("100", quotas={"email": 10}, overage={"policy": policy}))
    log.command("authorise", sendings=[{"count": 11, "kind": "email"}])
    details = run(log).effects.results[1]["details"]
    assert (details["allowed"], details["reason"]) == (10, "quota_exhausted")


def test_who_moves_west_keeps_credits_for_twelve_months() -> None:
    """Midnight in New York is the evening before in Los Angeles: the allowances lost a day."""
    log = Log(now=instant("2026-01-10T12:00"))
    log.set_plan(plan("1000", zone="America/New_York", rollover={"valid_months": 12}))
    log.now = instant("2026-01-20T12:00")
    log.set_plan(plan("1000", zone="America/Los_Angeles", rollover={"valid_months": 12}))
    log.tick(instant("2026-02-01T12:00"))
    ends = [grant.expires_at for grant in run(log).account().grants]
    assert ends == [instant("2027-01-01T08:00"), instant("2027-02-01T08:00")]
