"""The data and bounds a fold goes by; the same for every partition and for `simulate`.

Holds secrets for signatures and hashes, so it is never shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.core.account import FOREVER_AT, Account
from pipeline.core.eras import FIRST_ERA, Era
from pipeline.core.plans import Plan, PlanTerms, compile_plan, decode_plan, encode_plan
from pipeline.core.rating import RateCard
from pipeline.core.terms import Terms

HOUR_MILLISECONDS = 3_600_000
MAX_TERMS_HELD = 20_000
"""Compiled plans remembered; accounts at work hold their own, so forgetting all costs some 30 us each again."""


@dataclass(frozen=True)
class Rules:
    """Everything a fold needs to know besides the log."""

    cards: Mapping[str, RateCard]
    partitions: int = 32
    era: Era = FIRST_ERA
    command_key: bytes = field(default=b"", repr=False)
    counterparty_key: bytes = field(default=b"", repr=False)
    default_plan: Plan | None = None
    identity_milliseconds: int = 24 * HOUR_MILLISECONDS
    identity_limit: int = 625_000
    """Charged identities held, per partition."""
    pending_milliseconds: int = 72 * HOUR_MILLISECONDS
    pending_limit: int = 62_500
    """Drafts held, per partition."""
    window_milliseconds: int = 96 * HOUR_MILLISECONDS
    _terms: dict[bytes, PlanTerms] = field(default_factory=dict, repr=False, compare=False)

    def terms(self, document: bytes) -> PlanTerms:
        """The terms of a plan document, compiled once; raises ValueError naming every fault of the plan."""
        terms = self._terms.get(document)
        if terms is None:
            if len(self._terms) >= MAX_TERMS_HELD:
                self._terms.clear()
            terms = self._terms[document] = compile_plan(decode_plan(document), self.cards)
        return terms

    def default_terms(self) -> Terms | None:
        """The terms for tenants without a plan, in force always; none where no default plan is set."""
        if self.default_plan is None:
            return None
        return Terms(compile_plan(self.default_plan, self.cards), -FOREVER_AT, FOREVER_AT)

    def plan_at(self, account: Account) -> PlanTerms | None:
        """The plan an account is under at its own time: the tenant's, else the default one, else none."""
        for plan in reversed(account.plans):
            if plan.effective_at <= account.clock_at:
                return self.terms(plan.document)
        return None if self.default_plan is None else self.terms(encode_plan(self.default_plan))
