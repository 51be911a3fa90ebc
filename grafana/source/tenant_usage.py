"""The dashboard of one tenant: what it used in the days of its own zone, what it may use, and what it holds.

Everything is read from ClickHouse, with FINAL, as of the last checkpoint. Sums over a range are those of
`msgmeter usage`, what an account holds is that of `msgmeter balance`; tests compare them.
"""

from typing import Any

from grafana.source import annotations
from grafana.source.boards import CLICKHOUSE_VARIABLE, Section, asked, board, choice, typed
from grafana.source.panels import (
    ALERT_LEVELS,
    DIRECTION_COLORS,
    KIND_COLORS,
    TYPE_COLORS,
    bars_by_period,
    gauge,
    lines,
    ranking,
    stat,
    table,
)
from grafana.source.queries import (
    FIRST_PERIOD,
    IN_RANGE,
    LAST_PERIOD,
    OF_TENANT,
    TYPE,
    credits_sum,
    name_of_period,
    period_of,
    series_of,
    table_of,
    whole_periods,
)
from pipeline.core.account import FOREVER_AT

UID = "msgmeter-tenant-usage"

_DAYS = (
    "Days, weeks and months are those of the tenant's zone, by ClickHouse's zone rules, and whole: the first and the"
    " last are those that the time range touches, as in `msgmeter usage`."
)
_CHECKPOINT = "As of the last checkpoint, at most some seconds old."
_MERGE = "SETTINGS do_not_merge_across_partitions_select_final = 1"

VARIABLES = (
    CLICKHOUSE_VARIABLE,
    typed("search", "Tenant contains", "Narrows the list of tenants, which holds a thousand at most."),
    asked(
        "tenant",
        "Tenant",
        "The first thousand tenants whose name contains the text before.",
        """
SELECT tenant FROM account_snapshots
WHERE positionCaseInsensitive(tenant, ${search:sqlstring}) > 0
GROUP BY tenant ORDER BY tenant LIMIT 1000
""",
    ),
    choice("granularity", "By", "What a bar stands for.", ("day", "week", "month")),
    asked(
        "zone",
        "Zone",
        "The zone of the tenant's plan, in which its days begin.",
        f"SELECT zone FROM account_snapshots FINAL WHERE {OF_TENANT}",
        is_hidden=True,
    ),
)


def _account(columns: str) -> Any:
    return table_of(f"SELECT\n{columns}\nFROM account_snapshots AS account FINAL\nWHERE {OF_TENANT}")


def _windows_by_period(columns: str, order: str = "start") -> str:
    """Sums of windows by period; a period without usage is there with zeros, so that a chart has no gaps."""
    return f"""
SELECT {name_of_period("start")} AS period, * EXCEPT start
FROM
(
    SELECT {period_of("usage_15m")} AS start,
{columns}
    FROM usage_15m AS usage FINAL
    WHERE {OF_TENANT}
      AND {whole_periods("usage_15m")}
    GROUP BY start
    ORDER BY {order}
        WITH FILL FROM {FIRST_PERIOD} TO {LAST_PERIOD} + INTERVAL 1 DAY STEP INTERVAL 1 $granularity
)
ORDER BY start
{_MERGE}
"""


def _columns(measure: str, of: str, values: tuple[str, ...]) -> str:
    measures = {name: f"sumIf(usage.{measure}, {of} = '{name}')" for name in values}
    if measure == "credits_micros":
        measures = {name: credits_sum(f"{of} = '{name}'") for name in values}
    return ",\n".join(f"        {sql} AS {name}" for name, sql in measures.items())


def _windows_by(name: str, sql: str) -> Any:
    """The sums of the whole range by one thing, the largest first."""
    return table_of(
        f"""
SELECT {sql} AS {name}, {credits_sum()} AS credits
FROM usage_15m AS usage FINAL
WHERE {OF_TENANT}
  AND {whole_periods("usage_15m")}
GROUP BY {name}
ORDER BY credits DESC, {name}
LIMIT 20
{_MERGE}
"""
    )


