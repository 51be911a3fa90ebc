"""What a tenant's account is: its credits, plan and period, and what it holds. Sections of its dashboard.

Read from ClickHouse as of the last checkpoint; what `msgmeter balance` and `msgmeter contacts` show.
"""

from typing import Any

from grafana.source.boards import Section
from grafana.source.panels import ALERT_LEVELS, gauge, stat, table, wide
from grafana.source.queries import OF_TENANT, table_of
from pipeline.core.account import FOREVER_AT

_WIDTHS = {"plan": 240, "zone": 150, "first day": 100, "last day": 100}
_CHECKPOINT = "As of the last checkpoint, at most some seconds old."


def _account(columns: str) -> Any:
    return table_of(f"SELECT\n{columns}\nFROM account_snapshots AS account FINAL\nWHERE {OF_TENANT}")


ACCOUNT = Section(
    "The account now",
    (
        gauge(
            "Used of the limit",
            f"Credits used in the billing period, of what is usable in it. {_CHECKPOINT} The colours change at the"
            " levels at which tenants are alerted.",
            [_account("    100 * used_micros / nullIf(limit_micros, 0) AS used")],
            height=8,
        ),
        stat(
            "Credits",
            f"Used and usable in the billing period; balance: left in all grants, less what is uncovered; available:"
            f" what can be spent now; reserved for what is scheduled; uncovered by any grant. {_CHECKPOINT}",
            [
                _account(
                    """
    used_micros / 1000000      AS used,
    limit_micros / 1000000     AS "limit",
    balance_micros / 1000000   AS balance,
    available_micros / 1000000 AS available,
    reserved_micros / 1000000  AS reserved,
    uncovered_micros / 1000000 AS uncovered
""".strip("\n")
                )
            ],
            width=20,
            height=4,
        ),
        stat(
            "Allowance and purchases",
            "What the plan allows per period and what is left of it, what is left of everything else that was added,"
            f" and what belongs to no list's share. {_CHECKPOINT}",
            [
                _account(
                    """
    JSONExtractInt(details, 'plan', 'allowance_micros') / 1000000 AS allowance,
    JSONExtractInt(details, 'allowance_left_micros') / 1000000    AS "allowance left",
    JSONExtractInt(details, 'purchased_left_micros') / 1000000    AS "purchased left",
    unassigned_micros / 1000000                                   AS unassigned
""".strip("\n")
                )
            ],
            width=7,
            height=4,
        ),
        table(
            "Plan and period",
            "The plan in force, the tenant's zone, the first and last day of its billing period, and the instant all"
            " figures of this section are as of.",
            [
                _account(
                    """
    if(plan = '', 'none', plan)                                       AS plan,
    zone,
    toString(toDate(account.period_start, '$zone'))                       AS "first day",
    toString(toDate(account.period_end - INTERVAL 1 MILLISECOND, '$zone')) AS "last day",
    formatDateTime(account.as_of, '%Y-%m-%d %H:%i:%S', 'UTC')                AS "as of (UTC)"
""".strip("\n")
                )
            ],
            unit="string",
            width=13,
            height=4,
            columns={name: wide(width) for name, width in _WIDTHS.items()},
        ),
    ),
)

