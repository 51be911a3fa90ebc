"""A plan in force over a span of time, made ready for messages."""

from collections.abc import Callable, Sequence

from pipeline.core.account import FOREVER_AT, PlanInForce
from pipeline.core.plans import PlanTerms
from pipeline.core.records import STATUS_BITS


class Terms:
    """A plan in force from one instant to another, made ready for messages."""

    __slots__ = ("billable_mask", "effective_at", "effective_until", "plan", "refund_mask")

    def __init__(self, plan: PlanTerms, effective_at: int, effective_until: int) -> None:
        self.plan = plan
        self.effective_at = effective_at
        self.effective_until = effective_until
        self.billable_mask = sum(STATUS_BITS[status] for status in plan.billable_statuses)
        self.refund_mask = sum(STATUS_BITS[status] for status in plan.refunded_statuses)


def find_terms(
    plans: Sequence[PlanInForce], at: int, compile_terms: Callable[[bytes], PlanTerms], default: Terms | None
) -> Terms | None:
    """The plan in force at an instant: the tenant's, else the default one, else none."""
    until = FOREVER_AT
    for plan in reversed(plans):
        if plan.effective_at <= at:
            return Terms(compile_terms(plan.document), plan.effective_at, until)
        until = plan.effective_at
    if default is not None and until < FOREVER_AT:
        return Terms(default.plan, -FOREVER_AT, until)
    return default
