"""`msgmeter schedule` between ClickHouse and a broker: which accounts get a tick, how often, and what is waited for."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from clickhouse_rows import columns_of
from log_topics import ends, read_since

from pipeline.cli.schedule import REPEAT_MILLISECONDS, Scheduler
from pipeline.clickhouse.client import connect, insert
from pipeline.clickhouse.migrate import apply_migrations
from pipeline.clickhouse.snapshots import ACCOUNTS
from pipeline.core.signing import SIGNATURE_HEADER, header, is_signed
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from pipeline.errors import Transient
from pipeline.metrics.scheduler import REGISTRY
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW

NOW = 1_770_113_700_000


class Deployment:
    """A database of accounts and the topics beside it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._starts = ends(settings, MESSAGES_RAW)
        self._version = 0

    def store(self, **due_at: int | None) -> None:
        """Store accounts as a checkpoint would, by tenant; the later ones replace the earlier."""
        self._version += 1
        rows = [{"tenant": name, "due_at": at, "version": self._version} for name, at in due_at.items()]
        client = connect(self.settings.clickhouse)
        insert(client, ACCOUNTS, columns_of(ACCOUNTS, *rows), f"accounts {self._version}")
        client.close()

    def scheduler(self, limit: int = 100) -> Scheduler:
        return Scheduler(self.settings, limit)

    def ticks(self) -> list[dict[str, Any]]:
        """What was sent since the last call, oldest first of each partition, signature checked."""
        messages = read_since(self.settings, MESSAGES_RAW, self._starts)
        self._starts = ends(self.settings, MESSAGES_RAW)
        for message in messages:
            signature = header(message.headers(), SIGNATURE_HEADER)
            key = self.settings.command_key.encode()
            assert is_signed(key, "command", message.key(), message.value(), signature)
        return [orjson.loads(message.value()) for message in messages]


@pytest.fixture
def deployment(settings: Settings, clickhouse: EmbeddedClickHouse, database: str) -> Deployment:
    url = f"{clickhouse.url}/{database}"
    apply_migrations(connect(url))
    return Deployment(replace(settings, clickhouse=url))


def test_accounts_that_are_due_get_a_tick_of_the_instant_and_others_none(deployment: Deployment) -> None:
    deployment.store(acme=NOW - 5, bolt=NOW, coil=NOW + 1, dune=None)
    done = deployment.scheduler().round(NOW)
    assert (done.due, done.sent, done.first_due_at) == (2, 2, NOW - 5)
    assert sorted(deployment.ticks(), key=lambda each: each["id"]) == [
        {"type": "tick", "id": f"tick:{at}", "tenant": name, "effective_at": at}
        for name, at in (("acme", NOW - 5), ("bolt", NOW))
    ]


def test_a_tick_is_repeated_after_a_minute_and_then_less_often_while_the_account_is_due(
    deployment: Deployment,
) -> None:
    deployment.store(acme=NOW)
    scheduler = deployment.scheduler()
    before = REGISTRY.get_sample_value("msgmeter_ticks_repeated_total") or 0
    minutes = [0, 0.5, 0.999, 1, 2, 2.999, 3, 6.999, 7]
    rounds = [scheduler.round(NOW + int(each * REPEAT_MILLISECONDS)) for each in minutes]
    assert [done.sent for done in rounds] == [1, 0, 0, 1, 0, 0, 1, 0, 1]
    assert [done.repeated for done in rounds] == [0, 0, 0, 1, 0, 0, 1, 0, 1]
    assert REGISTRY.get_sample_value("msgmeter_ticks_repeated_total") == before + 3
    assert {each["id"] for each in deployment.ticks()} == {f"tick:{NOW}"}


def test_what_was_renewed_gets_its_next_tick_at_once(deployment: Deployment) -> None:
    deployment.store(acme=NOW)
    scheduler = deployment.scheduler()
    scheduler.round(NOW)
    deployment.store(acme=NOW + 1_000)
    assert [scheduler.round(NOW + each).sent for each in (500, 1_000, 1_500)] == [0, 1, 0]
    assert [each["effective_at"] for each in deployment.ticks()] == [NOW, NOW + 1_000]


def test_two_schedulers_and_a_restart_send_the_same_bytes(deployment: Deployment) -> None:
    deployment.store(acme=NOW)
    for later in (0, 7_000):
        deployment.scheduler().round(NOW + later)
    first, second = deployment.ticks()
    assert first == second


def test_the_longest_due_come_first_and_who_waits_for_a_worker_keeps_nobody_back(
    deployment: Deployment,
) -> None:
    deployment.store(acme=NOW - 3, bolt=NOW - 2, coil=NOW - 1)
    scheduler = deployment.scheduler(limit=1)
    sent = []
    for _ in range(4):
        scheduler.round(NOW)
        sent += [each["tenant"] for each in deployment.ticks()]
    assert sent == ["acme", "bolt", "coil"]
    assert scheduler.round(NOW + REPEAT_MILLISECONDS).sent == 1, "the limit holds for repetitions too"


def test_what_could_not_be_sent_is_sent_by_the_next_round(deployment: Deployment) -> None:
    deployment.store(acme=NOW)
    away = replace(deployment.settings, kafka="127.0.0.1:1")
    scheduler = Scheduler(away, 100)
    assert scheduler.round(NOW - 1) == scheduler.last
    for _ in range(2):
        with pytest.raises(Transient, match="No broker answers"):
            scheduler.round(NOW)
        assert scheduler.last is None, "an old round must not be told as the last one"


def test_one_round_tells_what_it_did(
    deployment: Deployment, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSGMETER_CLICKHOUSE", deployment.settings.clickhouse)
    assert run("schedule", "--once").stdout == "accounts due: 0, no tick to send\n"
    deployment.store(acme=NOW)
    assert run("schedule", "--once").stdout == (
        "accounts due: 1, ticks sent: 1, the first due at 2026-02-03T10:15:00Z\n"
    )


def test_one_round_without_a_service_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli import main

    monkeypatch.setenv("MSGMETER_CLICKHOUSE", "http://127.0.0.1:1/default")
    result = CliRunner().invoke(main, ["schedule", "--once"])
    assert result.exit_code == 3
    assert "No ClickHouse answers" in result.stderr


def test_a_service_that_is_away_is_waited_for_and_sigterm_ends_in_order(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process survives a broker that is away, tells each outage once, and stops."""
    deployment.store(acme=NOW)
    monkeypatch.setenv("MSGMETER_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("MSGMETER_CLICKHOUSE", deployment.settings.clickhouse)
    command = [
        sys.executable, "-m", "pipeline", "schedule", "--every-seconds", "0.1", "--metrics-port", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert "looks every 0.1 s for accounts that are due" in process.stderr.readline()
            # Rounds of ticks and the watch on Kafka are told apart, in whichever order they fail.
            told = sorted(process.stderr.readline() for _ in range(2))
            tells = (r"Kafka cannot be watched: No broker answers", r"No broker answers at .*; tried again")
            for text in tells:
                assert sum(bool(re.search(text, line)) for line in told) == 1, told
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert rest.endswith("stopped\n")
