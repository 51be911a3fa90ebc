"""What `msgmeter reconcile` found, as tables for people and as JSON for programs.

Takes tallies; writes how many rows each side has and how many differ, then the differing tenants and days with both
sums, then the rows themselves. Credits are exact decimals, instants RFC 3339 in UTC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from pipeline.cli.answers import Cell, console, grouped, show_facts, show_json, show_table
from pipeline.cli.questions import date_of, rfc3339
from pipeline.cli.reconcile_hints import setting_hints
from pipeline.cli.reconcile_log import LogReport
from pipeline.cli.reconcile_stored import StoredReport
from pipeline.cli.visible import visible_text
from pipeline.core.amounts import format_credits
from pipeline.core.outcomes import Document
from pipeline.core.reconciliation import ACCOUNTS, ENTRIES, FACTS, Difference, Key, Part, Tally

_INSTANTS = frozenset({"period_start", "period_end", "window_start"})
_BRIEF = {
    FACTS: ("status", *FACTS.summed, "kafka_partition", "kafka_offset"),
    ACCOUNTS: ("plan", *ACCOUNTS.summed),
    ENTRIES: ("kind", "grant_id", "amount_micros", "posted_at"),
}
_SIDES = frozenset({"one side", "the other"})
_TABLE_COLUMNS = 120
"""In a narrower terminal a row that differs is a block of its own, as two sides do not fit beside its names."""
_SIDE_COLUMNS = 30
"""What each side needs at least."""


@dataclass
class Report:
    """Everything that was found."""

    tallies: Sequence[Tally]
    log: LogReport | None
    """None where the log was left out."""
    stored: StoredReport

    @property
    def differing(self) -> int:
        """Rows that differ, of all parts."""
        return sum(tally.differing for tally in self.tallies)

    @property
    def is_incomplete(self) -> bool:
        """Whether something that was asked for could not be compared."""
        log = self.log
        return log is not None and bool(log.gone_partitions or log.gone_topics)


def show(report: Report, *, as_json: bool, limit: int) -> None:
    """Write the report; of tenants and days, and of rows, at most `limit` of each part."""
    if as_json:
        show_json(_document(report, limit))
        return
    rows: list[tuple[Cell, ...]] = [
        (tally.part.name, " and ".join(tally.part.sides), tally.one_rows, tally.other_rows, tally.differing)
        for tally in report.tallies
    ]
    show_table(("compared", "between", "rows", "rows there", "differ"), rows, amounts=frozenset())
    click.echo()
    show_facts(_facts(report))
    days = [row for tally in report.tallies for row in _days(tally)[:limit]]
    if days:
        click.echo()
        _show_differing(
            ("differs", "tenant", "day", "rows", "one side", "the other"),
            [
                (
                    each["part"],
                    each["tenant"],
                    each["day"] or "",
                    each["rows"],
                    _words(each, 0),
                    _words(each, 1),
                )
                for each in days
            ],
        )
    differences = [each for tally in report.tallies for each in tally.differences]
    if differences:
        click.echo()
        _show_differing(
            ("row of", "tenant", "day", "which", "one side", "the other"),
            [_row(each) for each in differences],
        )
        if report.differing > len(differences):
            click.echo(
                f"{report.differing - len(differences):,} more rows differ; --limit shows more of each part"
            )
    if days:
        # Again, where the eye is after hundreds of lines.
        for name, hint in setting_hints(report.tallies).items():
            click.echo(f"\n{name} {hint}")


def _show_differing(columns: tuple[str, ...], rows: Sequence[tuple[Cell, ...]]) -> None:
    """Write rows whose last two cells are the sides; names are never broken, only sides are."""
    width = console().width
    named = len(columns) - len(_SIDES)
    names = sum(max(len(str(row[column])) for row in rows) + 2 for column in range(named))
    if width >= max(_TABLE_COLUMNS, names + len(_SIDES) * _SIDE_COLUMNS):
        show_table(columns, rows, amounts=frozenset(), folded=_SIDES)
        return
    click.echo(", ".join(columns[:named]))
    for row in rows:
        click.echo(visible_text("  ".join(str(cell) for cell in row[:named] if cell != "")))
        for side in row[named:]:
            click.echo(f"  {visible_text(str(side))}")


def _facts(report: Report) -> dict[str, str]:
    facts = {} if report.log is None else _log_facts(report.log)
    if report.stored.moving_count:
        facts["moving"] = (
            f"{report.stored.moving_count:,} rows were being stored by a checkpoint, and not compared"
        )
    if report.stored.unknown_count:
        tenants = _counted(report.stored.unknown_count, "tenant")
        facts["no account yet"] = f"{tenants}, not compared within ClickHouse"
    facts |= setting_hints(report.tallies)
    if report.differing:
        facts["verdict"] = f"{_counted(report.differing, 'row')} differ{'s' if report.differing == 1 else ''}"
    else:
        facts["verdict"] = "what could be compared agrees" if report.is_incomplete else "all agrees"
    return facts


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _log_facts(log: LogReport) -> dict[str, str]:
    facts = {"log": f"{log.record_count:,} records compared, {log.not_yet_count:,} not stored yet"}
    if log.ahead_count:
        facts["stored ahead"] = f"{log.ahead_count:,} rows not committed yet, compared at their own offsets"
    if log.unstorable_count:
        facts["unstorable"] = (
            f"{log.unstorable_count:,} facts that ClickHouse did not take, as their refusals say"
        )
    if log.foreign_count:
        facts["foreign"] = f"{log.foreign_count:,} records in our topics are no documents of ours"
    if log.gone_partitions:
        numbers = ", ".join(map(str, log.gone_partitions))
        facts["not compared"] = (
            f"partitions {numbers} of messages.raw: their beginning is gone, or they end before what is committed"
        )
    if log.gone_topics:
        facts["not compared either"] = f"the beginning of {', '.join(log.gone_topics)} is gone"
    return facts


def _days(tally: Tally) -> list[Document]:
    """The differing tenants and days with both sums, by tenant and day."""
    part = tally.part
    return [
        {
            "part": part.name,
            "tenant": tenant,
            "day": None if day is None else str(date_of(day)),
            "rows": sums.differing,
            part.sides[0]: _named(dict(zip(part.summed, sums.one, strict=True))),
            part.sides[1]: _named(dict(zip(part.summed, sums.other, strict=True))),
        }
        for (tenant, day), sums in sorted(
            tally.by_day.items(), key=lambda each: (each[0][0], each[0][1] or 0)
        )
        if sums.differing
    ]


def _row(difference: Difference) -> tuple[Cell, ...]:
    one, other = _sides(difference)
    day = "" if difference.day is None else str(date_of(difference.day))
    part = difference.part
    which = difference.about or " ".join(_key_words(part, difference.key))
    if one is None or other is None:
        one, other = (side and _brief(part, side) for side in (one, other))
    return part.name, difference.key[0], day, which, _side_words(part, 0, one), _side_words(part, 1, other)


def _brief(part: Part, values: Document) -> Document:
    """What a person needs of a row that the other side lacks; JSON has all of it."""
    names = [name.removesuffix("_micros") for name in _BRIEF.get(part, part.fields)]
    return {name: values[name] for name in names if name in values}


def _sides(difference: Difference) -> tuple[Document | None, Document | None]:
    """Both sides' differing values; of a mapping only what differs in it."""
    one, other = difference.one, difference.other
    mine, theirs = dict(one or {}), dict(other or {})
    for name in mine.keys() & theirs.keys():
        if isinstance(mine[name], Mapping) and isinstance(theirs[name], Mapping):
            both = mine[name].keys() | theirs[name].keys()
            differing = [key for key in both if mine[name].get(key) != theirs[name].get(key)]
            mine[name], theirs[name] = (
                {key: side[name][key] for key in differing if key in side[name]} for side in (mine, theirs)
            )
    return None if one is None else _named(mine), None if other is None else _named(theirs)