HELD = Section(
    "What it holds",
    (
        table(
            "Grants",
            f"Blocks of credits that have not lapsed, with their own end in the tenant's zone. An allowance is"
            f" called by the first day of its period. {_CHECKPOINT}",
            [
                table_of(
                    f"""
WITH JSONExtractString(its, 'id') AS id, splitByChar(':', id) AS parts
SELECT
    JSONExtractString(its, 'kind')                   AS kind,
    JSONExtractInt(its, 'amount') / 1000000          AS amount,
    JSONExtractInt(its, 'remaining') / 1000000       AS remaining,
    toString(toDate(fromUnixTimestamp64Milli(JSONExtractInt(its, 'starts_at'), '$zone')))  AS starts,
    if(JSONExtractInt(its, 'expires_at') >= {FOREVER_AT}, 'never',
        toString(toDate(fromUnixTimestamp64Milli(JSONExtractInt(its, 'expires_at'), '$zone')))) AS expires,
    if(parts[1] IN ('allowance', 'rollover') AND length(parts) = 2,
        concat(parts[1], ' ', toString(toDate(fromUnixTimestamp64Milli(toInt64OrZero(parts[2]), '$zone')))),
        id)                                          AS grant_name
FROM account_snapshots AS account FINAL
ARRAY JOIN JSONExtractArrayRaw(grants) AS its
WHERE {OF_TENANT} AND NOT JSONExtractBool(its, 'is_expired')
"""
                )
            ],
            columns={"grant_name": wide(250, displayName="grant")},
        ),
        table(
            "Shares of lists",
            f"What one list may spend of the tenant's credits, and has. {_CHECKPOINT}",
            [
                table_of(
                    f"""
SELECT
    its.1                                                AS list_name,
    JSONExtractInt(its.2, 'limit_micros') / 1000000      AS share,
    JSONExtractInt(its.2, 'spent_micros') / 1000000      AS spent,
    JSONExtractInt(its.2, 'left_micros') / 1000000       AS "left"
FROM account_snapshots AS account FINAL
ARRAY JOIN JSONExtractKeysAndValuesRaw(details, 'lists') AS its
WHERE {OF_TENANT}
ORDER BY list_name
"""
                )
            ],
            width=6,
        ),
        table(
            "Quotas",
            f"Units of a kind that the plan includes in each period. {_CHECKPOINT}",
            [
                table_of(
                    f"""
SELECT
    its.1                             AS kind,
    JSONExtractInt(its.2, 'included') AS included,
    JSONExtractInt(its.2, 'used')     AS used,
    JSONExtractInt(its.2, 'left')     AS "left"
FROM account_snapshots AS account FINAL
ARRAY JOIN JSONExtractKeysAndValuesRaw(details, 'quotas') AS its
WHERE {OF_TENANT}
ORDER BY kind
"""
                )
            ],
            width=6,
        ),
        stat(
            "Contacts",
            "Active is who was sent a message within the days that the plan says before the end of the time range, or"
            " is marked active; inactive are those of them marked so; available is what the plan licenses beyond"
            " them, and empty where it licenses none. What `msgmeter contacts` shows.",
            [
                table_of(
                    f"""
WITH
    (
        SELECT (
            JSONExtractInt(details, 'plan', 'licensed_contacts'),
            JSONExtractInt(details, 'plan', 'contact_active_days')
        )
        FROM account_snapshots FINAL
        WHERE {OF_TENANT}
    ) AS plan_says,
    plan_says.1 AS given,
    plan_says.2 AS days,
    ifNull(given, 0) AS licensed_count
SELECT
    licensed_count                                      AS licensed,
    countIf(is_messaged OR mark = 'active')             AS active,
    countIf(is_messaged AND mark = 'inactive')          AS inactive,
    if(licensed_count > 0, toInt64(licensed_count) - toInt64(active), NULL) AS available
FROM
(
    SELECT contact_hash, max(messaged) AS is_messaged, max(state) AS mark
    FROM
    (
        SELECT counterparty_hash AS contact_hash, true AS messaged, '' AS state
        FROM rated_messages
        WHERE {OF_TENANT}
          AND occurred_at >  $__toTime - INTERVAL if(ifNull(days, 0) = 0, 60, days) DAY
          AND occurred_at <= $__toTime
          AND direction = 'outbound'
          AND messages > 0
        GROUP BY counterparty_hash
        UNION ALL
        SELECT contact_hash, false AS messaged, toString(contact_marks.state) AS state
        FROM contact_marks FINAL
        WHERE {OF_TENANT}
    )
    GROUP BY contact_hash
)
"""
                )
            ],
            width=12,
            height=4,
        ),
        table(
            "Alerts reached",
            "Levels of usage reached in the time range, newest first; each is reported once per period and arming.",
            [
                table_of(
                    f"""
SELECT
    occurred_at                                         AS time,
    level,
    used_micros / 1000000                               AS used,
    limit_micros / 1000000                              AS "limit",
    remaining_micros / 1000000                          AS remaining,
    toString(toDate(alert.period_start, '$zone'))       AS "period from"
FROM alerts AS alert FINAL
WHERE {OF_TENANT} AND $__timeFilter(occurred_at)
ORDER BY occurred_at DESC, level DESC
LIMIT 100
"""
                )
            ],
            height=12,
            columns={
                "time": wide(160),
                "level": {
                    "unit": "percent",
                    "custom.cellOptions": {"type": "color-text"},
                    "thresholds": {
                        "mode": "absolute",
                        "steps": [{"value": value, "color": color} for value, color in ALERT_LEVELS],
                    },
                },
            },
        ),
        table(
            "What came and went",
            "The ledger in the time range by kind of entry, credits and money; usage is in it too. A statement of a"
            " billing period is `msgmeter statement`.",
            [
                table_of(
                    f"""
SELECT
    kind,
    count()                        AS entries,
    sum(amount_micros) / 1000000   AS credits,
    sum(money_micros) / 1000000    AS money,
    currency
FROM ledger_entries AS entry FINAL
WHERE {OF_TENANT} AND $__timeFilter(effective_at)
GROUP BY kind, currency
ORDER BY kind, currency
"""
                )
            ],
            height=8,
        ),
    ),
)
