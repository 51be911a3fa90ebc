# ruff: noqa: ANN401 - RocksDB's binding is untyped.
"""RocksDB as this process uses it: how large a partition's file may grow in memory, and what its errors mean.

Decides nothing of what is in a file; `stores.RocksStore` does. Keeps opening and closing of all files apart.
"""

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import rocksdb
from faust.stores import rocksdb as faust_rocksdb

from pipeline.errors import MsgmeterError

# Per partition and table, so times 96 in a worker that owns all: Faust's defaults (64 MiB buffers, 2 GiB of
# cache and 90 % of the process's files each) are for one large database.
_WRITE_BUFFER_BYTES = 2 * 1024 * 1024
_OPEN_FILES_MAX = 24
_BLOCK_CACHE_BYTES = 32 * 1024 * 1024
_LOCKED = re.compile(r"lock file|lock hold by current process", re.IGNORECASE)


class FileLockedError(MsgmeterError):
    """Another process has a partition's file open: give each worker a state directory of its own."""


class UnusableFileError(MsgmeterError):
    """A file cannot be used, and what hinders lies outside it; nothing of it is deleted."""


class DamagedFileError(UnusableFileError):
    """A file cannot be read, or written, any more: the process ends, and rebuilds it when it is started again."""


FILE_ERRORS = (FileLockedError, UnusableFileError, OSError, rocksdb.errors.Error)
"""What may be raised where a partition's file is hindered from outside, which is no bug."""


def said(error: Exception) -> str:
    """What RocksDB, or the system, says, which names files and blocks and no values."""
    text = error.args[0] if error.args and not isinstance(error, OSError) else str(error)
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(error)


def is_locked(error: Exception) -> bool:
    """Tell a file that another process, or this one, has open from a damaged one, which may name a "block"."""
    return isinstance(error, rocksdb.errors.RocksIOError) and bool(_LOCKED.search(said(error)))


def is_damage(error: Exception) -> bool:
    """Tell damage, which a rebuilding mends, from what hinders any file here: rights, descriptors, a failing disk.

    RocksDB calls a missing piece an I/O error, and hides what hinders it in a "corruption" of the piece.
    """
    text = said(error)
    if "IO error" in text or isinstance(error, rocksdb.errors.RocksIOError):
        return os.strerror(errno.ENOENT) in text
    kinds = (rocksdb.errors.Corruption, rocksdb.errors.NotFound, rocksdb.errors.InvalidArgument)
    return isinstance(error, kinds)


class _SharedTimer:
    """Keeps closing apart from opening, because RocksDB 6.14 aborts the process when they meet.

    All files of a process share one timer thread (it flushes their logs, whatever the options say). Closing
    the last file ends it, without a lock between that and the opening that starts it again: "terminate
    called without an active exception". A worker meets this where it wipes files while it opens others.
    Openings go side by side, because they mostly wait for the disk.
    Source: https://github.com/facebook/rocksdb/issues/7711, mended after 6.14 by pull request 7888.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._openings = 0

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Wait until nobody closes a file; then nobody does until the end of the block."""
        with self._changed:
            self._openings += 1
        try:
            yield
        finally:
            with self._changed:
                self._openings -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Wait until nobody opens or closes a file; then nobody does until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._openings)
            yield


shared_timer = _SharedTimer()
"""The one of this process."""


class PartitionOptions(faust_rocksdb.RocksDBOptions):  # type: ignore[misc]
    """RocksDB settings of all partitions of one table, which share one block cache."""

    def __init__(self) -> None:
        super().__init__(use_rocksdict=False)
        self._block_cache = rocksdb.LRUCache(_BLOCK_CACHE_BYTES)

    def as_options(self) -> Any:
        """Give fresh options: RocksDB binds an object to the file opened with it."""
        return rocksdb.Options(
            create_if_missing=True,
            max_open_files=_OPEN_FILES_MAX,
            write_buffer_size=_WRITE_BUFFER_BYTES,
            max_write_buffer_number=2,
            target_file_size_base=8 * _WRITE_BUFFER_BYTES,
            table_factory=rocksdb.BlockBasedTableFactory(
                filter_policy=rocksdb.BloomFilterPolicy(10), block_cache=self._block_cache
            ),
        )
