"""Logs: one line per event, for people or programs; what repeats itself is counted, and strangers begin no line."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from click.testing import CliRunner

from pipeline import logs
from pipeline.cli import main
from pipeline.logs import MOST_PER_MINUTE, LogHandler, MessageLimit, set_up_logs
from pipeline.stream.log_lines import tell_checkpoint, tell_epoch, tell_results

KEY = ("pipeline.x", logging.WARNING, "%s is away", ())


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a test sets up is taken down: the loggers are the process's."""
    root = logging.getLogger()
    names = ("", "faust", "mode", "aiokafka", "asyncio", "clickhouse_connect", "urllib3")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(root.handlers)
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """The lines that were logged since it was asked last."""

    def read() -> list[str]:
        # Only what ends a line for a collector: Python knows more of them.
        return capsys.readouterr().err.split("\n")[:-1]

    return read


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


# What repeats itself.


def test_of_a_message_so_many_are_shown_in_a_minute_and_the_others_are_counted() -> None:
    clock = Clock()
    limit = MessageLimit(clock)
    assert [limit.admits(KEY, f"text {number}") for number in range(13)] == [True] * MOST_PER_MINUTE + [
        False
    ] * 3
    assert limit.admits((*KEY[:2], "another", ()), "another")
    assert limit.admits((*KEY[:3], (7,)), "of partition 7")
    clock.at = 59.9
    assert limit.ended() == []
    clock.at = 60.0
    assert limit.ended() == [(KEY, 3, "text 10")]
    assert limit.ended() == []
    assert limit.admits(KEY, "text 14")


def test_a_minute_in_which_nothing_was_left_out_says_nothing() -> None:
    clock = Clock()
    limit = MessageLimit(clock)
    assert limit.admits(KEY, "once")
    clock.at = 60.0
    assert limit.ended() == []


