"""The accounts and windows of one partition: taken up when a record needs them, given out at checkpoints.

Takes two functions that give kept values by key; gives live objects, and at a checkpoint the values that changed.
Never decides what a record does to them.

Invariant: what changed since the last checkpoint stays live, because tables give the new value only once the
checkpoint has been written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from pipeline.core.account import Account
from pipeline.core.accounts import LiveAccount
from pipeline.core.kept import decode_kept, encode_kept
from pipeline.core.rules import HOUR_MILLISECONDS, Rules
from pipeline.core.usage import Window, window_key
from pipeline.core.windows import WINDOW_MILLISECONDS

Load = Callable[[bytes], bytes | None]
"""Gives a kept value by its key, or none."""

_account_decoder = msgspec.msgpack.Decoder(Account)
_window_decoder = msgspec.msgpack.Decoder(Window)


@dataclass(frozen=True, slots=True)
class AccountChanges:
    """What a checkpoint keeps of accounts and windows: values by key (none: forget it), and what is behind them."""

    windows: Mapping[bytes, bytes | None]
    accounts: Mapping[bytes, bytes | None]
    changed_windows: Sequence[Window]
    changed_accounts: Sequence[Account]


class PartitionState:
    """The accounts of one partition with their windows."""

    def __init__(
        self,
        partition: int,
        rules: Rules,
        load_account: Load,
        load_window: Load,
        window_keys: Iterable[bytes],
    ) -> None:
        """`window_keys` are all that are kept, so that old ones can be dropped without looking for them."""
        self.accounts: dict[bytes, LiveAccount] = {}
        """Those taken up, by the tenant's key."""
        self._partition = partition
        self._rules = rules
        self._load_account = load_account
        self._load_window = load_window
        self._default_terms = rules.default_terms()
        self._kept_until = 0
        self._kept_windows: dict[int, set[bytes]] = {}
        for key in window_keys:
            self._keep_window(key)

    def account(self, key: bytes, tenant: str) -> LiveAccount:
        """The tenant's account, live from now on."""
        live = self.accounts.get(key)
        if live is None:
            kept = self._load_account(key)
            account = Account(tenant) if kept is None else decode_kept(_account_decoder, kept)
            live = LiveAccount(account, self._partition, self._rules.terms, self._default_terms)
            self.accounts[key] = live
        return live

    def window(self, key: bytes, live: LiveAccount, start: int) -> Window:
        """The tenant's window, live from now on."""
        kept = self._load_window(window_key(key, start))
        window = Window(live.tenant, start) if kept is None else decode_kept(_window_decoder, kept)
        live.windows[start] = window
        return window

    def checkpoint(self, clock_at: int) -> AccountChanges:
        """What changed since the last call; lets go of what did not. `clock_at` is the time of the log."""
        changed_accounts = [live.account for live in self.accounts.values() if live.is_dirty]
        changed_windows: list[Window] = []
        windows: dict[bytes, bytes | None] = {}
        for key, live in self.accounts.items():
            for start, window in live.changed_windows.items():
                kept_key = window_key(key, start)
                windows[kept_key] = encode_kept(window.applied_offset, window)
                self._keep_window(kept_key)
                changed_windows.append(window)
        windows |= self._drop_windows(clock_at)
        self._let_go()
        return AccountChanges(
            windows=windows,
            accounts={
                account.tenant.encode(): encode_kept(account.applied_offset, account)
                for account in changed_accounts
            },
            changed_windows=changed_windows,
            changed_accounts=changed_accounts,
        )

    @property
    def windows_held(self) -> int:
        """How many windows are kept; may be asked in another thread."""
        return sum(map(len, list(self._kept_windows.values())))

    def _keep_window(self, kept_key: bytes) -> None:
        self._kept_windows.setdefault(int.from_bytes(kept_key[:8], "big"), set()).add(kept_key)

    def _drop_windows(self, clock_at: int) -> dict[bytes, bytes | None]:
        """Forgets windows an hour after no record can add to them any more.

        By the time of the checkpoint before: from there on a crash would replay the records, and they must
        find what they added to. The hour is for brokers whose clocks step back with another leader.
        """
        kept_until, self._kept_until = self._kept_until, clock_at
        ended_before = kept_until - self._rules.window_milliseconds - WINDOW_MILLISECONDS - HOUR_MILLISECONDS
        dropped: dict[bytes, bytes | None] = {}
        for start in [start for start in self._kept_windows if start <= ended_before]:
            dropped |= dict.fromkeys(self._kept_windows.pop(start))
        return dropped

    def _let_go(self) -> None:
        for key in [key for key, live in self.accounts.items() if not live.is_dirty]:
            del self.accounts[key]
        for live in self.accounts.values():
            live.is_dirty = False
            live.windows, live.changed_windows = live.changed_windows, {}
