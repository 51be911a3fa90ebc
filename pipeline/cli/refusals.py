"""`msgmeter refusals`: who sends what is refused, and since when.

Takes a span of time and what to group by; gives counts, shares, first and last time and one record's place for each
group, from `messages.refused`. A record that was refused again by a replay counts once. Says no body and no number:
the place leads whoever may read `messages.raw` to the record. Changes nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import click
import orjson

from pipeline.cli.answers import Cell, output_option, show_csv, show_facts, show_json, show_table
from pipeline.cli.questions import rfc3339
from pipeline.cli.refusal_meanings import MEANINGS
from pipeline.cli.refused_documents import refused_messages
from pipeline.cli.traffic import INSTANT, now
from pipeline.core.eras import offset_of
from pipeline.core.refusals import Refusal
from pipeline.reading import TopicReader
from pipeline.settings import Settings, load_settings
from pipeline.topics import MESSAGES_RAW

_DIMENSIONS = ("reason", "tenant", "source", "partition")
_UNIT_MILLISECONDS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN = re.compile(r"([0-9]{1,6})([smhd])")

Key = tuple[Any, ...]
"""A group's values of what is grouped by."""


class _Since(click.ParamType):
    """An instant, or how long ago it was."""

    name = "since"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read `90s`, `15m`, `1h`, `2d` or an instant; fails with a sentence for the user."""
        if isinstance(value, int):
            return value
        span = _SPAN.fullmatch(str(value))
        if span:
            return max(0, now() - int(span[1]) * _UNIT_MILLISECONDS[span[2]])
        if str(value).isdecimal():
            self.fail(f"{value} of what? Write {value}s, {value}m, {value}h or {value}d", param, ctx)
        try:
            at: int = INSTANT.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message}, nor a span such as 90s, 15m, 1h or 2d", param, ctx)
        return at


class _By(click.ParamType):
    """What to group by."""

    name = "names"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read names between commas; fails with a sentence for the user."""
        if isinstance(value, tuple):
            return value
        names = tuple(str(value).split(","))
        if len(set(names)) < len(names) or not set(names) <= set(_DIMENSIONS):
            self.fail(f"{value!r} is not one or more of {','.join(_DIMENSIONS)}, each once", param, ctx)
        return names


@dataclass
class Group:
    """Refusals that have something in common."""

    count: int
    first_at: int
    last_at: int
    partition: int
    """Of the record refused last, in `messages.raw`, as `offset`, which is Kafka's."""
    offset: int


class Found(NamedTuple):
    """What was refused since an instant."""

    since_at: int
    until_at: int
    received_count: int
    """Records that came into the log meanwhile: some, as transactions leave marks that count."""
    foreign_count: int
    """What lies in the topic and is no refusal."""
    groups: Mapping[Key, Group]

    @property
    def refused_count(self) -> int:
        """Records."""
        return sum(group.count for group in self.groups.values())


@click.command()
@click.option(
    "--since", type=_Since(), default="1h", show_default=True, help="90s, 15m, 1h, 2d, or an instant."
)
@click.option(
    "--by",
    type=_By(),
    default="reason,source",
    show_default=True,
    help=f"What to group by: {', '.join(_DIMENSIONS)}; several with commas.",
)
@click.option(
    "--reason",
    type=click.Choice([reason.value for reason in Refusal]),
    help="Only what was refused for this reason.",
)
@click.option("--tenant", help="Only this tenant's records.")
@click.option("--source", help="Only this gateway's records.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many groups."
)
@output_option
def refusals(
    since: int, by: tuple[str, ...], tenant: str | None, limit: int, output: str, **kept: str | None
) -> None:
    """Show who sends what is refused, the most frequent first.

    The gateway (source) is known where the record, or its header of that name, says it; the tenant where the record
    does. EXAMPLE is the last such record's partition and offset in messages.raw.
    """
    found = _find(load_settings(), since, by, {**kept, "tenant": tenant})
    if found.foreign_count:
        click.echo(f"{found.foreign_count:,} records of messages.refused are no refusals", err=True)
    shown = sorted(found.groups.items(), key=lambda each: (-each[1].count, _sortable(each[0])))[:limit]
    if output == "json":
        show_json(_document(found, by, shown))
    elif output == "csv":
        show_csv((*by, *_COLUMNS), (_cells(key, group) for key, group in shown))
    else:
        _show(found, by, shown)


