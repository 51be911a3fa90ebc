"""The words people read for kinds of ledger entries, for money and for grants, whose ids are made for programs.

Takes kinds, grant ids and money; gives short texts. Programs get the ids: JSON and CSV use none of this.
"""

import re

from pipeline.cli.answers import grouped
from pipeline.cli.questions import local_date
from pipeline.core.account import UNCOVERED
from pipeline.core.statement import grant_kind

LINE_WORDS = {
    "allowance": "allowance of the plan",
    "purchase": "purchase",
    "promotion": "promotion",
    "adjustment": "adjustment",
    "plan_change": "change of the plan",
    "rollover": "rolled over",
    "extension": "valid for longer",
    "usage": "used",
    "commit": "used by reservation",
    "refund": "refunded",
    "expiry": "lapsed",
    "expiry_correction": "lapse corrected",
    "void": "taken back",
    "settlement": "paid off with credits",
    "payment": "paid off with money",
    "arrears": "billed",
    "write_off": "written off",
}
"""By kind of a statement's line."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ALLOWANCE = re.compile(r"(\d+)(?::(\d+))?(:until:\d+)?")
"""The period's start; when a later plan gave another in the same period; what could not roll over was cut off."""
_LONGEST_NAME = 24


def money_words(amount: str, currency: str) -> str:
    """An amount of money with at least two decimals: "22.50 USD"."""
    whole, _, decimals = grouped(amount).partition(".")
    return f"{whole}.{decimals:0<2} {currency}".rstrip()


def grant_words(grant_id: str, zone: str) -> str:
    """A grant as people know it: "allowance 2026-02-01", "purchase 3f2a9c1e"; what none covered is "no grant"."""
    if grant_id == UNCOVERED:
        return "no grant"
    kind, name = grant_kind(grant_id), grant_id.partition(":")[2]
    if kind in ("allowance", "rollover") and (dated := _ALLOWANCE.fullmatch(name)):
        begun, later, until = dated.groups()
        return f"{kind} {local_date(int(later or begun), zone)}{' (cut)' if until else ''}"
    if _UUID.fullmatch(name):
        return f"{kind} {name[:8]}"
    return f"{kind} {name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + '…'}"
