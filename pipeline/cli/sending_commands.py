"""How account commands leave the command line: signed, sent, and waited for until they are answered.

Takes a command's type and fields; writes signed `command.v1` records and gives each one's `result.v1`, or why it
was refused before anybody could read it as a command (`refusal.v1`: another key, for instance). Never changes an
account itself: the worker that owns the tenant does. Exits with 1 where a command was refused and with 3 where no
answer came in time; the same command under the same `--id` and at the same instant is then safe to repeat, because
an id has its effect once.
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from time import monotonic
from typing import Any
from uuid import uuid4

import click
import msgspec
import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipeline.access import COMMAND_LINE_GROUP
from pipeline.cli.answers import grouped, show_facts
from pipeline.cli.refusal_meanings import explained
from pipeline.cli.traffic import INSTANT, now
from pipeline.core.partitions import partition_of
from pipeline.core.records import decode_command
from pipeline.core.refusals import Refusal
from pipeline.errors import Permanent
from pipeline.kafka_clients import METADATA_SECONDS, Connection
from pipeline.logfile import LogRecord, sign_plain
from pipeline.sending import LogSender
from pipeline.settings import Settings, load_settings
from pipeline.topics import ACCOUNT_RESULTS, MESSAGES_REFUSED

_NO_ANSWER = 3
_AMOUNTS = frozenset({"available", "held", "unassigned"})
_INSTANTS = frozenset({"expires_at", "next_at"})

Answer = dict[str, Any]
"""A result or a refusal as it stands in its topic."""
Fields = dict[str, Any]
"""What a command has besides type, id, tenant and instant."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every command has besides its own fields, and how its answer is waited for."""

    tenant: str
    id: str
    effective_at: int
    wait_seconds: float | None
    """None to wait for the broker only."""
    as_json: bool
    is_id_new: bool
    """The caller chose none."""
    is_instant_new: bool
    """The caller chose the id, but took the clock's instant: a repetition would need to name it."""

    @property
    def repetition(self) -> str:
        """The options that make the same command again."""
        return f"--id {self.id} --effective-at {exact_rfc3339(self.effective_at)}"


