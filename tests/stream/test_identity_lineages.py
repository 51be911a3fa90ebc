"""Two workers that cut the log at different places: neither takes the other's identity deltas for outdated.

The changelog is a list; stores, tables and replay are the worker's own.
"""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core import identity
from pipeline.core.identity import IdentityIndex
from pipeline.settings import Settings
from pipeline.stream.agreement import MARK_KEY
from pipeline.stream.app import make_app
from pipeline.stream.changelog import PartitionReplay
from tests.core.test_identity import charge, key_of, make_index
from tests.simulation.broker import Batch, Topic
from tests.simulation.stores import MemoryFiles
from tests.simulation.worker import Changelog

Changes = dict[bytes, bytes | None]


@pytest.fixture(autouse=True)
def small_deltas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delta ends after a chunk of two identities or more, and at every checkpoint."""
    monkeypatch.setattr(identity, "CUT_WEIGHT", 2)
    monkeypatch.setattr(identity, "SEALED_WEIGHT", 1)


class Machine:
    """Keeps on its disk what its workers knew, from one assignment to the next."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._store: Any = MemoryFiles("ids")
        self._store.open_partition(0)
        self._changelog: Any = Changelog("ids", self._producer(), self._store)
        self._changelog.owned = {0: object()}
        self._table = self._changelog.state_table()

    def _producer(self) -> Any:
        async def send_batch(batch: Batch, *_: str, partition: int) -> asyncio.Future[SimpleNamespace]:
            assert partition == 0
            answered = asyncio.get_running_loop().create_future()
            answered.set_result(SimpleNamespace(offset=self._topic.append(batch.records)))
            return answered

        return SimpleNamespace(create_batch=lambda: Batch(50), send_batch=send_batch)

    async def recover(self) -> IdentityIndex:
        """Reads what it has not read, and repeats winners."""
        replay = PartitionReplay(self._store, 0, keys_follow_log=self._changelog.keys_follow_log)
        replay.take(self._topic.read(self._store.position_of(0).next_offset, 1_000))
        if winners := replay.winners_to_repeat():
            repeated = ((key, value, applied) for key, (value, applied) in winners.items())
            replay.repeated(winners, await self._changelog.send(0, repeated))
        index = make_index()
        index.load(value for key, value in self._store.items_of(0) if key != MARK_KEY)
        return index

    async def write(self, changes: Changes, applied_offset: int) -> None:
        await self._table.write(0, changes, applied_offset=applied_offset + 1)


def fold(index: IdentityIndex, *chunks: range) -> Changes:
    """Every record charges a message; gives what the checkpoint behind the last chunk writes."""
    for chunk in chunks:
        charge(index, *chunk)
    return index.checkpoint(0)


def unknown(index: IdentityIndex, offsets: range) -> Iterator[int]:
    """The records whose messages would be charged once more."""
    return (offset for offset in offsets if index.find(key_of(offset)) < 0)


async def test_no_worker_deletes_what_another_has_named_otherwise() -> None:
    """One wakes with a checkpoint in hand and writes it behind its successor's; then each recovers on its own disk."""
    topic = Topic()
    frozen, successor = Machine(topic), Machine(topic)
    first = await frozen.recover()
    await frozen.write(fold(first, range(4)), 3)
    in_hand = fold(first, range(4, 7), range(7, 10), range(10, 12))
    second = await successor.recover()
    await successor.write(fold(second, range(4, 8), range(8, 11), range(11, 13)), 12)
    await frozen.write(in_hand, 11)
    for machine in (frozen, successor, frozen, Machine(topic)):
        index = await machine.recover()
        assert index.applied_offset == 12
        assert not list(unknown(index, range(13)))


def test_the_worker_knows_that_deltas_are_named_after_its_cuts(tmp_path: Any) -> None:
    tables = make_app(Settings(state_directory=tmp_path)).tables
    assert {name: table.keys_follow_log for name, table in tables.items()} == {
        "ids": False,
        "windows": True,
        "accounts": True,
    }
