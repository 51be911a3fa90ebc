"""The dashboard of all tenants together: what is used, by which prices, who is near a limit, and what is billed.

Everything of tenants is read from ClickHouse; what is refused, asked of payment providers or late is no row there and
comes from Prometheus. Days are UTC's, because tenants have many zones.
"""

from collections.abc import Iterable
from typing import Any

from grafana.source import annotations
from grafana.source.boards import CLICKHOUSE_VARIABLE, PROMETHEUS_VARIABLE, Section, board, choice
from grafana.source.fleet_money import CHECKPOINT, MONEY, NAME, RANGE, REFUSED, TENANT_LINK, UTC_PERIOD
from grafana.source.panels import (
    ALERT_LEVELS,
    KIND_COLORS,
    ORANGE,
    RANKED,
    RED,
    YELLOW,
    ZERO_IS_GOOD,
    bars_by_period,
    lines,
    ranking,
    stat,
    table,
    wide,
)
from grafana.source.queries import (
    IN_RANGE,
    MERGE,
    NO_COUNTRY,
    TOP_TENANTS,
    credits_sum,
    now,
    over_time,
    table_of,
)

UID = "msgmeter-fleet"


def _used_by_period(columns: str) -> Any:
    start = UTC_PERIOD.format(at="window_start")
    first, last = UTC_PERIOD.format(at="$__fromTime"), UTC_PERIOD.format(at="$__toTime")
    return table_of(
        f"""
SELECT {NAME.format(date="start")} AS period, * EXCEPT start
FROM
(
    SELECT {start} AS start,
{columns}
    FROM usage_15m AS usage FINAL
    WHERE {IN_RANGE}
    GROUP BY start
    ORDER BY start WITH FILL FROM {first} TO {last} + INTERVAL 1 DAY STEP INTERVAL 1 $granularity
)
ORDER BY start
{MERGE}
"""
    )


def _columns(of: str, values: Iterable[str]) -> str:
    sums = {name: credits_sum(f"{of} = '{name}'") for name in values}
    return ",\n".join(f"        {sql} AS {name}" for name, sql in sums.items())


def _used_by(name: str, sql: str, limit: int = RANKED) -> Any:
    return table_of(
        f"""
SELECT {sql} AS {name}, {credits_sum()} AS credits
FROM usage_15m AS usage FINAL
WHERE {IN_RANGE}
GROUP BY {name}
ORDER BY credits DESC, {name}
LIMIT {limit}
{MERGE}
"""
    )


_USED = Section(
    "Used",
    (
        stat(
            "Used in the time range",
            f"Messages, segments and credits. {RANGE}",
            [
                table_of(
                    f"""
SELECT
    sum(usage.messages) AS messages,
    sum(usage.segments) AS segments,
    {credits_sum()} AS credits,
    uniqExact(usage.tenant) AS "tenants that used any"
FROM usage_15m AS usage FINAL
WHERE {IN_RANGE}
{MERGE}
"""
                )
            ],
            width=24,
            height=3,
        ),
        bars_by_period(
            "Credits by $granularity and kind",
            f"Credits burned by UTC days, weeks or months. {RANGE}",
            [_used_by_period(_columns("kind", KIND_COLORS))],
            colors=KIND_COLORS,
        ),
        table(
            "Credits by rate card and version",
            "Which prices rated what, by the version in force when messages occurred; + tenant: a rate of the plan's"
            " own decided. Refunds are taken off. Summed from the messages themselves. " + RANGE,
            [
                table_of(
                    f"""
SELECT
    splitByChar('@', rate_version)[1]                                    AS "rate card",
    replaceOne(splitByChar('@', rate_version)[2], '+tenant', '')         AS version,
    if(endsWith(rate_version, '+tenant'), 'plan', 'card')                AS "rate of the",
    sum(fact.messages)                                                   AS messages,
    sum(fact.quantity)                                                   AS quantity,
    sum(fact.credits_micros) / 1000000                                   AS credits
FROM rated_messages AS fact FINAL
WHERE occurred_at >= $__fromTime AND occurred_at < $__toTime
GROUP BY rate_version
ORDER BY credits DESC, rate_version
LIMIT 50
{MERGE}
"""
                )
            ],
        ),
        ranking(
            "Credits by country",
            f"Of the other party. {NO_COUNTRY} The {RANKED} largest. {RANGE}",
            [_used_by("country_name", "if(country = '', '??', toString(country))")],
        ),
        ranking(
            "Credits by kind", f"SMS, MMS, RCS and email. {RANGE}", [_used_by("kind_name", "toString(kind)")]
        ),
        table(
            "Top tenants",
            f"The 20 that used most credits. A name leads to its dashboard. {RANGE}",
            [table_of(TOP_TENANTS)],
            columns={"tenant": TENANT_LINK},
        ),
    ),
)