def test_what_was_left_out_is_told_before_the_next_event(
    told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(logs.time, "monotonic", clock)
    monkeypatch.setattr(logs, "MessageLimit", lambda: MessageLimit(clock))
    set_up_logs("worker", "console", "info")
    for number in range(MOST_PER_MINUTE + 5):
        logging.getLogger("aiokafka.client").error("no node %d", number)
    assert len(told()) == MOST_PER_MINUTE
    clock.at = 61.0
    logging.getLogger("pipeline.x").info("next")
    first, second = told()
    assert first.endswith("ERROR aiokafka.client 5 more like this were left out within a minute: no node 10")
    assert second.endswith("INFO pipeline.x next")


@pytest.mark.parametrize(
    ("name", "level", "shown"),
    [
        ("pipeline.stream.until_stored", logging.WARNING, MOST_PER_MINUTE),
        ("faust.app", logging.WARNING, MOST_PER_MINUTE),
        ("aiokafka.client", logging.ERROR, MOST_PER_MINUTE),
        ("pipeline.stream.gone", logging.ERROR, 25),
        ("msgmeter.commands", logging.INFO, 25),
        ("pipeline.stream.exits", logging.CRITICAL, 25),
    ],
)
def test_last_words_and_our_own_work_are_never_left_out(
    told: Callable[[], list[str]], name: str, level: int, shown: int
) -> None:
    set_up_logs("worker", "console", "info")
    for number in range(25):
        logging.getLogger(name).log(level, "waited %s", f"{number} s")
    assert len(told()) == shown


def test_of_our_own_each_partition_is_told_of(told: Callable[[], list[str]]) -> None:
    set_up_logs("worker", "console", "info")
    for number in range(3 * MOST_PER_MINUTE):
        for name in ("pipeline.stream.stores", "aiokafka.fetcher"):
            logging.getLogger(name).warning(
                "%s: partition %d is rebuilt: %s", "ids", number, f"reason {number}"
            )
    lines = told()
    assert sum("pipeline" in line for line in lines) == 3 * MOST_PER_MINUTE
    assert sum("aiokafka" in line for line in lines) == MOST_PER_MINUTE


def test_what_was_left_out_is_told_at_the_end_at_the_latest(told: Callable[[], list[str]]) -> None:
    set_up_logs("worker", "json", "info")
    for _ in range(MOST_PER_MINUTE + 5):
        logging.getLogger("pipeline.x").warning("again")
    assert len(told()) == MOST_PER_MINUTE
    [handler] = [each for each in logging.getLogger().handlers if isinstance(each, LogHandler)]
    handler.close()
    assert json.loads(told()[0])["event"] == "5 more like this were left out within a minute: again"
    handler.close()
    assert told() == []


# Lines.


def test_json_has_the_text_and_the_fields_and_says_who_logs(told: Callable[[], list[str]]) -> None:
    set_up_logs("worker", "json", "info")
    tell_epoch(7, 3, {0: (10, 12), 5: (4, 4)}, 0.05)
    [line] = told()
    document = json.loads(line)
    assert datetime.fromisoformat(document.pop("time")).utcoffset() is not None
    assert document.pop("worker").rpartition("-")[2].isdigit()
    assert document == {
        "level": "info",
        "logger": "msgmeter.epochs",
        "event": "epoch 7: 3 rows of 4 records in 2 partitions, stored in 0.05 s",
        "process": "worker",
        "epoch": 7,
        "rows": 3,
        "records": 4,
        "partitions": 2,
        "seconds": 0.05,
        "positions": {"0": [10, 12], "5": [4, 4]},
    }


def test_an_epoch_or_checkpoint_of_nothing_is_not_told(told: Callable[[], list[str]]) -> None:
    set_up_logs("worker", "console", "debug")
    tell_epoch(1, 0, {}, 0.0)
    tell_checkpoint(1, 0, 0.0)
    assert told() == []
    tell_checkpoint(2, 4, 0.25)
    assert told()[0].endswith("INFO msgmeter.epochs checkpoint of epoch 2: 4 partitions, kept in 0.25 s")


def result(command_type: str = "grant", **changes: object) -> dict[str, object]:
    return {
        "command_id": "c-1", "tenant": "acme", "type": command_type, "outcome": "accepted", "reason": None,
        "balance": "5", "partition": 3, "offset": 1_000_000_000_017,
    } | changes  # fmt: skip


def test_a_command_is_told_with_its_id_its_answer_and_its_position(told: Callable[[], list[str]]) -> None:
    set_up_logs("worker", "json", "info")
    tell_results([result(), result(outcome="refused", reason="grant_unknown"), result("tick")])
    accepted, refused = map(json.loads, told())
    assert accepted["event"] == "command 'c-1' of tenant 'acme' answered accepted at 3:1000000000017"
    assert refused["event"].endswith("answered refused at 3:1000000000017 (grant_unknown)")
    fields = ("command_id", "tenant", "type", "outcome", "reason", "partition", "position")
    assert [refused[name] for name in fields] == [
        "c-1", "acme", "grant", "refused", "grant_unknown", 3, 1_000_000_000_017,
    ]  # fmt: skip
    set_up_logs("worker", "json", "debug")
    tell_results([result("tick")])
    assert json.loads(told()[0])["type"] == "tick"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_stranger_begins_no_line_and_moves_no_cursor(
    told: Callable[[], list[str]], log_format: str
) -> None:
    set_up_logs("worker", log_format, "info")
    evil = "x\n2026-01-01T00:00:00Z CRITICAL pipeline all is lost\x1b[2J\u2028\u202e"
    logging.getLogger("pipeline.x").info("tenant %s", evil)
    tell_results([result(command_id=evil, tenant=evil)])
    lines = told()
    assert len(lines) == 2
    assert all(line.isprintable() or log_format == "json" for line in lines)
    assert "\x1b" not in "".join(lines)


def test_an_exception_is_told_with_its_traceback_and_without_values(told: Callable[[], list[str]]) -> None:
    set_up_logs("worker", "json", "info")
    body = "nobody may read this"
    try:
        int(f"{len(body)} of {{}}")
    except ValueError as error:
        logging.getLogger("pipeline.x").critical("ending", exc_info=error)
    [line] = told()
    document = json.loads(line)
    assert document["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert document["exception"].endswith("ValueError: invalid literal for int() with base 10: '20 of {}'")
    assert body not in line
    set_up_logs("worker", "console", "info")
    logging.getLogger("pipeline.x").critical("ending", exc_info=RuntimeError("the reason"))
    assert told()[-1] == "RuntimeError: the reason"


def test_half_a_surrogate_pair_is_told_all_the_same(told: Callable[[], list[str]]) -> None:
    set_up_logs("worker", "json", "info")
    logging.getLogger("pipeline.x").info("file \udcff is gone")
    assert json.loads(told()[0])["event"] == "file \udcff is gone"


class Unspeakable:
    """What no text can be made of."""

    def __str__(self) -> str:
        raise RuntimeError("nobody may read this")

    __repr__ = __str__


class Endless:
    """A text that is never complete."""

    def __str__(self) -> str:
        return f"{self}"


ITSELF: list[object] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.CRITICAL])
@pytest.mark.parametrize(
    ("message", "given", "shown"),
    [
        ("%d of %d", ("secret",), "%d of %d"),
        ("%d rows", ("secret",), "%d rows"),
        ("nothing", ("secret",), "nothing"),
        ("%s rows", (Unspeakable(),), "%s rows"),
        (Unspeakable(), (), "<Unspeakable>"),
        ("%s rows", (Endless(),), "%s rows"),
    ],
)
def test_a_faulty_event_raises_nothing_and_is_one_line_without_its_values(
    told: Callable[[], list[str]], log_format: str, level: int, message: object, given: tuple[object, ...], shown: str
) -> None:  # fmt: skip
    # Those of pytest raise.
    logging.getLogger().handlers.clear()
    set_up_logs("worker", log_format, "info")
    # A library of others, and our own: what they log goes different ways.
    for name in ("aiokafka.client", "pipeline.x"):
        logging.getLogger(name).log(level, message, *given)
    lines = told()
    assert len(lines) == (1 if level == logging.INFO else 2)
    for line in lines:
        event = json.loads(line)["event"] if log_format == "json" else line
        assert event.endswith(f"an event could not be written: '{shown}'")
        assert "secret" not in line
        assert "nobody may read" not in line


