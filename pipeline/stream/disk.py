"""What a worker does when its tables' files cannot grow: it ends, and says so.

Takes whatever touches the files; ends the process where there is no room for them. Never deletes anything: a file that
cannot be written is not a corrupt one, and wiping it would cost a rebuilding and gain nothing. Nothing is lost, because
what is in the files is in the changelogs too, and nothing was acknowledged that is not.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import rocksdb

from pipeline.stream.exits import ExitCode, end_process

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Disk full, quota exhausted, file too large, file system read-only: what an operator has to change."""
_TEXTS = tuple(os.strerror(number) for number in _NO_ROOM)


@contextlib.contextmanager
def full_disk_ends_process(path: Path) -> Iterator[None]:
    """End the process where what happens inside finds no room for `path`; other errors pass."""
    try:
        yield
    except (OSError, rocksdb.errors.Error) as error:
        reason = _no_room(error)
        if reason is None:
            raise
        end_process(
            ExitCode.DISK_FULL,
            f"the disk has no room for this worker's tables ({reason}: {path}): free some, or give it a"
            " MSGMETER_STATE_DIRECTORY with more, and start it again; nothing is lost, and a directory that was"
            " emptied is rebuilt from the changelogs",
            cause=error,
        )


def _no_room(error: Exception) -> str | None:
    """What the system called it; None for any other error. RocksDB tells the system's words, not its number."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return os.strerror(error.errno)
    return next((text for text in _TEXTS if text in str(error)), None)
