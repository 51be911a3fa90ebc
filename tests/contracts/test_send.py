"""Topics, generator and `send` against a real broker."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType
from log_topics import PARTITIONS, ends, read_since

from pipeline.cli import main
from pipeline.core.partitions import partition_of
from pipeline.core.signing import SIGNATURE_HEADER, header, is_signed
from pipeline.logfile import LogRecord, read_log, write_log
from pipeline.settings import Settings
from pipeline.topics import MESSAGES_RAW, TopicError, create_topics, topics

AT = 1_770_113_700_000


def test_topics_have_the_configs_the_guarantees_lean_on(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka, "log_level": 2})
    there = admin.list_topics(timeout=10).topics
    for topic in topics(settings):
        assert len(there[topic.name].partitions) == PARTITIONS
        resource = ConfigResource(ResourceType.TOPIC, topic.name)
        found = admin.describe_configs([resource])[resource].result(10)
        assert {name: found[name].value for name in topic.config} == topic.config
    raw = next(topic for topic in topics(settings) if topic.name == MESSAGES_RAW)
    assert raw.config["message.timestamp.type"] == "LogAppendTime"
    assert raw.config["max.message.bytes"] == str(2 << 20)
    changelogs = [topic.name for topic in topics(settings) if topic.config["cleanup.policy"] == "compact"]
    assert changelogs == [
        f"{settings.application}-{table}-changelog" for table in ("accounts", "windows", "ids")
    ]


def test_creating_topics_again_creates_none(settings: Settings) -> None:
    assert create_topics(settings) == []


def test_only_missing_topics_are_created(settings: Settings, unique_name: Callable[[str], str]) -> None:
    other = replace(settings, application=unique_name("other"))
    assert create_topics(other) == [
        f"{other.application}-{table}-changelog" for table in ("accounts", "windows", "ids")
    ]


def test_topics_that_differ_are_named_and_left_alone(
    settings: Settings, unique_name: Callable[[str], str]
) -> None:
    other = replace(settings, application=unique_name("differing"))
    accounts, windows = f"{other.application}-accounts-changelog", f"{other.application}-windows-changelog"
    admin = AdminClient({"bootstrap.servers": settings.kafka, "log_level": 2})
    wrong = [NewTopic(accounts, PARTITIONS, 1), NewTopic(windows, 1, 1, config={"cleanup.policy": "compact"})]
    for future in admin.create_topics(wrong).values():
        future.result(30)
    with pytest.raises(TopicError) as error:
        create_topics(other)
    assert f"{accounts} has cleanup.policy=delete, not compact" in str(error.value)
    assert f"{windows} has 1 partitions, not {PARTITIONS}" in str(error.value)
    assert f"{other.application}-ids-changelog" not in admin.list_topics(timeout=10).topics
    admin.create_partitions([NewPartitions(windows, PARTITIONS)])[windows].result(30)


@pytest.mark.parametrize(
    ("partitions", "remedy"),
    [
        (2 * PARTITIONS, f"set MSGMETER_PARTITIONS to {PARTITIONS}, or see `msgmeter repartition`"),
        (1, f"set MSGMETER_PARTITIONS to {PARTITIONS}"),
    ],
)
def test_another_number_of_partitions_comes_with_what_to_do(
    settings: Settings, partitions: int, remedy: str
) -> None:
    with pytest.raises(TopicError) as error:
        create_topics(replace(settings, partitions=partitions))
    assert str(error.value).splitlines()[-1] == remedy


def test_no_broker_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MSGMETER_KAFKA", "127.0.0.1:1")
    write_log(tmp_path / "log.jsonl", [LogRecord(b"t", b"{}", [], AT)])
    result = CliRunner().invoke(main, ["send", str(tmp_path / "log.jsonl")])
    assert result.exit_code == 3
    assert "No broker answers at 127.0.0.1:1" in result.output
    assert "Traceback" not in result.output


def test_librdkafka_puts_keys_where_we_look_for_them(
    settings: Settings, run: Callable[..., Result], tmp_path: Path
) -> None:
    keys = [
        b"",
        b"t",
        "şirket".encode(),
        b"\x00\xff",
        *(f"tenant-{number:05d}".encode() for number in range(500)),
    ]
    write_log(tmp_path / "log.jsonl", [LogRecord(key, b"{}", [], AT) for key in keys])
    starts = ends(settings, MESSAGES_RAW)
    assert run("send", tmp_path / "log.jsonl").exit_code == 0
    placed = {
        message.key() or b"": message.partition() for message in read_since(settings, MESSAGES_RAW, starts)
    }
    assert placed == {key: partition_of(key, PARTITIONS) for key in keys}


def test_file_is_sent_in_order_byte_for_byte(
    settings: Settings, run: Callable[..., Result], tmp_path: Path
) -> None:
    grant = b'{"type":"grant","id":"1","tenant":"t","effective_at":1770113700000,"credits":"5"}'
    given = [
        LogRecord(b"t", grant, [], AT, is_plain_command=True),
        LogRecord(b"t", grant, [("msgmeter-purpose", b"command")], AT),
        *(LogRecord(b"t", b'{"n":%d}' % number, [("a", b"\xff"), ("a", b"")], AT) for number in range(1_000)),
        LogRecord(b"t", b"", [], AT),
        LogRecord(b"t", b"\x00\xff\n", [], AT),
        LogRecord(b"t", b"x" * ((2 << 20) - 1_000), [], AT),
    ]
    write_log(tmp_path / "log.jsonl.gz", given)
    starts = ends(settings, MESSAGES_RAW)
    result = run("send", tmp_path / "log.jsonl.gz", "--json")
    assert orjson.loads(result.stdout) == {"records": len(given), "commands": 1, "refused_by_broker": 0}
    sent = read_since(settings, MESSAGES_RAW, starts)
    assert [message.value() or b"" for message in sent] == [record.value for record in given]
    assert {message.key() for message in sent} == {b"t"}
    # The broker's own time, not the file's.
    assert all(message.timestamp()[1] > AT for message in sent)
    signature = header(sent[0].headers(), SIGNATURE_HEADER)
    assert is_signed(settings.command_key.encode(), "command", b"t", grant, signature)
    assert sent[1].headers() == [("msgmeter-purpose", b"command")]
    assert sent[2].headers() == [("a", b"\xff"), ("a", b"")]


def test_record_without_key_is_sent_without_key(
    settings: Settings, run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"not json\n")
    starts = ends(settings, MESSAGES_RAW)
    assert run("send", tmp_path / "log.jsonl").exit_code == 0
    (message,) = read_since(settings, MESSAGES_RAW, starts)
    assert (message.key(), message.value()) == (None, b"not json")


def test_what_the_broker_does_not_take_is_reported_and_the_rest_is_sent(
    settings: Settings, run: Callable[..., Result], tmp_path: Path
) -> None:
    given = [LogRecord(b"t", value, [], AT) for value in (b"1", b"x" * (3 << 20), b"2")]
    write_log(tmp_path / "log.jsonl", given)
    starts = ends(settings, MESSAGES_RAW)
    result = run("send", tmp_path / "log.jsonl", "--json")
    assert result.exit_code == 1
    assert orjson.loads(result.stdout)["refused_by_broker"] == 1
    assert "too large" in result.stderr
    assert [message.value() for message in read_since(settings, MESSAGES_RAW, starts)] == [b"1", b"2"]


def test_generated_topic_and_generated_file_hold_the_same(
    settings: Settings, run: Callable[..., Result], tmp_path: Path
) -> None:
    options = (
        "--messages",
        3_000,
        "--tenants",
        20,
        "--malformed",
        0.05,
        "--start",
        "2026-02-03T10:15:00Z",
        "--json",
    )
    file = tmp_path / "log.jsonl.gz"
    starts = ends(settings, MESSAGES_RAW)
    to_topic, to_file = run("generate", *options), run("generate", *options, "--output", file)
    assert (to_topic.exit_code, to_file.exit_code) == (0, 0)
    assert to_topic.stdout == to_file.stdout
    sent = sorted(
        (message.key(), message.value() or b"")
        for message in read_since(settings, MESSAGES_RAW, starts)
        if message.key()
    )
    filed = sorted((record.key, record.value) for record in read_log(file) if record.key)
    assert sent == filed
    counts = orjson.loads(to_file.stdout)
    assert counts["plans"] == 20
    assert counts["malformed"] > 100


def test_generated_log_on_standard_output_is_only_the_log(run: Callable[..., Result]) -> None:
    result = run("generate", "--messages", 10, "--tenants", 2, "--output", "-", "--malformed", 0)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("type", "message") for line in lines[:2]] == ["set_plan", "set_plan"]
    assert "messages" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("generate", "--forever"), "--forever needs --rate"),
        (("generate", "--late-hours", 5, 5), "--late-hours must ascend"),
        (("generate", "--start", "yesterday"), "is not an instant"),
        (("generate", "--start", "2026-02-03T10:15:00"), "has no offset"),
    ],
)
def test_wrong_calls_are_explained_before_anything_is_sent(
    settings: Settings, run: Callable[..., Result], arguments: tuple[object, ...], text: str
) -> None:
    before = ends(settings, MESSAGES_RAW)
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert ends(settings, MESSAGES_RAW) == before


def test_lines_without_an_object_are_counted_when_sent(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"id": "a", "tenant": "t"}\nnot JSON\n[1]\n')
    result = run("send", tmp_path / "log.jsonl")
    assert result.exit_code == 0
    assert "2 lines hold no JSON object; the worker will refuse them" in result.stderr


def test_a_file_that_cannot_be_written_is_a_fault_of_the_call(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("generate", "--output", tmp_path / "nowhere" / "log.jsonl")
    assert result.exit_code == 2
    assert "cannot be written: No such file or directory" in result.stderr


def test_gateway_without_end_stops_in_order(settings: Settings, run: Callable[..., Result]) -> None:
    starts = ends(settings, MESSAGES_RAW)
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "generate",
        "--forever",
        "--rate",
        "200",
        "--tenants",
        "3",
        "--json",
    ]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        while sum(ends(settings, MESSAGES_RAW)) < sum(starts) + 50:
            assert gateway.poll() is None
        gateway.send_signal(signal.SIGTERM)
        stdout, _ = gateway.communicate(timeout=30)
    finally:
        gateway.kill()
    assert gateway.returncode == 0
    counts = orjson.loads(stdout)
    given = sum(
        counts[name] for name in ("plans", "purchases", "messages", "receipts", "duplicates", "malformed")
    )
    # What was generated was flushed; one record may be on its way when the signal comes.
    assert sum(ends(settings, MESSAGES_RAW)) - sum(starts) in (given, given - 1)
