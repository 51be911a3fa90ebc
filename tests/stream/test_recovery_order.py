"""Recoveries that overtake each other, and what a recovery waits for before records flow.

The twin stands where Faust's app and aiokafka's coordinator do; there are no tables, so nothing is read.
"""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalGenerationError, NoError
from faust.types import TP

from pipeline.settings import Settings
from pipeline.stream import recovery
from pipeline.stream.app import make_app
from pipeline.stream.changelog import reading_passes
from pipeline.stream.recovery import Recovery

SOURCE = TP("messages.raw", 0)


class App:
    """What a recovery asks of the app, its consumer and the coordinator; seeks wait until they may end."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.rebalancing_count = self.consumer_generation_id = 0
        self.in_recovery = False
        self.conf = SimpleNamespace(id="app", broker_request_timeout=60.0)
        self.assignor = SimpleNamespace(assigned_standbys=set)
        self.on_rebalance_complete = SimpleNamespace(send=self._nothing)
        self.flow_control = SimpleNamespace(resume=lambda: None)
        self._fetcher = SimpleNamespace(maybe_start=self._nothing)
        self.consumer = self
        self._thread = self
        self.seeks: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        self.answers: list[type[Exception]] = []
        """What the coordinator says to the next heartbeats; then that all is well."""
        self.is_asked = asyncio.Event()
        self._coordinator = self
        self.group_id, self.member_id = "group", "member"

    async def _nothing(self) -> None:
        pass

    # The consumer.

    def assignment(self) -> set[TP]:
        return {SOURCE}

    async def perform_seek(self) -> None:
        may_end = asyncio.Event()
        self.seeks.put_nowait(may_end)
        await may_end.wait()
        self.journal.append("seek")

    def resume_partitions(self, _: Any) -> None:
        self.journal.append("go")

    def resume_flow(self) -> None:
        pass

    def on_rebalance_end(self) -> None:
        pass

    # Its thread, and the coordinator in it.

    @property
    def generation(self) -> int:
        return self.consumer_generation_id

    def _ensure_consumer(self) -> "App":
        return self

    async def call_thread(self, call: Any, *arguments: Any) -> Any:
        return await call(*arguments)

    async def _send_req(self, _: Any) -> SimpleNamespace:
        self.is_asked.set()
        error = self.answers.pop(0) if self.answers else NoError
        self.journal.append(error.__name__)
        return SimpleNamespace(error_code=error.errno)


class Tables(dict[str, Any]):
    """Tables of a worker that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.kafka: dict[str, str] = {}
        self.source_topic = SOURCE.topic
        self.remembered_seconds = 0.0

    def last_partitions(self) -> frozenset[int]:
        return frozenset()

    def on_actives_ready(self) -> None:
        pass

    def on_standbys_ready(self) -> None:
        pass


class Scene:
    """A recovery, and the group that assigns."""

    def __init__(self) -> None:
        self.app = App()
        tables: Any = Tables()
        self.recovery = Recovery(self.app, tables)

    async def rebalance(self) -> None:
        self.recovery.on_partitions_revoked({SOURCE})
        self.app.rebalancing_count += 1
        self.app.consumer_generation_id += 1
        await self.recovery.on_rebalance({SOURCE}, set(), {SOURCE}, self.app.consumer_generation_id)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    await made.recovery.start()
    yield made
    await made.recovery.stop()


async def test_a_recovery_that_was_overtaken_lets_no_streams_go(scene: Scene) -> None:
    """The records of the later assignment would flow before its own seek."""
    await scene.rebalance()
    first = await scene.app.seeks.get()
    await scene.rebalance()
    first.set()
    second = await scene.app.seeks.get()
    assert scene.app.journal == ["seek"], "the first one has ended, and nothing flows"
    second.set()
    await scene.recovery.completed.wait()
    assert scene.app.journal == ["seek", "seek", "NoError", "go"]


async def test_streams_go_when_the_group_has_confirmed_the_assignment_behind_the_seek(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_CONFIRM_RETRY_SECONDS", 0)
    scene.app.answers = [IllegalGenerationError, IllegalGenerationError]
    await scene.rebalance()
    (await scene.app.seeks.get()).set()
    await scene.recovery.completed.wait()
    assert scene.app.journal == [
        "seek",
        "IllegalGenerationError",
        "IllegalGenerationError",
        "NoError",
        "go",
    ]


async def test_a_worker_that_lost_its_assignment_while_it_took_it_up_never_lets_streams_go(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_CONFIRM_RETRY_SECONDS", 0)
    scene.app.answers = [IllegalGenerationError] * 1_000_000
    await scene.rebalance()
    (await scene.app.seeks.get()).set()
    await scene.app.is_asked.wait()
    scene.app.answers.clear()
    await scene.rebalance()
    second = await scene.app.seeks.get()
    assert "go" not in scene.app.journal
    second.set()
    await scene.recovery.completed.wait()
    assert scene.app.journal.count("go") == 1


def test_what_is_written_last_is_read_to_its_end_before_the_others_are() -> None:
    every, again = reading_passes(["identities", "windows", "accounts"])
    assert list(every) == ["identities", "windows", "accounts"]
    assert list(again) == ["identities", "windows"]


def test_the_app_declares_its_tables_in_the_order_in_which_checkpoints_write_them() -> None:
    assert list(make_app(Settings()).tables) == ["ids", "windows", "accounts"]
