"""A statement as people read it in a terminal: its sums, what was used, what became of each grant, and the lines.

Takes a statement and what it is of; writes to standard output, as wide as a terminal of 100 columns. Sections and
columns that came to nothing are left out. Never computes a balance: it shows those of the statement.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from pipeline.cli.answers import Cell, grouped, show_table
from pipeline.cli.questions import clock_time, date_of
from pipeline.cli.wording import LINE_WORDS, grant_words, money_words
from pipeline.core.account import UNCOVERED
from pipeline.core.amounts import format_credits
from pipeline.core.statement import SECTION_BY_KIND, SECTIONS, Line, Statement, UsageSum

_COUNTRIES_SHOWN = 10
_AMOUNTS = frozenset({"credits", "refunded"})


def show_statement(
    head: dict[str, Any], made: Statement, used: Sequence[UsageSum], zone: str, *, is_by_entry: bool
) -> None:
    """Write the whole statement, with times of day where its lines are entries and not days."""
    whose = f"{head['tenant']} of {head['organization']}" if head["organization"] else head["tenant"]
    click.echo(f"Statement of {whose}, plan {head['plan'] or 'none'}")
    until = f"{head['to']}, open, as of {head['as_of']}" if head["is_open"] else f"{head['to']}"
    click.echo(f"{head['from']} to {until}; days of {zone}\n")
    _show_sums(made, used)
    if head["due"]:
        click.echo(f"\ndue now: {money_words(head['due'], head['due_currency'])}")
    if used:
        click.echo()
        _show_usage(used)
    if made.grants:
        click.echo()
        _show_grants(made, zone)
    if made.lines:
        click.echo()
        _show_lines(made, zone, is_by_entry=is_by_entry)


def _show_sums(made: Statement, used: Sequence[UsageSum]) -> None:
    """Opening and closing balance, and what is between them by kind; and how what no grant covered has ended."""
    notes: dict[str, list[str]] = {}
    for (kind, currency), micros in sorted(made.money().items()):
        notes.setdefault(kind, []).append(money_words(format_credits(micros), currency))
    sums = made.sums(lambda line: line.kind)
    # The ledger takes a refund off the usage of its window, unless that was closed by then.
    taken_off = sum(each.refunded for each in used) - sums.get("refund", 0)
    if taken_off > 0:
        notes["usage"] = [f"after {grouped(format_credits(taken_off))} refunded"]
    rows: list[tuple[Cell, ...]] = [("opening balance", format_credits(made.opening), _opening_note(made))]
    rows += [
        (LINE_WORDS[kind], format_credits(sums.get(kind, 0)), ", ".join(notes.get(kind, ())))
        for kind in SECTION_BY_KIND
        if kind in sums or kind in notes
    ]
    foot = ("closing balance", format_credits(made.closing), _closing_note(made))
    show_table(("", "credits", ""), rows, amounts=frozenset({"credits"}), total=foot)
    for word, is_billed in (("paid", False), ("billed", True)):
        if amounts := made.money_by_currency(is_billed=is_billed):
            shown = (money_words(format_credits(micros), each) for each, micros in sorted(amounts.items()))
            click.echo(f"\n{word}: {', '.join(shown)}")
    if beyond := _beyond(made):
        click.echo(f"\nbeyond all grants: {beyond}")


def _opening_note(made: Statement) -> str:
    rolled_over = made.rolled_over()
    return f"{grouped(format_credits(rolled_over))} of it from earlier allowances" if rolled_over else ""


def _closing_note(made: Statement) -> str:
    owed = next((each.closing for each in made.grants if each.grant_id == UNCOVERED), 0)
    return f"{grouped(format_credits(-owed))} of it beyond all grants" if owed < 0 else ""


def _beyond(made: Statement) -> str:
    """How much no grant covered, and what became of it; empty where nothing was and nothing is."""
    movement = next((each for each in made.grants if each.grant_id == UNCOVERED), None)
    if movement is None:
        return ""
    by_kind = made.uncovered()
    amounts = [(movement.opening, "before")]
    amounts += [(by_kind[kind], LINE_WORDS[kind]) for kind in SECTION_BY_KIND if kind in by_kind]
    amounts += [(movement.closing, "left")]
    return ", ".join(f"{grouped(format_credits(abs(amount)))} {word}" for amount, word in amounts if amount)


def _show_usage(used: Sequence[UsageSum]) -> None:
    """What was used by kind and direction, and by country: the largest, and the others together."""
    has_refunds = any(each.refunded for each in used)
    columns = ("messages", "segments", "credits", *(("refunded",) if has_refunds else ()))
    total = [sum(getattr(each, name) for each in used) for name in columns]
    foot = ("used", "", *_shown(columns, total))
    sorts = _summed(
        used, columns, lambda each: (each.kind, f"{each.direction}{', late' if each.is_late else ''}")
    )
    rows = [(*names, *_shown(columns, sums)) for names, sums in sorted(sorts.items())]
    show_table(("kind", "direction", *columns), rows, amounts=_AMOUNTS, total=foot)
    countries = _summed(used, columns, lambda each: (each.country or "none",))
    if len(countries) < 2:
        return
    credits_at = columns.index("credits")
    largest = sorted(countries.items(), key=lambda item: (-item[1][credits_at], item[0]))
    rows = [(*names, *_shown(columns, sums)) for names, sums in largest[:_COUNTRIES_SHOWN]]
    if others := largest[_COUNTRIES_SHOWN:]:
        together = [sum(each) for each in zip(*(sums for _, sums in others), strict=True)]
        rows.append((f"{len(others)} others", *_shown(columns, together)))
    click.echo()
    show_table(("country", *columns), rows, amounts=_AMOUNTS)


def _summed(
    used: Iterable[UsageSum], columns: Sequence[str], by: Callable[[UsageSum], tuple[str, ...]]
) -> dict[tuple[str, ...], list[int]]:
    sums: dict[tuple[str, ...], list[int]] = {}
    for each in used:
        cell = sums.setdefault(by(each), [0] * len(columns))
        for position, name in enumerate(columns):
            cell[position] += getattr(each, name)
    return sums


def _shown(columns: Sequence[str], sums: Iterable[int]) -> list[Cell]:
    return [
        format_credits(each) if name in _AMOUNTS else each for name, each in zip(columns, sums, strict=True)
    ]


def _show_grants(made: Statement, zone: str) -> None:
    moved = [section for section in SECTIONS if any(getattr(each, section) for each in made.grants)]
    columns = ["opening", *moved, "closing"]
    rows = [
        (grant_words(each.grant_id, zone), *(format_credits(getattr(each, name)) for name in columns))
        for each in made.grants
    ]
    total = (
        "together",
        *(format_credits(sum(getattr(each, name) for each in made.grants)) for name in columns),
    )
    show_table(("grant", *columns), rows, amounts=frozenset(columns), total=total)


def _show_lines(made: Statement, zone: str, *, is_by_entry: bool) -> None:
    has_money = any(line.money_micros for line in made.lines)
    columns = [
        "time" if is_by_entry else "date",
        "what",
        "grant",
        "credits",
        "balance",
        *(["money"] if has_money else []),
    ]
    rows = list(_lines(made.lines, zone, has_money=has_money, is_by_entry=is_by_entry))
    show_table(columns, rows, amounts=frozenset({"credits", "balance"}))


def _lines(
    lines: Iterable[Line], zone: str, *, has_money: bool, is_by_entry: bool
) -> Iterable[tuple[Cell, ...]]:
    for line in lines:
        money = money_words(format_credits(line.money_micros), line.currency) if line.money_micros else ""
        yield (
            clock_time(line.at, zone) if is_by_entry else date_of(line.day).isoformat(),
            f"{LINE_WORDS[line.kind]}{', late' if line.is_late else ''}",
            grant_words(line.grant_id, zone),
            format_credits(line.amount),
            format_credits(line.balance),
            *((money,) if has_money else ()),
        )
