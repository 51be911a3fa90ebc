"""What the registries of all processes have in common.

Decides what every process says of itself besides its own figures: which program it is, and what it takes of the
machine (`process_*`, `python_info`). Takes the process's name; gives a registry. Each process serves its own and no
other one's, because a counter that stands at nought where nobody counts looks like health.

Figures hold for one process. Where several workers run, on one machine or on many, each serves its own figures at an
address of its own, and Prometheus tells them apart by `instance`. Sums over instances are right for all counters and
histograms, and for gauges that say what a worker holds: partitions, lag in records, identities, accounts, windows,
memory. Of ages, instants, limits and disks the largest or the smallest counts; disks may be shared.

No label holds a tenant: tenants are unbounded, and what concerns one of them is in ClickHouse. Metrics are for
watching; billing truth is the stored facts, so a replay after a crash may count a record twice.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

# When each counter began: a second line for each, which nobody asks for and which would have no base unit.
disable_created_metrics()  # type: ignore[no-untyped-call]

Family = GaugeMetricFamily | CounterMetricFamily
Values = Mapping[str, float | Mapping[str, float]]
"""By the names of `Figures`, without prefix; by label value where the figure has a label."""

_log = logging.getLogger("msgmeter.metrics")


def new_registry(process: str) -> CollectorRegistry:
    """A registry that says which program it is, and what its process takes of the machine."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    build = Gauge(
        "msgmeter_build_info",
        "Always 1; the labels say what runs.",
        ["version", "process"],
        registry=registry,
    )
    build.labels(version("msgmeter"), process).set(1)
    return registry


def counter_of(
    registry: CollectorRegistry, name: str, text: str, label: str, values: Iterable[str] = ()
) -> Counter:
    """A counter by a label, which shows the values known beforehand from the start.

    One that only appears with its first event would have no increase to see: Prometheus has no nought before it.
    """
    counter = Counter(name, text, [label], registry=registry)
    for value in values:
        counter.labels(value)
    return counter


class Figure(NamedTuple):
    """A figure that is read when it is asked for."""

    text: str
    label: str = ""
    """Its one label; empty: none."""
    family: type[Family] = GaugeMetricFamily


class Figures(Collector):
    """Figures read at each scrape, because counting them would cost something all the time, or because they age.

    What is not known is not shown: nought would look like an answer. A source that raises takes nothing but its own
    figures with it, and is logged once until it gives them again.
    """

    def __init__(self, registry: CollectorRegistry, figures: Mapping[str, Figure]) -> None:
        """`figures` by name without `msgmeter_`, and without the `_total` of counters."""
        self.figures = figures
        self._sources: tuple[Callable[[], Values], ...] = ()
        self._failing: set[int] = set()
        """Positions of the sources that raised the last time."""
        registry.register(self)

    def read_from(self, *sources: Callable[[], Values]) -> None:
        """Asks these from now on, in the server's thread; each gives those of its figures that are known."""
        self._sources = sources
        self._failing = set()

    def describe(self) -> Iterator[Family]:
        """All of them, without values."""
        return (self._family(name) for name in self.figures)

    def collect(self) -> Iterator[Family]:
        """Those that are known."""
        for number, read in enumerate(self._sources):
            try:
                known = read()
            except Exception:  # noqa: BLE001 - whatever it is, it must not hide what else is known
                # It would be an error 500 for all that the process tells, also of what is wrong.
                if number not in self._failing:
                    _log.exception("some figures cannot be read, and are left out")
                self._failing.add(number)
                continue
            self._failing.discard(number)
            for name, value in known.items():
                yield self._valued(name, value)

    def _valued(self, name: str, value: float | Mapping[str, float]) -> Family:
        family = self._family(name)
        if isinstance(value, Mapping):
            for label, each in value.items():
                family.add_metric([label], each)
        else:
            family.add_metric([], value)
        return family

    def _family(self, name: str) -> Family:
        figure = self.figures[name]
        return figure.family(f"msgmeter_{name}", figure.text, labels=[figure.label] if figure.label else [])
