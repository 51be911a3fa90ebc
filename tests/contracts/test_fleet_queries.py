"""What is watched over all tenants, on stored rows, the same before and after they are merged."""

import uuid
from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_rows import NOON, columns_of

from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.queries import FleetAccounts, fleet_accounts, tenants_unalerted
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS
from pipeline.core.account_details import AccountDetails, PlanDetails, RechargeDetails, encode_details
from pipeline.embedded.clickhouse import EmbeddedClickHouse

TRILLION_CREDITS = 10**18
DAY = 86_400_000
LEVELS = (80, 85, 90, 95)


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse, database: str) -> Iterator[Client]:
    connected = connect(f"{clickhouse.url}/{database}")
    apply_migrations(connected)
    for table in (ACCOUNTS, ALERTS):
        connected.command(f"SYSTEM STOP MERGES {table.name}")
    yield connected
    connected.close()


def details(
    levels: tuple[int, ...] = LEVELS, arming: int = 1, recharge: RechargeDetails | None = None
) -> str:
    return encode_details(
        AccountDetails(recharge=recharge, plan=PlanDetails(alert_levels=levels), alert_arming=arming)
    )


def account(tenant: str, used: int, limit: int = 100, **changes: object) -> dict[str, object]:
    """An account in a period that is open at noon."""
    span = {"period_start": NOON - DAY, "period_end": NOON + DAY}
    return {
        "tenant": tenant,
        "used_micros": used,
        "limit_micros": limit,
        "details": details(),
        **span,
        **changes,
    }


def alert(level: int, arming: int = 1, **changes: object) -> dict[str, object]:
    span = {"period_start": NOON - DAY, "period_end": NOON + DAY}
    return {"alert_id": f"{level} {arming}", "level": level, "arming": arming, **span, **changes}


def store(client: Client, accounts: list[dict[str, object]], alerts: list[dict[str, object]]) -> None:
    """Rows, and of each account an older one that must not count."""
    older = [{**each, "used_micros": 99, "limit_micros": 100, "version": 0} for each in accounts]
    newer = [{"version": 1, **each} for each in accounts]
    for table, rows in ((ACCOUNTS, older), (ACCOUNTS, newer), (ALERTS, alerts)):
        if rows:
            insert(client, table, columns_of(table, *rows), uuid.uuid4().hex)


def answers(client: Client) -> list[tuple[FleetAccounts, int]]:
    """What is answered while rows lie there twice, and once they are merged."""
    told = [(fleet_accounts(client, NOON), tenants_unalerted(client, NOON))]
    for table in (ACCOUNTS, ALERTS):
        client.command(f"SYSTEM START MERGES {table.name}")
        client.command(f"OPTIMIZE TABLE {table.name} FINAL")
    return [*told, (fleet_accounts(client, NOON), tenants_unalerted(client, NOON))]


def test_without_accounts_nobody_is_over_a_level_and_nothing_waits(client: Client) -> None:
    nobody = FleetAccounts(0, dict.fromkeys(LEVELS, 0), 0, 0)
    assert (fleet_accounts(client, NOON), tenants_unalerted(client, NOON)) == (nobody, 0)


def test_levels_count_who_has_reached_them_in_the_open_period(client: Client) -> None:
    store(
        client,
        [
            account("below", 79),
            account("at 80", 80),
            account("at 85", 85),
            account("at 90", 94),
            account("at 95", 95),
            account("over", 300),
            account("just below 95 of much", TRILLION_CREDITS // 100 * 95 - 1, TRILLION_CREDITS),
            account("nothing usable", 5, 0),
            account("less than nothing usable", 5, -5),
            account("ended", 99, period_end=NOON),
            account("begins with this instant", 99, period_start=NOON),
            account("to come", 99, period_start=NOON + 1),
        ],
        [],
    )  # fmt: skip
    for told, _ in answers(client):
        assert told == FleetAccounts(12, {80: 7, 85: 6, 90: 5, 95: 3}, 0, 0)


def test_requests_to_recharge_wait_until_they_are_answered(client: Client) -> None:
    waits = RechargeDetails(in_flight="recharge-1", asked_at=NOON - 7_000)
    answered = RechargeDetails(asked_count=3, next_at=NOON)
    store(
        client,
        [
            account("waits", 0, details=details(recharge=waits)),
            account("waits longer", 0, details=details(recharge=RechargeDetails(in_flight="r", asked_at=NOON - 9_000))),
            account("answered", 0, details=details(recharge=answered)),
            account("never asked", 0),
            # Of an earlier release, which did not say since when.
            account("early", 0, as_of=NOON - 8_000, details='{"recharge":{"in_flight":"recharge-2"}}'),
            account("earliest", 0, details=""),
        ],
        [],
    )  # fmt: skip
    for told, _ in answers(client):
        assert (told.recharge_count, told.recharge_asked_at) == (3, NOON - 9_000)


UNALERTED: dict[str, tuple[dict[str, object], list[dict[str, object]], int]] = {
    "an alert of the level and period": ({}, [alert(95)], 0),
    "no alert at all": ({}, [], 1),
    "not there yet": ({"used_micros": 94}, [], 0),
    "an alert of a lower level": ({}, [alert(90)], 1),
    "an alert of the period before": (
        {},
        [alert(95, period_start=NOON - 9 * DAY, period_end=NOON - DAY)],
        1,
    ),
    "a plan without the level": ({"used_micros": 100, "details": details((50, 100))}, [], 0),
    "a plan without levels": ({"details": details(())}, [], 0),
    "a period that has ended": ({"period_end": NOON}, [], 0),
    "nothing usable": ({"limit_micros": 0}, [], 0),
    "an alert from before it was armed again": ({"details": details(arming=2)}, [alert(95)], 1),
    "armed again, and alerted again": ({"details": details(arming=2)}, [alert(95), alert(95, 2)], 0),
    "a higher level was armed again, and this one was not": (
        {"used_micros": 97, "details": details((95, 100), arming=2)},
        [alert(95), alert(100)],
        0,
    ),
    "an arming that is not known": ({"details": details(arming=0)}, [alert(95)], 0),
    "levels that are not known": ({"details": ""}, [], 0),
}
"""What a tenant stands at, besides 95 of 100; its alerts; and whether it is one that has none."""


def test_who_has_reached_95_per_cent_under_a_plan_with_that_level_has_an_alert_of_it(client: Client) -> None:
    counted = 0
    for tenant, (stands, alerts, count) in UNALERTED.items():
        store(client, [{**account(tenant, 95), **stands}], [{**each, "tenant": tenant} for each in alerts])
        counted += count
        assert tenants_unalerted(client, NOON) == counted, tenant
    assert [told for _, told in answers(client)] == [counted, counted]
