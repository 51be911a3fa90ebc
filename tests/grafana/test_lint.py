"""The dashboards as files: generated, complete, loadable beside others, and naming only what exists."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from grafana.source.boards import RUNBOOKS
from grafana.source.rendered import FOLDER, rendered
from pipeline.metrics import reconcile, scheduler, stack, worker
from tests.grafana.dashboards import DASHBOARDS, panels, targets

ROOT = Path(__file__).parents[2]
UIDS = {
    "tenant-usage": "msgmeter-tenant-usage",
    "fleet-and-revenue": "msgmeter-fleet",
    "pipeline": "msgmeter-pipeline",
    "on-call": "msgmeter-on-call",
}
"""What alert rules and links name."""
UNITS = {
    "bool_on_off", "bytes", "count:/s", "dtdhms", "locale", "ops", "percent", "percentunit", "s", "short", "string",
    "suffix:days",
}  # fmt: skip
"""Ids of units that Grafana has; it shows others as they are spelled."""
SOURCES = {"prometheus", "grafana-clickhouse-datasource"}
NOT_SHOWN: dict[str, str] = {}
"""Metrics that are on no dashboard, and why."""

every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)


def test_what_is_committed_is_what_the_source_makes() -> None:
    """`make dashboards` writes them."""
    committed = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert committed.keys() == rendered().keys()
    assert [name for name, text in rendered().items() if committed[name] != text] == []


def test_uids_are_those_that_rules_and_links_name() -> None:
    assert {name: dashboard["uid"] for name, dashboard in DASHBOARDS.items()} == UIDS
    assert all(len(uid) <= 40 for uid in UIDS.values())


@every_dashboard
def test_a_dashboard_is_classic_and_not_edited_in_place(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert (dashboard["schemaVersion"], dashboard["editable"]) == (42, False)
    assert dashboard["description"]
    assert dashboard["tags"] == ["msgmeter"]


@every_dashboard
def test_panels_fill_24_columns_without_overlap(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]
    height = max(y for _, y in taken) + 1
    gaps = sum(1 for y in range(height) for x in range(24) if (x, y) not in taken)
    assert gaps <= 0.1 * 24 * height, "panels leave holes"


@every_dashboard
def test_every_panel_has_id_title_description_and_unit(name: str) -> None:
    ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in panels(DASHBOARDS[name])]
    assert len(set(titles)) == len(titles)
    for panel in panels(DASHBOARDS[name]):
        assert panel["title"], panel["id"]
        assert len(panel.get("description", "")) > 5, panel["title"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
            assert panel["targets"], panel["title"]


@every_dashboard
def test_a_data_source_is_named_by_a_variable_only(name: str) -> None:
    dashboard = DASHBOARDS[name]
    variables = {
        each["name"]: each["query"]
        for each in dashboard["templating"]["list"]
        if each["type"] == "datasource"
    }
    assert set(variables.values()) <= SOURCES
    named = list(_data_sources(dashboard))
    assert named
    for source in named:
        assert source["uid"] in {f"${{{variable}}}" for variable in variables}, source
        assert variables[source["uid"][2:-1]] == source["type"], source


def _data_sources(value: Any) -> Iterator[dict[str, str]]:
    """Every data source that is named, wherever it is."""
    if isinstance(value, dict):
        if isinstance(value.get("datasource"), dict):
            yield value["datasource"]
        for each in value.values():
            yield from _data_sources(each)
    elif isinstance(value, list):
        for each in value:
            yield from _data_sources(each)


@every_dashboard
def test_links_lead_to_dashboards_and_runbooks_that_exist(name: str) -> None:
    urls = list(_urls(DASHBOARDS[name]))
    assert RUNBOOKS in urls
    for url in urls:
        if url.startswith("/d/"):
            assert re.split(r"[/?]", url)[2] in UIDS.values(), url
        else:
            assert url.partition("#")[0] == RUNBOOKS, url
    assert (ROOT / "docs" / "runbooks.md").is_file()
    assert any(link.get("tags") == ["msgmeter"] for link in DASHBOARDS[name]["links"])


def _urls(value: Any) -> Iterator[str]:
    """Every address, in links and in texts."""
    if isinstance(value, dict):
        if value.get("url"):
            yield value["url"]
        if "content" in value:
            yield from re.findall(r"\]\(([^)]+)\)", value["content"])
        for each in value.values():
            yield from _urls(each)
    elif isinstance(value, list):
        for each in value:
            yield from _urls(each)


def test_the_table_of_alerts_leads_to_every_runbook() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
    (table,) = (panel for panel in panels(DASHBOARDS["on-call"]) if panel["title"] == "Alerts")
    (column,) = (
        each for each in table["fieldConfig"]["overrides"] if each["matcher"]["options"] == "runbook"
    )
    (mappings,) = (each["value"] for each in column["properties"] if each["id"] == "mappings")
    options = mappings[0]["options"]
    headings = re.findall(r"^## (Msgmeter\w+)$", text, re.MULTILINE)
    assert headings
    assert {alert: each["text"] for alert, each in options.items()} == {
        heading: heading.lower() for heading in headings
    }


def _defined(registries: Iterable[CollectorRegistry]) -> dict[str, set[str]]:
    """What is defined: metrics, and the series that each is scraped as."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        family.name: {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
        for registry in registries
        for collector in list(registry._collector_to_names)
        if hasattr(collector, "describe")
        for family in collector.describe()
    }


