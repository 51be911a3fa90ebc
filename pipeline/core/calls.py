"""What the effect of a command is given besides the command itself."""

from dataclasses import dataclass
from typing import Any

from pipeline.core.account import Account
from pipeline.core.accounts import LiveAccount
from pipeline.core.amounts import parse_credits
from pipeline.core.outcomes import Outcomes
from pipeline.core.rules import Rules

Details = dict[str, Any]
"""What a result says besides the outcome and the balance; empty for nothing."""


@dataclass(frozen=True, slots=True)
class Call:
    """One command's account, and where its outcomes go."""

    id: str
    """The command's."""
    live: LiveAccount
    rules: Rules
    partition: int
    offset: int
    outcomes: Outcomes

    @property
    def account(self) -> Account:
        """The account, whose time is the log's."""
        return self.live.account

    @property
    def at(self) -> int:
        """The time of the log."""
        return self.live.account.clock_at


def amount_above_zero(text: str) -> int:
    """The micro-credits in a command's text; 0 stands for anything that is no amount above zero."""
    try:
        micros = parse_credits(text)
    except ValueError:
        return 0
    return max(micros, 0)
