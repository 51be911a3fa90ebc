"""One line of an account's ledger."""

from pipeline.core.account import Account, Entry


def make_entry(
    account: Account,
    entry_id: str,
    kind: str,
    grant_id: str,
    amount: int,
    effective_at: int,
    offset: int,
    cause: str = "",
) -> Entry:
    """A line of the account's ledger, posted at the time of the log, with the balance it leaves."""
    return Entry(
        entry_id=entry_id,
        kind=kind,
        grant_id=grant_id,
        amount=amount,
        cause=cause,
        effective_at=effective_at,
        posted_at=account.clock_at,
        offset=offset,
        balance_after=account.balance,
    )
