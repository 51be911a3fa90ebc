"""Mends C, D and G: a worker ends, at once with a code of its own, before it loses anything."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.protocol.group import LeaveGroupRequest
from table_scene import PARTITIONS, Tables, until, value

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.stream.exits import ExitCode
from pipeline.stream.watchdog import confirm_ownership


@pytest.fixture
def scene(
    broker: EmbeddedBroker,
    create_topic: Callable[..., str],
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> Tables:
    topic = create_topic("raw", partitions=PARTITIONS)
    tables = Tables(broker.bootstrap_servers, topic, unique_name("group"), tmp_path)
    tables.create_changelog()
    return tables


@pytest.mark.parametrize("size_bytes", [5_000, 5_000_000], ids=["broker refuses it", "client refuses it"])
async def test_a_record_that_cannot_be_sent_ends_the_process(
    size_bytes: int, scene: Tables, create_topic: Callable[..., str]
) -> None:
    alerts = create_topic("alerts", max_message_bytes=1_000)
    with scene.running("worker", f"--alert-topic={alerts}", f"--alert-bytes={size_bytes}") as worker:
        assert await worker.exit_code() == ExitCode.SEND_FAILED


async def test_an_exception_in_an_agent_ends_the_process_and_its_chunk_is_not_committed(
    scene: Tables,
) -> None:
    await asyncio.to_thread(scene.produce, [b"k"] * 200)
    with scene.running("worker", "--fail-at-offset=150") as worker:
        await scene.until_committed(200)
        await asyncio.to_thread(scene.produce, [b"k"] * 200)
        assert await worker.exit_code() == ExitCode.AGENT_FAILED
    assert scene.committed() <= 300


async def test_a_loop_that_stands_still_ends_the_process(scene: Tables) -> None:
    with scene.running("worker", "--watchdog-seconds=0.5", "--stall-seconds=600") as worker:
        assert await worker.exit_code() == ExitCode.LOOP_STALLED


async def test_a_process_that_was_paused_ends_when_it_wakes(scene: Tables) -> None:
    await asyncio.to_thread(scene.produce, [b"k"] * 200)
    with scene.running("worker", "--watchdog-seconds=1", "--pause-before-send=1") as worker:
        await worker.line("paused")
        await asyncio.sleep(1.5)  # The pause itself is what is tested: longer than the watchdog's limit.
        worker.process.send_signal(signal.SIGCONT)
        assert await worker.exit_code() == ExitCode.LOOP_STALLED


async def test_a_worker_ends_where_the_log_has_other_partitions_than_its_state(
    scene: Tables, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also one that was frozen when they were added: it wakes up to a rebalance, after which it recovers."""
    scene.append([(b"k", value(9), 0), (b"k", value(5), 0)])
    scene.add_partition()
    with scene.running("worker") as worker:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED
    assert "partitions were added, so tenants have moved to others" in capfd.readouterr().err
    assert len(scene.read_changelog()) == 2  # No winner was repeated.


async def test_a_worker_ends_where_the_log_is_in_another_era_before_it_changes_anything(
    scene: Tables, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is asked at every recovery: a worker that was frozen while partitions were added wakes up to one."""
    scene.append([(b"k", value(9), 0), (b"k", value(5), 0)])
    with scene.running("worker", "--other-era") as worker:
        assert await worker.exit_code() == ExitCode.RECOVERY_FAILED
    assert "tables could not be recovered: the log is in another era" in capfd.readouterr().err
    assert len(scene.read_changelog()) == 2  # No winner was repeated.


async def test_ownership_is_denied_once_the_group_knows_the_worker_no_longer(scene: Tables) -> None:
    async with scene.worker(broker_heartbeat_interval=2.0) as (app, _):
        assert await confirm_ownership(app)
        await app.consumer._thread.call_thread(expel, app.consumer._thread._consumer._coordinator)
        assert not await confirm_ownership(app)
        await until(lambda: app.consumer_generation_id > 1 and not app.rebalancing)
        assert await confirm_ownership(app)


async def expel(coordinator: Any) -> None:
    """Let the group forget the member without telling it, as when its session has run out."""
    request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
    await coordinator._send_req(request)


async def test_what_a_paused_worker_writes_after_its_session_changes_nothing(scene: Tables) -> None:
    """The worst case: no watchdog, and the pause begins behind the confirmation."""
    await asyncio.to_thread(scene.produce, [b"k"] * 200)
    with scene.running("zombie", "--unconfirmed", "--pause-before-send=1") as zombie:
        await zombie.line("paused")
        with scene.running("successor") as successor:
            await scene.until_committed(200)
            await asyncio.to_thread(scene.produce, [b"k"] * 200)
            await scene.until_committed(400)
            written = [len(scene.read_changelog(partition)) for partition in range(PARTITIONS)]
            zombie.process.send_signal(signal.SIGCONT)
            await zombie.line("woken")
            await until(lambda: [len(scene.read_changelog(p)) for p in range(PARTITIONS)] != written)
            successor.end(signal.SIGKILL)
    assert await scene.counts("third") == {b"k": 400}
