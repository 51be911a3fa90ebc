"""A statement as a JSON document, for programs: credits and money are decimal strings, instants epoch milliseconds.

Takes a `Statement` and what was used by sort of message; gives lists and objects. Never sums anything that the
statement does not.
"""

from collections.abc import Iterable, Mapping

from pipeline.core.amounts import format_credits
from pipeline.core.outcomes import Document
from pipeline.core.statement import SECTIONS, GrantMovement, Line, Statement, UsageSum, grant_kind


def statement_document(statement: Statement, usage: Iterable[UsageSum] = ()) -> Document:
    """A statement as a JSON document."""
    by_section = statement.sums(lambda line: line.section)
    return {
        "starts_at": statement.starts_at,
        "ends_at": statement.ends_at,
        "opening": format_credits(statement.opening),
        "rolled_over": format_credits(statement.rolled_over()),
        "sections": {section: format_credits(by_section.get(section, 0)) for section in SECTIONS},
        "kinds": {
            kind: format_credits(amount)
            for kind, amount in sorted(statement.sums(lambda line: line.kind).items())
        },
        "money": [
            {"kind": kind, "currency": currency, "amount": format_credits(micros)}
            for (kind, currency), micros in sorted(statement.money().items())
        ],
        "paid": _by_currency(statement.money_by_currency(is_billed=False)),
        "billed": _by_currency(statement.money_by_currency(is_billed=True)),
        "closing": format_credits(statement.closing),
        "uncovered": {kind: format_credits(amount) for kind, amount in sorted(statement.uncovered().items())},
        "grants": [_movement(each) for each in statement.grants],
        "usage": [_usage(each) for each in usage],
        "lines": [_line(each) for each in statement.lines],
    }


def _by_currency(micros: Mapping[str, int]) -> Document:
    return {currency: format_credits(amount) for currency, amount in sorted(micros.items())}


def _movement(moved: GrantMovement) -> Document:
    amounts = ("opening", *SECTIONS, "closing")
    return {
        "grant": moved.grant_id,
        "kind": grant_kind(moved.grant_id),
        **{name: format_credits(getattr(moved, name)) for name in amounts},
    }


def _usage(used: UsageSum) -> Document:
    return {
        "kind": used.kind,
        "direction": used.direction,
        "country": used.country or None,
        "is_late": used.is_late,
        "messages": used.messages,
        "segments": used.segments,
        "quantity": used.quantity,
        "credits": format_credits(used.credits),
        "refunded": format_credits(used.refunded),
    }


def _line(line: Line) -> Document:
    return {
        "at": line.at,
        "section": line.section,
        "kind": line.kind,
        "grant": line.grant_id,
        "credits": format_credits(line.amount),
        "balance": format_credits(line.balance),
        "money": format_credits(line.money_micros) if line.money_micros else None,
        "currency": line.currency or None,
        "cause": line.cause or None,
        "is_late": line.is_late,
        "entries": line.entries,
    }