def test_of_faulty_events_too_so_many_are_shown_in_a_minute(told: Callable[[], list[str]]) -> None:
    logging.getLogger().handlers.clear()
    set_up_logs("worker", "console", "info")
    for number in range(25):
        logging.getLogger("aiokafka.client").error("%d nodes", f"text {number}")
    assert len(told()) == MOST_PER_MINUTE


def test_a_stream_that_is_gone_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_logs("worker", "json", "info")
    with monkeypatch.context() as patched:
        closed = io.StringIO()
        closed.close()
        patched.setattr(sys, "stderr", closed)
        logging.getLogger("pipeline.x").warning("nobody hears")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({("a", 1): 2}, "{('a', 1): 2}"),
        ({1: {(0, 1): "x"}}, "{1: {(0, 1): 'x'}}"),
        (ITSELF, "[[...]]"),
        (Unspeakable(), "<Unspeakable>"),
        ({(1,): Unspeakable()}, "<dict>"),
        (2**70, 2**70),
        (float("nan"), None),
        (["\udcff", float("nan")], "['\\udcff', nan]"),
        (b"\xff", "b'\\xff'"),
    ],
)
def test_every_field_is_told_in_one_line_of_valid_json(
    told: Callable[[], list[str]], value: object, written: object
) -> None:
    set_up_logs("worker", "json", "info")
    logging.getLogger("pipeline.x").info("has it", extra={"field": value, "other": [1, 2]})
    [line] = told()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(line, parse_constant=refuse)
    assert (document["event"], document["field"], document["other"]) == ("has it", written, [1, 2])


@pytest.mark.parametrize(
    ("name", "level", "text", "at_info", "at_debug"),
    [
        (
            "pipeline.stream.stores",
            logging.INFO,
            "[^---MemoryStore: memory:]: Starting...",
            "",
            "Starting...",
        ),
        (
            "pipeline.stream.recovery",
            logging.INFO,
            "[^--Recovery]: worker ready: 4 partitions",
            *["worker ready"] * 2,
        ),
        ("pipeline.stream.fetching", logging.ERROR, "[^--Thread]: Stopping...", *["Stopping..."] * 2),
        ("mode.timers", logging.INFO, "Timer woke up too late", "", ""),
        ("aiokafka.conn", logging.DEBUG, "b'a whole record'", "", ""),
        ("aiokafka.conn", logging.WARNING, "Heartbeat failed", *["Heartbeat failed"] * 2),
        ("pipeline.x", logging.DEBUG, "details", "", "details"),
    ],
)
def test_libraries_are_heard_when_something_is_wrong(
    told: Callable[[], list[str]], name: str, level: int, text: str, at_info: str, at_debug: str
) -> None:
    for log_level, expected in (("info", at_info), ("debug", at_debug)):
        set_up_logs("worker", "console", log_level)
        logging.getLogger(name).log(level, text)
        lines = told()
        assert len(lines) == bool(expected), (log_level, lines)
        assert expected in "".join(lines)
        assert "[^" not in "".join(lines)


def test_the_last_words_of_a_process_that_logs_json_are_json() -> None:
    environment = {"MSGMETER_LOG_FORMAT": "json", "MSGMETER_CLICKHOUSE": "ftp://nowhere"}
    refused = CliRunner().invoke(main, ["migrate"], env=environment)
    # Its settings cannot be used, so nobody knows how it should log.
    assert refused.stderr.startswith("msgmeter: Settings cannot be used:")
    environment["MSGMETER_CLICKHOUSE"] = "http://127.0.0.1:9/default"
    away = CliRunner().invoke(main, ["migrate"], env=environment)
    assert away.exit_code == 3
    document = json.loads(away.stderr.splitlines()[-1])
    assert document["event"].startswith("msgmeter: No ClickHouse answers at http://127.0.0.1:9")
    assert document["level"] == "critical"
