"""The files of a worker's tables by themselves, without a broker."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faust

from pipeline.stream.stores import RocksStore
from pipeline.stream.tables import ChangelogTable


def open_and_wipe(directory: Path, threads: int, times: int) -> None:
    """Each thread opens, wipes and closes a partition of its own, again and again."""
    app = faust.App("files", datadir=directory, store="rocksdb://", Table=ChangelogTable)
    store: RocksStore = app.Table("state").data

    def repeat(partition: int) -> None:
        for _ in range(times):
            store.open_partition(partition)
            store.wipe_partition(partition)
            store.close_partition(partition)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(repeat, range(threads)))


def test_files_may_be_closed_in_one_thread_while_others_open_theirs(tmp_path: Path) -> None:
    # In a process of its own, because RocksDB ends the process where this rule is broken.
    child = multiprocessing.get_context("spawn").Process(
        target=open_and_wipe, args=(tmp_path, 3, 100), daemon=True
    )
    child.start()
    child.join()
    assert child.exitcode == 0
