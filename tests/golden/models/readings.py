"""What a report says of one tenant, read the way people are told it: credits as numbers, money as text."""

from collections import Counter
from datetime import datetime
from typing import Any

from pipeline.core.account import Account, Entry
from pipeline.core.account_details import AccountDetails, account_details
from pipeline.core.amounts import MICROS, format_credits
from pipeline.core.fields import milliseconds
from pipeline.core.simulation import Report
from tests.builders import AT
from tests.golden.models.scenarios import RULES


def moment(text: str) -> int:
    """Milliseconds of a local time with its offset, as the logs write it."""
    return milliseconds(datetime.fromisoformat(text))


def credits_of(micros: int) -> int:
    """Whole credits; fails where there is a part of one."""
    whole, rest = divmod(micros, MICROS)
    assert rest == 0, format_credits(micros)
    return whole


def result(report: Report, command_id: str, tenant: str = "") -> dict[str, Any]:
    """The only answer to a command; `tenant` where several have one of that id."""
    (found,) = (
        each for each in report.results if each["command_id"] == command_id and tenant in ("", each["tenant"])
    )
    return found


def answer(report: Report, command_id: str, tenant: str = "") -> dict[str, Any]:
    """What else an accepted command was told."""
    found = result(report, command_id, tenant)
    assert found["outcome"] == "accepted", found["reason"]
    details: dict[str, Any] = found["details"]
    return details


def entries(report: Report, tenant: str, *kinds: str) -> list[Entry]:
    """A tenant's entries of some kinds, in the order in which they were posted."""
    found = [entry for of, entry in report.entries if of == tenant and entry.kind in kinds]
    return sorted(found, key=lambda entry: (entry.posted_at, entry.offset, entry.entry_id))


def used_of(report: Report, tenant: str, grant: str) -> int:
    """Credits that messages took from a grant."""
    return -credits_of(
        sum(each.amount for each in entries(report, tenant, "usage", "late_usage") if each.grant_id == grant)
    )


def details(report: Report, tenant: str) -> AccountDetails:
    """What is shown of an account besides its balance."""
    account = report.accounts[tenant]
    return account_details(account, RULES.plan_at(account))


def remaining(account: Account, kind: str) -> int:
    """Credits left in an account's grants of a kind."""
    return credits_of(
        sum(each.remaining for each in account.grants if each.kind == kind and not each.is_expired)
    )


def facts(report: Report, tenant: str) -> list[dict[str, Any]]:
    """A tenant's charged messages, each as a mapping."""
    rows = [{name: fact[at] for name, at in AT.items()} for fact in report.facts]
    return [row for row in rows if row["tenant"] == tenant]


def used_by(report: Report, tenant: str, *columns: str) -> dict[Any, int]:
    """Credits by the values of some columns of the facts: one value, or a tuple of several."""
    sums: Counter[Any] = Counter()
    for fact in facts(report, tenant):
        key = tuple(fact[column] for column in columns)
        sums[key if len(key) > 1 else key[0]] += fact["credits_micros"]
    return {key: credits_of(micros) for key, micros in sums.items()}


def levels(report: Report, tenant: str) -> list[tuple[int, int]]:
    """(arming, level) of a tenant's alerts, in the order in which they fired."""
    return [(each["arming"], each["level"]) for each in report.alerts if each["tenant"] == tenant]
