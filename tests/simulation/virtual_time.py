"""An event loop whose time passes only when nothing else can happen: a minute of waiting costs nothing.

Nothing in it comes from outside, so what runs on it is a function of what it was given. Whoever waits for something
that will never come is told so at once.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

OWNER: ContextVar[Any] = ContextVar("owner", default=None)
"""On whose behalf the present task runs; has `tasks`, a list, and `in_thread`, which runs blocking calls."""


class StuckError(AssertionError):
    """Everybody waits, and nothing is under way."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The part of an event loop that knows no sockets, with a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self
        self.set_exception_handler(lambda *_: None)  # What a process that was killed leaves behind.

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Lets time pass up to the next thing that is due."""
        if timeout is None:
            raise StuckError("everybody waits, and nothing is under way")
        if timeout > 0:
            # A little later than due, as with any clock: else rounding could make a moment last for ever.
            self._now = max(self._now, self._scheduled[0]._when) + 1e-6
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There are no threads that could wake the loop."""

    def create_task(self, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(coroutine, **options)
        context = options.get("context")
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            owner.tasks.append(task)
        return task

    def run_in_executor(self, _: Any, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """A blocking call takes time, and happens at one moment of it."""
        return OWNER.get().in_thread(lambda: call(*arguments))
