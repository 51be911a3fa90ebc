"""Panels of the kinds we use, each with title, description and unit, which the lint asks for.

Takes texts and targets; gives the SDK's builders, sized in columns of 24 and rows of 30 pixels. Units are Grafana's
ids: `locale` writes 1,234.5 and never rounds to "1.2 K", because credits are compared with bills.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import (
    barchart,
    bargauge,
    common,
    dashboard,
    heatmap,
    timeseries,
)
from grafana_foundation_sdk.builders import (
    gauge as gauges,
)
from grafana_foundation_sdk.builders import (
    stat as stats,
)
from grafana_foundation_sdk.builders import (
    table as tables,
)
from grafana_foundation_sdk.builders import (
    text as texts,
)
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BarGaugeNamePlacement,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardSpecialValueMapOptions,
    DynamicConfigValue,
    FieldColorModeId,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.text import TextMode

from grafana.source.queries import CLICKHOUSE, PROMETHEUS, ClickHouseQuery

Steps = Sequence[tuple[float | None, str]]
"""Where a colour begins, lowest first; None: below all."""

GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"
PLAIN: Steps = ((None, "blue"),)
ALERT_LEVELS: Steps = ((None, GREEN), (80, YELLOW), (85, "#F2A93B"), (90, ORANGE), (95, RED))
"""The levels at which tenants are alerted."""
ZERO_IS_GOOD: Steps = ((None, GREEN), (1, RED))
ONE_IS_GOOD: Steps = ((None, RED), (1, GREEN))
UP = {"0": ("away", RED), "1": ("up", GREEN)}
ANSWERS = {"0": ("no", RED), "1": ("yes", GREEN)}

PER_SECOND = "count:/s"
"""Grafana's own unit of counts, `cps`, is written c/s, which reads as credits."""

KIND_COLORS = {"sms": "blue", "mms": "purple", "rcs": "green", "email": "orange"}
TYPE_COLORS = {
    "campaign": "blue",
    "messaging": "green",
    "transactional": "purple",
    "received": "orange",
    "other": "#8e8e8e",
}
DIRECTION_COLORS = {"outbound": "blue", "inbound": "orange"}
RESULT_COLORS = {"stored": GREEN, "retried": ORANGE, "refused": RED}
"""A name has the same colour wherever it is drawn."""

RANKED = 10
"""So many bars are whole in a ranking of the usual height."""


def stat(
    title: str,
    description: str,
    targets: Sequence[Any],
    *,
    unit: str = "locale",
    steps: Steps = PLAIN,
    width: int = 4,
    height: int = 4,
    decimals: int | None = None,
    mapped: Mapping[str, tuple[str, str]] | None = None,
    with_line: bool = False,
    fields: str = "",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    nothing: str = "none",
) -> Any:
    """Figures in large type: one per series or column; `fields` names columns, "" means the numbers."""
    panel = (
        stats.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields(fields))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA if with_line else BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.AUTO)
        .orientation(VizOrientation.AUTO)
        .no_value(nothing)
    )
    if mapped:
        panel.mappings(_mappings(mapped))
    return _panel(panel, title, description, targets, unit, steps, width, height, decimals, overrides)


def gauge(
    title: str,
    description: str,
    targets: Sequence[Any],
    *,
    unit: str = "percent",
    steps: Steps = ALERT_LEVELS,
    width: int = 4,
    height: int = 6,
) -> Any:
    """A dial from 0 to 100."""
    panel = (
        gauges.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
        .max(100)
        .show_threshold_markers(True)
        .no_value("no limit")
    )
    return _panel(panel, title, description, targets, unit, steps, width, height, 1)


