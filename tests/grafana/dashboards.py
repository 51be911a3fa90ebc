"""The committed dashboards as tests read them: panels, targets, variables, and what Grafana would send of a query.

Grafana's own code is not here, so what it does to a query is written down once more: variables by its formats, the
ClickHouse data source's macros, and the intervals it gives to PromQL.

Source: https://github.com/grafana/clickhouse-datasource/blob/main/pkg/macros/macros.go and
https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "grafana" / "dashboards" / "msgmeter"
DASHBOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}


class Target(NamedTuple):
    """One query of one panel or annotation."""

    dashboard: str
    panel: str
    ref_id: str
    query: Mapping[str, Any]

    @property
    def sql(self) -> str | None:
        """SQL, if it asks ClickHouse."""
        return self.query.get("rawSql")

    @property
    def expr(self) -> str | None:
        """PromQL, if it asks Prometheus."""
        return self.query.get("expr")

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.ref_id}"


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something; rows are titles only."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    """Every query of every panel and annotation."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel.get("targets", ()):
                yield Target(name, panel["title"], target["refId"], target)
        for annotation in dashboard["annotations"]["list"]:
            yield Target(name, annotation["name"], "annotation", annotation["target"])


def panel_target(dashboard: str, title: str, ref_id: str = "A") -> Target:
    """One query, by its panel's title."""
    (found,) = (
        each for each in targets() if (each.dashboard, each.panel, each.ref_id) == (dashboard, title, ref_id)
    )
    return found


@dataclass(frozen=True)
class View:
    """What a reader chose: a time range in epoch seconds, an interval, and values of variables."""

    starts_at: int
    ends_at: int
    interval_seconds: int = 3600
    variables: tuple[tuple[str, str], ...] = ()
    scrape_seconds: int = 1
    """Of Prometheus; a rate is taken over four of them at least."""

    def sql(self, text: str) -> str:
        """The SQL that ClickHouse would get."""
        return _macros(self._with_variables(text), self)

    def promql(self, text: str) -> str:
        """The PromQL that Prometheus would get."""
        range_seconds = self.ends_at - self.starts_at
        names = {
            "__rate_interval": f"{max(self.interval_seconds + self.scrape_seconds, 4 * self.scrape_seconds)}s",
            "__interval": f"{self.interval_seconds}s",
            "__range": f"{range_seconds}s",
        }
        for name, value in names.items():
            text = text.replace(f"${name}", value)
        return self._with_variables(text)

    def _with_variables(self, text: str) -> str:
        values = dict(self.variables)

        def value(match: re.Match[str]) -> str:
            name, its_format = match["braced"] or match["plain"], match["format"]
            if name.startswith("__") or name.isdigit():
                return match[0]  # Grafana leaves what is no variable of it: here `$1` of label_replace.
            assert name in values, f"{name} is no variable"
            if its_format == "sqlstring":
                return "'" + values[name].replace("'", "''") + "'"
            assert its_format is None, its_format
            return values[name]

        return re.sub(r"\$\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|\$(?P<plain>\w+)", value, text)


def _macros(text: str, view: View) -> str:
    first, last = f"toDateTime({view.starts_at})", f"toDateTime({view.ends_at})"
    # The argument may hold brackets of its own, one deep.
    argument = r"\(((?:[^()]|\([^()]*\))*)\)"
    text = re.sub(rf"\$__timeFilter{argument}", lambda m: f"{m[1]} >= {first} AND {m[1]} <= {last}", text)
    text = re.sub(
        rf"\$__timeInterval{argument}",
        lambda m: f"toStartOfInterval(toDateTime({m[1]}), INTERVAL {view.interval_seconds} second)",
        text,
    )
    text = re.sub(r"\$__fromTime\b", first, re.sub(r"\$__toTime\b", last, text))
    assert "$__" not in text, text
    return text
