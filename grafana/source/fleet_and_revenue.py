"""The dashboard of all tenants together: what is used, by which prices, who is near a limit, and what is billed.

Everything of tenants is read from ClickHouse; what is refused, asked of payment providers or late is no row there and
comes from Prometheus. Days are UTC's, because tenants have many zones.
"""

from collections.abc import Iterable
from typing import Any

from grafana.source import annotations
from grafana.source.boards import CLICKHOUSE_VARIABLE, PROMETHEUS_VARIABLE, Section, board, choice
from grafana.source.panels import (
    ALERT_LEVELS,
    GREEN,
    KIND_COLORS,
    ONE_IS_GOOD,
    ORANGE,
    RED,
    YELLOW,
    ZERO_IS_GOOD,
    bars_by_period,
    lines,
    ranking,
    stat,
    table,
)
from grafana.source.queries import IN_RANGE, credits_sum, now, over_time, table_of
from grafana.source.tenant_usage import UID as TENANT_UID

UID = "msgmeter-fleet"

_MERGE = "SETTINGS do_not_merge_across_partitions_select_final = 1"
_UTC_PERIOD = "toDate(dateTrunc('$granularity', toDate({at}, 'UTC')))"
_NAME = "substring(toString({date}), 1, if('$granularity' = 'month', 7, 10))"
_RANGE = "Of the time range, all tenants together."
_CHECKPOINT = "As of each account's last checkpoint."

_TENANT_LINK = {
    "links": [
        {
            "title": "Usage of ${__value.raw}",
            "url": f"/d/{TENANT_UID}?var-tenant=${{__value.raw:percentencode}}&${{__url_time_range}}",
        }
    ]
}


def _used_by_period(columns: str) -> Any:
    start = _UTC_PERIOD.format(at="window_start")
    first, last = _UTC_PERIOD.format(at="$__fromTime"), _UTC_PERIOD.format(at="$__toTime")
    return table_of(
        f"""
SELECT {_NAME.format(date="start")} AS period, * EXCEPT start
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
{_MERGE}
"""
    )


def _columns(of: str, values: Iterable[str]) -> str:
    sums = {name: credits_sum(f"{of} = '{name}'") for name in values}
    return ",\n".join(f"        {sql} AS {name}" for name, sql in sums.items())


def _used_by(name: str, sql: str, limit: int = 20) -> Any:
    return table_of(
        f"""
SELECT {sql} AS {name}, {credits_sum()} AS credits
FROM usage_15m AS usage FINAL
WHERE {IN_RANGE}
GROUP BY {name}
ORDER BY credits DESC, {name}
LIMIT {limit}
{_MERGE}
"""
    )


_USED = Section(
    "Used",
    (
        stat(
            "Used in the time range",
            f"Messages, segments and credits. {_RANGE}",
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
{_MERGE}
"""
                )
            ],
            width=24,
            height=3,
        ),
        bars_by_period(
            "Credits by $granularity and kind",
            f"Credits burned by UTC days, weeks or months. {_RANGE}",
            [_used_by_period(_columns("kind", KIND_COLORS))],
            colors=KIND_COLORS,
        ),
        table(
            "Credits by rate card and version",
            "Which prices rated what, by the version in force when messages occurred; + tenant: a rate of the plan's"
            " own decided. Refunds are taken off. Summed from the messages themselves. " + _RANGE,
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
{_MERGE}
"""
                )
            ],
        ),
        ranking(
            "Credits by country",
            f"Of the other party; ?? is no country. The 20 largest. {_RANGE}",
            [_used_by("country_name", "if(country = '', '??', toString(country))")],
        ),
        ranking(
            "Credits by kind", f"SMS, MMS, RCS and email. {_RANGE}", [_used_by("kind_name", "toString(kind)")]
        ),
        table(
            "Top tenants",
            f"The 20 that used most credits. A name leads to its dashboard. {_RANGE}",
            [
                table_of(
                    f"""
SELECT
    tenant,
    sum(usage.messages) AS messages,
    sum(usage.segments) AS segments,
    {credits_sum()} AS credits
FROM usage_15m AS usage FINAL
WHERE {IN_RANGE}
GROUP BY tenant
ORDER BY credits DESC, tenant
LIMIT 20
{_MERGE}
"""
                )
            ],
            columns={"tenant": _TENANT_LINK},
        ),
    ),
)

