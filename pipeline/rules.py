"""The rules that folds go by under given settings: a worker's, and those of `simulate`.

Takes `Settings` and the data of this package; gives `Rules`. Bounds that settings state over all partitions are
divided among them here, and nowhere else.
"""

from pipeline.core.eras import FIRST_ERA, Era
from pipeline.core.plans import Plan
from pipeline.core.rules import HOUR_MILLISECONDS, Rules
from pipeline.data import load_plan, load_rate_cards
from pipeline.settings import Settings, SettingsError


def make_rules(settings: Settings, default_plan: Plan | None = None, era: Era = FIRST_ERA) -> Rules:
    """The rules of folds in an era of the log; `default_plan` wins over the setting.

    Raises ValueError naming the presets there are when the setting's default plan is none of them, and
    SettingsError for a plan that cannot be one.
    """
    if default_plan is None and settings.default_plan:
        default_plan = load_plan(settings.default_plan)
    if default_plan is not None and default_plan.ends_after_days:
        raise SettingsError(f"{default_plan.name} cannot be the default plan: a trial begins with a command")
    return Rules(
        cards=load_rate_cards(),
        partitions=settings.partitions,
        era=era,
        command_key=settings.command_key.encode(),
        counterparty_key=settings.counterparty_key.encode(),
        default_plan=default_plan,
        identity_milliseconds=settings.identity_hours * HOUR_MILLISECONDS,
        identity_limit=settings.identity_limit // settings.partitions,
        pending_milliseconds=settings.pending_hours * HOUR_MILLISECONDS,
        pending_limit=max(settings.pending_limit // settings.partitions, 1),
        window_milliseconds=settings.window_hours * HOUR_MILLISECONDS,
    )
