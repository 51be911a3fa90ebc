"""What is shown of an account: from the log to the details that a snapshot keeps."""

from typing import Any

from pipeline.core.account_details import (
    AccountDetails,
    ListDetails,
    QuotaDetails,
    RechargeDetails,
    ReservationDetails,
    account_details,
    decode_details,
    encode_details,
)
from tests.builders import DAY, HOUR, Log, instant, plan, rules, run


def details_of(log: Log) -> AccountDetails:
    """The details of the tenant at the log's end, as they come out of a snapshot."""
    given = rules()
    account = run(log, given).account()
    return decode_details(encode_details(account_details(account, given.plan_at(account))))


def automatic(**fields: Any) -> dict[str, Any]:
    """Model D with automatic billing: 750 credits at 0.03, overage at 0.02, topped up by 50."""
    return plan(
        "750",
        overage={"policy": "negative", "price": "0.02", "settled_by": "purchases"},
        recharge={"level_credits": "0", "block_credits": "2500", "price": "50"},
        credit_value="0.03",
        currency="USD",
        **fields,
    )


def test_the_allowance_has_a_value_and_the_rest_was_purchased() -> None:
    log = Log()
    log.set_plan(automatic())
    log.grant("500")
    details = details_of(log)
    assert (details.allowance_left_micros, details.purchased_left_micros) == (750_000_000, 500_000_000)
    assert details.allowance_left_money_micros == 22_500_000


def test_grants_that_are_not_valid_now_are_left_out() -> None:
    log = Log()
    log.set_plan(plan("100"))
    log.grant("5", effective_at=log.now + DAY)
    log.grant("7", expires_at=log.now + HOUR)
    log.tick(log.now + HOUR)
    assert details_of(log).purchased_left_micros == 0


def test_what_is_owed_is_shown_as_money_with_the_request_that_waits() -> None:
    log = Log()
    log.set_plan(automatic())
    log.messages(1250)
    details = details_of(log)
    assert details.due_money_micros == 10_000_000
    assert details.recharge is not None
    assert details.recharge.block_micros == 2_500_000_000
    assert details.recharge.price_money_micros == details.recharge.top_up_money_micros == 50_000_000
    assert details.recharge.in_flight == "recharge-1"


def test_a_request_says_since_when_it_waits_and_an_answered_one_nothing() -> None:
    log = Log()
    log.set_plan(automatic())
    log.messages(750)
    asked_at = log.message("one more").timestamp
    log.tick(log.now + DAY)
    recharge = details_of(log).recharge
    assert recharge is not None
    assert (recharge.in_flight, recharge.asked_at) == ("recharge-1", asked_at)
    log.command("decline_recharge", recharge="recharge-1")
    recharge = details_of(log).recharge
    assert recharge is not None
    assert (recharge.in_flight, recharge.asked_at) == ("", 0)


def test_the_arming_of_the_open_period_is_shown() -> None:
    log = Log()
    log.set_plan(plan("100"))
    log.messages(96)
    assert details_of(log).alert_arming == 1
    log.grant("100")
    assert details_of(log).alert_arming == 2
    log.tick(log.now + 40 * DAY)
    assert details_of(log).alert_arming == 1


def test_a_plan_that_recharges_says_when_before_it_ever_asked() -> None:
    log = Log()
    log.set_plan(automatic())
    assert details_of(log).recharge == RechargeDetails(
        level_micros=0, block_micros=2_500_000_000, price_money_micros=50_000_000
    )


def test_lists_and_reservations_are_shown_with_what_is_left_of_them() -> None:
    log = Log()
    log.set_plan(plan("1000"))
    log.command("allocate", list="north", credits="100")
    log.command("reserve", "r1", credits="60", expires_at=log.now + DAY, campaign="spring", list="south")
    log.messages(30, list="north")
    log.messages(10, list="south", campaign="spring")
    details = details_of(log)
    assert details.lists == {"north": ListDetails(100_000_000, 30_000_000, 70_000_000)}
    assert details.assigned_micros == 70_000_000
    assert details.reservations == (
        ReservationDetails("r1", 60_000_000, 50_000_000, "spring", "south", log.now + DAY),
    )


def test_quotas_are_counted_in_the_period_and_never_left_below_zero() -> None:
    log = Log()
    log.set_plan(plan("1000", quotas={"email": 10, "mms": 5}))
    log.messages(3, kind="email", to="ann@example.com", recipients=4)
    assert details_of(log).quotas == {"email": QuotaDetails(10, 12, 0), "mms": QuotaDetails(5, 0, 5)}


def test_the_plan_is_shown_with_the_end_of_a_trial_in_its_zone() -> None:
    log = Log(now=instant("2026-03-01T17:00"))
    log.set_plan(
        plan("100", zone="America/New_York", ends_after_days=14, licensed_contacts=2000, catalogue="blocks")
    )
    shown = details_of(log).plan
    assert shown.ends_at == instant("2026-03-15T04:00")  # Midnight, in summer time.
    assert (shown.licensed_contacts, shown.contact_active_days, shown.catalogue) == (2000, 60, "blocks")
    assert (shown.allowance_micros, shown.overage, shown.alert_levels) == (
        100_000_000,
        "hard_stop",
        (80, 85, 90, 95),
    )


def test_a_tenant_without_a_plan_has_its_purchases() -> None:
    log = Log()
    log.grant("5")
    details = details_of(log)
    assert details.purchased_left_micros == 5_000_000
    assert (details.recharge, details.quotas, details.plan.overage) == (None, {}, "")


def test_a_row_of_an_older_version_says_nothing() -> None:
    assert decode_details("") == AccountDetails()
    assert decode_details("{}") == AccountDetails()
