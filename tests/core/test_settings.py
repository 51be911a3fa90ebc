"""Settings come from the environment once, name every fault at once, and keep secrets to themselves."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.settings import Settings, SettingsError, describe_settings, load_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()


def test_values_have_the_type_of_their_default() -> None:
    settings = load_settings(
        {"MSGMETER_PARTITIONS": "8", "MSGMETER_STATE_DIRECTORY": "/srv/state", "MSGMETER_KAFKA": "a:1,b:2"}
    )
    assert (settings.partitions, settings.state_directory, settings.kafka) == (
        8,
        Path("/srv/state"),
        "a:1,b:2",
    )


def test_names_of_others_are_left_alone_and_misspelt_ones_are_faults() -> None:
    assert load_settings({"PATH": "/bin", "MSGMETER_CACHE": "/tmp/jars"}) == Settings()
    with pytest.raises(SettingsError, match="MSGMETER_PARTITONS is not a setting; see `msgmeter settings`"):
        load_settings({"MSGMETER_PARTITONS": "8"})


def test_all_unreadable_values_are_named_together() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"MSGMETER_PARTITIONS": "many", "MSGMETER_EPOCH_ROWS": "1.5", "MSGMETER_X": ""})
    assert str(caught.value).splitlines() == [
        "Settings cannot be used:",
        "  - MSGMETER_PARTITIONS must be a whole number, not 'many'",
        "  - MSGMETER_EPOCH_ROWS must be a whole number, not '1.5'",
        "  - MSGMETER_X is not a setting; see `msgmeter settings`",
    ]


def test_all_impossible_values_are_named_together() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(partitions=0, store="paper", session_seconds=5)
    assert [line.split(" must be ")[0].strip(" -") for line in str(caught.value).splitlines()[1:]] == [
        "MSGMETER_PARTITIONS",
        "MSGMETER_STORE",
        "MSGMETER_SESSION_SECONDS",
    ]


def test_unreadable_and_impossible_values_are_named_together_each_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {
                "MSGMETER_CHECKPOINT_ROWS": "many",
                "MSGMETER_EPOCH_ROWS": "600000",
                "MSGMETER_STORE": "paper",
                "MSGMETER_X": "",
            }
        )
    assert str(caught.value).splitlines()[1:] == [
        "  - MSGMETER_CHECKPOINT_ROWS must be a whole number, not 'many'",
        "  - MSGMETER_X is not a setting; see `msgmeter settings`",
        "  - MSGMETER_STORE must be memory or rocksdb",
    ]


_IMPOSSIBLE = [
    *({name: 0} for name in (
        "partitions", "replication", "epoch_rows", "epoch_milliseconds", "checkpoint_rows",
        "checkpoint_milliseconds", "outage_minutes", "identity_hours", "window_hours",
    )),
    {"identity_limit": 31},
    {"pending_limit": 31},
    {"store": "disk"},
    {"clickhouse": "tcp://127.0.0.1:9000"},
    {"command_key": "short of sixteen"[:-1]},
    {"counterparty_key": ""},
    {"default_plan": "gold"},
    {"metrics_host": "localhost"},
    {"log_format": "xml"},
    {"log_level": "INFO"},
    {"metrics_port": 65_536},
    {"metrics_port": -1},
    {"session_seconds": 5},
    {"session_seconds": 301},
    {"pending_hours": 23},
    {"checkpoint_rows": 49_999},
]  # fmt: skip


@pytest.mark.parametrize("changes", _IMPOSSIBLE, ids=str)
def test_an_impossible_value_is_refused_by_name(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"MSGMETER_{next(iter(changes)).upper()}"):
        Settings(**changes)


_POSSIBLE = [
    {"identity_limit": 32, "pending_limit": 32},
    {"metrics_host": "::"},
    {"metrics_port": 0},
    {"metrics_port": 65_535},
    {"session_seconds": 6},
    {"session_seconds": 300},
    {"pending_hours": 24},
    {"checkpoint_rows": 50_000},
    {"default_plan": "starter"},
    {"command_key": "sixteen letters."},
]


@pytest.mark.parametrize("changes", _POSSIBLE, ids=str)
def test_values_at_their_bounds_are_taken(changes: dict[str, object]) -> None:
    assert Settings(**changes)


def test_secrets_are_not_shown() -> None:
    settings = Settings(
        command_key="a secret of commands",
        counterparty_key="a secret of hashes",
        clickhouse="http://somebody:password@host/db",
    )
    assert not [word for word in ("secret", "password", "somebody") if word in repr(settings)]


def test_settings_never_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().partitions = 1  # type: ignore[misc]


def test_every_setting_is_described_by_name_default_and_meaning() -> None:
    described = describe_settings()
    assert [name for name, _, _ in described] == [
        f"MSGMETER_{each.name.upper()}" for each in fields(Settings)
    ]
    assert all(meaning for _, _, meaning in described)
    assert (
        "MSGMETER_PARTITIONS",
        "32",
        "partitions of messages.raw; more by msgmeter repartition",
    ) in described


def test_a_wrong_setting_is_one_text_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "migrate"],
        env={"MSGMETER_STORE": "paper", "MSGMETER_PARTITIONS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "msgmeter: Settings cannot be used:",
        "  - MSGMETER_PARTITIONS must be at least 1, not 0",
        "  - MSGMETER_STORE must be memory or rocksdb",
    ]


@pytest.mark.parametrize("columns", ["40", "80", "119", "120", "300"])
def test_no_setting_is_cut_in_a_terminal_of_any_width(columns: str) -> None:
    done = CliRunner().invoke(main, ["settings"], env={"COLUMNS": columns})
    words = done.stdout.split()
    for name, default, meaning in describe_settings():
        assert any(each in words for each in (name, f"{name}={default}"))
        assert default in done.stdout
        assert set(meaning.split()) <= set(words)
