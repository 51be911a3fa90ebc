# ruff: noqa: T201 - the seed and the kind of disk are shown when it fails, or with -s.
"""A disk without room for a worker's tables: it ends and says what to do, and nothing is lost."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pipeline.stream.exits import ExitCode
from pipeline.traffic import Traffic
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import log_now
from tests.e2e.worker_process import WorkerProcess

SEED = int(os.environ.get("FAULTS_SEED", str(Random().getrandbits(32))))
_DISK_BYTES = 16 << 20
_LOG_BYTES = 192 << 10
"""More than a worker logs, and less than RocksDB writes at once."""


class SmallDisk:
    """A file system of its own at `directory`, or, where mounting is not permitted, a limit on the worker's files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"
        directory.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "msgmeter-test", directory],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.is_mounted = mounted.returncode == 0
        print("a tmpfs" if self.is_mounted else f"RLIMIT_FSIZE, as mounting failed: {mounted.stderr.strip()}")

    def fill(self, worker: WorkerProcess) -> None:
        """Leave no room for what the worker writes next."""
        if not self.is_mounted:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (_LOG_BYTES, _LOG_BYTES))
            return
        with self._ballast.open("ab", buffering=0) as ballast:
            piece = 1 << 20
            while piece:
                try:
                    ballast.write(bytes(piece))
                except OSError:
                    piece //= 2

    def free(self) -> None:
        """Give the room back."""
        if self.is_mounted:
            self._ballast.unlink()

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.directory], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk")
    yield small
    small.close()


def test_a_worker_whose_disk_is_full_ends_with_what_to_do_and_goes_on_once_there_is_room(
    make_system: MakeSystem, disk: SmallDisk
) -> None:
    print(f"FAULTS_SEED={SEED}")
    # One partition, so that its file soon has more than RocksDB holds in memory.
    system = make_system(
        partitions=1, store="rocksdb", state_directory=disk.directory / "state", checkpoint_milliseconds=200
    )
    log = log_now(Traffic(start_at=0, seed=SEED, messages=12_000, tenants=1_500, purchases=0.002))
    worker = system.worker(state_directory=disk.directory / "state").start()
    gateway = system.gateway(log, records_per_second=1_500)
    worker.await_condition(lambda: sum(system.committed().values()) > 1_000, "committed something")
    disk.fill(worker)
    assert worker.wait(120) == ExitCode.DISK_FULL, worker.log_tail()
    assert "the disk has no room for this worker's tables" in worker.log()
    assert "MSGMETER_STATE_DIRECTORY" in worker.log()
    gateway.join()
    files = set(disk.directory.rglob("*.sst"))
    if disk.is_mounted:
        # Whoever starts it again too early hears the same, and no file is taken for corrupt and wiped.
        worker.start()
        assert worker.wait(120) == ExitCode.DISK_FULL, worker.log_tail()
        assert "the file of partition" not in worker.log()
        assert files == set(disk.directory.rglob("*.sst"))
    disk.free()
    worker.start()
    system.await_all_committed()
    system.assert_agreement(log, f"FAULTS_SEED={SEED}")
