"""The port of /metrics: what an operator reads when it is taken."""

import socket

import pytest

from pipeline.errors import MsgmeterError
from pipeline.metrics.registry import new_registry
from pipeline.metrics.serving import serve_metrics


def test_a_taken_port_names_the_setting_that_chooses_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MsgmeterError, match=f"port {port} .*MSGMETER_METRICS_PORT .* 0 for any free one"):
            serve_metrics(new_registry("worker"), "127.0.0.1", port)