REGISTRIES = (worker.REGISTRY, scheduler.REGISTRY, reconcile.REGISTRY, stack.REGISTRY)


def test_every_metric_that_is_named_exists_and_every_metric_is_on_a_dashboard() -> None:
    defined = _defined(REGISTRIES)
    named = {
        found for target in targets() if target.expr for found in re.findall(r"\bmsgmeter_\w+", target.expr)
    }
    assert named - set().union(*defined.values()) == set()
    assert {metric for metric, series in defined.items() if not series & named} == NOT_SHOWN.keys()


RULES = ROOT / "grafana" / "prometheus" / "rules"


def test_every_recorded_series_that_is_named_is_recorded() -> None:
    groups = yaml.safe_load((RULES / "recording.yml").read_text("utf-8"))["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    named = {
        found
        for target in targets()
        if target.expr
        for found in re.findall(r"\bmsgmeter:[\w:]+", target.expr)
    }
    assert named
    assert named - recorded == set()


def test_every_alert_leads_to_a_dashboard_that_is_there() -> None:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text("utf-8"))["groups"]
    led_to = {
        rule["annotations"]["dashboard_url"].rpartition("/d/")[2].partition("?")[0]
        for group in groups
        for rule in group["rules"]
    }
    assert "msgmeter-on-call" in led_to
    assert led_to - set(UIDS.values()) == set()


# Provisioning.


def _provisioned(name: str) -> Any:
    return yaml.safe_load((ROOT / "grafana" / "provisioning" / name / "msgmeter.yml").read_text("utf-8"))


def test_data_sources_are_of_the_types_that_dashboards_ask_and_hold_no_secret() -> None:
    sources = _provisioned("datasources")["datasources"]
    assert {each["uid"]: each["type"] for each in sources} == {
        "msgmeter-clickhouse": "grafana-clickhouse-datasource",
        "msgmeter-prometheus": "prometheus",
    }
    assert {each["type"] for each in sources} == SOURCES
    secrets = [secret for each in sources for secret in each.get("secureJsonData", {}).values()]
    assert secrets == ["$__file{/run/secrets/clickhouse_grafana}"]
    clickhouse = next(each for each in sources if "secureJsonData" in each)["jsonData"]
    assert (clickhouse["username"], clickhouse["defaultDatabase"]) == ("grafana", "msgmeter")


def test_dashboards_are_loaded_from_their_folder_and_not_changed_in_a_browser() -> None:
    (provider,) = _provisioned("dashboards")["providers"]
    assert (provider["allowUiUpdates"], provider["type"]) == (False, "file")
    assert provider["options"]["path"].endswith("/dashboards/msgmeter")
    assert FOLDER.parts[-2:] == ("dashboards", "msgmeter")


# Pictures.


def test_what_draws_the_pictures_is_pinned_and_names_no_registry() -> None:
    folder = ROOT / "grafana" / "render"
    versions = json.loads((folder / "package.json").read_text("utf-8"))["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
    lock = (folder / "package-lock.json").read_text("utf-8")
    assert json.loads(lock)["packages"][""]["dependencies"] == versions
    assert '"resolved"' not in lock


def test_every_dashboard_has_a_picture_of_moderate_size() -> None:
    pictures = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "screens").glob("*.png")}
    assert pictures.keys() >= DASHBOARDS.keys()
    assert all(pictures[name] < 300_000 for name in DASHBOARDS)
