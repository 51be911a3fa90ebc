"""What a dashboard's panels are answered, as data frames as Grafana's data sources give them: `grafana/render` draws.

Takes a client of ClickHouse, a Prometheus and what a reader chose; gives plain data. Grafana's own back end is not
here, so what it makes of an answer is written down once more.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from tests.grafana.dashboards import Target, View, targets
from tests.grafana.prometheus_server import PrometheusQuestions


def picture(
    client: Client,
    prometheus: PrometheusQuestions,
    dashboard: str,
    shown: View,
    *,
    of_clickhouse: View | None = None,
    of_prometheus: View | None = None,
    rows: Sequence[str] = (),
) -> dict[str, Any]:
    """All that one picture needs: frames by panel title and target, and what the reader chose.

    Either server may be asked for another time than the axes show. `rows` are the titles of those that are to be
    drawn; none means all.
    """
    frames: dict[str, dict[str, Any]] = {}
    for target in targets():
        if target.dashboard == dashboard:
            frames.setdefault(target.panel, {})[target.ref_id] = (
                _of_clickhouse(client, target, of_clickhouse or shown)
                if target.sql
                else _of_prometheus(prometheus, target, of_prometheus or shown)
            )
    return {
        "dashboard": dashboard,
        "rows": list(rows),
        "variables": dict(shown.variables),
        "range": [shown.starts_at * 1000, shown.ends_at * 1000],
        "frames": frames,
    }


def _of_clickhouse(client: Client, target: Target, view: View) -> list[dict[str, Any]]:
    """One frame; or, of a query over time, one per name, as the data source makes them."""
    assert target.sql is not None
    answer = client.query(view.sql(target.sql))
    names, rows = list(answer.column_names), [[_value(each) for each in row] for row in answer.result_rows]
    if target.query.get("format") != 0:
        fields = [
            {"name": name, "type": _type([row[at] for row in rows]), "values": [row[at] for row in rows]}
            for at, name in enumerate(names)
        ]
        return [{"refId": target.ref_id, "fields": fields}]
    return [
        {
            "refId": target.ref_id,
            "fields": [
                {"name": "time", "type": "time", "values": [row[0] for row in rows if row[1] == name]},
                {"name": name, "type": "number", "values": [row[2] for row in rows if row[1] == name]},
            ],
        }
        for name in sorted({row[1] for row in rows})
    ]


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return int(value.replace(tzinfo=UTC).timestamp() * 1000)
    return value


def _type(values: list[Any]) -> str:
    """As a data source would say: of texts, numbers and instants, by the first value there is."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str):
        return "string"
    return "time" if isinstance(first, int) and first > 1_000_000_000_000 else "number"


def _of_prometheus(prometheus: PrometheusQuestions, target: Target, view: View) -> list[dict[str, Any]]:
    """A frame per series; of an instant query in the format of a table, one for all."""
    assert target.expr is not None
    expr = view.promql(target.expr)
    if not target.query.get("instant"):
        series = prometheus.over_time(expr, view.starts_at, view.ends_at, view.interval_seconds)
        return [_series_frame(target, each["metric"], each["values"]) for each in series]
    series = prometheus.now(expr)
    if target.query.get("format") != "table":
        return [_series_frame(target, each["metric"], [each["value"]]) for each in series]
    labels = sorted({name for each in series for name in each["metric"]})
    fields: list[dict[str, Any]] = [
        {"name": "Time", "type": "time", "values": [each["value"][0] * 1000 for each in series]}
    ]
    fields += [
        {"name": label, "type": "string", "values": [each["metric"].get(label, "") for each in series]}
        for label in labels
    ]
    numbers = [float(each["value"][1]) for each in series]
    name = f"Value #{target.ref_id}" if target.panel == "Workers" else "Value"
    return [
        {"refId": target.ref_id, "fields": [*fields, {"name": name, "type": "number", "values": numbers}]}
    ]


def _series_frame(target: Target, labels: dict[str, str], values: list[list[Any]]) -> dict[str, Any]:
    legend = target.query.get("legendFormat", "__auto")
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)
    if legend == "__auto":
        name = ", ".join(labels.values())
    numbers = [None if each[1] in ("NaN", "+Inf", "-Inf") else float(each[1]) for each in values]
    return {
        "refId": target.ref_id,
        "fields": [
            {"name": "Time", "type": "time", "values": [each[0] * 1000 for each in values]},
            {"name": name, "type": "number", "values": numbers, "labels": labels},
        ],
    }
