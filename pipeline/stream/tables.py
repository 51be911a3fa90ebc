# ruff: noqa: SLF001, ANN401 - it goes round Faust's own write path, with upstream lines.
"""The state tables of a worker: Faust tables whose values survive the worker in changelog topics.

Decides when a change counts: once the broker has acknowledged all of a write's records, and not before.
Takes raw keys and values; gives values of the partitions this worker owns. Never interprets a value beyond
its first 8 bytes, its applied offset, and never creates a topic: `msgmeter migrate` does.

Faust's own `table[key] = value` is not used. It costs 75 us, stores the value before it is sent (so that
RocksDB runs ahead of the changelog, mend F), only logs a failed send, and takes the partition from the
event that happens to be current (faust/tables/base.py:305, faust/stores/rocksdb.py:467).

Invariants:
- order of a write: all records acknowledged, then the local store with the position behind them. A worker
  killed in between recovers what is missing from the changelog;
- what is stored locally is never ahead of the changelog;
- the last record of a write is its mark (pipeline/stream/agreement.py), also where nothing else changed;
- a partition can be read from the end of its recovery to the next assignment, and written until it is
  revoked; a write that is overtaken by a revocation raises `NotOwnedError` and changes nothing locally.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import faust
from faust.tables.table import Table

import pipeline.stream.pins  # noqa: F401 - overrides private methods
from pipeline.core.kept import APPLIED_BYTES
from pipeline.errors import MsgmeterError
from pipeline.stream.agreement import MARK_KEY, mark_of
from pipeline.stream.batches import append_records
from pipeline.stream.changelog import APPLIED_HEADER
from pipeline.stream.stores import Changes, MemoryStore, PartitionedStore, RocksStore


class NotOwnedError(MsgmeterError):
    """The partition belongs to another worker, or is not recovered: discard what depends on it."""


class ChangelogTable(Table):  # type: ignore[misc]
    """The Faust table beneath a `StateTable`; recovery fills it (pipeline/stream/recovery.py)."""

    data: PartitionedStore

    def __init__(self, *args: Any, keys_follow_log: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys_follow_log = keys_follow_log
        """Of `StateTable`."""
        self.owned: dict[int, object] = {}
        """Partitions that may be written, each with a token that changes at every assignment."""
        self.readable: frozenset[int] = frozenset()
        """Partitions that may be read: also while they are being revoked, because agents are then in the
        middle of a chunk. What they make of it is discarded with the partition."""

    def _new_store(self) -> PartitionedStore:
        url = self._store or self.app.conf.store
        kind: Any = RocksStore if url.scheme == "rocksdb" else MemoryStore
        # Not with `self.loop`, which makes one that nobody closes where none runs yet.
        store: PartitionedStore = kind(
            url, self.app, self, table_name=self.name, key_type=bytes, value_type=bytes, loop=self._loop
        )
        return store

    async def on_start(self) -> None:
        """Start the store; upstream would also create the topic (tables/base.py:224)."""
        await self.add_runtime_dependency(self.data)

    async def on_rebalance(self, *_: Any, **__: Any) -> None:
        """Do nothing: recovery opens and closes partitions, and knows what to do with a corrupt file."""

    async def on_recovery_completed(self, *_: Any) -> None:
        """Call the callbacks; upstream's memory store would look for keys of lost partitions first."""
        await self.call_recover_callbacks()

    def on_key_set(self, *_: Any) -> None:
        """Refuse Faust's own way of writing: nothing would wait for the broker."""
        raise TypeError(f"{self.name} is written through StateTable.write")

    on_key_del = on_key_set

    async def send(self, partition: int, records: Iterator[tuple[bytes, bytes | None, bytes]]) -> int:
        """Append records (key, value or None, applied offset) to the changelog and wait for the broker.

        Gives the offset behind the last one, or 0 where the broker does not tell (it had them already).
        Raises the first failure once all batches are answered; some records may have been written.
        """
        producer = self.app.producer._ensure_producer()
        appended = (
            (key, value, [(APPLIED_HEADER, applied)] if value is None else [])
            for key, value, applied in records
        )
        return await append_records(producer, self.changelog_topic_name, partition, appended)


class StateTable:
    """Keyed state of one kind (accounts, windows, ids), by partition of the source topic."""

    def __init__(self, app: faust.App, name: str, *, partitions: int, keys_follow_log: bool = True) -> None:
        """Declare the table; its changelog is `<app id>-<name>-changelog`. Before the app starts.

        `keys_follow_log`: the log alone decides which keys have a value at an offset of it. A late value of a key that
        had none there is then outdated. Where keys depend on how a worker has cut the log, two workers would take each
        other's values for outdated, delete them, and both be without.

        The app's `Table` setting must be `ChangelogTable` and its `TableManager` the one of recovery.py.
        """
        self._table: ChangelogTable = app.Table(
            name, key_type=bytes, value_type=bytes, partitions=partitions, keys_follow_log=keys_follow_log
        )
        if not isinstance(self._table, ChangelogTable):
            raise TypeError("faust.App(Table=ChangelogTable, ...) is needed")

    def is_owned(self, partition: int) -> bool:
        """Whether the partition may be written: recovered, and not revoked since."""
        return partition in self._table.owned

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Give the value of a key, None where there is none. Raises NotOwnedError."""
        return self._readable(partition).lookup(partition)(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Give all keys and values of a partition as they are now. Raises NotOwnedError.

        Consume it before awaiting anything: the file beneath may be closed by a rebalance.
        """
        return (item for item in self._readable(partition).items_of(partition) if item[0] != MARK_KEY)

    async def write(
        self, partition: int, changes: Mapping[bytes, bytes | None], *, applied_offset: int
    ) -> None:
        """Make changes durable: returns when the broker has all of them and the local store too.

        `applied_offset` is the last offset of the log that the checkpoint covers. All changes up to it since
        the last write belong in here: it also says what a key's absence means, where keys follow the log. A value
        begins with its own applied offset (8 bytes, big-endian, at most `applied_offset`); None deletes. One write at
        a time per partition. Raises NotOwnedError, or what the producer raised: then the process must end, because part
        of the changes may be in the changelog (recovery completes or repeats them).
        """
        token = self._table.owned.get(partition)
        if token is None:
            raise NotOwnedError(f"{self._table.name}: partition {partition} cannot be written")
        applied = applied_offset.to_bytes(APPLIED_BYTES, "big")
        # Last of all: it says that everything up to here is there.
        changes = {**changes, MARK_KEY: mark_of(applied_offset)}
        records = ((key, value, applied) for key, value in changes.items())
        next_offset = await self._table.send(partition, records)
        if self._table.owned.get(partition) is not token:
            raise NotOwnedError(f"{self._table.name}: partition {partition} was revoked during a write")
        self._apply(partition, changes, next_offset, applied)

    def _apply(self, partition: int, changes: Changes, next_offset: int, floor: bytes) -> None:
        store = self._table.data
        before, notes = store.position_of(partition), store.notes_of(partition)
        position = before.behind(next_offset, len(changes))._replace(floor=max(before.floor, floor))
        noted = notes.settle(changes, position.floor)
        store.apply(partition, changes, position, noted)

    def _readable(self, partition: int) -> PartitionedStore:
        if partition not in self._table.readable:
            raise NotOwnedError(f"{self._table.name}: partition {partition} cannot be read")
        return self._table.data
