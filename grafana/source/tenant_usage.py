"""The dashboard of one tenant: what it used in the days of its own zone, what it may use, and what it holds.

Everything is read from ClickHouse, with FINAL, as of the last checkpoint. Sums over a range are those of
`msgmeter usage`, what an account holds is that of `msgmeter balance`; tests compare them.
"""

from typing import Any

from grafana.source import annotations
from grafana.source.boards import CLICKHOUSE_VARIABLE, Section, asked, board, choice, typed
from grafana.source.panels import (
    DIRECTION_COLORS,
    KIND_COLORS,
    RANKED,
    TYPE_COLORS,
    bars_by_period,
    lines,
    ranking,
    table,
)
from grafana.source.queries import (
    FIRST_PERIOD,
    LAST_PERIOD,
    MERGE,
    NO_COUNTRY,
    OF_TENANT,
    TOP_TENANTS,
    TYPE,
    credits_sum,
    name_of_period,
    period_of,
    series_of,
    table_of,
    whole_periods,
)
from grafana.source.tenant_account import ACCOUNT, HELD

UID = "msgmeter-tenant-usage"

_DAYS = (
    "Days, weeks and months are those of the tenant's zone, by ClickHouse's zone rules, and whole: the first and the"
    " last are those that the time range touches, as in `msgmeter usage`."
)

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
{MERGE}
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
LIMIT {RANKED}
{MERGE}
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
{MERGE}
"""
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
{MERGE}
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
{MERGE}
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
            f"Of the other party, by the longest prefix of its number. {NO_COUNTRY} The {RANKED} largest. {_DAYS}",
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
            f"As the senders named them. The {RANKED} largest. {_DAYS}",
            [_windows_by("category_name", "if(category = '', 'none', toString(category))")],
        ),
        table(
            "By list",
            f"Lists are sub-accounts. Summed from the messages themselves, because windows do not tell lists apart;"
            f" the 100 largest. {_DAYS}",
            [_facts_by("list")],
            columns={"list_name": {"displayName": "list"}},
        ),
        table(
            "By campaign",
            f"Summed from the messages themselves; the 100 largest. {_DAYS}",
            [_facts_by("campaign")],
            columns={"campaign_name": {"displayName": "campaign"}},
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
            [table_of(TOP_TENANTS)],
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
        (ACCOUNT, _BY_TIME, _BY_WHAT, HELD, _OTHERS),
        variables=VARIABLES,
        annotations=(
            annotations.ALERTS_OF_TENANT,
            annotations.PLANS_OF_TENANT,
            annotations.RATE_CARDS_OF_TENANT,
        ),
        starts="now-30d",
        refresh="1m",
    )