_NEAR = Section(
    "Near their limits",
    (
        stat(
            "Tenants at a level or above",
            f"How many have used at least so much of what is usable in their billing period. {CHECKPOINT}",
            [
                table_of(
                    """
SELECT
    countIf(used_micros >= 0.80 * limit_micros) AS "80 %",
    countIf(used_micros >= 0.85 * limit_micros) AS "85 %",
    countIf(used_micros >= 0.90 * limit_micros) AS "90 %",
    countIf(used_micros >= 0.95 * limit_micros) AS "95 %"
FROM account_snapshots AS account FINAL
WHERE limit_micros > 0 AND account.period_start <= now() AND account.period_end > now()
"""
                )
            ],
            width=12,
            overrides={
                name: {"color": {"mode": "fixed", "fixedColor": color}}
                for name, color in (("80 %", YELLOW), ("85 %", "#F2A93B"), ("90 %", ORANGE), ("95 %", RED))
            },
        ),
        stat(
            "Above 95 % and not alerted",
            "Tenants beyond 95 % without a recorded alert: should be 0. From the"
            " scheduler, which looks from outside.",
            [now("max(msgmeter_tenants_unalerted)")],
            steps=ZERO_IS_GOOD,
            width=6,
        ),
        stat(
            "Tenants",
            "Accounts that are stored, counted by the scheduler.",
            [now("max(msgmeter_tenants)")],
            width=6,
        ),
        table(
            "Nearest to their limits",
            "Tenants that have used 80 % and more of what is usable in their billing period, the highest first; 100 at"
            f" most. {CHECKPOINT}",
            [
                table_of(
                    """
SELECT
    tenant,
    plan,
    100 * used_micros / limit_micros AS used_percent,
    used_micros / 1000000            AS used,
    limit_micros / 1000000           AS "limit",
    available_micros / 1000000       AS available,
    formatDateTime(period_end, '%Y-%m-%d %H:%i', 'UTC') AS "period ends (UTC)"
FROM account_snapshots AS account FINAL
WHERE limit_micros > 0 AND used_micros >= 0.80 * limit_micros
  AND account.period_start <= now() AND account.period_end > now()
ORDER BY used_percent DESC, tenant
LIMIT 100
"""
                )
            ],
            width=16,
            columns={
                "tenant": TENANT_LINK,
                "plan": wide(240),
                "period ends (UTC)": wide(155),
                "used_percent": {
                    "custom.width": 110,
                    "displayName": "used of limit",
                    "unit": "percent",
                    "decimals": 1,
                    "custom.cellOptions": {"type": "color-text"},
                    "thresholds": {
                        "mode": "absolute",
                        "steps": [{"value": value, "color": color} for value, color in ALERT_LEVELS],
                    },
                },
            },
        ),
        lines(
            "Tenants over each level",
            "Counted by the scheduler, in the open periods.",
            [over_time("max by (level) (msgmeter_tenants_over_level)", "{{level}} %")],
            unit="locale",
            width=8,
            decimals=0,
            colors={"80 %": YELLOW, "85 %": "#F2A93B", "90 %": ORANGE, "95 %": RED},
        ),
    ),
)


def fleet_and_revenue() -> Any:
    """The dashboard."""
    return board(
        UID,
        "Fleet and revenue",
        "All tenants together: credits by kind, country and rate card, who is near a limit, money that the ledger"
        " knows, what is uncovered, recharges, and what was refused. Days are UTC's.",
        (_USED, _NEAR, MONEY, REFUSED),
        variables=(
            CLICKHOUSE_VARIABLE,
            PROMETHEUS_VARIABLE,
            choice("granularity", "By", "What a bar stands for, in UTC.", ("day", "week", "month")),
        ),
        annotations=(annotations.HIGH_ALERTS, annotations.RATE_CARDS, annotations.FIRING),
        starts="now-30d",
        refresh="1m",
        timezone="utc",
    )
