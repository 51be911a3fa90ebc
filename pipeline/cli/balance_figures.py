"""The figures of a tenant's balance: as a document for programs, and as lines that people read.

Takes an account as it was stored, its details and its contacts; gives exact decimals. What a plan has nothing of (a
licence for contacts, recharging, quotas, a trial's end, prices) is none in the document and has no line.
"""

from typing import Any

import orjson

from pipeline.cli.answers import grouped
from pipeline.cli.questions import local_date, rfc3339
from pipeline.cli.wording import money_words
from pipeline.clickhouse.queries import AccountSnapshot
from pipeline.core.account import FOREVER_AT
from pipeline.core.account_details import AccountDetails, RechargeDetails
from pipeline.core.amounts import format_credits, money_for
from pipeline.core.contacts import ContactCounts
from pipeline.data import catalogue_names, load_catalogue

Document = dict[str, Any]

_PACKAGES_SHOWN = 2
_BEYOND_GRANTS = {
    "hard_stop": "hard stop: nothing more is authorised",
    "negative": "negative: authorised all the same, and owed",
    "arrears": "arrears: authorised all the same, and billed when the period closes",
}
"""What becomes of usage that no grant covers, by the plan's policy."""


def figures(account: AccountSnapshot, details: AccountDetails, contacts: ContactCounts | None) -> Document:
    """Every figure that is no list of its own."""
    plan, zone = details.plan, account.zone
    return {
        "tenant": account.tenant,
        "organization": account.organization or None,
        "plan": account.plan,
        "zone": zone,
        "period_from": local_date(account.period_starts_at, zone).isoformat(),
        "period_to": local_date(account.period_ends_at - 1, zone).isoformat(),
        "limit": format_credits(account.limit_micros),
        "used": format_credits(account.used_micros),
        "balance": format_credits(account.balance_micros),
        "uncovered": format_credits(account.uncovered_micros),
        "available": format_credits(account.available_micros),
        "reserved": format_credits(account.reserved_micros),
        "unassigned": format_credits(account.unassigned_micros),
        "allowance": format_credits(plan.allowance_micros),
        "allowance_left": format_credits(details.allowance_left_micros),
        "purchased_left": format_credits(details.purchased_left_micros),
        "currency": plan.currency or None,
        "allowance_value": _money(money_for(plan.allowance_micros, plan.credit_value_money_micros)),
        "allowance_left_value": _money(details.allowance_left_money_micros),
        "due": _money(details.due_money_micros),
        "credit_value": _money(plan.credit_value_money_micros),
        "overage": plan.overage or None,
        "overage_price": _money(plan.overage_price_money_micros),
        "trial_ends": rfc3339(plan.ends_at) if plan.ends_at is not None else None,
        "as_of": rfc3339(account.as_of_at),
        "next_expiry": _next_expiry(account),
        "packages": _packages(plan.catalogue),
        "recharge": _recharge(details.recharge),
        "quotas": {
            kind: {"included": its.included, "used": its.used, "left": its.left}
            for kind, its in details.quotas.items()
        },
        "contacts": contacts_document(contacts, plan.licensed_contacts) if contacts else None,
    }


def contacts_document(contacts: ContactCounts, licensed: int) -> Document:
    """How many contacts a plan licenses, how many count, and how many more may; none where it licenses none."""
    return {
        "licensed": licensed,
        "active": contacts.active,
        "inactive": contacts.inactive,
        "removed": contacts.removed,
        "available": contacts.available(licensed) if licensed else None,
    }


def _money(micros: int) -> str | None:
    return format_credits(micros) if micros else None


def _next_expiry(account: AccountSnapshot) -> Document | None:
    """What lapses next, of grants that end at one instant."""
    grants = [each for each in orjson.loads(account.grants) if each["remaining"] and not each["is_expired"]]
    ends = [each["expires_at"] for each in grants if each["expires_at"] < FOREVER_AT]
    if not ends:
        return None
    lapsing = sum(each["remaining"] for each in grants if each["expires_at"] == min(ends))
    return {"at": rfc3339(min(ends)), "credits": format_credits(lapsing)}


def _packages(catalogue: str) -> list[Document]:
    """What can be bought; nothing where the catalogue is not one of ours."""
    if catalogue not in catalogue_names():
        return []
    offered = load_catalogue(catalogue)
    return [
        {"credits": each.credits, "price": each.price, "currency": offered.currency}
        for each in offered.packages
    ]


def _recharge(its: RechargeDetails | None) -> Document | None:
    if its is None:
        return None
    return {
        "below": format_credits(its.level_micros),
        "credits": format_credits(its.block_micros),
        "price": format_credits(its.price_money_micros),
        "in_flight": its.in_flight or None,
        "charge": _money(its.due_money_micros + its.top_up_money_micros) if its.in_flight else None,
        "declined": its.declined_count,
        "next_at": rfc3339(its.next_at) if its.next_at else None,
    }


