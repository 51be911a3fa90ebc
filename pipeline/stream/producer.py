# ruff: noqa: ANN401 - it overrides private methods of untyped libraries, with upstream lines.
"""Faust's producer with a flush that is a barrier (mend B).

Decides when everything that was enqueued is acknowledged. Takes what Faust sends; gives, from `flush`, either
the broker's acknowledgement of all of it or the first failure. Never decides what is sent.

Upstream's flush gives up after 100 ms without a send and calls the buffer empty while its last message is
still on the way to aiokafka (faust/transport/producer.py:87, :123); the commit that follows it then runs
ahead of alerts, results and changelogs (faust/transport/consumer.py:1071).

Invariants:
- after `flush`, every message enqueued before it is acknowledged by all in-sync replicas;
- a retried batch is stored once and in its place (idempotence), however often its answer was lost. Such a
  producer never gives up on a broker that is away: it waits, and so does whoever flushes;
- a message that cannot even be handed to aiokafka ends the process (mend C), or a flush would wait forever.

Use: `class Transport(ChunkTransport): Producer = BarrierProducer`.
"""

import asyncio
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.transport.producer import ProducerBuffer

import pipeline.stream.pins  # noqa: F401 - overrides private methods
from pipeline.stream.exits import ExitCode, end_process


class BarrierBuffer(ProducerBuffer):  # type: ignore[misc]
    """The messages on their way from `send_soon` to their acknowledgement."""

    # Above this many messages, upstream holds streams up in steps of 100 ms (transport/producer.py:106).
    max_messages = 20_000

    def __post_init__(self) -> None:
        """Start with nothing on its way (called at the end of the service's construction)."""
        super().__post_init__()
        self._unanswered: set[asyncio.Future[Any]] = set()

    def put(self, fut: Any) -> None:
        """Enqueue a message and remember it until it is answered."""
        self._unanswered.add(fut)
        fut.add_done_callback(self._unanswered.discard)
        super().put(fut)

    async def flush(self) -> None:
        """Wait until all messages enqueued so far are answered; raises the first failure among them."""
        waited_for = tuple(self._unanswered)
        if waited_for:
            await asyncio.wait(waited_for)
        for message in waited_for:
            message.result()

    async def _send_pending(self, fut: Any) -> None:
        """Hand a message on; upstream loses it on an exception, and with it the task that hands on (:128)."""
        try:
            await super()._send_pending(fut)
        except Exception as error:  # noqa: BLE001 - whatever it is, the message is not sent
            topic = fut.message.channel.get_topic_name()
            end_process(ExitCode.SEND_FAILED, f"a message for {topic} cannot be sent: {error!r}", cause=error)


class BarrierProducer(driver.Producer):  # type: ignore[misc]
    """Faust's aiokafka producer: idempotent, and `flush` is a barrier."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer = BarrierBuffer(loop=self.loop, beacon=self.beacon)
        self.buffer.app = self.app

    def _settings_extra(self) -> dict[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def on_stop(self) -> None:
        """Flush while the buffer still runs; upstream stops aiokafka's producer before it (driver :1269)."""
        await self.flush()
        await super().on_stop()
