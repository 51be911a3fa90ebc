"""Whether anything of ours holds a message's body or a whole phone number: marks in the traffic, and a search for them.

`Marks.mark` puts a word into every body and email address and known numbers in the place of all others;
`marked_oddities` adds records that are refused for what they carry. `assert_nothing_leaked` then reads every topic but
`messages.raw`, every table, every log and what `/metrics` said, for the marks as they are, in base64, in hexadecimal,
as UTF-16 and, the numbers, as integers.
"""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import orjson
from confluent_kafka import Consumer, Message, TopicPartition

from pipeline.clickhouse.client import ask_whole, connect
from pipeline.logfile import LogRecord
from pipeline.topics import MESSAGES_RAW
from tests.builders import message

_NUMBER = re.compile(rb'(?<=")\+\d{7,15}(?=")')
_ADDRESS = re.compile(rb'(?<=")[\w.+-]+(?=@[\w.-]+")')
_BODY = re.compile(rb'"body":\s*"')
_COUNTRY_CODES = ("1415", "1212", "44770", "4915", "9053", "39061")
_SEGMENT_FILE = re.compile(r"\d+\.log")
"""What Kafka and RocksDB call their data."""


@dataclass(frozen=True)
class Marks:
    """What a run's traffic carries wherever nobody but the carrier may read it."""

    word: str
    """Stands in every body and before the @ of every address."""
    numbers: tuple[str, ...]
    """The only phone numbers there are: country code first, without a plus."""

    @classmethod
    def of(cls, random: Random) -> "Marks":
        """Marks no other run has."""
        return cls(
            f"Marked{random.randrange(36**6, 36**7):08x}Body",
            tuple(f"{code}{random.randrange(10**6, 10**7)}" for code in _COUNTRY_CODES),
        )

    def mark(self, record: LogRecord) -> LogRecord:
        """A gateway's record with marks; malformed ones too, as bytes. Ours, and those without content, stay."""
        if record.is_plain_command:
            return record
        value = _NUMBER.sub(lambda found: b"+" + self._in_place_of(found[0]), record.value)
        value = _ADDRESS.sub(self.word.encode(), value)
        value = _BODY.sub(lambda found: found[0] + self.word.encode() + b" ", value)
        return LogRecord(record.key, value, record.headers, record.received_at)

    def _in_place_of(self, number: bytes) -> bytes:
        return self.numbers[int(number) % len(self.numbers)].encode()

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """Finds any mark in any form."""
        texts = [self.word.encode(), *(number.encode() for number in self.numbers)]
        forms = {form for text in texts for form in _forms(text)}
        for number in self.numbers:
            forms |= {int(number).to_bytes(8, "big"), int(number).to_bytes(8, "little")}
        return re.compile(b"|".join(re.escape(form) for form in sorted(forms)))