class ResultReader:
    """Reads what is answered to one tenant from now on; make it before the command is sent."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        """Raise Transient where no broker answers, Permanent where it refuses us or has no such topic."""
        self._tenant = tenant
        self._connection = Connection(settings)
        self._consumer = Consumer(
            {
                **self._connection.configuration(),
                # A group is never joined, but the client wants a name.
                "group.id": COMMAND_LINE_GROUP,
                "enable.auto.commit": False,
            }
        )
        try:
            self._consumer.assign([self._end_of(name) for name in (ACCOUNT_RESULTS, MESSAGES_REFUSED)])
        except KafkaException as error:
            raise self._connection.error(error) from error

    def _end_of(self, name: str) -> TopicPartition:
        """Where the tenant's next record of a topic will be."""
        partitions = self._connection.topic_partitions(self._consumer, name)
        place = TopicPartition(name, partition_of(self._tenant.encode(), partitions))
        # The end as a number: "latest" would be looked up at the first fetch, after the answer perhaps.
        _, place.offset = self._consumer.get_watermark_offsets(place, timeout=METADATA_SECONDS)
        return place

    def wait(self, command_ids: Collection[str], deadline_seconds: float) -> dict[str, Answer]:
        """Give the answers by the commands' ids; without those that do not come in time."""
        end = monotonic() + deadline_seconds
        answers: dict[str, Answer] = {}
        while len(answers) < len(command_ids) and (left := end - monotonic()) > 0:
            record = self._consumer.poll(min(left, 1.0))
            if record is None or record.error() is not None:
                continue
            answer: Answer = orjson.loads(record.value())
            # A result names the command's id, a refusal just an id.
            command_id = str(answer.get("command_id", answer.get("id")))
            if command_id in command_ids and answer["tenant"] == self._tenant:
                answers[command_id] = answer
        return answers

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def enveloped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a click command its `tenant` argument, and the options that all commands take, as one `Envelope`."""

    @wraps(command)
    def call(
        tenant: str,
        command_id: str | None,
        effective_at: int | None,
        no_wait: bool,
        wait_seconds: float,
        as_json: bool,
        **own: Any,  # noqa: ANN401 - the command's own arguments
    ) -> None:
        envelope = Envelope(
            tenant=tenant,
            id=command_id or str(uuid4()),
            effective_at=now() if effective_at is None else effective_at,
            wait_seconds=None if no_wait else wait_seconds,
            as_json=as_json,
            is_id_new=command_id is None,
            is_instant_new=command_id is not None and effective_at is None,
        )
        command(envelope, **own)

    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="The result as one JSON object."),
        click.option("--wait-seconds", default=30.0, show_default=True, type=click.FloatRange(0)),
        click.option("--no-wait", is_flag=True, help="Return once the broker has the command."),
        click.option("--effective-at", type=INSTANT, help="From when on; now by default."),
        click.option("--id", "command_id", help="The command's id; a new one by default."),
    ):
        call = decorate(call)
    return call


def carry_out(
    envelope: Envelope, command_type: str, fields: Fields, facts: Mapping[str, str] | None = None
) -> None:
    """Send one command, print what comes back, and end with exit code 1 where it was refused.

    `facts` are told to people with an acceptance, before what the result says.
    """
    show(envelope, send(envelope, command_type, [fields]), facts)


def send(envelope: Envelope, command_type: str, parts: Sequence[Fields]) -> list[Answer]:
    """Sign and send one command for each part, and give their answers, in that order.

    Several have the envelope's id with their number behind it. Ends the process where nothing is waited for (0),
    where an answer does not come (3) and where a command would be refused as unreadable (2).
    """
    ids = [envelope.id] if len(parts) == 1 else [f"{envelope.id}-{n}" for n in range(1, len(parts) + 1)]
    common = {"tenant": envelope.tenant, "effective_at": envelope.effective_at}
    records = [
        _record(envelope.tenant, {"type": command_type, "id": each, **common, **fields})
        for each, fields in zip(ids, parts, strict=True)
    ]
    settings = load_settings()
    if envelope.wait_seconds is None:
        _deliver(settings, records)
        for each in ids:
            click.echo(orjson.dumps({"command_id": each}) if envelope.as_json else f"sent as {each}")
        raise click.exceptions.Exit(0)
    reader = ResultReader(settings, envelope.tenant)
    try:
        _deliver(settings, records)
        answers = reader.wait(frozenset(ids), envelope.wait_seconds)
    finally:
        reader.close()
    if len(answers) < len(ids):
        _say_unanswered(envelope, len(answers), len(ids))
    return [answers[each] for each in ids]


def show(envelope: Envelope, answers: Sequence[Answer], facts: Mapping[str, str] | None = None) -> None:
    """Print answers, and end with exit code 1 where one is a refusal."""
    for answer in answers:
        if envelope.as_json:
            click.echo(orjson.dumps(answer))
        elif answer["reason"]:
            _show_refusal(answer)
        else:
            balance = grouped(answer["balance"])
            click.echo(f"{answer['type']} for {answer['tenant']} accepted, balance {balance}")
            if said := {**(facts or {}), **_facts(answer.get("details", {}))}:
                show_facts(said)
    if any(answer["reason"] for answer in answers):
        sys.exit(1)
    if envelope.is_instant_new:
        click.echo(f"To repeat it exactly: {envelope.repetition}", err=True)


def exact_rfc3339(at: int) -> str:
    """An instant exactly, as `--effective-at` reads it: another one would make it another command."""
    instant = datetime(1970, 1, 1) + timedelta(milliseconds=at)  # noqa: DTZ001 - UTC, said by the Z
    return f"{instant.isoformat(timespec='milliseconds')}Z"


def _record(tenant: str, document: dict[str, Any]) -> LogRecord:
    """The command as a plain record; ends with a sentence where no worker could read it."""
    value = msgspec.json.encode(document)
    refusal = decode_command(value)
    if isinstance(refusal, Refusal):
        raise click.UsageError(f"This would be refused: {explained(refusal)} See schemas/command.v1.json")
    return LogRecord(tenant.encode(), value, is_plain_command=True)


def _deliver(settings: Settings, records: Sequence[LogRecord]) -> None:
    """Sign the commands and wait until the broker has them."""
    sender = LogSender(settings)
    for record in records:
        sender.send(sign_plain(record, settings.command_key.encode()))
    sender.flush()
    if sender.refused_count:
        raise Permanent(f"The broker did not take the command: {sender.errors[0]}")


def _say_unanswered(envelope: Envelope, answered: int, sent: int) -> None:
    count = f" to {sent - answered} of {sent} commands" if sent > 1 else ""
    click.echo(
        f"No answer{count} in {envelope.wait_seconds:g} s. Is a worker running, with the same command key?\n"
        "The command is in the log and is carried out once. To see its result, repeat it with\n"
        f"{envelope.repetition}",
        err=True,
    )
    sys.exit(_NO_ANSWER)


def _show_refusal(answer: Answer) -> None:
    reason = answer["reason"]
    click.echo(f"{answer.get('type', 'command')} for {answer['tenant']} refused: {explained(reason)}")
    if reason == Refusal.COMMAND_CONFLICT:
        click.echo("To repeat a command, give the --effective-at of its first time as well as its --id.")
    if "balance" in answer:
        click.echo(f"balance {grouped(answer['balance'])}")


def _facts(details: dict[str, Any]) -> dict[str, str]:
    """What a result says besides its outcome, for people."""
    return {name.replace("_", " "): _shown(name, value) for name, value in details.items()}


def _shown(name: str, value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    if name in _INSTANTS:
        return "never" if value is None else exact_rfc3339(value)
    return grouped(value) if name in _AMOUNTS else str(value)
