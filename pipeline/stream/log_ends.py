"""Where the log ends in each partition of this worker: what lag is measured against.

Takes the app; asks the broker every few seconds. Fetching also tells it (a consumer's high-water mark), but a
worker that waits for ClickHouse fetches nothing, and its lag would stand still just when it grows. Never
decides anything: an answer that does not come leaves the last one standing. What was not foreseen ends the process,
because nobody would notice that lag is not measured any more.
"""

import asyncio
import logging
from typing import Any

from aiokafka.errors import KafkaError

from pipeline.stream.exits import ExitCode, end_process

ASK_SECONDS = 5.0

_log = logging.getLogger(__name__)


class LogEnds:
    """The end offsets known last: the offset the next record of a partition will get."""

    def __init__(self, app: Any, topic: str) -> None:  # noqa: ANN401 - Faust's app is untyped
        self._app = app
        self._topic = topic
        self._by_partition: dict[int, int] = {}

    def end(self, partition: int) -> int | None:
        """The end of a partition; none before the first answer."""
        return self._by_partition.get(partition)

    async def keep_asking(self) -> None:
        """Asks until cancelled; a broker that is away is asked again, and any other fault ends the process."""
        while True:
            try:
                await self._ask()
            except KafkaError as error:
                _log.info("the ends of the log are not known at present: %r", error)
            except Exception as error:  # noqa: BLE001 - whatever it is, it would come again
                # An app that crashed stops its consumer while this goes on, and has its own exit code.
                if self._app.should_stop:
                    return
                end_process(ExitCode.AGENT_FAILED, f"the log's ends cannot be asked: {error!r}", cause=error)
            await asyncio.sleep(ASK_SECONDS)

    async def _ask(self) -> None:
        consumer = self._app.consumer
        partitions = [tp for tp in consumer.assignment() if tp.topic == self._topic]
        if not partitions:
            return
        # Beside the thread's queue of calls, so that an answer that takes long holds up no commit.
        thread = consumer._thread  # noqa: SLF001 - Faust has no public way to its aiokafka consumer
        asked = thread._ensure_consumer().end_offsets(partitions)  # noqa: SLF001
        ends = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, thread.thread_loop))
        self._by_partition = {tp.partition: end for tp, end in ends.items()}
