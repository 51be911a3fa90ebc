"""A dashboard made of sections: where each panel lies, the variables, the links, and who may edit it.

Takes sections of panels; gives the SDK's dashboard. A section is a row with a title; within it, each panel goes where
it fits highest, and leftmost of such places, in 24 columns.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    GridPos,
    VariableHide,
    VariableOption,
    VariableRefresh,
)

from grafana.source.queries import CLICKHOUSE, PROMETHEUS, ClickHouseQuery

COLUMNS = 24
TAG = "msgmeter"
RUNBOOKS = "https://github.com/msgmeter/msgmeter/blob/main/docs/runbooks.md"


_RUNBOOKS_FILE = Path(__file__).parents[2] / "docs" / "runbooks.md"


def runbook_names() -> list[str]:
    """The alerts that have a runbook, which are the headings of `docs/runbooks.md`."""
    return sorted(re.findall(r"^## (Msgmeter\w+)$", _RUNBOOKS_FILE.read_text("utf-8"), re.MULTILINE))


class Section(NamedTuple):
    """Panels under one title."""

    title: str
    panels: Sequence[Any]


def board(
    uid: str,
    title: str,
    description: str,
    sections: Sequence[Section],
    *,
    variables: Sequence[Any],
    annotations: Sequence[Any] = (),
    starts: str = "now-6h",
    refresh: str = "30s",
    timezone: str = "browser",
) -> dict[str, Any]:
    """The dashboard; every one links to all with our tag, and to the runbooks."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone(timezone)
        .time(starts, "now")
        .refresh(refresh)
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(_others())
        .link(_runbooks())
    )
    for variable in variables:
        made.with_variable(variable)
    for annotation in annotations:
        made.annotation(annotation)
    line_at, number = 0, 0
    for section in sections:
        number += 1
        made.with_row(
            dashboard.Row(section.title)
            .id(number)
            .collapsed(False)
            .grid_pos(GridPos(x=0, y=line_at, w=COLUMNS, h=1))
        )
        line_at += 1
        heights = [line_at] * COLUMNS
        for panel in section.panels:
            number += 1
            made.with_panel(panel.id(number).grid_pos(_place(heights, panel.build().grid_pos)))
        line_at = max(heights)
    return made.build()  # type: ignore[return-value]


def _place(heights: list[int], size: GridPos) -> GridPos:
    """Where a panel of this size goes; `heights` says how far down each column is full, and is brought up to date."""
    places = [(max(heights[x : x + size.w]), x) for x in range(COLUMNS - size.w + 1)]
    y, x = min(places)
    heights[x : x + size.w] = [y + size.h] * size.w
    return GridPos(x=x, y=y, w=size.w, h=size.h)


def source_variable(name: str, type_name: str, label: str) -> Any:
    """Which data source of a type is asked; Grafana offers those there are and begins with the default."""
    return (
        dashboard.DatasourceVariable(name)
        .label(label)
        .type(type_name)
        .description(f"The {label} data source.")
    )


CLICKHOUSE_VARIABLE = source_variable("clickhouse", CLICKHOUSE.type_val or "", "ClickHouse")
PROMETHEUS_VARIABLE = source_variable("prometheus", PROMETHEUS.type_val or "", "Prometheus")


def choice(name: str, label: str, description: str, options: Sequence[str]) -> Any:
    """One of a few fixed values, the first by default."""
    return (
        dashboard.CustomVariable(name)
        .label(label)
        .description(description)
        .values(",".join(options))
        .current(VariableOption(selected=True, text=options[0], value=options[0]))
        .options([VariableOption(selected=each == options[0], text=each, value=each) for each in options])
    )


def asked(name: str, label: str, description: str, sql: str, *, is_hidden: bool = False) -> Any:
    """A value from ClickHouse, asked for anew whenever the dashboard or the time range changes."""
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(CLICKHOUSE)
        .query(sql.strip())
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    return variable.hide(VariableHide.HIDE_VARIABLE) if is_hidden else variable


def typed(name: str, label: str, description: str) -> Any:
    """A text that the reader types."""
    return dashboard.TextBoxVariable(name).label(label).description(description).default_value("")


def annotation(name: str, color: str, target: Any, **prometheus_fields: str) -> Any:
    """Marks on panels over time."""
    query = target.ref_id("Anno").build()
    made = dashboard.AnnotationQuery().name(name).icon_color(color).enable(True).target(target)
    made.datasource(CLICKHOUSE if isinstance(query, ClickHouseQuery) else PROMETHEUS)
    if "title" in prometheus_fields:
        made.expr(query.expr).step("60s").title_format(prometheus_fields["title"])
        made.text_format(prometheus_fields["text"])
    return made


def _others() -> Any:
    return (
        dashboard.DashboardLink("msgmeter")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .keep_time(True)
        .include_vars(False)
        .tooltip("The other dashboards, for the same time range")
    )


def _runbooks() -> Any:
    return (
        dashboard.DashboardLink("Runbooks")
        .type(DashboardLinkType.LINK)
        .url(RUNBOOKS)
        .icon("doc")
        .target_blank(True)
        .tooltip("What each alert means, how to look, how to mend it")
    )
