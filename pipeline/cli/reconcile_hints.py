"""What differs because `msgmeter reconcile` runs under other settings than the workers did, told in plain words.

Takes tallies of the log against what is stored; gives lines by name, none where nothing points at a setting. Who runs
it under another default plan or key sees a difference for every message, and must not look for lost data. Decides
nothing: the rows count as different all the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.core.reconciliation import FACTS, REFUSALS, Part, Tally
from pipeline.core.refusals import Refusal


def setting_hints(tallies: Sequence[Tally]) -> dict[str, str]:
    """The settings that are perhaps not those of the workers, by what each line is called."""
    by_part = {tally.part: tally for tally in tallies}
    if not {FACTS, REFUSALS} <= by_part.keys():
        return {}
    hints = {}
    here = {part: by_part[part].one_only for part in (FACTS, REFUSALS)}
    there = {part: by_part[part].other_only for part in (FACTS, REFUSALS)}
    if plans := _plan_hint(here, there):
        hints["default plan?"] = plans
    unsigned = by_part[REFUSALS].one_only[Refusal.SIGNATURE_WRONG]
    if unsigned:
        hints["command key?"] = (
            f"{unsigned:,} commands have a wrong signature here, and were taken by the workers:"
            " is MSGMETER_COMMAND_KEY the one they were signed with?"
        )
    return hints


def _plan_hint(here: Mapping[Part, Counter[str]], there: Mapping[Part, Counter[str]]) -> str:
    """Messages without a plan on one side that are charged on the other."""
    question = "is MSGMETER_DEFAULT_PLAN the workers'?"
    refused, charged = here[REFUSALS][Refusal.PLAN_MISSING], there[FACTS].total()
    if refused and charged:
        return f"{refused:,} records are refused here as plan_missing, and {charged:,} stored as charged: {question}"
    refused, charged = there[REFUSALS][Refusal.PLAN_MISSING], here[FACTS].total()
    if refused and charged:
        return (
            f"{charged:,} messages are charged here, and {refused:,} were refused as plan_missing: {question}"
        )
    return ""
