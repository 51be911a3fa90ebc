"""Money and credits beyond grants, and what was not charged, of all tenants. Sections of the fleet's dashboard."""

from grafana.source.boards import Section
from grafana.source.panels import (
    GREEN,
    ONE_IS_GOOD,
    ORANGE,
    PER_SECOND,
    RED,
    YELLOW,
    lines,
    ranking,
    stat,
    table,
    wide,
)
from grafana.source.queries import REFUSED_BY_REASON, now, over_time, table_of
from grafana.source.tenant_usage import UID as TENANT_UID

UTC_PERIOD = "toDate(dateTrunc('$granularity', toDate({at}, 'UTC')))"
"""The first date of the UTC day, week or month that holds an instant."""
NAME = "substring(toString({date}), 1, if('$granularity' = 'month', 7, 10))"
RANGE = "Of the time range, all tenants together."
CHECKPOINT = "As of each account's last checkpoint."

TENANT_LINK = {
    "custom.width": 130,
    "links": [
        {
            "title": "Usage of ${__value.raw}",
            "url": f"/d/{TENANT_UID}?var-tenant=${{__value.raw:percentencode}}&${{__url_time_range}}",
        }
    ],
}


_TENANTS = {"tenant": TENANT_LINK, "plan": wide(240), "asked at": wide(170), "beyond grants": wide(130)}

MONEY = Section(
    "Money and credits beyond grants",
    (
        table(
            "Money the ledger knows",
            "Entries with money in them, by UTC day, week or month of their effect: what was paid for purchases, billed"
            " in arrears, or paid off; below zero where a payment was taken back. Credits of an allowance have no"
            " money here. " + RANGE,
            [
                table_of(
                    f"""
SELECT
    {NAME.format(date=UTC_PERIOD.format(at="effective_at"))} AS period,
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
            width=10,
        ),
        table(
            "Uncovered usage",
            f"Credits metered beyond every grant, and what they come to at the plan's price where it has one; the 100"
            f" largest. {CHECKPOINT}",
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
            width=14,
            columns=_TENANTS,
        ),
        stat(
            "Balance of all tenants",
            f"What is left in all grants less what is uncovered, what can be spent now, what is reserved, and what is"
            f" uncovered. {CHECKPOINT}",
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
            unit="dtdhms",
            steps=((None, GREEN), (900, YELLOW), (3600, RED)),
            width=6,
        ),
        table(
            "Recharges that wait",
            f"What was asked for and what is to be charged: the block's price and what is due. {CHECKPOINT}",
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
            width=14,
            columns=_TENANTS,
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
            width=10,
        ),
    ),
)

REFUSED = Section(
    "Not charged",
    (
        lines(
            "Refusals by reason",
            "Records that cannot be billed, per second; `msgmeter refusals` says who sends them. Refusals are in a"
            " topic and in no table, so these are a worker's counts: a replay counts again.",
            [over_time(REFUSED_BY_REASON, "{{reason}}")],
            unit=PER_SECOND,
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
            width=12,
        ),
        stat(
            "Age of the scheduler's figures",
            "Since the scheduler last read tenants, levels and recharges.",
            [now("time() - max(msgmeter_fleet_last_success_timestamp_seconds)")],
            unit="s",
            steps=((None, GREEN), (300, YELLOW), (900, RED)),
            width=12,
        ),
    ),
)
