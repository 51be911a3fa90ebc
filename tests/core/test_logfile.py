"""A file of lines is a log: what is written is read again, and whatever stands in a file is a record."""

import gzip
import io
import sys
from pathlib import Path

import pytest

from pipeline.core.signing import is_signed
from pipeline.logfile import LogRecord, encode_line, read_log, sign_plain, write_log

AT = 1_770_113_700_000
MESSAGE = (
    b'{"id":"1","tenant":"t","source":"g","kind":"sms","direction":"outbound","status":"sent",'
    b'"status_at":1770113700000,"occurred_at":1770113600000,"to":"+14155550100","from":"Acme"}'
)
GRANT = b'{"type":"grant","id":"1","tenant":"t","effective_at":1770113700000,"credits":"5"}'


def read(tmp_path: Path, *lines: bytes) -> list[LogRecord]:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(lines))
    return list(read_log(path))


@pytest.mark.parametrize(
    "record",
    [
        LogRecord(b"t", MESSAGE, [], AT),
        LogRecord(b"other", MESSAGE, [], AT),
        LogRecord(None, MESSAGE, [], AT),
        LogRecord(b"", MESSAGE, [], AT),
        LogRecord(b"\xff\x00", MESSAGE, [], AT),
        LogRecord('şirket "1"\n'.encode(), b'{"a": 1}', [], AT),
        LogRecord(b"t", b"", [], AT),
        LogRecord(b"t", b"\x00\xff\n", [], AT),
        LogRecord(b"t", b"null", [], AT),
        LogRecord(b"t", b"{}", [], 0),
        LogRecord(b"t", b'{"a":1}\n', [], AT),
        LogRecord(b"t", b'{"a":\n1}', [], AT),
        LogRecord(b"t", b'{"body":"\\ud83d"}', [], AT),
        LogRecord(b"t", b'{"body":"caf\xe9"}', [], AT),
        LogRecord(b"t", b'{"a":NaN}', [], AT),
        LogRecord(b"t", b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}", [], AT),
        LogRecord(b"t", b'{ "spaces" : [ 1 , 2 ] }', [], AT),
        LogRecord(b"t", GRANT, [], AT),
        LogRecord(b"t", GRANT, [("msgmeter-purpose", b"command"), ("msgmeter-signature", b"0" * 64)], AT),
        LogRecord(b"t", MESSAGE, [("a", b"\xff"), ("b", b"2")], AT),
        LogRecord(b"t", MESSAGE, [("a", b"1"), ("a", b"2")], AT),
        LogRecord(b"t", MESSAGE, [("a", b"")], AT),
        LogRecord(b"t", GRANT, [], AT, is_plain_command=True),
        LogRecord(b"t", GRANT.replace(b'"5"', b'"}"'), [], AT, is_plain_command=True),
    ],
)
def test_record_survives_a_file(record: LogRecord, tmp_path: Path) -> None:
    for name in ("log.jsonl", "log.jsonl.gz"):
        assert write_log(tmp_path / name, [record, record]) == 2
        assert list(read_log(tmp_path / name)) == [record, record]


def test_line_has_one_end(tmp_path: Path) -> None:
    assert encode_line(LogRecord(b"t", b'{"a":"\n"}', [], AT)).count(b"\n") == 1


def test_equal_logs_are_equal_packed_files(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        write_log(tmp_path / name, [LogRecord(b"t", MESSAGE, [], AT)])
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    # The header's four bytes for a modification time.
    assert (tmp_path / "a.gz").read_bytes()[4:8] == bytes(4)
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == encode_line(LogRecord(b"t", MESSAGE, [], AT))


def test_dash_is_standard_input_and_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding="utf-8"))
    write_log("-", [LogRecord(b"t", MESSAGE, [], AT)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream.getvalue()), encoding="utf-8"))
    assert list(read_log("-")) == [LogRecord(b"t", MESSAGE, [], AT)]


def test_plain_message_is_keyed_by_its_tenant(tmp_path: Path) -> None:
    assert read(tmp_path, MESSAGE) == [LogRecord(b"t", MESSAGE, [], AT)]


def test_plain_message_keeps_its_bytes_with_received_at(tmp_path: Path) -> None:
    line = MESSAGE[:-1] + b', "received_at" : "2026-02-03T13:15:00+03:00"}'
    assert read(tmp_path, line) == [LogRecord(b"t", line, [], AT)]


