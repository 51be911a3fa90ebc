"""How a worker ends at once when going on would lose or invent events.

Decides nothing: whoever meets the fault calls `end_process` with its code. No clean-up runs, no offset is
committed, no buffer is flushed: whatever is not acknowledged is replayed by the successor, and idempotent
effects make that harmless. A supervisor restarts the process and can tell the reasons apart by the code.
"""

import enum
import faulthandler
import functools
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import NoReturn, ParamSpec

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")


class ExitCode(enum.IntEnum):
    """Codes of the process, outside those of Python, of shells and of signals."""

    SEND_FAILED = 71
    """A record could not be written to Kafka (mend C)."""
    AGENT_FAILED = 72
    """An exception nobody expected left an agent (mend D)."""
    LOOP_STALLED = 73
    """The event loop, or the whole process, stood still for too long (mend G)."""
    RECOVERY_FAILED = 74
    """Tables could not be brought up to date (mend A)."""
    DISK_FULL = 75
    """There was no room for the tables' files."""


# A thread that died or hangs inside a log handler holds its lock, and a full pipe blocks every write.
_LAST_WORDS_SECONDS = 2.0


def end_process(
    code: ExitCode, reason: str, *, cause: BaseException | None = None, with_stacks: bool = False
) -> NoReturn:
    """Log the reason with its cause, or every thread's stack, and end the process now; never returns."""
    deadline = threading.Timer(_LAST_WORDS_SECONDS, os._exit, (code,))
    deadline.daemon = True
    deadline.start()
    if with_stacks:
        faulthandler.dump_traceback(sys.stderr)
    _log.critical("ending the process, exit code %d (%s): %s", code, code.name, reason, exc_info=cause)
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ends_process_on_error(agent: Callable[_P, Awaitable[None]]) -> Callable[_P, Awaitable[None]]:
    """Decorate an agent's function so that an exception ends the process before its event is acknowledged.

    Mend D. Upstream acknowledges the event in the `finally` of the stream's generator (faust/streams.py:1185,
    and `take` its whole batch at :436), which runs when the generator is closed, after the exception has left
    the agent. This handler runs before that, in the same step of the event loop. Cancellation passes.
    """

    @functools.wraps(agent)
    async def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            await agent(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever was not foreseen ends the process
            end_process(ExitCode.AGENT_FAILED, f"{agent.__qualname__} raised {error!r}", cause=error)

    return guarded