_NEAR = Section(
    "Near their limits",
    (
        stat(
            "Tenants at a level or above",
            f"How many have used at least so much of what is usable in their billing period. {_CHECKPOINT}",
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
            "Tenants beyond 95 % for more than five minutes without a recorded alert: should be 0. From the"
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
            f" most. {_CHECKPOINT}",
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
            width=14,
            columns={
                "tenant": _TENANT_LINK,
                "used_percent": {
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
            nothing="nobody is near a limit",
        ),
        lines(
            "Tenants over each level",
            "Counted by the scheduler, in the open periods.",
            [over_time("max by (level) (msgmeter_tenants_over_level)", "{{level}} %")],
            unit="locale",
            width=10,
            decimals=0,
            colors={"80 %": YELLOW, "85 %": "#F2A93B", "90 %": ORANGE, "95 %": RED},
        ),
    ),
)

_MONEY = Section(
    "Money and credits beyond grants",
    (
        table(
            "Money the ledger knows",
            "Entries with money in them, by UTC day, week or month of their effect: what was paid for purchases, billed"
            " in arrears, or paid off; below zero where a payment was taken back. Credits of an allowance have no"
            " money here. " + _RANGE,
            [
                table_of(
                    f"""
SELECT
    {_NAME.format(date=_UTC_PERIOD.format(at="effective_at"))} AS period,
    kind,
    currency,
    count()                      AS entries,
    sum(money_micros) / 1000000  AS money,
    sum(amount_micros) / 1000000 AS credits
FROM ledger_entries AS entry FINAL
WHERE currency != '' AND effective_at >= $__fromTime AND effective_at < $__toTime
GROUP BY period, kind, currency
ORDER BY period DESC, kind, currency
LIMIT 200
"""
                )
            ],
            nothing="no money in this time",
        ),
        table(
            "Uncovered usage",
            f"Credits metered beyond every grant, and what they come to at the plan's price where it has one; the 100"
            f" largest. {_CHECKPOINT}",
            [
                table_of(
                    """
SELECT
    tenant,
    plan,
    uncovered_micros / 1000000 AS uncovered,
    JSONExtractInt(details, 'due_money_micros') / 1000000 AS due,
    JSONExtractString(details, 'plan', 'currency') AS currency,
    JSONExtractString(details, 'plan', 'overage') AS "beyond grants"
FROM account_snapshots AS account FINAL
WHERE uncovered_micros > 0
ORDER BY uncovered_micros DESC, tenant
LIMIT 100
"""
                )
            ],
            columns={"tenant": _TENANT_LINK},
            nothing="everything is covered",
        ),
        stat(
            "Balance of all tenants",
            f"What is left in all grants less what is uncovered, what can be spent now, what is reserved, and what is"
            f" uncovered. {_CHECKPOINT}",
            [
                table_of(
                    """
SELECT
    sum(balance_micros) / 1000000   AS balance,
    sum(available_micros) / 1000000 AS available,
    sum(reserved_micros) / 1000000  AS reserved,
    sum(uncovered_micros) / 1000000 AS uncovered
FROM account_snapshots FINAL
"""
                )
            ],
            width=12,
        ),
        stat(
            "Recharges without an answer",
            "Requests for a block of credits that no command has confirmed or declined.",
            [now("max(msgmeter_recharges_unanswered)")],
            steps=((None, GREEN), (1, YELLOW)),
            width=6,
        ),
        stat(
            "The oldest of them",
            "For how long the oldest request to recharge has waited for its answer; 0: none waits.",
            [now("max(msgmeter_recharge_oldest_unanswered_seconds)")],
            unit="s",
            steps=((None, GREEN), (900, YELLOW), (3600, RED)),
            width=6,
        ),
        table(
            "Recharges that wait",
            f"What was asked for and what is to be charged: the block's price and what is due. {_CHECKPOINT}",
            [
                table_of(
                    """
SELECT
    tenant,
    recharge_asked_at                                   AS "asked at",
    JSONExtractString(its, 'in_flight')                 AS request,
    JSONExtractInt(its, 'credits_micros') / 1000000     AS credits,
    (JSONExtractInt(its, 'due_money_micros') + JSONExtractInt(its, 'top_up_money_micros')) / 1000000 AS charge,
    JSONExtractString(details, 'plan', 'currency')      AS currency,
    JSONExtractInt(its, 'declined_count')               AS declined
FROM
(
    SELECT tenant, details, recharge_asked_at, JSONExtractRaw(details, 'recharge') AS its
    FROM account_snapshots FINAL
    WHERE recharge_asked_at IS NOT NULL
)
ORDER BY recharge_asked_at, tenant
LIMIT 100
"""
                )
            ],
            columns={"tenant": _TENANT_LINK},
            nothing="none waits",
        ),
        lines(
            "Recharges asked for",
            "Requests per hour that workers wrote to account.recharges.",
            [
                over_time(
                    "3600 * sum(rate(msgmeter_recharges_requested_total[$__rate_interval]))", "asked per hour"
                )
            ],
            unit="locale",
        ),
    ),
)

_REFUSED = Section(
    "Not charged",
    (
        lines(
            "Refusals by reason",
            "Records that cannot be billed, per second; `msgmeter refusals` says who sends them. Refusals are in a"
            " topic and in no table, so these are a worker's counts: a replay counts again.",
            [
                over_time(
                    "sum by (reason) (rate(msgmeter_messages_refused_total[$__rate_interval])) > 0",
                    "{{reason}}",
                )
            ],
            unit="cps",
            stacked=True,
        ),
        ranking(
            "Refused in the time range",
            "How many records, by reason.",
            [
                now(
                    "sort_desc(round(sum by (reason) (increase(msgmeter_messages_refused_total[$__range])))) > 0",
                    "{{reason}}",
                )
            ],
            of_rows=False,
        ),
        ranking(
            "Unrated in the time range",
            "Messages that no price of their own was found for, by what was done instead.",
            [
                now(
                    "round(sum by (reason) (increase(msgmeter_messages_unrated_total[$__range]))) > 0",
                    "{{reason}}",
                )
            ],
            of_rows=False,
            steps=((None, ORANGE),),
        ),
        stat(
            "ClickHouse answers the scheduler",
            "Whether the figures of tenants above can be read at all.",
            [now('min(msgmeter_clickhouse_up{job="msgmeter-scheduler"})')],
            steps=ONE_IS_GOOD,
            mapped={"0": ("away", RED), "1": ("up", GREEN)},
            width=6,
        ),
        stat(
            "Age of the scheduler's figures",
            "Since the scheduler last read tenants, levels and recharges.",
            [now("time() - max(msgmeter_fleet_last_success_timestamp_seconds)")],
            unit="s",
            steps=((None, GREEN), (300, YELLOW), (900, RED)),
            width=6,
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
        (_USED, _NEAR, _MONEY, _REFUSED),
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
