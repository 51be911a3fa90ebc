"""Serving /metrics: each process its own, what is not known left out, and a port that is taken."""

import socket
import urllib.request

import pytest
from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily

from pipeline.errors import MsgmeterError
from pipeline.metrics.registry import Figure, Figures, counter_of, new_registry
from pipeline.metrics.serving import metrics_url, serve_metrics


def served(url: str) -> list[str]:
    """Our own samples, as they are scraped."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith("msgmeter_") and "build_info" not in line]


def test_a_process_serves_its_own_metrics_and_no_other_ones() -> None:
    one, other = new_registry("one"), new_registry("other")
    Counter("msgmeter_folded", "Of the one.", registry=one).inc(2)
    counter_of(other, "msgmeter_sent", "Of the other.", "result", ("whole", "part")).labels("whole").inc()
    assert served(serve_metrics(one, "127.0.0.1", 0)) == ["msgmeter_folded_total 2.0"]
    assert served(serve_metrics(other, "127.0.0.1", 0)) == [
        'msgmeter_sent_total{result="whole"} 1.0',
        'msgmeter_sent_total{result="part"} 0.0',
    ]


def test_a_figure_is_read_when_it_is_asked_for_and_not_shown_while_it_is_not_known() -> None:
    registry = new_registry("one")
    figures = Figures(
        registry,
        {
            "lag_seconds": Figure("How far behind."),
            "restarts": Figure("How often.", "process", CounterMetricFamily),
        },
    )
    url = serve_metrics(registry, "127.0.0.1", 0)
    assert served(url) == []
    figures.read_from(lambda: {"restarts": {"worker": 1, "gateway": 0}})
    assert served(url) == [
        'msgmeter_restarts_total{process="worker"} 1.0',
        'msgmeter_restarts_total{process="gateway"} 0.0',
    ]
    figures.read_from(lambda: {"lag_seconds": 2.5})
    assert served(url) == ["msgmeter_lag_seconds 2.5"]


def test_a_source_that_raises_takes_only_its_own_figures_with_it_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = new_registry("one")
    figures = Figures(registry, {"lag_seconds": Figure("How far."), "disk_bytes": Figure("How much.")})
    url = serve_metrics(registry, "127.0.0.1", 0)
    lags: list[float] = []
    figures.read_from(lambda: {"lag_seconds": lags[0]}, lambda: {"disk_bytes": 7})
    for _ in range(2):
        assert served(url) == ["msgmeter_disk_bytes 7.0"]
    assert len(caplog.records) == 1
    lags.append(2.5)
    assert served(url) == ["msgmeter_lag_seconds 2.5", "msgmeter_disk_bytes 7.0"]
    lags.clear()
    assert served(url) == ["msgmeter_disk_bytes 7.0"]
    assert len(caplog.records) == 2, "it had given its figures again"


def test_a_figure_cannot_have_the_name_of_another_metric() -> None:
    registry = new_registry("one")
    Counter("msgmeter_restarts", "How often.", registry=registry)
    with pytest.raises(ValueError, match="msgmeter_restarts"):
        Figures(registry, {"restarts": Figure("The same.", family=CounterMetricFamily)})


def test_a_taken_port_names_the_setting_that_chooses_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MsgmeterError, match=f"port {port} .*MSGMETER_METRICS_PORT .* 0 for any free one"):
            serve_metrics(new_registry("worker"), "127.0.0.1", port)
        with pytest.raises(MsgmeterError, match="set --metrics-port to another one"):
            serve_metrics(new_registry("scheduler"), "127.0.0.1", port, "--metrics-port")


def test_an_address_of_another_machine_is_told_with_the_setting_that_names_it() -> None:
    # Of the block for documentation, RFC 5737.
    with pytest.raises(MsgmeterError, match=r"of 192\.0\.2\.1 .*MSGMETER_METRICS_HOST to an address of this"):
        serve_metrics(new_registry("worker"), "192.0.2.1", 0)


ADDRESSES = [
    ("127.0.0.1", "http://127.0.0.1:9464/metrics"),
    ("10.1.2.3", "http://10.1.2.3:9464/metrics"),
    ("0.0.0.0", "http://127.0.0.1:9464/metrics"),
    ("::", "http://[::1]:9464/metrics"),
]


@pytest.mark.parametrize(("host", "expected"), ADDRESSES)
def test_what_is_served_on_every_address_is_read_from_this_machine(host: str, expected: str) -> None:
    assert metrics_url(host, 9464) == expected
