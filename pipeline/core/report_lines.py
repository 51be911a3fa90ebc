"""How a simulation's accounts, usage and entries are shown: as documents, credits as decimal strings.

Takes what the core holds of them; gives plain dictionaries, ready for JSON. Instants stay epoch milliseconds. Decides
nothing and sums nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import msgspec

from pipeline.core.account import FOREVER_AT, Account, Entry, Grant, Period
from pipeline.core.amounts import format_credits
from pipeline.core.contacts import ContactCounts
from pipeline.core.outcomes import Document

Cell = list[int]
"""messages, segments, quantity, micro-credits."""

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class Contacts(NamedTuple):
    """A tenant's contacts at its account's time."""

    licensed: int
    counts: ContactCounts


def account_line(account: Account, contacts: Contacts | None) -> Document:
    """An account with what is held of it; without contacts where the plan has none and none is known."""
    shown: Document = {
        "tenant": account.tenant,
        "organization": account.organization,
        "balance": format_credits(account.balance),
        "uncovered": format_credits(account.uncovered),
        "reserved": format_credits(account.reserved),
        "available": format_credits(account.available),
        "unassigned": format_credits(account.unassigned),
        "periods": [_period(period) for period in account.periods],
        "grants": [_grant(grant) for grant in account.grants],
        "lists": {
            name: {"spent": format_credits(share.spent), "left": format_credits(share.left)}
            for name, share in sorted(account.allocations.items())
        },
        "reservations": [
            {
                "id": name,
                "campaign": held.campaign,
                "list": held.list,
                "amount": format_credits(held.amount),
                "held": format_credits(held.left),
                "expires_at": held.expires_at,
            }
            for name, held in account.reservations.items()
        ],
        "recharge_in_flight": account.recharge.in_flight if account.recharge else "",
    }
    if contacts is not None:
        shown["contacts"] = {
            "licensed": contacts.licensed,
            **contacts.counts._asdict(),
            "available": contacts.counts.available(contacts.licensed),
        }
    return shown


def _period(period: Period) -> Document:
    return {
        "start": period.starts_at,
        "end": period.ends_at,
        "limit": format_credits(period.limit),
        "used": format_credits(period.used),
        "uncovered": format_credits(period.uncovered),
        "units": dict(sorted(period.units.items())),
        "levels_fired": list(period.fired),
    }


def _grant(grant: Grant) -> Document:
    return {
        "id": grant.id,
        "kind": grant.kind,
        "amount": format_credits(grant.amount),
        "remaining": format_credits(grant.remaining),
        "starts_at": grant.starts_at,
        "expires_at": grant.expires_at if grant.expires_at < FOREVER_AT else None,
        "is_expired": grant.is_expired,
    }


def entry_lines(entries: Sequence[tuple[str, Entry]]) -> list[Document]:
    """Entries by tenant, in the order in which they were posted."""
    return [
        _entry(tenant, entry)
        for tenant, entry in sorted(entries, key=lambda item: (item[0], item[1].posted_at, item[1].entry_id))
    ]


def _entry(tenant: str, entry: Entry) -> Document:
    after = entry.balance_after
    return {
        "tenant": tenant,
        **msgspec.structs.asdict(entry),
        "amount": format_credits(entry.amount),
        "balance_after": None if after is None else format_credits(after),
    }


def usage_lines(sums: Mapping[tuple[Any, ...], Cell], instant: str) -> list[Document]:
    """Usage by tenant, `instant` (window_start or local_date) and dimensions, sorted."""
    names = ("tenant", instant, "kind", "direction", "country", "category")
    rows = []
    for key in sorted(sums):
        messages, segments, units, credits_micros = sums[key]
        row = dict(zip(names, key, strict=True))
        if instant == "local_date":
            row[instant] = date.fromordinal(_EPOCH_ORDINAL + key[1]).isoformat()
        row |= {"messages": messages, "segments": segments, "quantity": units}
        rows.append(row | {"credits": format_credits(credits_micros)})
    return rows