def described(account: AccountSnapshot, its: Document) -> dict[str, str]:
    """The lines for people: what applies to the tenant, and nothing else."""
    share = f" ({account.used_micros * 100 // account.limit_micros} %)" if account.limit_micros > 0 else ""
    lines = {
        "tenant": its["tenant"],
        "organization": its["organization"],
        "plan": f"{its['plan'] or 'none'}, days of {its['zone']}",
        "trial ends": its["trial_ends"],
        "period": f"{its['period_from']} to {its['period_to']}",
        "used": f"{grouped(its['used'])} of {grouped(its['limit'])}{share}",
        "messages": ", ".join(f"{count:,} {kind}" for kind, count in its["messages"].items()) or None,
        "balance": grouped(its["balance"]),
        "available": grouped(its["available"]),
        "reserved": _if_any(its["reserved"], " for what is scheduled"),
        "unassigned": f"{grouped(its['unassigned'])} in no list's share" if its["lists"] else None,
        "allowance left": _allowance(its),
        "purchased left": grouped(its["purchased_left"]),
        "next expiry": _expiry_line(its["next_expiry"]),
        "uncovered": grouped(its["uncovered"]),
        "due": money_words(its["due"], its["currency"]) if its["due"] else None,
        "beyond grants": _BEYOND_GRANTS.get(its["overage"]),
        "prices": _prices(its),
        "packages": _package_prices(its["packages"]),
        "recharge": _recharge_line(its),
        **{
            kind: f"{quota['used']:,} of {quota['included']:,} used in the period, {quota['left']:,} available"
            for kind, quota in its["quotas"].items()
        },
        "contacts": contacts_line(its["contacts"]) if its["contacts"] else None,
        "as of": its["as_of"],
    }
    return {name: text for name, text in lines.items() if text}


def contacts_line(its: Document) -> str:
    """The counts of `contacts_document` in one line."""
    inactive = f" ({its['inactive']:,} of them marked inactive)" if its["inactive"] else ""
    return (
        f"{its['active']:,} active{inactive} of {its['licensed']:,} licensed, {its['available']:,} available"
    )


def _if_any(amount: str, of_what: str) -> str | None:
    return f"{grouped(amount)}{of_what}" if amount != "0" else None


def _allowance(its: Document) -> str | None:
    """What is left of the allowance and, where the plan says what a credit stands for, its value."""
    if its["allowance"] == its["allowance_left"] == "0":
        return None
    left, whole, value = its["allowance_left"], its["allowance"], its["allowance_value"]
    if not value:
        return f"{grouped(left)} of {grouped(whole)} a period"
    worth = f"{money_words(its['allowance_left_value'] or '0', '')} of {money_words(value, its['currency'])}"
    return f"{grouped(left)} of {grouped(whole)} a period, worth {worth}"


def _expiry_line(its: Document | None) -> str | None:
    return f"{grouped(its['credits'])} at {its['at']}" if its else None


def _prices(its: Document) -> str | None:
    """What a credit costs in the plan and beyond all grants, side by side."""
    prices = []
    if its["credit_value"]:
        prices.append(f"{money_words(its['credit_value'], its['currency'])} per credit of the plan")
    if its["overage_price"]:
        prices.append(f"{money_words(its['overage_price'], its['currency'])} per uncovered credit")
    return "; ".join(prices) or None


def _package_prices(packages: list[Document]) -> str:
    """What packages cost; of more than fit into a line, the first and the last, which is the largest."""
    if len(packages) > _PACKAGES_SHOWN:
        first, last = packages[0], packages[-1]
        prices = f"{money_words(first['price'], '')} to {money_words(last['price'], last['currency'])}"
        return f"{grouped(first['credits'])} to {grouped(last['credits'])} for {prices}"
    return "; ".join(
        f"{grouped(each['credits'])} for {money_words(each['price'], each['currency'])}" for each in packages
    )


def _recharge_line(its: Document) -> str | None:
    recharge, currency = its["recharge"], its["currency"] or ""
    if not recharge:
        return None
    if recharge["in_flight"]:
        charge = money_words(recharge["charge"] or "0", currency)
        return f"{recharge['in_flight']} for {charge} waits for its payment"
    declined = f", declined {recharge['declined']} times" if recharge["declined"] else ""
    offer = f"{grouped(recharge['credits'])} for {money_words(recharge['price'], currency)}"
    # A delay, a cool-down, a back-off or the day's cap, whichever ends last.
    next_at = recharge["next_at"] or ""
    waits = f", not before {next_at}" if next_at > its["as_of"] else ""
    return f"{offer}, when less than {grouped(recharge['below'])} is available{waits}{declined}"
