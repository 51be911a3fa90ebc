"""A worker that stops itself (SIGSTOP) between asking the group for its partitions and writing a table.

`python -m tests.faults.stopping_worker worker`, and STOP_WHEN names a file: once it is there, the process stands still
before the next write of accounts, the last of a checkpoint's. No clock could hit this moment. The watchdog is taken
away, because it would end a process that wakes: what is shown is what happens when a write slips by it.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.cli import main
from pipeline.stream.tables import ChangelogTable
from pipeline.stream.watchdog import Watchdog

_STOP_WHEN = Path(os.environ["STOP_WHEN"])
_send = ChangelogTable.send


def _send_after_a_pause(
    self: ChangelogTable, partition: int, records: Iterator[tuple[bytes, bytes | None, bytes]]
) -> Any:
    if self.name == "accounts" and _STOP_WHEN.exists():
        _STOP_WHEN.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    return _send(self, partition, records)


if __name__ == "__main__":
    ChangelogTable.send = _send_after_a_pause  # type: ignore[method-assign]
    Watchdog.start = lambda _: None  # type: ignore[method-assign]
    main()
