"""Settings of connections contradict each other in nothing, their files can be used, and secrets may lie in files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from pipeline.kafka_clients import kafka_configuration, kafka_tls
from pipeline.settings import Settings, SettingsError, load_settings

LOGIN = {"kafka_user": "worker", "kafka_password": "open sesame"}
Files = Callable[[str], str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Paths by what is in them: ca, certificate, key, another key, locked key, no pem; all others are not there."""
    directory, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    ours, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(directory / "ca")
    ours.cert_chain_pems[0].write_to_path(directory / "certificate")
    ours.private_key_pem.write_to_path(directory / "key")
    other.private_key_pem.write_to_path(directory / "another key")
    (directory / "locked key").write_bytes(
        serialization.load_pem_private_key(ours.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    (directory / "no pem").write_text("open sesame")
    return lambda name: str(directory / name)


CONTRADICTIONS: list[tuple[dict[str, str], str]] = [
    (
        {"kafka_security": "ssl"},
        "MSGMETER_KAFKA_SECURITY must be one of plaintext, tls, sasl_plaintext, sasl_tls",
    ),
    (
        LOGIN,
        "MSGMETER_KAFKA_USER and MSGMETER_KAFKA_PASSWORD are set, but MSGMETER_KAFKA_SECURITY is plaintext",
    ),
    (
        {**LOGIN, "kafka_security": "tls"},
        "_PASSWORD are set, but MSGMETER_KAFKA_SECURITY is tls: make that sasl_tls",
    ),
    (
        {"kafka_sasl_mechanism": "SCRAM-SHA-256"},
        "MSGMETER_KAFKA_SASL_MECHANISM is set, but MSGMETER_KAFKA_SECURITY is plaintext: make that sasl_tls",
    ),
    (
        {**LOGIN, "kafka_security": "sasl_tls", "kafka_sasl_mechanism": "PLAIN"},
        "MSGMETER_KAFKA_SASL_MECHANISM must be SCRAM-SHA-512 or SCRAM-SHA-256",
    ),
    (
        {"kafka_security": "sasl_tls", "kafka_user": "worker"},
        "MSGMETER_KAFKA_SECURITY is sasl_tls: set MSGMETER_KAFKA_USER and MSGMETER_KAFKA_PASSWORD",
    ),
    (
        {"kafka_security": "sasl_plaintext", "kafka_password": "open sesame"},
        "MSGMETER_KAFKA_SECURITY is sasl_plaintext: set MSGMETER_KAFKA_USER and MSGMETER_KAFKA_PASSWORD",
    ),
    (
        {"kafka_ca": "<ca>"},
        "MSGMETER_KAFKA_CA is set, but MSGMETER_KAFKA_SECURITY is plaintext: make that tls, or unset them",
    ),
    (
        {**LOGIN, "kafka_security": "sasl_plaintext", "kafka_ca": "<ca>"},
        "MSGMETER_KAFKA_CA is set, but MSGMETER_KAFKA_SECURITY is sasl_plaintext: make that sasl_tls",
    ),
    (
        {"kafka_security": "tls", "kafka_certificate": "<certificate>"},
        "MSGMETER_KAFKA_CERTIFICATE and MSGMETER_KAFKA_KEY go together: set both or none",
    ),
    (
        {"kafka_security": "tls", "kafka_key": "<key>"},
        "MSGMETER_KAFKA_CERTIFICATE and MSGMETER_KAFKA_KEY go together: set both or none",
    ),
    ({"kafka_security": "tls", "kafka_ca": "<nowhere>"}, "cannot be read: No such file or directory"),
    ({"kafka_security": "tls", "kafka_ca": "<no pem>"}, "no pem' holds no certificate in PEM"),
    *(
        (
            {"kafka_security": "tls", "kafka_certificate": "<certificate>", "kafka_key": f"<{key}>"},
            f"{key}' must hold a certificate and its own private key in PEM, the key without a pass phrase",
        )
        for key in ("another key", "locked key", "no pem", "ca")
    ),
    (
        {"clickhouse": "http://a:b@db/x", "clickhouse_ca": "<ca>"},
        "MSGMETER_CLICKHOUSE_CA is set, but MSGMETER_CLICKHOUSE does not start with https://: change that, or unset",
    ),
    (
        {"clickhouse": "https://db/x", "clickhouse_certificate": "<certificate>"},
        "MSGMETER_CLICKHOUSE_CERTIFICATE and MSGMETER_CLICKHOUSE_KEY go together",
    ),
    ({"clickhouse": "https://db/x", "clickhouse_ca": "<no pem>"}, "MSGMETER_CLICKHOUSE_CA: "),
    (
        {"clickhouse": "https://a:hunter2@db/x", "clickhouse_password": "open sesame"},
        "MSGMETER_CLICKHOUSE holds a password, and MSGMETER_CLICKHOUSE_PASSWORD is set as well: keep one",
    ),
]


def filled(changes: dict[str, str], files: Files) -> dict[str, str]:
    return {name: files(text[1:-1]) if text.startswith("<") else text for name, text in changes.items()}


@pytest.mark.parametrize(("changes", "text"), CONTRADICTIONS, ids=str)
def test_a_contradiction_is_refused_with_what_to_do_and_without_a_secret(
    files: Files, changes: dict[str, str], text: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings(**filled(changes, files))
    assert text in str(refused.value)
    assert not [secret for secret in ("open sesame", "hunter2") if secret in str(refused.value)]


def test_contradictions_are_told_together_with_all_other_faults() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings(partitions=0, kafka_user="worker", clickhouse="http://db/x", clickhouse_ca="/nowhere")
    assert [line.split()[1] for line in str(refused.value).splitlines()[1:]] == [
        "MSGMETER_PARTITIONS",
        "MSGMETER_KAFKA_USER",
        "MSGMETER_CLICKHOUSE_CA",
    ]


def test_both_clients_of_kafka_get_the_same_login_and_certificates(files: Files) -> None:
    names = {"kafka_ca": "<ca>", "kafka_certificate": "<certificate>", "kafka_key": "<key>"}
    settings = Settings(**filled({**LOGIN, **names, "kafka_security": "sasl_tls"}, files))
    assert kafka_configuration(settings) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": files("ca"),
        "ssl.certificate.location": files("certificate"),
        "ssl.key.location": files("key"),
        "sasl.username": "worker",
        "sasl.password": "open sesame",
        "sasl.mechanism": "SCRAM-SHA-512",
    }
    context = kafka_tls(settings)
    assert context is not None
    assert context.check_hostname
    # Where a CA is named, nobody else's certificates are trusted.
    assert len(context.get_ca_certs()) == 1


def test_without_security_settings_kafka_is_spoken_to_in_the_clear() -> None:
    assert kafka_configuration(Settings()) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "PLAINTEXT",
    }
    assert kafka_tls(Settings()) is None


# Secrets in files.


@pytest.mark.parametrize("name", ["COMMAND_KEY", "COUNTERPARTY_KEY", "KAFKA_PASSWORD", "CLICKHOUSE_PASSWORD"])
def test_a_secret_may_lie_in_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("  sixteen letters and more\n")
    environment = {f"MSGMETER_{name}": "", f"MSGMETER_{name}_FILE": str(path)}
    if name == "KAFKA_PASSWORD":
        environment |= {"MSGMETER_KAFKA_USER": "worker", "MSGMETER_KAFKA_SECURITY": "sasl_plaintext"}
    # The end of the line is an editor's; space is the secret's own.
    for given in (environment, dict(reversed(environment.items()))):
        assert getattr(load_settings(given), name.lower()) == "  sixteen letters and more"


def test_a_secrets_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff" * 16)
    (tmp_path / "good").write_text("open sesame, please")
    with pytest.raises(SettingsError) as refused:
        load_settings(
            {
                "MSGMETER_COMMAND_KEY_FILE": str(tmp_path / "empty"),
                "MSGMETER_COUNTERPARTY_KEY_FILE": str(tmp_path / "bytes"),
                "MSGMETER_KAFKA_PASSWORD_FILE": "",
                "MSGMETER_CLICKHOUSE_PASSWORD": "open sesame",
                "MSGMETER_CLICKHOUSE_PASSWORD_FILE": str(tmp_path / "good"),
                "MSGMETER_KAFKA_USER_FILE": str(tmp_path / "good"),
            }
        )
    assert [line.strip(" -") for line in str(refused.value).splitlines()[1:]] == [
        f"MSGMETER_COMMAND_KEY_FILE: '{tmp_path / 'empty'}' is empty",
        f"MSGMETER_COUNTERPARTY_KEY_FILE: '{tmp_path / 'bytes'}' is no text in UTF-8",
        "MSGMETER_KAFKA_PASSWORD_FILE: '' cannot be read: Is a directory",
        "MSGMETER_CLICKHOUSE_PASSWORD and MSGMETER_CLICKHOUSE_PASSWORD_FILE are both set: unset one",
        "MSGMETER_KAFKA_USER_FILE is not a setting; see `msgmeter settings`",
    ]