def test_plain_command_is_told_by_its_type_and_loses_received_at(tmp_path: Path) -> None:
    line = GRANT[:-1] + b',"received_at":1770113799999}'
    assert read(tmp_path, line) == [LogRecord(b"t", GRANT, [], 1_770_113_799_999, is_plain_command=True)]


def test_type_of_a_message_makes_no_command(tmp_path: Path) -> None:
    (record,) = read(tmp_path, MESSAGE[:-1] + b',"type":"promotional"}')
    assert not record.is_plain_command


def test_command_in_a_wrapper_is_not_trusted(tmp_path: Path) -> None:
    (record,) = read(tmp_path, b'{"key":"t","value":' + GRANT + b"}")
    assert record == LogRecord(b"t", GRANT, [], AT)
    assert sign_plain(record, b"secret") is record


def test_plain_command_is_signed() -> None:
    signed = sign_plain(LogRecord(b"t", GRANT, [], AT, is_plain_command=True), b"secret")
    headers = dict(signed.headers)
    assert (signed.key, signed.value, signed.received_at, signed.is_plain_command) == (b"t", GRANT, AT, False)
    assert headers["msgmeter-purpose"] == b"command"
    assert is_signed(b"secret", "command", b"t", GRANT, headers["msgmeter-signature"])


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"\x00\xff",
        b"{",
        b"5",
        b"null",
        b"[1]",
        b"{}",
        b'{"id":"1"}',
        b'{"tenant":5,"id":"1"}',
        b'{"key":"t"}',
        b'{"key":5,"value":{}}',
        b'{"key":"t","value_base64":"***"}',
        b'{"key_base64":"*","value":{}}',
        b'{"key":"t","headers":{"a":5},"value":{}}',
        b'{"key":"t","headers_base64":[["a","*"]],"value":{}}',
        b'{"key":"t","received_at":"soon","value":{}}',
        b'{"key":"t","received_at":true,"value":{}}',
        b'{"key":"t","received_at":-1,"value":{}}',
        b'{"key":"t","value":{"a":"\\ud83d"}}',
        b'{"tenant":"caf\xe9"}',
        b"[" * 100_000,
    ],
)
def test_any_other_line_is_a_record_without_key(line: bytes, tmp_path: Path) -> None:
    (first, second) = read(tmp_path, line, MESSAGE)
    assert first == LogRecord(None, line, [], None)
    assert second.key == b"t"


def test_white_space_and_line_ends_are_no_records(tmp_path: Path) -> None:
    assert len(read(tmp_path, b"", MESSAGE + b"\r", b"  ", MESSAGE, b"")) == 2
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # The record's own latest instant, and never earlier than the line before.
        ([MESSAGE], [AT]),
        ([MESSAGE, MESSAGE.replace(b"17701", b"17700")], [AT, AT]),
        (
            [GRANT, GRANT.replace(b"1770113700000", b"1770200000000"), MESSAGE],
            [AT, AT + 86_300_000, AT + 86_300_000],
        ),
        ([b'{"key":"t","value":' + MESSAGE + b"}"], [AT]),
        ([b'{"key":"t","value":{}}'], [None]),
        ([b"hello", MESSAGE, b"hello"], [None, AT, AT]),
        # A stated one is taken as it is, and moves those after it that state none.
        ([b'{"key":"t","received_at":5,"value":' + MESSAGE + b"}"], [5]),
        ([b'{"key":"t","received_at":1770113800000,"value":{}}', MESSAGE], [AT + 100_000] * 2),
        ([MESSAGE, b'{"key":"t","received_at":5,"value":{}}', b"hello"], [AT, 5, AT]),
        # What is no instant does not count.
        ([MESSAGE.replace(b'"occurred_at":1770113600000', b'"occurred_at":"soon"')], [AT]),
        ([MESSAGE[:-1] + b',"received_at":"soon"}'], [AT]),
    ],
)
def test_received_at_is_stated_or_follows(
    lines: list[bytes], expected: list[int | None], tmp_path: Path
) -> None:
    assert [record.received_at for record in read(tmp_path, *lines)] == expected


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_log(path, [LogRecord(b"t", MESSAGE, [], AT)] * 100_000)
    records = read_log(path)
    next(records)
    path.write_bytes(b"")
    # Only what the buffer held is still there.
    assert sum(1 for _ in records) < 10_000