def _find(settings: Settings, since_at: int, by: Sequence[str], kept: Mapping[str, str | None]) -> Found:
    """Every refusal published since, counted once per record and reason."""
    until_at = now()
    with TopicReader(settings, MESSAGES_RAW) as reader:
        spans = [reader.bounds(number, since_at) for number in range(reader.partitions)]
    wanted = {name: value for name, value in kept.items() if value is not None}
    groups: dict[Key, Group] = {}
    seen: set[tuple[int, int, str]] = set()
    foreign_count = 0
    for message in refused_messages(settings, wanted.get("tenant"), since_at):
        try:
            document = orjson.loads(message.value() or b"")
            identity = (document["partition"], document["offset"], document["reason"])
            partition, offset = identity[0], offset_of(identity[1])
        except (ValueError, KeyError, TypeError):
            foreign_count += 1
            continue
        at = message.timestamp()[1]
        # Workers publish in no common order, so older ones may lie behind younger ones.
        is_wanted = at >= since_at and all(document.get(name) == value for name, value in wanted.items())
        if identity in seen or not is_wanted:
            continue
        seen.add(identity)
        key = tuple(document.get(name) for name in by)
        group = groups.get(key)
        if group is None:
            groups[key] = Group(1, at, at, partition, offset)
            continue
        group.count += 1
        group.first_at = min(group.first_at, at)
        if at >= group.last_at:
            group.last_at, group.partition, group.offset = at, partition, offset
    return Found(since_at, until_at, sum(end - start for start, end in spans), foreign_count, groups)


def _sortable(key: Key) -> tuple[tuple[bool, Any], ...]:
    """The key with what is not known behind what is."""
    return tuple((value is None, "" if value is None else value) for value in key)


def _show(found: Found, by: Sequence[str], shown: Sequence[tuple[Key, Group]]) -> None:
    """A line, a table, and what the reasons in it mean."""
    count = found.refused_count
    share = f", {_percent(count, found.received_count)} of some {found.received_count:,} that came in"
    click.echo(f"{count:,} refused since {rfc3339(found.since_at)}{share if count else ''}")
    if not count:
        return
    click.echo()
    rows: list[Sequence[Cell]] = [
        (
            *("unknown" if value is None else str(value) for value in key),
            group.count,
            _percent(group.count, count),
            rfc3339(group.first_at),
            rfc3339(group.last_at),
            f"partition {group.partition} offset {group.offset}",
        )
        for key, group in shown
    ]
    show_table((*by, "refused", "share", "first", "last", "example"), rows, amounts=frozenset())
    if len(shown) < len(found.groups):
        click.echo(f"\n{len(found.groups) - len(shown):,} more groups: --limit shows more")
    if "reason" in by:
        reasons = dict.fromkeys(key[by.index("reason")] for key, _ in shown)
        click.echo()
        show_facts({reason: _meaning(reason) for reason in reasons})


_COLUMNS = ("refused", "first_at", "last_at", "example_partition", "example_offset")


def _cells(key: Key, group: Group) -> tuple[Cell, ...]:
    return (
        *key,
        group.count,
        rfc3339(group.first_at),
        rfc3339(group.last_at),
        group.partition,
        group.offset,
    )


def _document(found: Found, by: Sequence[str], shown: Sequence[tuple[Key, Group]]) -> dict[str, Any]:
    return {
        "since": rfc3339(found.since_at),
        "until": rfc3339(found.until_at),
        "received": found.received_count,
        "refused": found.refused_count,
        "group_count": len(found.groups),
        "groups": [
            {
                **dict(zip(by, key, strict=True)),
                "refused": group.count,
                "share": round(group.count / found.refused_count, 4),
                "first_at": rfc3339(group.first_at),
                "last_at": rfc3339(group.last_at),
                "example": {"partition": group.partition, "offset": group.offset},
                **({"meaning": _meaning(key[by.index("reason")])} if "reason" in by else {}),
            }
            for key, group in shown
        ],
    }


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of else "all"


def _meaning(reason: str) -> str:
    """What a reason means; those of a newer worker are not known."""
    return MEANINGS[Refusal(reason)] if reason in [*Refusal] else "A reason of a newer release."
