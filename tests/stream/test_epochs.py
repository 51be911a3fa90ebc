"""Epochs and checkpoints in one process: the order of the five steps, and what is left out when a partition goes.

The twins stand where the libraries do: the ClickHouse driver's client, aiokafka's producer, and Faust's tables. Each
writes what it did into the scene's journal, a beginning ("+") and an end ("-") for what takes time.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core import identity_deltas
from pipeline.core.eras import ERA_POSITIONS, Era
from pipeline.core.identity import message_key
from pipeline.core.partitions import partition_of
from pipeline.core.process import PartitionFold
from pipeline.core.rules import Rules
from pipeline.errors import Transient
from pipeline.metrics import worker as metrics
from pipeline.settings import Settings
from pipeline.stream import closing, epochs
from pipeline.stream.cutter import Chunk, LogHoleError
from pipeline.stream.epochs import Meter
from pipeline.stream.partitions import Tables
from pipeline.stream.tables import NotOwnedError
from pipeline.topics import ACCOUNT_RECHARGES, ACCOUNT_RESULTS, MESSAGES_REFUSED, USAGE_ALERTS
from tests.builders import HOUR, Log, Record, plan, rules

COLUMN = {name: position for position, (name, _) in enumerate(FACTS.columns)}
TENANTS = {partition_of(name.encode(), 2): name for name in map(str, range(20))}
"""A tenant of either partition, where there are two."""
Journal = list[str]


class Service:
    """A ClickHouse that keeps inserts; the next ones fail with `failures`; look-ups wait while told to."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.failures: list[Exception] = []
        self.inserts: list[tuple[str, str, list[list[Any]]]] = []
        """(table, token, columns) of every attempt."""
        self.facts: list[tuple[Any, ...]] = []
        self.refused_tenant = ""
        """Whose rows of any table but that of facts do not fit."""
        self.stored: dict[str, set[str]] = {}
        """By table: the tenants of what was taken."""
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def insert(self, table: str, columns: Any, *, settings: dict[str, Any], **_: Any) -> SimpleNamespace:
        self.journal.append(f"+{table}")
        token = settings["insert_deduplication_token"]
        self.inserts.append((table, token, [list(column) for column in columns]))
        if self.failures:
            raise self.failures.pop(0)
        if table != FACTS.name and self.refused_tenant in columns[0]:
            raise OverflowError("int too large to convert")
        self.stored.setdefault(table, set()).update(columns[0])
        if table == FACTS.name:
            self.facts += zip(*columns, strict=True)
        self.journal.append(f"-{table}")
        return SimpleNamespace(summary={"written_rows": str(len(columns[0]))})

    def query(self, statement: str, **_: Any) -> SimpleNamespace:
        """Charges of the identities whose literals are in the statement, as they were when asked; or all columns."""
        names: tuple[str, ...] = ("tenant", "message_key", "kafka_partition", "kafka_offset", "fingerprint")
        if "further_grants" in statement:
            names = FACTS.column_names[:-1]
        rows = [tuple(fact[COLUMN[name]] for name in names) for fact in self.facts]
        self.is_asked.set()
        assert self.may_answer.wait(60)
        found = [row for row in rows if row[1].hex("x").replace("x", "\\x") in statement]
        return SimpleNamespace(result_rows=[(found,)], summary={"written_rows": "0"})

    @property
    def charged(self) -> list[tuple[int, str]]:
        """(offset, message) of all facts, in the order in which they were stored."""
        return [(fact[COLUMN["kafka_offset"]], fact[COLUMN["message_id"]]) for fact in self.facts]


