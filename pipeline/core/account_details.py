"""What is shown of an account besides its balance: shares, reservations, recharging, quotas and the plan's figures.

Takes an account and the plan it is under at its own time; gives `AccountDetails`, which `account_snapshots` keeps as
JSON in its column `details`. Credits are micro-credits; names with `money` are micro-units of the plan's currency;
instants are epoch milliseconds. Everything is a function of the account: nothing is rounded but money, once.

Fields are added with a default, so that what was stored before still decodes.
"""

import msgspec
from msgspec import Struct

from pipeline.core.account import Account, Grant
from pipeline.core.amounts import money_for
from pipeline.core.plans import PlanTerms
from pipeline.core.windows import days_after


class ListDetails(Struct):
    """The share of one list."""

    limit_micros: int
    """What it was given; cut by what an expiry took."""
    spent_micros: int
    left_micros: int
    """Below zero by what was sent beyond the share."""


class ReservationDetails(Struct):
    """Credits held for something scheduled."""

    id: str
    amount_micros: int
    """What was held at first."""
    held_micros: int
    campaign: str
    list: str
    expires_at: int


class RechargeDetails(Struct):
    """Automatic recharging: when and what the plan asks for, and where the last request stands."""

    level_micros: int = 0
    """Asked for below this."""
    block_micros: int = 0
    price_money_micros: int = 0
    """Of the block."""
    in_flight: str = ""
    """The id of the request that waits for its answer; empty for none. The four below are that request's."""
    credits_micros: int = 0
    due_credits_micros: int = 0
    due_money_micros: int = 0
    top_up_money_micros: int = 0
    asked_count: int = 0
    declined_count: int = 0
    """In a row."""
    next_at: int = 0
    """No further request before this instant."""
    asked_at: int = 0
    """Of the request in flight; 0 without one. Reckoned back by the plan's cool-down, so as long as the plan is the one
    that asked it is exact, and else wrong by no more than what the cool-down has changed."""


class QuotaDetails(Struct):
    """Units of a kind that the plan includes in each period."""

    included: int
    used: int
    left: int
    """Never below zero."""


class PlanDetails(Struct):
    """What the plan in force says that people are shown."""

    allowance_micros: int = 0
    currency: str = ""
    credit_value_money_micros: int = 0
    """Of one credit of the allowance."""
    overage: str = ""
    """hard_stop, negative or arrears."""
    overage_price_money_micros: int = 0
    """Of one credit beyond all grants."""
    settled_by: str = "nothing"
    alert_levels: tuple[int, ...] = ()
    """Per cent of what is usable in the period."""
    licensed_contacts: int = 0
    contact_active_days: int = 0
    ends_at: int | None = None
    """Of a trial."""
    catalogue: str = ""
    """The packages that are offered."""


class AccountDetails(Struct):
    """What is shown of an account; of a tenant without a plan the last field says nothing."""

    assigned_micros: int = 0
    """What lists with a share may still spend."""
    allowance_left_micros: int = 0
    """Of allowances that are valid now, those rolled over included."""
    purchased_left_micros: int = 0
    """Of all other grants that are valid now."""
    allowance_left_money_micros: int = 0
    """The same allowances at the plan's value of a credit."""
    due_money_micros: int = 0
    """What is uncovered, at the overage price."""
    lists: dict[str, ListDetails] = {}
    reservations: tuple[ReservationDetails, ...] = ()
    """Oldest first."""
    recharge: RechargeDetails | None = None
    """None where the plan does not recharge and nothing waits for an answer."""
    quotas: dict[str, QuotaDetails] = {}
    """By kind."""
    plan: PlanDetails = msgspec.field(default_factory=PlanDetails)
    alert_arming: int = 0
    """Under which number the open period's levels are armed, from 1; 0 before there is a period."""


_decode = msgspec.json.Decoder(AccountDetails).decode


def decode_details(text: str) -> AccountDetails:
    """The details as they were stored; of a row without them, nothing at all."""
    return _decode(text) if text else AccountDetails()


def encode_details(details: AccountDetails) -> str:
    """The details as JSON."""
    return msgspec.json.encode(details).decode()


def account_details(account: Account, terms: PlanTerms | None) -> AccountDetails:
    """The details of an account at its own time, under the plan in force then."""
    valid = [grant for grant in account.grants if _is_valid(grant, account.clock_at)]
    allowance = sum(grant.remaining for grant in valid if grant.kind in ("allowance", "rollover"))
    details = AccountDetails(
        assigned_micros=account.assigned,
        allowance_left_micros=allowance,
        purchased_left_micros=sum(grant.remaining for grant in valid) - allowance,
        lists={
            name: ListDetails(share.left + share.spent, share.spent, share.left)
            for name, share in account.allocations.items()
        },
        reservations=tuple(
            ReservationDetails(key, held.amount, held.left, held.campaign, held.list, held.expires_at)
            for key, held in account.reservations.items()
        ),
        recharge=_recharge(account, terms),
        alert_arming=account.period_at(account.clock_at).arming if account.periods else 0,
    )
    if terms is not None:
        details.allowance_left_money_micros = money_for(allowance, terms.money.credit_value_micros)
        details.due_money_micros = money_for(max(account.uncovered, 0), terms.money.overage_price_micros)
        details.quotas = _quotas(account, terms)
        details.plan = _plan(account, terms)
    return details


def _is_valid(grant: Grant, at: int) -> bool:
    return grant.starts_at <= at < grant.expires_at and not grant.is_expired


def _recharge(account: Account, terms: PlanTerms | None) -> RechargeDetails | None:
    state, wanted = account.recharge, terms.recharge if terms else None
    if wanted is None and (state is None or not state.in_flight):
        return None
    details = RechargeDetails()
    if wanted is not None:
        details.level_micros = wanted.level_micros
        details.block_micros = wanted.block_micros
        details.price_money_micros = wanted.price_micros
    if state is not None:
        details.asked_count = state.asked_count
        details.declined_count = state.declined_count
        details.next_at = state.next_at
        if state.in_flight:
            details.in_flight = state.in_flight
            details.credits_micros = state.credits
            details.due_credits_micros = state.due_credits
            details.due_money_micros = state.due_micros
            details.top_up_money_micros = state.top_up_micros
            # While a request waits nothing else sets the instant of the next.
            details.asked_at = state.next_at - (wanted.cool_down_milliseconds if wanted else 0)
    return details


def _quotas(account: Account, terms: PlanTerms) -> dict[str, QuotaDetails]:
    used = account.period_at(account.clock_at).units if account.periods else {}
    return {
        kind: QuotaDetails(included, used.get(kind, 0), max(included - used.get(kind, 0), 0))
        for kind, included in terms.quotas.items()
    }


def _plan(account: Account, terms: PlanTerms) -> PlanDetails:
    began_at = next(
        (plan.effective_at for plan in reversed(account.plans) if plan.effective_at <= account.clock_at), None
    )
    ends_at = None
    if terms.ends_after_days and began_at is not None:
        ends_at = days_after(began_at, terms.ends_after_days, terms.zone)
    return PlanDetails(
        allowance_micros=terms.allowance_micros,
        currency=terms.money.currency,
        credit_value_money_micros=terms.money.credit_value_micros,
        overage=terms.overage,
        overage_price_money_micros=terms.money.overage_price_micros,
        settled_by=terms.settled_by,
        alert_levels=terms.alert_levels,
        licensed_contacts=terms.licensed_contacts,
        contact_active_days=terms.contact_active_days,
        ends_at=ends_at,
        catalogue=terms.catalogue,
    )