def _facts_by(name: str) -> Any:
    return table_of(
        f"""
SELECT
    if({name} = '', 'none', {name}) AS {name}_name,
    sum(fact.messages) AS messages,
    sum(fact.segments) AS segments,
    sum(fact.credits_micros) / 1000000 AS credits
FROM rated_messages AS fact FINAL
WHERE {OF_TENANT}
  AND {whole_periods("rated_messages")}
GROUP BY {name}
ORDER BY credits DESC, {name}
LIMIT 100
{_MERGE}
"""
    )


_ACCOUNT = Section(
    "The account now",
    (
        gauge(
            "Used of the limit",
            f"Credits used in the billing period, of what is usable in it. {_CHECKPOINT} The colours change at the"
            " levels at which tenants are alerted.",
            [_account("    100 * used_micros / nullIf(limit_micros, 0) AS used")],
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
            height=3,
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
            width=12,
            height=3,
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
            width=8,
            height=3,
        ),
    ),
)

_BY_TIME = Section(
    "Used, in the tenant's $granularity ($zone)",
    (
        bars_by_period(
            "Credits by $granularity and kind",
            f"Credits burned. {_DAYS}",
            [table_of(_windows_by_period(_columns("credits_micros", "kind", tuple(KIND_COLORS))))],
            colors=KIND_COLORS,
        ),
        bars_by_period(
            "Segments by $granularity and kind",
            f"Segments counted: what an SMS is billed by. {_DAYS}",
            [table_of(_windows_by_period(_columns("segments", "kind", tuple(KIND_COLORS))))],
            colors=KIND_COLORS,
        ),
        bars_by_period(
            "Messages by $granularity and direction",
            f"Messages charged, sent and received. {_DAYS}",
            [table_of(_windows_by_period(_columns("messages", "direction", tuple(DIRECTION_COLORS))))],
            colors=DIRECTION_COLORS,
        ),
        bars_by_period(
            "Credits by $granularity and type",
            f"Types are the categories campaign, messaging and transactional; what came in is received, the rest is"
            f" other. {_DAYS}",
            [table_of(_windows_by_period(_columns("credits_micros", f"{TYPE}", tuple(TYPE_COLORS))))],
            colors=TYPE_COLORS,
        ),
        table(
            "By $granularity",
            f"What `msgmeter usage TENANT --by $granularity` shows: quantity is what was billed, in segments, messages"
            f" or recipients, as the price says. {_DAYS}",
            [
                table_of(
                    f"""
SELECT
    {name_of_period(period_of("usage_15m"))} AS period,
    sum(usage.messages) AS messages,
    sum(usage.segments) AS segments,
    sum(usage.quantity) AS quantity,
    {credits_sum()} AS credits
FROM usage_15m AS usage FINAL
WHERE {OF_TENANT}
  AND {whole_periods("usage_15m")}
GROUP BY period
ORDER BY period DESC
{_MERGE}
"""
                )
            ],
        ),
        lines(
            "Credits over time",
            "Credits per interval, of 15 minutes at least, in the time of your browser; the marks are alerts, changes"
            " of the plan and changes of prices.",
            [
                series_of(
                    f"""
SELECT $__timeInterval(window_start) AS time, toString(kind) AS kind, {credits_sum()} AS credits
FROM usage_15m AS usage FINAL
WHERE {OF_TENANT} AND $__timeFilter(window_start)
GROUP BY time, kind
ORDER BY time, kind
{_MERGE}
"""
                )
            ],
            unit="locale",
            bars=True,
            stacked=True,
            interval="15m",
            colors=KIND_COLORS,
            least=None,
        ),
    ),
)

