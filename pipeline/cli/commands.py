"""`msgmeter plan set`, `grant` and `tick`: signed account commands, sent and answered.

Takes a tenant and what is to happen; writes one signed `command.v1` and prints its `result.v1`, or why it was
refused before anybody could read it as a command (`refusal.v1`: another key, for instance). Never changes
an account itself: the worker that owns the tenant does. Exits with 1 where the command was refused and with 3
where no answer came in time; the same command under the same `--id` is then safe to repeat, because an id has
its effect once.
"""

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import click
import msgspec
import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipeline.cli.refusal_meanings import explained
from pipeline.cli.traffic import INSTANT, now
from pipeline.core.amounts import parse_credits
from pipeline.core.partitions import partition_of
from pipeline.core.plans import Plan, compile_plan, decode_plan
from pipeline.core.records import decode_command
from pipeline.core.refusals import Refusal
from pipeline.data import load_plan, load_rate_cards, plan_names
from pipeline.errors import Permanent
from pipeline.logfile import LogRecord, sign_plain
from pipeline.sending import LogSender, no_broker
from pipeline.settings import Settings, load_settings
from pipeline.topics import ACCOUNT_RESULTS, MESSAGES_REFUSED

_NO_ANSWER = 3
_METADATA_SECONDS = 5.0

Command = Callable[..., None]