def lines(
    title: str,
    description: str,
    targets: Sequence[Any],
    *,
    unit: str,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    bars: bool = False,
    steps: Steps | None = None,
    colors: Mapping[str, str] | None = None,
    decimals: int | None = None,
    interval: str = "",
    least: float | None = 0,
    log_scale: bool = False,
    nothing: str = "",
) -> Any:
    """Lines or bars over time; `steps` draws where a limit lies, `interval` is the shortest step."""
    panel = (
        timeseries.Panel()
        .draw_style(GraphDrawStyle.BARS if bars else GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(70 if bars else 25 if stacked else 10)
        .show_points(VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if steps:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode("line"))
    if interval:
        panel.interval(interval)
    if nothing:
        panel.no_value(nothing)
    if least is not None and not log_scale:
        panel.min(least)
    if log_scale:
        panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    overrides = {name: _fixed(color) for name, color in (colors or {}).items()}
    return _panel(
        panel, title, description, targets, unit, steps or PLAIN, width, height, decimals, overrides
    )


def bars_by_period(
    title: str,
    description: str,
    targets: Sequence[Any],
    *,
    colors: Mapping[str, str],
    unit: str = "locale",
    width: int = 12,
    height: int = 8,
) -> Any:
    """A stacked bar per row, named by column `period`: a text, so that days stay those of the tenant's zone."""
    panel = (
        barchart.Panel()
        .x_field("period")
        .stacking(StackingMode.NORMAL)
        .orientation(VizOrientation.VERTICAL)
        .show_value(VisibilityMode.NEVER)
        .x_tick_label_spacing(100)
        .bar_width(0.85)
        .group_width(0.8)
        .fill_opacity(80)
        .line_width(0)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    overrides = {name: _fixed(color) for name, color in colors.items()}
    return _panel(panel, title, description, targets, unit, PLAIN, width, height, None, overrides)


def ranking(
    title: str,
    description: str,
    targets: Sequence[Any],
    *,
    unit: str = "locale",
    width: int = 6,
    height: int = 8,
    of_rows: bool = True,
    steps: Steps = PLAIN,
) -> Any:
    """A horizontal bar per row (a name and a number) or, without `of_rows`, per series."""
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    if of_rows:
        reduce = reduce.values(True).limit(RANKED)
    panel = (
        bargauge.Panel()
        .reduce_options(reduce)
        .display_mode(BarGaugeDisplayMode.GRADIENT)
        .name_placement(BarGaugeNamePlacement.LEFT)
        .orientation(VizOrientation.HORIZONTAL)
        .show_unfilled(False)
        .min_viz_height(12)
        .max_viz_height(28)
        .min(0)
        .no_value("0")
    )
    return _panel(panel, title, description, targets, unit, steps, width, height)


def table(
    title: str,
    description: str,
    targets: Sequence[Any],
    *,
    unit: str = "locale",
    width: int = 12,
    height: int = 8,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    transformations: Sequence[Any] = (),
    steps: Steps = PLAIN,
) -> Any:
    """Rows; `columns` gives properties by a column's name. What stands for no value would stand in empty cells too."""
    panel = tables.Panel().show_header(True)
    for transformation in transformations:
        panel.with_transformation(transformation)
    return _panel(panel, title, description, targets, unit, steps, width, height, None, columns)


def heat_map(
    title: str, description: str, targets: Sequence[Any], *, width: int = 12, height: int = 8
) -> Any:
    """How many observations fell into which bucket of seconds, over time."""
    colors = heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Turbo")
    panel = (
        heatmap.Panel()
        .calculate(False)
        .cell_gap(1)
        .color(colors.exponent(0.5).steps(64).reverse(False))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .rows_frame(heatmap.RowsHeatmapOptions().layout("auto"))
        .y_axis(heatmap.YAxisConfig().unit("s").axis_placement("left"))
        .cell_values(heatmap.CellValues().unit("short"))
        .show_legend()
    )
    return _panel(panel, title, description, targets, "s", PLAIN, width, height)


def text(title: str, description: str, content: str, *, width: int = 24, height: int = 4) -> Any:
    """Markdown."""
    panel = texts.Panel().mode(TextMode.MARKDOWN).content(content)
    return panel.title(title).description(description).span(width).height(height)


def _panel(
    panel: Any,
    title: str,
    description: str,
    targets: Sequence[Any],
    unit: str,
    steps: Steps,
    width: int,
    height: int,
    decimals: int | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """What all panels share."""
    for number, target in enumerate(targets):
        panel.with_target(target.ref_id(chr(ord("A") + number)))
    asks_clickhouse = isinstance(targets[0].build(), ClickHouseQuery)
    panel.datasource(CLICKHOUSE if asks_clickhouse else PROMETHEUS)
    panel.title(title).description(description).unit(unit).span(width).height(height)
    thresholds = [Threshold(value=value, color=color) for value, color in steps]
    panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
    if decimals is not None:
        panel.decimals(decimals)
    for name, properties in (overrides or {}).items():
        values = [DynamicConfigValue(id_val=each, value=value) for each, value in properties.items()]
        panel.override_by_name(name, values)
    return panel


def wide(pixels: int, **properties: Any) -> dict[str, Any]:
    """A column of so many pixels, of 60 a column of the grid; the others share what remains."""
    return {"custom.width": pixels, **properties}


def _legend() -> Any:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST)
    return legend.placement(LegendPlacement.BOTTOM).show_legend(True).calcs([])


def _fixed(color: str) -> dict[str, Any]:
    return {"color": {"mode": "fixed", "fixedColor": color}}


def _mappings(mapped: Mapping[str, tuple[str, str]]) -> list[ValueMapping]:
    """Words and colours for values; "null" stands for no value."""
    values = {
        value: ValueMappingResult(text=word, color=color)
        for value, (word, color) in mapped.items()
        if value != "null"
    }
    found: list[ValueMapping] = [ValueMap(options=values)]
    if "null" in mapped:
        word, color = mapped["null"]
        found.append(_special(word, color))
    return found


def _special(word: str, color: str) -> SpecialValueMap:
    options = DashboardSpecialValueMapOptions(
        match=SpecialValueMatch.NULL_AND_NA_N, result=ValueMappingResult(text=word, color=color)
    )
    return SpecialValueMap(options=options)
