"""What a panel asks: SQL for the ClickHouse data source, PromQL for Prometheus, and the pieces of SQL they share.

Takes texts; gives targets for panels. A data source is named by a dashboard variable only, so a dashboard can be
loaded beside other sources. Values of variables go into SQL as text: `:sqlstring` quotes them. That is convenience
and no access control: who may read what is decided by ClickHouse's users and row policies.

Days, weeks and months are those of `$zone`, by ClickHouse's own zone rules, because Grafana hands a query nothing
that Python could compute bounds for. Wherever they agree with tzdata's, figures are those of `msgmeter usage`.

Source: https://github.com/grafana/clickhouse-datasource/blob/main/pkg/macros/macros.go for macros.
"""

from typing import Any

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

CLICKHOUSE = common.DataSourceRef(type_val="grafana-clickhouse-datasource", uid="${clickhouse}")
PROMETHEUS = common.DataSourceRef(type_val="prometheus", uid="${prometheus}")

_TIME_SERIES, _TABLE = 0, 1
"""Of the data source's `format`."""

OF_TENANT = "tenant = ${tenant:sqlstring}"

_LOCAL_DATE = {
    # A window never lies in two days, so its start says its date.
    "usage_15m": "toDate(window_start, '$zone')",
    "rated_messages": "toDate(occurred_at, '$zone')",
}
_INSTANT = {"usage_15m": "window_start", "rated_messages": "occurred_at"}


def period(date: str) -> str:
    """The first date of the day, week or month that holds a date; weeks start on Monday."""
    return f"toDate(dateTrunc('$granularity', {date}))"


def period_of(table: str) -> str:
    """The same of a row."""
    return period(_LOCAL_DATE[table])


FIRST_PERIOD = period("toDate($__fromTime, '$zone')")
LAST_PERIOD = period("toDate($__toTime, '$zone')")
"""The first and the last of the periods that the dashboard's time range touches."""


def name_of_period(date: str) -> str:
    """A period as `msgmeter usage` writes it: the date it starts with; of a month, year and month."""
    return f"substring(toString({date}), 1, if('$granularity' = 'month', 7, 10))"


def whole_periods(table: str) -> str:
    """The rows of every period that the time range touches: the rule of `msgmeter usage`.

    The last two conditions narrow what is read: no month and no zone is longer than 32 days before or after.
    """
    instant = _INSTANT[table]
    return (
        f"{period_of(table)} >= {FIRST_PERIOD}\n"
        f"  AND {period_of(table)} <= {LAST_PERIOD}\n"
        f"  AND {instant} >= $__fromTime - INTERVAL 32 DAY\n"
        f"  AND {instant} < $__toTime + INTERVAL 32 DAY"
    )


IN_RANGE = "window_start >= $__fromTime AND window_start < $__toTime"
"""The windows of the time range as it is, where there is no tenant whose days could be meant."""

TYPE = (
    "multiIf(direction = 'inbound', 'received', "
    "category IN ('campaign', 'messaging', 'transactional'), category, 'other')"
)
"""As `msgmeter usage --group-by type` has it."""


NO_COUNTRY = "?? stands where no country could be told: email, and numbers that no known prefix begins."


def credits_sum(condition: str = "") -> str:
    """The sum of a row's credits, as a number with a fraction: exact up to nine thousand million credits."""
    column = "usage.credits_micros"
    return f"{f'sumIf({column}, {condition})' if condition else f'sum({column})'} / 1000000"


MERGE = "SETTINGS do_not_merge_across_partitions_select_final = 1"
"""Rows of one key are of one month, so `FINAL` need not compare months."""

TOP_TENANTS = f"""
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
{MERGE}
"""
"""The 20 tenants that used most credits in the time range."""


class ClickHouseQuery(Dataquery):
    """A target of the ClickHouse data source."""

    def __init__(self, sql: str, *, is_series: bool) -> None:
        """`is_series` where the first column is `time` and the answer is drawn over time."""
        self.sql = sql.strip()
        self.is_series = is_series
        self.ref_id = "A"

    def to_json(self) -> dict[str, Any]:
        """The shape the data source's SQL editor stores."""
        return {
            "datasource": CLICKHOUSE,
            "editorType": "sql",
            "format": _TIME_SERIES if self.is_series else _TABLE,
            "queryType": "timeseries" if self.is_series else "table",
            "rawSql": self.sql,
            "refId": self.ref_id,
        }


class _Sql(Builder[Dataquery]):
    def __init__(self, query: ClickHouseQuery) -> None:
        self._query = query

    def ref_id(self, ref_id: str) -> "_Sql":
        self._query.ref_id = ref_id
        return self

    def build(self) -> Dataquery:
        return self._query


def table_of(sql: str) -> Any:
    """SQL whose rows are shown as they are."""
    return _Sql(ClickHouseQuery(sql, is_series=False))


def series_of(sql: str) -> Any:
    """SQL of columns time, name, value: a line per name."""
    return _Sql(ClickHouseQuery(sql, is_series=True))


def over_time(expr: str, legend: str = "__auto") -> Any:
    """PromQL, evaluated over the time range; `legend` names a series by its labels: `{{reason}}`."""
    query = prometheus.Dataquery().datasource(PROMETHEUS).expr(_flat(expr)).legend_format(legend)
    return query.range().format(PromQueryFormat.TIME_SERIES)


def now(expr: str, legend: str = "__auto") -> Any:
    """PromQL, evaluated once at the end of the time range."""
    query = prometheus.Dataquery().datasource(PROMETHEUS).expr(_flat(expr)).legend_format(legend)
    return query.instant().format(PromQueryFormat.TIME_SERIES)


def now_as_table(expr: str) -> Any:
    """The same as rows: a column per label, and `Value`."""
    query = prometheus.Dataquery().datasource(PROMETHEUS).expr(_flat(expr)).legend_format("")
    return query.instant().format(PromQueryFormat.TABLE)


def buckets(expr: str) -> Any:
    """PromQL of a histogram's increase by `le`, for a heat map."""
    query = prometheus.Dataquery().datasource(PROMETHEUS).expr(_flat(expr)).legend_format("{{le}}")
    return query.range().format(PromQueryFormat.HEATMAP)


def _flat(expr: str) -> str:
    return " ".join(expr.split())


REFUSED_BY_REASON = """
sum by (reason) (rate(msgmeter_messages_refused_total[$__rate_interval]))
and topk(6, sum by (reason) (increase(msgmeter_messages_refused_total[$__range] @ end())) > 0)
"""
"""Refusals per second of the six commonest reasons of the range: chosen per step, the legend would name all."""