_BY_WHAT = Section(
    "What it was used for",
    (
        ranking(
            "Credits by country",
            f"Of the other party, by the longest prefix of its number; ?? is no country. The 20 largest. {_DAYS}",
            [_windows_by("country_name", "if(country = '', '??', toString(country))")],
        ),
        ranking(
            "Credits by kind",
            f"SMS, MMS, RCS and email. {_DAYS}",
            [_windows_by("kind_name", "toString(kind)")],
        ),
        ranking(
            "Credits by type",
            f"Campaign, messaging, transactional; received is what came in, other is the rest. {_DAYS}",
            [_windows_by("type", TYPE)],
        ),
        ranking(
            "Credits by category",
            f"As the senders named them. The 20 largest. {_DAYS}",
            [_windows_by("category_name", "if(category = '', 'none', toString(category))")],
        ),
        table(
            "By list",
            f"Lists are sub-accounts. Summed from the messages themselves, because windows do not tell lists apart;"
            f" the 100 largest. {_DAYS}",
            [_facts_by("list")],
        ),
        table(
            "By campaign",
            f"Summed from the messages themselves; the 100 largest. {_DAYS}",
            [_facts_by("campaign")],
        ),
    ),
)

_HELD = Section(
    "What it holds",
    (
        table(
            "Grants",
            f"Blocks of credits that have not lapsed, with their own end in the tenant's zone. {_CHECKPOINT}",
            [
                table_of(
                    f"""
SELECT
    JSONExtractString(its, 'id')                     AS grant_id,
    JSONExtractString(its, 'kind')                   AS kind,
    JSONExtractInt(its, 'amount') / 1000000          AS amount,
    JSONExtractInt(its, 'remaining') / 1000000       AS remaining,
    toString(toDate(fromUnixTimestamp64Milli(JSONExtractInt(its, 'starts_at'), '$zone')))  AS starts,
    if(JSONExtractInt(its, 'expires_at') >= {FOREVER_AT}, 'never',
        toString(toDate(fromUnixTimestamp64Milli(JSONExtractInt(its, 'expires_at'), '$zone')))) AS expires
FROM account_snapshots AS account FINAL
ARRAY JOIN JSONExtractArrayRaw(grants) AS its
WHERE {OF_TENANT} AND NOT JSONExtractBool(its, 'is_expired')
"""
                )
            ],
            nothing="no grants",
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
            nothing="no list has a share",
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
            nothing="no quotas",
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
    (SELECT JSONExtractInt(details, 'plan', 'licensed_contacts') FROM account_snapshots FINAL WHERE {OF_TENANT}) AS given,
    (SELECT JSONExtractInt(details, 'plan', 'contact_active_days') FROM account_snapshots FINAL WHERE {OF_TENANT}) AS days,
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
            height=3,
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
            height=6,
            columns={
                "level": {
                    "unit": "percent",
                    "custom.cellOptions": {"type": "color-text"},
                    "thresholds": {
                        "mode": "absolute",
                        "steps": [{"value": value, "color": color} for value, color in ALERT_LEVELS],
                    },
                }
            },
            nothing="no alerts in this time",
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
            height=9,
            nothing="no entries in this time",
        ),
    ),
)

_OTHERS = Section(
    "Tenants side by side",
    (
        table(
            "Top tenants",
            "The 20 that used most credits in the time range, as far as the reader's ClickHouse user may see them: a"
            " tenant's own user sees itself alone. A name leads to its dashboard.",
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
            width=24,
            columns={
                "tenant": {
                    "links": [
                        {
                            "title": "Usage of ${__value.raw}",
                            "url": f"/d/{UID}?var-tenant=${{__value.raw:percentencode}}&${{__url_time_range}}",
                        }
                    ]
                }
            },
        ),
    ),
)


def tenant_usage() -> Any:
    """The dashboard."""
    return board(
        UID,
        "Tenant usage",
        "What one tenant used by day, week and month of its own zone, by country, kind, type and list, and what it"
        " holds: credits, grants, quotas, contacts and alerts. Figures are those of msgmeter usage and msgmeter"
        " balance.",
        (_ACCOUNT, _BY_TIME, _BY_WHAT, _HELD, _OTHERS),
        variables=VARIABLES,
        annotations=(
            annotations.ALERTS_OF_TENANT,
            annotations.PLANS_OF_TENANT,
            annotations.RATE_CARDS_OF_TENANT,
        ),
        starts="now-30d",
        refresh="1m",
    )