class Producer:
    """A broker that acknowledges after a while, or refuses a topic's records with what `failures` has for it."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.failures: dict[str, Exception] = {}

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(65_536, 0)

    async def send_batch(self, _: BatchBuilder, topic: str, *, partition: int) -> Awaitable[Any]:
        self.journal.append(f"+{topic}")
        return asyncio.ensure_future(self._answer(topic))

    async def _answer(self, topic: str) -> SimpleNamespace:
        await asyncio.sleep(0)
        if topic in self.failures:
            raise self.failures[topic]
        self.journal.append(f"-{topic}")
        return SimpleNamespace(offset=0)


class Table:
    """A table as `StateTable` is: what is not in `owned` can be read all the same, until it is `closed`."""

    def __init__(self, name: str, journal: Journal, owned: set[int]) -> None:
        self.name, self.journal, self.owned = name, journal, owned
        self.lost: set[int] = set()
        """Partitions whose next write finds them revoked."""
        self.closed: set[int] = set()
        self.values: dict[int, dict[bytes, bytes]] = {}

    def is_owned(self, partition: int) -> bool:
        return partition in self.owned

    def get(self, partition: int, key: bytes) -> bytes | None:
        if partition in self.closed:
            raise NotOwnedError(f"{self.name}: partition {partition} cannot be read")
        return self.values.get(partition, {}).get(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.values.get(partition, {}).items())

    async def write(self, partition: int, changes: Any, *, applied_offset: int) -> None:
        self.journal.append(f"+{self.name}")
        await asyncio.sleep(0)
        if partition in self.lost:
            raise NotOwnedError(f"{self.name}: partition {partition} was revoked during a write")
        values = self.values.setdefault(partition, {}) | changes
        self.values[partition] = {key: value for key, value in values.items() if value is not None}
        self.journal.append(f"-{self.name}")


@dataclass
class Event:
    value: Chunk
    journal: Journal

    def ack(self) -> bool:
        self.journal.append(f"ack {self.value.last_offset}")
        return True


async def _holds() -> bool:
    return True


class Scene:
    """A meter among its twins; `take` hands it what the log has got since the last call."""

    def __init__(self, given: Rules | None = None, *, epoch_rows: int = 1_000) -> None:
        self.journal: Journal = []
        self.generation = 1
        self.committed = dict.fromkeys(range(2), 0)
        self.owns: Callable[[], Awaitable[bool]] = _holds
        self.service, self.producer = Service(self.journal), Producer(self.journal)
        self.owned = {0, 1}
        self.identities, self.windows, self.accounts = (
            Table(name, self.journal, self.owned) for name in ("identities", "windows", "accounts")
        )
        self.given = given or rules()
        self.meter = Meter(
            Settings(partitions=self.given.partitions, epoch_rows=epoch_rows),
            self.given,
            Tables(*cast("Any", (self.identities, self.windows, self.accounts))),
            connect=lambda: cast("Any", self.service),
            producer=lambda: self.producer,
            owns=self._owns,
            commit=self._commit,
            generation=lambda: self.generation,
            reads_from=lambda partition: self.committed[partition],
        )
        self._handed_out: dict[int, int] = {}

    async def _owns(self) -> bool:
        return await self.owns()

    async def _commit(self) -> None:
        self.journal.append("commit")

    async def take(self, log: Log, partition: int = 0, *, generation: int = 1) -> None:
        start = self._handed_out.get(partition, 0)
        self._handed_out[partition] = len(log.records)
        records: list[Record] = log.records[start:]
        chunk = Chunk(cast("Any", records), start, 0, generation)
        await self.meter.take(Event(chunk, self.journal), partition)

    def lose(self, partition: int) -> None:
        """The group takes the partition away; its tables stay readable, as they do until the next assignment."""
        self.owned.discard(partition)
        self.meter.revoke({partition})

    def done(self, *kinds: str) -> Journal:
        return [line for line in self.journal if line.startswith(kinds)]


@pytest.fixture
def stage() -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(*args: Any, **settings: Any) -> Scene:
        scenes.append(Scene(*args, **settings))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.service.may_answer.set()
        scene.meter._until_stored.shutdown()


def an_eventful_log() -> Log:
    """A plan, two messages that reach every level and let credits be asked for, a contact, and no message."""
    log = Log()
    log.set_plan(plan("2", recharge={"level_credits": "1", "block_credits": "5", "price": "0"}))
    log.messages(2)
    log.command("mark_contacts", contacts=["+14155550100"], state="active")
    log.append(b"acme", b"no message")
    return log


def a_log(count: int = 2, tenant: str = "acme", allowance: str = "1000") -> Log:
    log = Log(tenant=tenant)
    log.set_plan(plan(allowance))
    log.messages(count)
    return log


async def test_facts_then_publications_then_snapshots_then_tables_then_acks(
    stage: Callable[..., Scene],
) -> None:
    scene = stage()
    log = an_eventful_log()
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    steps = [
        {FACTS.name, ENTRIES.name, CONTACTS.name, ALERTS.name},
        {USAGE_ALERTS, ACCOUNT_RECHARGES, MESSAGES_REFUSED},
        {USAGE.name, ENTRIES.name, ACCOUNTS.name},
        {"identities", "windows"},
        {"accounts"},
    ]
    told = [line for line in scene.journal if line[1:] != ACCOUNT_RESULTS]
    first = told[:2]
    for step in steps:
        lines = {sign + name for sign in "+-" for name in step}
        assert set(told[: len(lines)]) == lines
        del told[: len(lines)]
    assert told == ["ack 4", "commit"]
    assert first == [f"+{FACTS.name}", f"-{FACTS.name}"]
    assert scene.journal.index(f"-{ACCOUNT_RESULTS}") < scene.journal.index(f"+{USAGE.name}")


async def test_results_are_told_before_anything_of_their_epoch_is_stored(
    stage: Callable[..., Scene],
) -> None:
    scene = stage()
    log = an_eventful_log()
    await scene.take(log)
    await asyncio.gather(*scene.meter._answered)
    assert scene.journal == [f"+{ACCOUNT_RESULTS}", f"-{ACCOUNT_RESULTS}"]
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.journal.count(f"+{ACCOUNT_RESULTS}") == 1, "they are told once"


async def test_an_epoch_that_is_no_checkpoint_keeps_and_acknowledges_nothing(
    stage: Callable[..., Scene],
) -> None:
    scene = stage()
    log = a_log()
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=False)
    assert not scene.done("+identities", "+windows", "+accounts", f"+{USAGE.name}", "ack", "commit")
    log.messages(1)
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.done("ack", "commit") == ["ack 2", "ack 3", "commit"]
    assert [offset for offset, _ in scene.service.charged] == [1, 2, 3]


@pytest.mark.parametrize("topic", [USAGE_ALERTS, ACCOUNT_RECHARGES, MESSAGES_REFUSED, ACCOUNT_RESULTS])
async def test_what_the_broker_does_not_take_is_raised_and_nothing_is_acknowledged(
    stage: Callable[..., Scene], topic: str
) -> None:
    scene = stage()
    scene.producer.failures[topic] = KafkaError("gone")
    await scene.take(an_eventful_log())
    with pytest.raises(KafkaError, match="gone"):
        await scene.meter.close_epoch(checkpoint=True)
    assert not scene.done(f"+{USAGE.name}", "+identities", "+windows", "+accounts", "ack", "commit")


async def test_a_passing_failure_repeats_the_same_rows_under_the_same_token(
    stage: Callable[..., Scene],
) -> None:
    scene = stage()
    scene.service.failures = [Transient("away", retry_after_seconds=0.001) for _ in range(2)]
    log = a_log()
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    log.messages(1)
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    first, second, third, other = (each for each in scene.service.inserts if each[0] == FACTS.name)
    assert first == second == third
    assert other[1] != first[1]
    assert [offset for offset, _ in scene.service.charged] == [1, 2, 3]
    assert scene.done("ack") == ["ack 2", "ack 3"]


async def test_a_value_that_does_not_fit_keeps_back_no_other_tenants(
    stage: Callable[..., Scene], caplog: pytest.LogCaptureFixture
) -> None:
    scene = stage()
    scene.service.refused_tenant = "bolt"
    before = metrics.ROWS_UNSTORABLE.labels(ACCOUNTS.name)._value.get()
    log = an_eventful_log()
    log.tenant = "bolt"
    log.set_plan(plan("2", overage={"policy": "negative"}))
    log.messages(2)
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.done("ack", "commit") == ["ack 7", "commit"]
    for table in (USAGE, ENTRIES, ALERTS, ACCOUNTS):
        assert scene.service.stored[table.name] == {"acme"}, table.name
        assert f"tenant 'bolt' do not fit {table.name}" in caplog.text
    assert metrics.ROWS_UNSTORABLE.labels(ACCOUNTS.name)._value.get() == before + 1
    assert scene.accounts.values[0].keys() == {b"acme", b"bolt"}


async def test_a_checkpoint_is_written_once_when_the_group_confirms_at_last(
    stage: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "_OWNERSHIP_RETRY_SECONDS", 0)
    scene = stage()
    answers = [False, False, True]

    async def owns() -> bool:
        assert not scene.done("+identities", "ack")
        return answers.pop(0)

    scene.owns = owns
    await scene.take(a_log())
    await scene.meter.close_epoch(checkpoint=True)
    assert not answers
    assert scene.done("+identities", "+accounts", "ack", "commit") == [
        "+identities",
        "+accounts",
        "ack 2",
        "commit",
    ]


async def test_a_checkpoint_of_lost_partitions_is_neither_written_nor_acknowledged(
    stage: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "_OWNERSHIP_RETRY_SECONDS", 0)
    scene = stage()
    answers = [False, False]

    async def owns() -> bool:
        answer = answers.pop(0)
        if not answers:
            scene.lose(0)
        return answer

    scene.owns = owns
    await scene.take(a_log())
    await scene.meter.close_epoch(checkpoint=True)
    assert not scene.done("+identities", "+windows", "+accounts", "ack", "commit")


@pytest.mark.parametrize("table", ["identities", "windows", "accounts"])
async def test_a_partition_revoked_during_its_write_is_not_acknowledged_and_others_are(
    stage: Callable[..., Scene], table: str
) -> None:
    scene = stage(rules(partitions=2))
    getattr(scene, table).lost = {0}
    await scene.take(a_log(count=2, tenant=TENANTS[0]), 0)
    await scene.take(a_log(count=7, tenant=TENANTS[1]), 1)
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.done("ack", "commit") == ["ack 7", "commit"]
    assert [scene.meter.partitions[number].acknowledged_offset for number in (0, 1)] == [-1, 7]


async def test_changes_of_a_partition_that_went_and_came_back_are_not_written(
    stage: Callable[..., Scene],
) -> None:
    scene = stage(rules(partitions=2))

    async def owns() -> bool:
        scene.lose(1)
        scene.owned.add(1)
        return True

    scene.owns = owns
    await scene.take(a_log(count=2, tenant=TENANTS[0]), 0)
    await scene.take(a_log(count=7, tenant=TENANTS[1]), 1)
    await scene.meter.close_epoch(checkpoint=True)
    assert [set(table.values) for table in (scene.identities, scene.windows, scene.accounts)] == [{0}] * 3
    assert scene.done("ack", "commit") == ["ack 2", "commit"]


async def _cut_after_the_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Task[None], asyncio.Event]:
    """A checkpoint of two partitions that has cut the first one; the event lets it go on."""
    is_cut, go_on = asyncio.Event(), asyncio.Event()

    async def leave_room(_: float) -> None:
        is_cut.set()
        await go_on.wait()

    monkeypatch.setattr(epochs, "leave_room", leave_room)
    closing = asyncio.create_task(scene.meter.close_epoch(checkpoint=True))
    await is_cut.wait()
    assert not scene.meter.partitions[0].events
    assert scene.meter.partitions[1].events, "the second is still to be cut"
    return closing, go_on


async def test_what_is_folded_during_a_cut_is_kept_once_wherever_its_partition_was_cut(
    stage: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage(rules(partitions=2))
    logs = [a_log(count=2, tenant=TENANTS[partition]) for partition in (0, 1)]
    for partition, log in enumerate(logs):
        await scene.take(log, partition)
    closing, go_on = await _cut_after_the_first(scene, monkeypatch)
    for partition, log in enumerate(logs):
        log.message("late to the cut")
        await scene.take(log, partition)
    go_on.set()
    await closing
    assert scene.done("ack") == ["ack 2", "ack 2", "ack 3"], "the first partition's last chunk is of the next"
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.done("ack") == ["ack 2", "ack 2", "ack 3", "ack 3"]
    assert [offset for offset, _ in sorted(scene.service.charged)] == [1, 1, 2, 2, 3, 3]


async def test_a_partition_lost_during_a_cut_is_not_kept(
    stage: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage(rules(partitions=2))
    for partition in (0, 1):
        await scene.take(a_log(count=2 + partition, tenant=TENANTS[partition]), partition)
    closing, go_on = await _cut_after_the_first(scene, monkeypatch)
    scene.lose(1)
    go_on.set()
    await closing
    assert scene.done("ack", "commit") == ["ack 2", "commit"]
    assert [set(table.values) for table in (scene.identities, scene.accounts)] == [{0}] * 2


async def test_a_chunk_of_an_earlier_generation_is_passed_over(stage: Callable[..., Scene]) -> None:
    scene = stage()
    scene.generation = 2
    await scene.take(a_log(), generation=1)
    assert not scene.meter.partitions
    await scene.meter.close_epoch(checkpoint=True)
    assert not scene.done("+", "ack")


async def test_a_generation_whose_first_chunk_is_missing_folds_nothing(stage: Callable[..., Scene]) -> None:
    scene = stage()
    log = a_log(count=3)
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    scene.lose(0)
    scene.owned.add(0)
    scene.generation, scene.committed[0] = 2, 4
    log.messages(1)
    scene._handed_out[0] = 5  # The chunk of offset 4 was lost on its way.
    log.messages(1)
    with pytest.raises(LogHoleError, match="partition 0: offsets 4 to 4 are missing"):
        await scene.take(log, generation=2)
    await scene.meter.close_epoch(checkpoint=True)
    assert [offset for offset, _ in scene.service.charged] == [1, 2, 3]
    assert scene.done("ack") == ["ack 3"]


async def test_a_chunk_behind_a_missing_one_is_not_folded(stage: Callable[..., Scene]) -> None:
    scene = stage()
    log = a_log(count=1)
    await scene.take(log)
    log.messages(2)
    scene._handed_out[0] = 3
    with pytest.raises(LogHoleError, match="partition 0: offsets 2 to 2 are missing"):
        await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.done("ack") == ["ack 1"]


async def test_chunks_that_are_read_again_are_folded_once(stage: Callable[..., Scene]) -> None:
    scene = stage()
    log = a_log(count=3)
    await scene.take(log)
    scene._handed_out[0] = 2
    log.messages(1)
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    assert [offset for offset, _ in scene.service.charged] == [1, 2, 3, 4]
    assert scene.done("ack") == ["ack 3", "ack 4"]


async def test_records_of_the_era_before_are_not_folded_when_the_groups_offsets_were_forgotten(
    stage: Callable[..., Scene],
) -> None:
    scene = stage(rules(plan(), era=Era(1, (2,))))
    log = Log()
    log.messages(4)
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    assert [offset for offset, _ in scene.service.charged] == [ERA_POSITIONS + 2, ERA_POSITIONS + 3]
    assert scene.done("ack") == ["ack 3"]
    owned = scene.meter.partitions[0]
    assert (owned.folded_offset, owned.acknowledged_offset) == (3, 3)


async def test_a_revoked_partition_is_not_taken_up_again_from_tables_that_can_still_be_read(
    stage: Callable[..., Scene],
) -> None:
    scene = stage(epoch_rows=2)
    log = a_log(count=1)
    await scene.take(log)
    log.messages(1)
    waiting = asyncio.create_task(scene.take(log))  # The epoch is full: this chunk waits for it.
    await asyncio.sleep(0)
    scene.lose(0)
    await scene.meter.close_epoch(checkpoint=False)
    await waiting
    assert not scene.meter.partitions
    await scene.meter.close_epoch(checkpoint=True)
    # The plan's result was told when it was folded, and whoever folds it next tells the same.
    assert scene.done("+", "ack") == [f"+{ACCOUNT_RESULTS}"]


async def _scene_with_an_old_identity(scene: Scene) -> Log:
    """Stored and let go: `x`, of noon. Stored, held, and let go by the next checkpoint: `y`, of two hours later."""
    log = a_log(count=0)
    log.message("x")
    for hours, message_id in ((2, "y"), (3, "z")):
        log.tick(log.now + HOUR)
        await scene.take(log)
        await scene.meter.close_epoch(checkpoint=True)
        log.now += (hours - 1) * HOUR
        log.message(message_id)
    log.tick(log.now + HOUR)
    await scene.take(log)
    return log


async def test_an_identity_let_go_during_a_look_up_is_looked_up_too(stage: Callable[..., Scene]) -> None:
    scene = stage(rules(identity_milliseconds=HOUR))
    log = await _scene_with_an_old_identity(scene)
    y = next(record for record in log.records if record.value and b'"id":"y"' in record.value)
    log.append(b"acme", log.records[1].value)
    log.append(b"acme", y.value)
    before = scene.meter.partitions[0].fold.identities.horizon_at
    scene.service.may_answer.clear()
    scene.service.is_asked.clear()
    taking = asyncio.create_task(scene.take(log))
    await asyncio.to_thread(scene.service.is_asked.wait, 60)
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.meter.partitions[0].fold.identities.horizon_at > before, "the checkpoint let go of nothing"
    scene.service.may_answer.set()
    await taking
    await scene.meter.close_epoch(checkpoint=True)
    assert [message_id for _, message_id in scene.service.charged] == ["x", "y", "z"]


def a_refunding_log() -> Log:
    log = Log()
    log.set_plan(plan("100", refunded_statuses=["failed"]))
    log.message("m")
    return log


def refunds(scene: Scene) -> list[tuple[int, str]]:
    facts = scene.service.facts
    return [
        (fact[COLUMN["kafka_offset"]], fact[COLUMN["message_id"]])
        for fact in facts
        if not fact[COLUMN["messages"]]
    ]


@pytest.mark.parametrize(("epoch_count", "is_asked"), [(0, False), (1, False), (2, True)])
async def test_a_failed_message_is_refunded_whether_its_charge_is_recent_or_stored(
    stage: Callable[..., Scene], epoch_count: int, is_asked: bool
) -> None:
    scene = stage()
    log = a_refunding_log()
    await scene.take(log)
    for _ in range(epoch_count):
        await scene.meter.close_epoch(checkpoint=False)
    log.message("m", status="failed")
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    assert scene.service.is_asked.is_set() == is_asked
    assert refunds(scene) == [(2, "m")]


async def test_a_charge_that_is_stored_during_a_look_up_is_looked_up_too(stage: Callable[..., Scene]) -> None:
    scene = stage()
    log = a_refunding_log()
    await scene.take(log)
    for _ in range(2):
        await scene.meter.close_epoch(checkpoint=False)
    log.message("n")
    await scene.take(log)
    log.message("m", status="failed")
    log.message("n", status="failed")
    scene.service.may_answer.clear()
    taking = asyncio.create_task(scene.take(log))
    await asyncio.to_thread(scene.service.is_asked.wait, 60)
    for _ in range(2):
        await scene.meter.close_epoch(checkpoint=False)
    scene.service.may_answer.set()
    await taking
    await scene.meter.close_epoch(checkpoint=True)
    assert refunds(scene) == [(3, "m"), (4, "n")]


async def test_stop_closes_the_last_epoch_with_a_checkpoint_and_folds_nothing_after(
    stage: Callable[..., Scene],
) -> None:
    scene = stage()
    log = a_log()
    await scene.take(log)
    running = asyncio.create_task(scene.meter.run())
    await scene.meter.stop()
    await running
    assert scene.done("+accounts", "ack", "commit") == ["+accounts", "ack 2", "commit"]
    log.messages(1)
    log.append(b"acme", b"no message")
    await scene.take(log)
    await scene.meter.close_epoch(checkpoint=True)
    assert [offset for offset, _ in scene.service.charged] == [1, 2]
    assert scene.done("ack", f"+{MESSAGES_REFUSED}") == ["ack 2"]


@pytest.mark.parametrize("leaves", ["stop", "revoke"])
async def test_a_chunk_whose_look_up_outlasts_ownership_is_not_folded(
    stage: Callable[..., Scene], leaves: str
) -> None:
    scene = stage(rules(identity_milliseconds=HOUR))
    log = await _scene_with_an_old_identity(scene)
    last_offset = len(log.records) - 1
    log.append(b"acme", log.records[1].value)
    log.message("later", tenant="another, whose account has to be read")
    log.message(
        "x", status="failed", tenant="a third, whose plan may refund", occurred_at=log.now - 20 * HOUR
    )
    scene.service.may_answer.clear()
    scene.service.is_asked.clear()
    taking = asyncio.create_task(scene.take(log))
    await asyncio.to_thread(scene.service.is_asked.wait, 60)
    if leaves == "stop":
        await scene.meter.stop()
        assert scene.done("ack")[-1] == f"ack {last_offset}"
    else:
        await scene.meter.close_epoch(
            checkpoint=True
        )  # It lets go of the accounts that a question has taken up.
        scene.lose(0)
        scene.accounts.closed = {0}
    acked = scene.done("ack")
    scene.service.may_answer.set()
    await taking
    await scene.meter.close_epoch(checkpoint=True)
    assert "later" not in [message_id for _, message_id in scene.service.charged]
    assert scene.done("ack") == acked


def _many_identities() -> dict[bytes, bytes]:
    """Kept deltas that hold more than is taken up in the event loop."""
    index = PartitionFold(0, rules()).identities
    for number in range(100_000):
        index.charge(message_key("acme", "gateway", str(number)), 0, 1, 0, 0, 0)
    index.advance(0)
    return {key: value for key, value in index.checkpoint(0).items() if value is not None}


async def test_many_identities_are_taken_up_while_the_event_loop_goes_on(
    stage: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    scene.identities.values[0] = _many_identities()
    began, loop_went_on, decode = threading.Event(), threading.Event(), identity_deltas.decode_delta

    def decode_once_the_loop_went_on(value: bytes) -> identity_deltas.IdentityDelta:
        began.set()
        assert loop_went_on.wait(10), "they are taken up on the event loop"
        return decode(value)

    monkeypatch.setattr(identity_deltas, "decode_delta", decode_once_the_loop_went_on)
    taking = asyncio.create_task(scene.take(a_log()))
    while not began.is_set():  # noqa: ASYNC110 - it is another thread's event
        await asyncio.sleep(0)
    loop_went_on.set()
    await taking
    assert len(scene.meter.partitions[0].fold.identities) == 100_002


@pytest.mark.parametrize("change", ["lose", "stop"])
async def test_a_partition_that_goes_while_it_is_taken_up_is_not_folded(
    change: str, stage: Callable[..., Scene]
) -> None:
    scene = stage()
    scene.identities.values[0] = _many_identities()
    taking = asyncio.create_task(scene.take(a_log()))
    while not scene.meter._folding._taking_up.locked():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    if change == "lose":
        scene.lose(0)
    else:
        await scene.meter.stop()
    await taking
    assert not scene.meter.partitions
    assert not scene.done("+")
