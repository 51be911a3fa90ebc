"""No secret is shown: not by what holds it, not by a fault beside it, not by a list of settings, not by a client."""

import logging
import string
from dataclasses import fields
from functools import partial

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.clickhouse_clients import clickhouse_server, connect_clickhouse
from pipeline.kafka_clients import Connection, kafka_configuration
from pipeline.rules import make_rules
from pipeline.settings import Settings, SettingsError, load_settings

SECRETS = [each.name for each in fields(Settings) if each.metadata["is_secret"]]
# Long enough to be in no other text by chance.
secrets = st.text(string.ascii_letters + string.digits + "/+%@:' ", min_size=16, max_size=40).map(str.strip)
secrets = secrets.filter(lambda text: len(text) >= 16)


def test_every_setting_that_sounds_secret_is_one() -> None:
    sounding = [each.name for each in fields(Settings) if each.name.endswith(("password", "_key", "secret"))]
    # The keys of certificates are files: their names are no secret.
    assert [name for name in sounding if name not in ("kafka_key", "clickhouse_key")] == SECRETS


@given(st.fixed_dictionaries(dict.fromkeys(SECRETS, secrets)), st.booleans())
def test_what_holds_secrets_shows_none(given_secrets: dict[str, str], in_url: bool) -> None:
    if in_url:
        given_secrets = {**given_secrets, "clickhouse_password": ""}
    settings = Settings(
        **given_secrets,
        kafka_user="worker",
        kafka_security="sasl_plaintext",
        clickhouse=f"http://meter{':hunter2' if in_url else ''}@host/db",
    )
    holders = [
        settings,
        clickhouse_server(settings),
        make_rules(settings),
        Connection(settings),
        partial(connect_clickhouse, settings),
    ]
    shown = "".join(f"{each!r}{each!s}" for each in holders)
    assert [secret for secret in [*given_secrets.values(), "hunter2"] if secret and secret in shown] == []


@given(st.fixed_dictionaries(dict.fromkeys(SECRETS, secrets)))
def test_a_fault_shows_no_secret_beside_it(given_secrets: dict[str, str]) -> None:
    environment = {f"MSGMETER_{name.upper()}": secret for name, secret in given_secrets.items()}
    wrong = {
        "MSGMETER_PARTITIONS": "0",
        "MSGMETER_STORE": "paper",
        "MSGMETER_CLICKHOUSE": "http://meter:hunter2@host/db",
        "MSGMETER_COMMAND_KEY_FILE": "/nowhere",
        "MSGMETER_COMAND_KEY": given_secrets["command_key"],
    }
    for faulty in (wrong, {name: wrong[name] for name in list(wrong)[:3]}):
        with pytest.raises(SettingsError) as refused:
            load_settings(environment | faulty)
        shown = f"{refused.value!s}{refused.value!r}{refused.value.__cause__!r}"
        assert [secret for secret in [*given_secrets.values(), "hunter2"] if secret in shown] == []


def test_the_list_of_settings_shows_no_value() -> None:
    environment = {f"MSGMETER_{name.upper()}": "hunter2 hunter2 hunter2" for name in SECRETS}
    result = CliRunner().invoke(main, ["settings"], env=environment)
    assert result.exit_code == 0
    assert all(f"MSGMETER_{name.upper()}" in result.stdout for name in SECRETS)
    assert "hunter2" not in result.output


def test_kafkas_client_shows_no_password_however_much_it_tells(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(
        kafka="127.0.0.1:1",
        kafka_security="sasl_plaintext",
        kafka_user="worker",
        kafka_password="hunter2 hunter2",
    )
    told = logging.getLogger("everything that librdkafka tells")
    with caplog.at_level(logging.DEBUG, told.name):
        producer = Producer({**kafka_configuration(settings), "debug": "all"}, logger=told)
        producer.poll(0.5)
    assert "sasl.username" in caplog.text or "worker" in caplog.text
    assert "hunter2" not in caplog.text
