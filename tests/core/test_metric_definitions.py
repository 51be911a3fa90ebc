"""What a machine can hold of the metrics' definitions: names, units, labels, and that each is tried and written of."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from pipeline.metrics import reconcile, scheduler, stack, worker
from pipeline.metrics.registry import Figures
from tests.e2e.metric_table import TABLES

ROOT = Path(__file__).parents[2]
PROCESSES = {"worker": worker, "scheduler": scheduler, "reconcile": reconcile, "stack": stack}
"""The modules of `pipeline.metrics` that define a process's metrics."""
UNITS = ("_seconds", "_bytes", "_total", "_info", "_up", "_refuses")
COUNTED = {
    "accounts_due", "accounts_held", "consumer_lag_offsets", "epoch_rows", "group_lag_offsets", "group_members",
    "identities_held", "identities_pending", "partitions", "partitions_assigned", "partitions_owned",
    "partitions_taken_up", "recharges_unanswered", "reconcile_drift_rows", "reconcile_records_compared",
    "standby_lag_records", "standby_partitions", "tenants", "tenants_over_level", "tenants_unalerted",
    "uncommitted_offsets", "windows_held",
}  # fmt: skip
"""Those whose name says what they count; all others end in their unit."""
LABELS = {"action", "level", "outcome", "process", "reason", "result", "subject", "table", "version"}
"""Each of few values."""


def families(module: ModuleType) -> dict[str, Metric]:
    """What a process serves, by the name it is scraped under, without buckets; also what is not known yet."""
    figures = [each for each in vars(module).values() if isinstance(each, Figures)]
    found = [*module.REGISTRY.collect(), *(family for each in figures for family in each.describe())]
    return {f"{each.name}_total" if each.type == "counter" else each.name: each for each in found}


def labels(module: ModuleType) -> set[str]:
    """Every label of a process's own metrics, also of those without a value yet."""
    found: set[str] = set()
    for each in vars(module).values():
        if isinstance(each, MetricWrapperBase):
            found |= set(each._labelnames)
        elif isinstance(each, Figures):
            found |= {figure.label for figure in each.figures.values()} - {""}
    return found


def test_every_process_with_metrics_is_known_here() -> None:
    modules = {path.stem for path in (ROOT / "pipeline" / "metrics").glob("*.py")}
    assert modules - {"__init__", "registry", "serving"} == set(PROCESSES)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_says_which_one_it_is(process: str) -> None:
    (build,) = families(PROCESSES[process])["msgmeter_build_info"].samples
    assert build.labels["process"] == process
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", build.labels["version"])


@pytest.mark.parametrize("process", TABLES)
def test_of_every_metric_it_is_said_how_it_moves(process: str) -> None:
    assert set(TABLES[process]) == set(families(PROCESSES[process]))


@pytest.mark.parametrize("process", PROCESSES)
def test_a_metric_ends_in_its_base_unit_or_in_what_it_counts(process: str) -> None:
    own = [name for name in families(PROCESSES[process]) if name.startswith("msgmeter_")]
    assert len(own) > 1
    named = [name for name in own if not name.endswith(UNITS)]
    assert [name for name in named if name.removeprefix("msgmeter_") not in COUNTED] == []


@pytest.mark.parametrize("process", PROCESSES)
def test_no_label_has_as_many_values_as_there_are_tenants(process: str) -> None:
    assert labels(PROCESSES[process]) <= LABELS


def test_every_metric_the_readme_names_exists() -> None:
    defined = {name for module in PROCESSES.values() for name in families(module)}
    parts = {f"{name}_{part}" for name in defined for part in ("bucket", "count", "sum")}
    written = set(
        re.findall(
            r"\bmsgmeter_[a-z_]+_(?:seconds|bytes|total|offsets|up)\b",
            (ROOT / "README.md").read_text("utf-8"),
        )
    )
    assert written - defined - parts == set()
