"""A plan in force over a span of time, made ready for messages."""

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
