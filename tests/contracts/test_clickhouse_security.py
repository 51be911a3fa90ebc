"""ClickHouse behind TLS, users and client certificates: the ordinary driver gets in, and a stranger is told why not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import Authority
from click.testing import CliRunner
from secured_kafka import SMALL, environment_of, message

from pipeline.cli import main
from pipeline.clickhouse.migrate import apply_migrations, create_database
from pipeline.clickhouse_clients import clickhouse_server, connect_clickhouse
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.embedded.owned import LOOPBACK
from pipeline.errors import Permanent, Transient
from pipeline.sending import LogSender
from pipeline.settings import Settings
from tests.e2e.worker_process import WorkerProcess

PASSWORD = "p@ss/word of meter"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[EmbeddedClickHouse]:
    """A server that speaks TLS alone, asks for certificates of its CA, and knows one user."""
    directory = tmp_path_factory.mktemp("secured")
    users = directory / "users.json"
    users.write_text(f'{{"meter": "{PASSWORD}"}}')
    own = authority.certify("clickhouse", LOOPBACK)
    server = EmbeddedClickHouse(directory / "data", users=users, tls=own, client_ca=authority.file)
    with server as running:
        yield running
        running.kill()


def settings_of(secured: EmbeddedClickHouse, authority: Authority, **changes: str) -> Settings:
    """Settings of the user by its password, over a connection that its certificate opens."""
    certificate, key = authority.certify("meter")
    given = {
        "clickhouse": f"{secured.url.replace('//', '//meter@')}/metered",
        "clickhouse_password": PASSWORD,
        "clickhouse_ca": str(authority.file),
        "clickhouse_certificate": str(certificate),
        "clickhouse_key": str(key),
    }
    return Settings(**{**given, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clickhouse_password": ""},
        {"clickhouse": "https://meter:p%40ss%2Fword%20of%20meter@{}/metered", "clickhouse_password": ""},
    ],
    ids=["password", "certificate", "password in the URL"],
)
def test_a_user_gets_in_and_commands_work(
    secured: EmbeddedClickHouse, authority: Authority, changes: dict[str, str]
) -> None:
    address = f"{secured.host}:{secured.port}"
    filled = {name: text.format(address) for name, text in changes.items()}
    settings = settings_of(secured, authority, **filled)
    create_database(clickhouse_server(settings))
    client = connect_clickhouse(settings)
    apply_migrations(client)
    assert client.command("SELECT count() FROM rated_messages") == 0
    client.close()
    answer = CliRunner().invoke(main, ["balance", "nobody"], env=environment_of(settings))
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert "no account of tenant 'nobody'" in answer.stderr


def test_a_worker_stores_over_tls(
    secured: EmbeddedClickHouse, authority: Authority, settings: Settings, tmp_path: Path
) -> None:
    ours = replace(
        settings_of(secured, authority),
        **{**SMALL, "partitions": settings.partitions},
        kafka=settings.kafka,
        default_plan="starter",
        state_directory=tmp_path / "state",
    )
    create_database(clickhouse_server(ours))
    client = connect_clickhouse(ours)
    apply_migrations(client)
    worker = WorkerProcess("worker", tmp_path, environment_of(ours)).start()
    try:
        sender = LogSender(ours)
        sender.send(message("acme", "m1"))
        sender.flush()
        worker.await_condition(
            lambda: client.command("SELECT count() FROM rated_messages") == 1, "stored a message"
        )
    finally:
        worker.kill()
        client.close()


def strangers(
    secured: EmbeddedClickHouse, authority: Authority, directory: Path
) -> list[tuple[Settings, str]]:
    """Settings that get nobody in, and what must be said of each."""
    other = Authority(directory)
    certificate, key = map(str, other.certify("meter"))
    another, another_key = map(str, authority.certify("another"))
    url = f"{secured.url.replace('//', '//meter:hunter2@')}/metered"

    def changed(**changes: str) -> Settings:
        return settings_of(secured, authority, **changes)

    return [
        (changed(clickhouse_password="hunter2"), "Authentication failed"),
        (changed(clickhouse=url, clickhouse_password=""), "Authentication failed"),
        # Its certificate is good, and another user's.
        (
            changed(clickhouse_password="", clickhouse_certificate=another, clickhouse_key=another_key),
            "meter: Authentication failed",
        ),
        (changed(clickhouse_ca=str(other.file)), "certificate verify failed"),
        (changed(clickhouse_ca=""), "certificate verify failed"),
        # The server's alert comes after the handshake: the client may meet it, or a connection that is closed.
        (
            changed(clickhouse_certificate="", clickhouse_key=""),
            "certificate required|MSGMETER_CLICKHOUSE_CERT",
        ),
        (
            changed(clickhouse_certificate=certificate, clickhouse_key=key),
            "unknown ca|MSGMETER_CLICKHOUSE_CERT",
        ),
    ]


def test_whoever_is_refused_is_told_so_in_one_line_without_a_secret(
    secured: EmbeddedClickHouse, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stranger, said in strangers(secured, authority, tmp_path / "other"):
        with pytest.raises((Permanent, Transient), match=said) as refused:
            connect_clickhouse(stranger)
        if "|" not in said:
            assert isinstance(refused.value, Permanent)
        if "verify" in said:
            assert f"No TLS connection to ClickHouse at {secured.url} (" in str(refused.value)
            assert "): check MSGMETER_CLICKHOUSE_CA, MSGMETER_CLICKHOUSE_CERT" in str(refused.value)
        answer = CliRunner().invoke(main, ["usage", "acme"], env=environment_of(stranger))
        assert (answer.exit_code, answer.stdout) == (3, "")
        assert len(answer.stderr.splitlines()) == 1
        shown = answer.stderr + str(refused.value) + repr(refused.value.__cause__) + caplog.text
        assert not [secret for secret in ("hunter2", PASSWORD, "p%40ss") if secret in shown]