def _named(values: Mapping[str, Any]) -> Document:
    """Values under the names and in the form people read."""
    return {name.removesuffix("_micros"): _shown(name, value) for name, value in values.items()}


def _shown(name: str, value: Any) -> Any:  # noqa: ANN401 - a value of any column
    if isinstance(value, Mapping):
        return {key: format_credits(micros) for key, micros in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, str):
        return value
    if name.endswith("_micros"):
        return format_credits(value)
    if name.endswith("_at") or name in _INSTANTS:
        return rfc3339(value)
    return str(date_of(value)) if name == "local_date" else value


def _words(day: Document, side: int) -> str:
    name = list(day)[-2 + side]
    return f"{name}: {_listed(day[name])}" if day[name] else name


def _side_words(part: Part, side: int, values: Document | None) -> str:
    return f"{part.sides[side]}: {'nothing' if values is None else _listed(values)}"


def _listed(values: Document) -> str:
    return ", ".join(f"{name} {_worded(value)}" for name, value in values.items())


def _worded(value: Any) -> str:  # noqa: ANN401 - a shown value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {amount}" for key, amount in value.items()) + "}"
    return grouped(str(value)) if isinstance(value, int) else str(value)


def _key_words(part: Part, key: Key) -> list[str]:
    """A row's key without its tenant; a window's start as an instant."""
    words = list(key[1:])
    if part.at == "window_start" and part.name != "entries":
        words[0] = rfc3339(words[0])
    return [str(word) for word in words if word != ""]


def _document(report: Report, limit: int) -> Document:
    log = report.log
    return {
        "agrees": not report.differing,
        "complete": not report.is_incomplete,
        "log": None
        if log is None
        else {
            "records_compared": log.record_count,
            "records_not_stored_yet": log.not_yet_count,
            "rows_stored_ahead": log.ahead_count,
            "rows_unstorable": log.unstorable_count,
            "records_foreign": log.foreign_count,
            "partitions_gone": log.gone_partitions,
            "topics_gone": log.gone_topics,
        },
        "rows_moving": report.stored.moving_count,
        "tenants_without_account": report.stored.unknown_count,
        "parts": [_part_document(tally, limit) for tally in report.tallies],
    }


def _part_document(tally: Tally, limit: int) -> Document:
    part = tally.part
    return {
        "part": part.name,
        "rows": dict(zip(part.sides, (tally.one_rows, tally.other_rows), strict=True)),
        "differing": tally.differing,
        "days": [{key: value for key, value in day.items() if key != "part"} for day in _days(tally)[:limit]],
        "differences": [_difference_document(each) for each in tally.differences],
    }


def _difference_document(difference: Difference) -> Document:
    one, other = _sides(difference)
    part = difference.part
    return {
        "tenant": difference.key[0],
        "day": None if difference.day is None else str(date_of(difference.day)),
        "which": difference.about or " ".join(_key_words(part, difference.key)),
        part.sides[0]: one,
        part.sides[1]: other,
    }
