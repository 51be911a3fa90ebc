"""`msgmeter trace`: what became of a command, from its record in the log to the entries that it caused.

Takes a tenant and a command's id; gives where its record is, what it was answered, its entries in the ledger, and what
the worker's log says of it. All have the id, which whoever sends a command chooses, so one id finds everything. Exits
with 1 where nothing is known of it. Never writes.

An answer is looked for from the newest on, in the tenant's partition as it is now: one from before
`msgmeter repartition` may lie in another.
"""

import sys
from collections.abc import Callable
from typing import Any

import click
import orjson

from pipeline.cli.answers import grouped, show_facts, show_json, show_table
from pipeline.cli.refusal_meanings import explained
from pipeline.cli.sending_commands import exact_rfc3339
from pipeline.cli.wording import money_words
from pipeline.clickhouse.queries import LedgerEntry, entries_of_command
from pipeline.clickhouse_clients import connect_clickhouse
from pipeline.core.amounts import format_credits
from pipeline.core.eras import offset_of
from pipeline.core.partitions import partition_of
from pipeline.reading import TopicReader
from pipeline.settings import Settings, load_settings
from pipeline.topics import ACCOUNT_RESULTS, MESSAGES_RAW, MESSAGES_REFUSED

_SLICE_RECORDS = 20_000
"""Read at once, from the newest on: most who ask do so soon."""
_AMOUNTS = frozenset({"credits"})

Answer = dict[str, Any]
"""A `result.v1`, or the `refusal.v1` of what no worker could read as a command."""


@click.command()
@click.argument("command_id", metavar="ID")
@click.option("--tenant", required=True, help="Whose account the command is for.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def trace(command_id: str, tenant: str, output: str) -> None:
    """Follow the command of an ID: its record, its answer, its entries, and its line in the worker's log.

    Messages have `msgmeter messages TENANT --id ID`.
    """
    settings = load_settings()
    client = connect_clickhouse(settings)
    entries = entries_of_command(client, tenant, command_id)
    answer = _answer(settings, tenant, command_id)
    if answer is None and not entries:
        click.echo(
            f"msgmeter: nothing is known of a command {command_id!r} of tenant {tenant!r}: it is not answered yet, or"
            " was answered more than 30 days ago, or was signed with another key (`msgmeter refusals`)",
            err=True,
        )
        sys.exit(1)
    received_at = None if answer is None else _received_at(settings, answer)
    if output == "json":
        show_json(_document(command_id, tenant, answer, received_at, entries))
    else:
        _show(command_id, tenant, answer, received_at, entries)


def _answer(settings: Settings, tenant: str, command_id: str) -> Answer | None:
    """The newest answer; a refusal where no worker could read the record as a command of this tenant."""
    result = _newest(
        settings,
        ACCOUNT_RESULTS,
        tenant,
        lambda each: each["command_id"] == command_id and each["tenant"] == tenant,
    )
    if result is not None:
        return result
    return _newest(
        settings,
        MESSAGES_REFUSED,
        tenant,
        lambda each: each["id"] == command_id and each["tenant"] == tenant,
    )


def _newest(
    settings: Settings, topic: str, tenant: str, is_wanted: Callable[[Answer], bool]
) -> Answer | None:
    with TopicReader(settings, topic) as reader:
        number = partition_of(tenant.encode(), reader.partitions)
        first, end = reader.bounds(number)
        while end > first:
            start = max(first, end - _SLICE_RECORDS)
            read = (orjson.loads(message.value()) for message in reader.read({number: (start, end)}))
            found: list[Answer] = [document for document in read if is_wanted(document)]
            if found:
                return found[-1]
            end = start
    return None


def _received_at(settings: Settings, answer: Answer) -> int | None:
    """When the record was appended that was answered; None where the log no longer has it."""
    number, offset = answer["partition"], offset_of(answer["offset"])
    with TopicReader(settings, MESSAGES_RAW) as reader:
        first, end = reader.bounds(number)
        if not first <= offset < end:
            return None
        return next((message.timestamp()[1] for message in reader.read({number: (offset, offset + 1)})), None)


def _document(
    command_id: str, tenant: str, answer: Answer | None, received_at: int | None, entries: list[LedgerEntry]
) -> dict[str, object]:
    return {
        "command_id": command_id,
        "tenant": tenant,
        "received_at": received_at,
        "answer": answer,
        "entries": [
            {
                "entry_id": each.entry_id,
                "kind": each.kind,
                "grant_id": each.grant_id,
                "credits": format_credits(each.amount_micros),
                "money": format_credits(each.money_micros),
                "currency": each.currency,
                "effective_at": each.effective_at,
                "posted_at": each.posted_at,
            }
            for each in entries
        ],
    }


def _show(
    command_id: str, tenant: str, answer: Answer | None, received_at: int | None, entries: list[LedgerEntry]
) -> None:
    facts = {"command": f"{command_id} of tenant {tenant}"}
    if answer is None:
        facts["answer"] = "no longer kept"
    else:
        facts |= {
            "record": f"partition {answer['partition']}, position {answer['offset']} of {MESSAGES_RAW}",
            "received": "no longer in the log" if received_at is None else exact_rfc3339(received_at),
            "answer": _answered(answer),
            "in the log": _log_line(command_id, tenant, answer),
        }
        if "effective_at" in answer:
            facts["effective"] = exact_rfc3339(answer["effective_at"])
    facts["entries"] = str(len(entries)) if entries else "none"
    show_facts(facts)
    if entries:
        click.echo()
        show_table(
            _COLUMNS, [_cells(each) for each in entries], amounts=_AMOUNTS, folded=frozenset({"entry"})
        )


def _answered(answer: Answer) -> str:
    if "outcome" not in answer:
        return f"refused: {explained(answer['reason'])}"
    if answer["reason"]:
        return f"{answer['type']} refused: {explained(answer['reason'])}"
    return f"{answer['type']} accepted, balance {grouped(answer['balance'])}"


def _log_line(command_id: str, tenant: str, answer: Answer) -> str:
    """What `pipeline.stream.log_lines` wrote, or will have."""
    if "outcome" not in answer:
        return "nothing of one that is refused as unreadable"
    level = ", at MSGMETER_LOG_LEVEL=debug" if answer["type"] == "tick" else ""
    return f"command {command_id!r} of tenant {tenant!r} answered {answer['outcome']}{level}"


_COLUMNS = ("entry", "kind", "credits", "money", "effective", "posted")


def _cells(entry: LedgerEntry) -> list[str]:
    money = money_words(format_credits(entry.money_micros), entry.currency) if entry.currency else ""
    return [
        entry.entry_id,
        entry.kind,
        format_credits(entry.amount_micros),
        money,
        exact_rfc3339(entry.effective_at),
        exact_rfc3339(entry.posted_at),
    ]
