"""Serving /metrics: where a process is scraped.

Takes a registry and where to listen; gives the address to read from. The server is a thread of its own, so a busy
process answers too. It serves figures without a login and without TLS, so beyond this machine it belongs into a
network of its own. Never serves another registry than the one it was given.
"""

import ipaddress

from prometheus_client import CollectorRegistry, start_http_server

from pipeline.errors import MsgmeterError


def serve_metrics(
    registry: CollectorRegistry, host: str, port: int, chosen_by: str = "MSGMETER_METRICS_PORT"
) -> str:
    """Serves a registry on an IP address of this machine; gives the URL. The system chooses where `port` is 0.

    Raise MsgmeterError where the port cannot be had; it says that `chosen_by` chooses another one.
    """
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise MsgmeterError(
            f"/metrics cannot be served on port {port} of {host} ({error.strerror}):"
            f" set {chosen_by} to another one, 0 for any free one, or MSGMETER_METRICS_HOST to an address of"
            " this machine"
        ) from error
    return metrics_url(host, int(server.server_port))


def metrics_url(host: str, port: int) -> str:
    """Where this machine reads what is served on an address, which may stand for all there are."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{f'[{address}]' if address.version == 6 else address}:{port}/metrics"