class ResultReader:
    """Reads what is answered to one tenant from now on; make it before the command is sent."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        """Raise Transient where no broker answers and Permanent where the topic does not exist."""
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka,
                # A group is never joined, but the client wants a name.
                "group.id": f"{settings.application}-command-line",
                "enable.auto.commit": False,
                "log_level": 2,
            }
        )
        try:
            self._consumer.assign(
                [self._end_of(name, tenant) for name in (ACCOUNT_RESULTS, MESSAGES_REFUSED)]
            )
        except KafkaException as error:
            raise no_broker(settings, error) from error

    def _end_of(self, name: str, tenant: str) -> TopicPartition:
        """Where the tenant's next record of a topic will be."""
        topic = self._consumer.list_topics(name, timeout=_METADATA_SECONDS).topics[name]
        if topic.error is not None or not topic.partitions:
            raise Permanent(f"Topic {name} does not exist: run `msgmeter migrate`")
        place = TopicPartition(name, partition_of(tenant.encode(), len(topic.partitions)))
        # The end as a number: "latest" would be looked up at the first fetch, after the answer perhaps.
        _, place.offset = self._consumer.get_watermark_offsets(place, timeout=_METADATA_SECONDS)
        return place

    def wait(self, command_id: str, tenant: str, deadline_seconds: float) -> dict[str, Any] | None:
        """Give the result or the refusal of a command, or None where neither comes in time."""
        end = monotonic() + deadline_seconds
        while (left := end - monotonic()) > 0:
            record = self._consumer.poll(min(left, 1.0))
            if record is None or record.error() is not None:
                continue
            answer: dict[str, Any] = orjson.loads(record.value())
            # A result names the command's id, a refusal just an id.
            if answer.get("command_id", answer.get("id")) == command_id and answer["tenant"] == tenant:
                return answer
        return None

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _command_options(command: Command) -> Command:
    """Add what all commands take: id, waiting and the form of the answer."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The result as one JSON object."),
        click.option("--wait-seconds", default=30.0, show_default=True, type=click.FloatRange(0)),
        click.option("--no-wait", is_flag=True, help="Return once the broker has the command."),
        click.option("--id", "command_id", help="The command's id; a new one by default."),
    ):
        command = option(command)
    return command


@click.group()
def plan() -> None:
    """Plans of tenants."""


@plan.command("set")
@click.argument("tenant")
@click.option("--preset", type=click.Choice(plan_names()), help="A plan that comes with msgmeter.")
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A plan as JSON."
)
@click.option("--allowance", metavar="CREDITS", help="Another allowance than the plan's.")
@click.option("--zone", help="Another IANA time zone than the plan's.")
@click.option("--effective-at", type=INSTANT, help="From when on; now by default.")
@_command_options
def plan_set(
    preset: str | None,
    path: Path | None,
    allowance: str | None,
    zone: str | None,
    effective_at: int | None,
    **common: Any,  # noqa: ANN401 - the common options
) -> None:
    """Put TENANT under a plan."""
    if (preset is None) == (path is None):
        raise click.UsageError("Give either --preset or --file")
    chosen = _read_plan(preset, path)
    changes = {"allowance_credits": allowance, "zone": zone}
    chosen = msgspec.structs.replace(
        chosen, **{name: text for name, text in changes.items() if text is not None}
    )
    try:
        # The worker judges again; this answer names the faults, and comes before anything is sent.
        compile_plan(chosen, load_rate_cards())
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _send("set_plan", {"effective_at": _at(effective_at), "plan": chosen}, **common)


@click.command()
@click.argument("tenant")
@click.argument("credits_text", metavar="CREDITS")
@click.option(
    "--kind",
    type=click.Choice(["purchase", "promotion", "adjustment"]),
    default="purchase",
    show_default=True,
)
@click.option("--effective-at", type=INSTANT, help="From when on; now by default.")
@click.option("--expires-at", type=INSTANT, help="When what is left is gone; never by default.")
@click.option(
    "--priority", type=click.IntRange(0, 1000), default=500, show_default=True, help="Lower burns first."
)
@_command_options
def grant(
    credits_text: str,
    kind: str,
    effective_at: int | None,
    expires_at: int | None,
    priority: int,
    **common: Any,  # noqa: ANN401 - the common options
) -> None:
    """Add CREDITS to the account of TENANT."""
    try:
        amount = parse_credits(credits_text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if amount <= 0:
        raise click.UsageError(f"{credits_text} is not above zero: a grant adds credits")
    fields = {
        "effective_at": _at(effective_at),
        "credits": credits_text,
        "kind": kind,
        "expires_at": expires_at,
        "priority": priority,
    }
    _send("grant", fields, **common)


@click.command()
@click.argument("tenant")
@click.option("--effective-at", type=INSTANT, help="Up to when; now by default.")
@_command_options
def tick(effective_at: int | None, **common: Any) -> None:  # noqa: ANN401 - the common options
    """Let time pass for TENANT: renewals and expiries that are due happen."""
    _send("tick", {"effective_at": _at(effective_at)}, **common)


def _read_plan(preset: str | None, path: Path | None) -> Plan:
    if path is None:
        return load_plan(preset or "")
    try:
        return decode_plan(path.read_bytes())
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


def _at(instant: int | None) -> int:
    return now() if instant is None else instant


def _send(
    command_type: str,
    fields: dict[str, Any],
    *,
    tenant: str,
    command_id: str | None,
    no_wait: bool,
    wait_seconds: float,
    as_json: bool,
) -> None:
    """Sign and send a command, and print what comes back."""
    settings = load_settings()
    command_id = command_id or str(uuid4())
    document = {"type": command_type, "id": command_id, "tenant": tenant, **fields}
    value = msgspec.json.encode(document)
    refusal = decode_command(value)
    if isinstance(refusal, Refusal):
        raise click.UsageError(f"This would be refused: {explained(refusal)} See schemas/command.v1.json")
    reader = None if no_wait else ResultReader(settings, tenant)
    try:
        _deliver(settings, LogRecord(tenant.encode(), value, is_plain_command=True))
        if reader is None:
            click.echo(orjson.dumps({"command_id": command_id}) if as_json else f"sent as {command_id}")
            return
        result = reader.wait(command_id, tenant, wait_seconds)
    finally:
        if reader is not None:
            reader.close()
    if result is None:
        click.echo(
            f"No answer in {wait_seconds:g} s. Is a worker running, with the same command key?\n"
            "The command is in the log and is carried out once. To see its result, repeat it with\n"
            f"--id {command_id} --effective-at {_rfc3339(fields['effective_at'])}",
            err=True,
        )
        sys.exit(_NO_ANSWER)
    _show(result, as_json=as_json)


def _rfc3339(at: int) -> str:
    """An instant exactly, as `--effective-at` reads it: another one would make it another command."""
    instant = datetime(1970, 1, 1) + timedelta(milliseconds=at)  # noqa: DTZ001 - UTC, said by the Z
    return f"{instant.isoformat(timespec='milliseconds')}Z"


def _deliver(settings: Settings, record: LogRecord) -> None:
    """Sign the command and wait until the broker has it."""
    sender = LogSender(settings)
    sender.send(sign_plain(record, settings.command_key.encode()))
    sender.flush()
    if sender.refused_count:
        raise Permanent(f"The broker did not take the command: {sender.errors[0]}")


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(result))
    elif result["reason"]:
        balance = f"\nbalance {result['balance']}" if "balance" in result else ""
        click.echo(
            f"{result.get('type', 'command')} for {result['tenant']} refused: {explained(result['reason'])}{balance}"
        )
    else:
        click.echo(f"{result['type']} for {result['tenant']} accepted, balance {result['balance']}")
    if result["reason"]:
        sys.exit(1)