def _forms(text: bytes) -> Iterator[bytes]:
    yield text
    yield text.decode().encode("utf-16-le")
    yield text.hex().encode()
    yield text.hex().upper().encode()
    for before in range(3):
        # In base64 three bytes are four characters: what surrounds the text decides where it begins in them.
        first, after = -(-before * 8 // 6), -(len(text) + before) % 3
        for encode in (b64encode, urlsafe_b64encode):
            encoded = encode(b"\0" * before + text + b"\0" * after)
            yield encoded[first : len(encoded) - (after + 1 if after else 0)]


def marked_oddities(marks: Marks, tenant: str, at: int) -> list[LogRecord]:
    """Records of a tenant that are refused, or answered, and carry marks where errors like to quote."""
    number, word = marks.numbers[0], marks.word
    wrong: dict[str, object] = {
        **dict.fromkeys(
            ("kind", "direction", "status", "country", "encoding", "segments", "recipients"), word
        ),
        "occurred_at": word,
        "status_at": f"2026-02-30T{number}",
        "to": int(number),
        "from": [f"+{number}"],
        "body": {word: word},
        "category": [word],
        "list": {"body": word},
        "media": word,
    }
    documents: list[dict[str, object]] = [
        message(
            f"odd-{name}",
            **{"tenant": tenant, "occurred_at": at, "to": f"+{number}", "body": word, name: value},
        )
        for name, value in wrong.items()
    ]
    values = [orjson.dumps(document) for document in documents]
    good = orjson.dumps(message("odd", tenant=tenant, occurred_at=at, to=f"+{number}", body=word))
    values += [
        good[:-1], good[:-1] + b"\xff}", good.replace(word.encode(), word.encode() + b"\\u0000"),
        good.replace(word.encode(), word.encode() + b"\\ud83d"), word.encode(), b'"' + word.encode() + b'"',
        good[:-1] + b',"extra":' + b"[" * 5_000 + b'"' + word.encode() + b'"' + b"]" * 5_000 + b"}",
        good[:-1] + b',"to":"+' + number.encode() + b'","to":5}', good.replace(word.encode(), word.encode() * 90_000),
    ]  # fmt: skip
    records = [LogRecord(tenant.encode(), value, [], at) for value in values]
    for name, text in (("trace", word), ("source", f"+{number}"), ("source", f"{word} {word}")):
        records.append(LogRecord(tenant.encode(), b"{", [(name, text.encode())], at))
    commands: tuple[dict[str, object], ...] = (
        {"type": "mark_contacts", "contacts": [f"+{each}" for each in marks.numbers], "state": "inactive"},
        {"type": "authorise", "kind": "sms", "body": word, "recipients": [f"+{number}"]},
        {"type": "authorise", "kind": word, "body": word, "recipients": [f"+{number}"]},
        {"type": "mark_contacts", "contacts": [word, f"+{number}"], "state": word},
    )
    for place, command in enumerate(commands):
        document = {"id": f"odd-{tenant}-{place}", "tenant": tenant, "effective_at": at, **command}
        records.append(
            LogRecord(tenant.encode(), orjson.dumps(document), [], at, is_plain_command=True),
        )
    return records


def assert_nothing_leaked(
    marks: Marks, *, kafka: str, clickhouse: str, directory: Path, metrics: Iterable[str] = ()
) -> None:
    """Fail with the place of every mark found; its surroundings are not shown.

    `kafka` are bootstrap servers, `clickhouse` the database's URL, `directory` holds the logs at any depth, and
    `metrics` is what workers served.
    """
    found = [
        *_found_in_topics(marks, kafka),
        *_found_in_tables(marks, clickhouse),
        *_found_in_logs(marks, directory),
        *(f"metrics {place}" for place, text in enumerate(metrics) if marks.pattern.search(text.encode())),
    ]
    text = "\n".join(found[:20])
    assert not found, f"{len(found)} places hold a body or a number, such as\n{text}"


def _found_in_topics(marks: Marks, kafka: str) -> Iterator[str]:
    is_marked = False
    for record in _records(kafka):
        parts = [("key", record.key()), ("value", record.value())]
        parts += [(f"header {name}", value) for name, value in record.headers() or ()]
        for part, content in parts:
            if content is None or not marks.pattern.search(content):
                continue
            if record.topic() == MESSAGES_RAW:
                is_marked = True
            else:
                yield f"topic {record.topic()}, partition {record.partition()}, {record.offset()}: {part}"
    assert is_marked, f"the traffic in {MESSAGES_RAW} carries no marks: nothing is shown by not finding them"


def _records(kafka: str) -> Iterator[Message]:
    """Every record of every topic but Kafka's own."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "leaks",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = [
        TopicPartition(name, number, 0)
        for name, topic in consumer.list_topics(timeout=30).topics.items()
        for number in topic.partitions
        if not name.startswith("__")
    ]
    consumer.assign(partitions)
    ended = 0
    while ended < len(partitions):
        for record in consumer.consume(5_000, 1.0):
            if record.error():
                ended += 1
            else:
                yield record
    consumer.close()


def _found_in_tables(marks: Marks, clickhouse: str) -> Iterator[str]:
    client = connect(clickhouse)
    tables = ask_whole(client, "SELECT name FROM system.tables WHERE database = currentDatabase()")
    assert tables, "there are no tables"
    for (table,) in tables:
        columns = ask_whole(
            client,
            "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String}",
            parameters={"table": table},
        )
        for (column,) in columns:
            # The bytes as they are stored: text as it is, numbers little-endian, maps and all.
            content = client.raw_query(f"SELECT `{column}` FROM `{table}` FORMAT RowBinary")
            if hit := marks.pattern.search(content):
                yield f"table {table}, column {column}, byte {hit.start()}"
    client.close()


def _found_in_logs(marks: Marks, directory: Path) -> Iterator[str]:
    logs = [path for path in directory.rglob("*.log") if not _SEGMENT_FILE.fullmatch(path.name)]
    assert logs, f"there are no logs below {directory}"
    for path in logs:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if marks.pattern.search(line):
                    yield f"{path.relative_to(directory)}, line {number}"
