"""`msgmeter retry`: takes records up again that were refused for a reason that may have passed.

Reads the positions in `messages.refused`, fetches the records themselves from `messages.raw`, and appends each
once more, signed as forwarded by us with where and when it arrived first: it is judged as if it came then. The
refusal stays on record. Doing this twice does no harm, since a message is charged once per identity; equal
records are sent once per run, so the refusals of a retry that came too early do not multiply.

Never judges a record itself: one that would be refused again is refused again. A record that retention has
removed, or that is not what the refusal describes, is counted and left alone.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import click
import msgspec
import orjson
from confluent_kafka import Message as KafkaMessage

from pipeline.cli.refused_documents import refused_messages
from pipeline.cli.traffic import progress_bar
from pipeline.core.admission import Origin
from pipeline.core.eras import offset_of
from pipeline.core.refusals import Refusal
from pipeline.core.signing import ORIGIN_HEADER, PURPOSE_HEADER, header, signed_headers
from pipeline.logfile import LogRecord
from pipeline.reading import Span, TopicReader
from pipeline.sending import LogSender
from pipeline.settings import Settings, load_settings
from pipeline.topics import MESSAGES_RAW

_RETRYABLE = [reason.value for reason in Refusal if reason.retryable]
_SEEK_RECORDS = 5_000
"""Reading over this many records is cheaper than a new fetch; further apart, the reader jumps."""
_PROGRESS_RECORDS = 100
_MARKS = 3
"""Headers of a forwarded record that are ours: purpose, origin and signature, always the last."""

Positions = Mapping[int, Mapping[int, str]]
"""By partition and offset: the digest of the record's value."""


@click.command()
@click.option("--tenant", help="Only this tenant's records.")
@click.option(
    "--reason",
    type=click.Choice(_RETRYABLE),
    default=_RETRYABLE[0],
    show_default=True,
    help="Why they were refused.",
)
@click.option("--dry-run", is_flag=True, help="Count, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Counts as one JSON object.")
def retry(tenant: str | None, reason: str, dry_run: bool, as_json: bool) -> None:
    """Send refused records again, once the reason has passed.

    After `account plan set` for a tenant that had none: the plan must be in force when the messages occurred, so
    give it an --effective-at before the first of them.
    """
    settings = load_settings()
    counts = Counter(dict.fromkeys(("refused", "sent", "gone", "refused_by_broker"), 0))
    positions = _refused_positions(settings, tenant, reason)
    counts["refused"] = sum(map(len, positions.values()))
    sender = LogSender(settings)
    secret = settings.command_key.encode()
    with progress_bar("taken up", counts["refused"]) as bar:
        for number, (message, digest) in enumerate(_raw_records(settings, positions, counts)):
            if bar is not None and number % _PROGRESS_RECORDS == 0:
                bar.update(bar.task_ids[0], completed=number)
            if blake2b(message.value() or b"", digest_size=16).hexdigest() != digest:
                counts["gone"] += 1
            elif not dry_run:
                sender.send(_forwarded(message, secret))
        sender.flush()
    counts["refused_by_broker"] = sender.refused_count
    counts["sent"] = sender.sent_count - sender.refused_count
    for text in sender.errors:
        click.echo(f"not taken: {text}", err=True)
    _show(counts, as_json=as_json)
    if sender.refused_count:
        sys.exit(1)


class _Refused(NamedTuple):
    """What of a refusal is needed."""

    partition: int
    offset: int
    digest: str


def _refused_positions(settings: Settings, tenant: str | None, reason: str) -> Positions:
    """Where the refused records are, each different value of a tenant once, at its first position."""
    first: dict[tuple[str, str], _Refused] = {}
    for message in refused_messages(settings, tenant):
        document = orjson.loads(message.value())
        if document["reason"] != reason or (tenant is not None and document["tenant"] != tenant):
            continue
        found = _Refused(document["partition"], offset_of(document["offset"]), document["digest"])
        key = (document["tenant"], found.digest)
        first[key] = min(first.get(key, found), found)
    positions: dict[int, dict[int, str]] = {}
    for refused in sorted(first.values()):
        positions.setdefault(refused.partition, {})[refused.offset] = refused.digest
    return positions


def _raw_records(
    settings: Settings, positions: Positions, counts: Counter[str]
) -> Iterator[tuple[KafkaMessage, str]]:
    """The records at these positions with their digests, in the order of each partition's log."""
    if not positions:
        return
    with TopicReader(settings, MESSAGES_RAW) as reader:
        stretches: dict[int, Iterator[Span]] = {}
        for number, digests in positions.items():
            low, high = reader.bounds(number)
            there = sorted(offset for offset in digests if low <= offset < high)
            counts["gone"] += len(digests) - len(there)
            stretches[number] = _stretches(there)
        # A stretch of every partition at once: asking for them one by one would wait for each.
        while spans := {number: span for number, left in stretches.items() if (span := next(left, None))}:
            for message in reader.read(spans):
                digest = positions[message.partition()].get(message.offset())
                if digest is not None:
                    yield message, digest


def _stretches(offsets: Sequence[int]) -> Iterator[Span]:
    """The spans [start, end) to be read in one go, so that all of the ascending `offsets` lie in one."""
    start = 0
    for index, offset in enumerate(offsets):
        if index + 1 == len(offsets) or offsets[index + 1] - offset > _SEEK_RECORDS:
            yield offsets[start], offset + 1
            start = index + 1


def _forwarded(message: KafkaMessage, secret: bytes) -> LogRecord:
    """The record as we forward it, with the position and time of its first arrival."""
    key, value = message.key() or b"", message.value() or b""
    headers = [(name, content or b"") for name, content in message.headers() or []]
    origin = header(headers, ORIGIN_HEADER)
    if origin and header(headers, PURPOSE_HEADER) == b"forwarded":
        # Forwarded before: what it was then is under those marks.
        headers = headers[:-_MARKS]
    else:
        place = Origin(message.timestamp()[1], message.partition(), message.offset())
        origin = msgspec.json.encode(place)
    return LogRecord(key, value, [*headers, *signed_headers(secret, "forwarded", key, value, origin)])


def _show(counts: Mapping[str, int], *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(counts))
        return
    for name, count in counts.items():
        click.echo(f"{count:>12,}  {_MEANINGS[name]}")


_MEANINGS = {
    "refused": "refused records found, equal ones counted once",
    "sent": "sent again",
    "gone": "no longer in the log",
    "refused_by_broker": "not taken by the broker",
}
