"""The rules of Prometheus and the routes of Alertmanager: they load, fire, stay silent, and lead where they say."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.up import up
from pipeline.metrics import reconcile, scheduler, stack, worker
from pipeline.settings import Settings
from tests.grafana.programs import run

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "prometheus"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))
RULE_TESTS = sorted((FOLDER / "tests").glob("*.yml"))

DASHBOARDS = {
    json.loads(path.read_text("utf-8"))["uid"] for path in (ROOT / "grafana").rglob("dashboards/*/*.json")
}
ANNOTATIONS = {"summary", "description", "runbook_url", "dashboard_url"}
_INFORMED = {"MsgmeterWatchdog": "dead-man", "MsgmeterKnownOutage": "nobody"}
"""Who hears of an alert that is no fault."""
OF_PROMETHEUS = {"up"}
"""Metrics that Prometheus itself makes of every scrape."""


@cache
def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


PROMETHEUS, ALERTMANAGER = _load(FOLDER / "prometheus.yml"), _load(FOLDER / "alertmanager.yml")
GROUPS = [group for path in RULE_FILES for group in _load(path)["groups"]]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})


def _named(rule: dict[str, Any]) -> str:
    return f"{rule['alert']}-{rule['labels']['severity']}"


# They load, and the unit tests pass.


@pytest.mark.parametrize("name", ["prometheus.yml", "local.yml"])
def test_prometheus_takes_its_configuration(name: str) -> None:
    run("promtool", "check", "config", "--lint=all", "--lint-fatal", FOLDER / name)


def test_beside_make_run_prometheus_differs_in_nothing_but_addresses() -> None:
    local = _load(FOLDER / "local.yml")
    assert {part: local[part] for part in ("global", "rule_files")} == {
        part: PROMETHEUS[part] for part in ("global", "rule_files")
    }
    assert local["alerting"]["alert_relabel_configs"] == PROMETHEUS["alerting"]["alert_relabel_configs"]
    ports = {
        job["job_name"]: job["static_configs"][0]["targets"][0].rpartition(":")[2]
        for job in local["scrape_configs"]
    }
    defaults = {option.name: option.default for option in up.params}
    assert ports == {
        "msgmeter-worker": str(Settings().metrics_port),
        "msgmeter-scheduler": str(defaults["scheduler_metrics_port"]),
        "msgmeter-reconcile": "9466",
        "msgmeter-stack": str(defaults["metrics_port"]),
    }


def test_prometheus_takes_the_rules() -> None:
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_else_stay_silent(path: Path) -> None:
    run("promtool", "test", "rules", path)


def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "check-config", FOLDER / "alertmanager.yml")


@pytest.mark.parametrize("rule", ALERTS, ids=_named)
def test_an_alert_goes_to_who_has_to_hear_of_it(rule: dict[str, Any]) -> None:
    receiver = {"critical": "page", "warning": "ticket", "info": _INFORMED.get(rule["alert"])}[
        rule["labels"]["severity"]
    ]
    labels = [f"{name}={value}" for name, value in {"alertname": rule["alert"], **rule["labels"]}.items()]
    configuration = f"--config.file={FOLDER / 'alertmanager.yml'}"
    run("amtool", "config", "routes", "test", configuration, f"--verify.receivers={receiver}", *labels)


# Each alert says what an engineer needs who has nothing but the message.


@pytest.mark.parametrize("rule", ALERTS, ids=_named)
def test_an_alert_says_what_is_wrong_and_leads_to_its_runbook_and_dashboard(rule: dict[str, Any]) -> None:
    annotations = rule["annotations"]
    assert annotations.keys() == ANNOTATIONS
    assert all(text.strip() == text != "" for text in annotations.values())
    assert "ustomer" in annotations["description"], "what the customer feels"
    anchor = f"#{rule['alert'].lower()}"
    assert annotations["runbook_url"] == "{{ $externalLabels.runbooks }}" + anchor
    assert annotations["dashboard_url"].removeprefix("{{ $externalLabels.grafana }}/d/") in DASHBOARDS
    assert rule["labels"].keys() >= {"severity", "family"}


def test_only_the_watchdog_and_what_explains_others_are_for_information() -> None:
    assert {rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "info"} == _INFORMED.keys()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = re.findall(
        r"^## (Msgmeter\w+)$", (ROOT / "docs" / "runbooks.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(headings) == NAMES


def test_links_begin_with_labels_that_are_set_once_and_are_not_sent_along() -> None:
    bases = PROMETHEUS["global"]["external_labels"]
    used = set(re.findall(r"\$externalLabels\.(\w+)", (FOLDER / "rules" / "alerts.yml").read_text("utf-8")))
    assert used == bases.keys()
    assert bases["runbooks"].endswith("/docs/runbooks.md")
    assert all(re.fullmatch(r"https?://[^/]+(/.*[^/])?", base) for base in bases.values())
    (dropped,) = PROMETHEUS["alerting"]["alert_relabel_configs"]
    assert dropped["action"] == "labeldrop"
    assert all(re.fullmatch(dropped["regex"], name) for name in bases)


# What rules ask for exists.


def _served() -> set[str]:
    """Every metric of every process, with the endings of counters and histograms."""
    registries = [module.REGISTRY for module in (worker, scheduler, reconcile, stack)]
    declared = {name for registry in registries for name in registry._names_to_collectors}
    # Those of the process are not declared, but there.
    return declared | {family.name for registry in registries for family in registry.collect()}


def _asked(text: str) -> set[str]:
    """Names of metrics and recorded series in an expression."""
    return set(re.findall(r"(?<![\w:\"-])(?:msgmeter[:_]|process_|up\b)[\w:]*", text))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_that_a_rule_asks_for_is_served_or_recorded(rule: dict[str, Any]) -> None:
    recorded = {each["record"] for each in RULES if "record" in each}
    asked = _asked(" ".join([rule["expr"], *re.findall(r'query "(.+?)"', str(rule.get("annotations")))]))
    assert asked or rule["alert"] in _INFORMED
    assert asked - recorded - OF_PROMETHEUS - _served() == set()


def test_every_job_that_a_rule_asks_for_is_scraped() -> None:
    scraped = {job["job_name"] for job in PROMETHEUS["scrape_configs"]}
    asked = {name for rule in RULES for name in re.findall(r'job="(.+?)"', rule["expr"])}
    assert asked == {"msgmeter-worker", "msgmeter-scheduler", "msgmeter-reconcile"}
    assert asked < scraped


def test_every_alert_that_alertmanager_names_exists() -> None:
    text = (FOLDER / "alertmanager.yml").read_text("utf-8")
    assert set(re.findall(r"Msgmeter\w+", text)) <= set(NAMES)


def test_the_shares_of_stale_time_count_the_samples_of_their_own_group() -> None:
    (group,) = [group for group in GROUPS if group["name"] == "msgmeter-freshness"]
    assert group["interval"] == "15s"
    seconds = {"m": 60, "h": 3_600, "d": 86_400}
    for rule in group["rules"]:
        if "ratio" not in rule["record"]:
            continue
        count, unit = re.fullmatch(r"msgmeter:figures_stale:ratio_(\d+)([mhd])", rule["record"]).groups()
        summed, factors = rule["expr"].split(" * 15 / ", 1)
        assert summed == f"clamp_max(sum_over_time(msgmeter:figures_stale:bool[{count}{unit}])"
        assert factors.endswith("), 1)")
        product = 1
        for factor in factors.removesuffix("), 1)").strip("(").split(" * "):
            product *= int(factor)
        assert product == int(count) * seconds[unit]


# The unit tests leave no alert out.


def _tried() -> Iterator[tuple[str, str, bool]]:
    """(alert, severity, whether it is expected to fire) of every case; without a severity where none fires."""
    for path in RULE_TESTS:
        for case in _load(path)["tests"]:
            for each in case["alert_rule_test"]:
                expected = [(alert["exp_labels"]["severity"], True) for alert in each["exp_alerts"]]
                yield from ((each["alertname"], *fires) for fires in expected or [("", False)])


@pytest.mark.parametrize("rule", ALERTS, ids=_named)
def test_an_alert_is_seen_to_fire_and_to_stay_silent(rule: dict[str, Any]) -> None:
    tried = set(_tried())
    assert (rule["alert"], rule["labels"]["severity"], True) in tried
    if rule["expr"] != "vector(1)":
        assert (rule["alert"], "", False) in tried


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_unit_tests_evaluate_every_group_in_the_order_of_the_files(path: Path) -> None:
    # Recorded series first: promtool's own order is random, and one evaluation more or less decides some cases.
    names = [
        group["name"]
        for rules in ("recording.yml", "alerts.yml")
        for group in _load(FOLDER / "rules" / rules)["groups"]
    ]
    assert _load(path)["group_eval_order"] == names
