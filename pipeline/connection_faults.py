"""What is wrong with the settings of connections: contradictions, and files that cannot be used.

Takes settings; gives one sentence per fault, each saying what to do. Reads the files of certificates and keys, so
that a wrong one is told at the start and not by the first client that needs it. Never connects, and never shows a
secret: a sentence holds names of settings and of files.
"""

import ipaddress
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pipeline.settings import Settings

KAFKA_SECURITY = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}
"""Our names of Kafka's security protocols."""
_MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256")


def connection_faults(settings: "Settings") -> list[str]:
    """Every fault, in the order of the settings; nothing where all is well."""
    return [*_kafka_faults(settings), *_clickhouse_faults(settings), *_metrics_faults(settings)]


def _metrics_faults(settings: "Settings") -> list[str]:
    try:
        ipaddress.ip_address(settings.metrics_host)
    except ValueError:
        return ["MSGMETER_METRICS_HOST must be an IP address of this machine, such as 127.0.0.1 or 0.0.0.0"]
    return []


def _kafka_faults(settings: "Settings") -> list[str]:
    security = settings.kafka_security
    if security not in KAFKA_SECURITY:
        return [f"MSGMETER_KAFKA_SECURITY must be one of {', '.join(KAFKA_SECURITY)}"]
    has_login, has_tls = security.startswith("sasl"), security.endswith("tls")
    instead = f"but MSGMETER_KAFKA_SECURITY is {security}"
    login = [
        name
        for name, is_set in (
            ("USER", settings.kafka_user),
            ("PASSWORD", settings.kafka_password),
            ("SASL_MECHANISM", settings.kafka_sasl_mechanism != _MECHANISMS[0]),
        )
        if is_set
    ]
    faults = []
    if settings.kafka_sasl_mechanism not in _MECHANISMS:
        faults.append(f"MSGMETER_KAFKA_SASL_MECHANISM must be {' or '.join(_MECHANISMS)}")
    elif login and not has_login:
        faults.append(f"{_named('KAFKA', login)} set, {instead}: make that sasl_tls, or unset them")
    if has_login and not (settings.kafka_user and settings.kafka_password):
        faults.append(
            f"MSGMETER_KAFKA_SECURITY is {security}: set MSGMETER_KAFKA_USER and MSGMETER_KAFKA_PASSWORD"
        )
    files = (settings.kafka_ca, settings.kafka_certificate, settings.kafka_key)
    better = "sasl_tls" if has_login else "tls"
    return faults + _file_faults("KAFKA", files, "" if has_tls else f"{instead}: make that {better}")


def _clickhouse_faults(settings: "Settings") -> list[str]:
    try:
        parts = urlsplit(settings.clickhouse)
    except ValueError:
        # Whoever connects says so, and a URL that cannot be read contradicts nothing.
        return []
    faults = []
    if parts.password and settings.clickhouse_password:
        faults.append(
            "MSGMETER_CLICKHOUSE holds a password, and MSGMETER_CLICKHOUSE_PASSWORD is set as well: keep one"
        )
    files = (settings.clickhouse_ca, settings.clickhouse_certificate, settings.clickhouse_key)
    instead = (
        "" if parts.scheme == "https" else "but MSGMETER_CLICKHOUSE does not start with https://: change that"
    )
    return faults + _file_faults("CLICKHOUSE", files, instead)


def _file_faults(service: str, files: tuple[str, str, str], instead: str) -> list[str]:
    """Faults of a CA's, a certificate's and a key's file; `instead` says why they are of no use, where it is so."""
    named = dict(zip(("CA", "CERTIFICATE", "KEY"), files, strict=True))
    given = {name: path for name, path in named.items() if path}
    if given and instead:
        return [f"{_named(service, list(given))} set, {instead}, or unset them"]
    faults = [
        fault for name, path in given.items() for fault in _unreadable(f"MSGMETER_{service}_{name}", path)
    ]
    if ("CERTIFICATE" in given) != ("KEY" in given):
        faults.append(
            f"MSGMETER_{service}_CERTIFICATE and MSGMETER_{service}_KEY go together: set both or none"
        )
    return faults or _unusable(service, *files)


def _unreadable(name: str, path: str) -> list[str]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of a path as it was given
            file.read(1)
    except OSError as error:
        return [f"{name}: {path!r} cannot be read: {error.strerror}"]
    return []


def _unusable(service: str, ca: str, certificate: str, key: str) -> list[str]:
    """Faults of what readable files hold."""
    faults = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca:
            context.load_verify_locations(ca)
    except ssl.SSLError:
        faults.append(f"MSGMETER_{service}_CA: {ca!r} holds no certificate in PEM")
    try:
        if certificate:
            # Without a password of ours, OpenSSL would ask for the key's on the terminal.
            context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        faults.append(
            f"MSGMETER_{service}_CERTIFICATE and MSGMETER_{service}_KEY: {certificate!r} and {key!r} must hold a"
            " certificate and its own private key in PEM, the key without a pass phrase"
        )
    return faults


def _named(service: str, names: list[str]) -> str:
    """The settings in a sentence: "A is", "A and B are"."""
    full = [f"MSGMETER_{service}_{name}" for name in names]
    return f"{', '.join(full[:-1])} and {full[-1]} are" if full[1:] else f"{full[0]} is"
