"""A sensor that ends the process when a record could not be sent (mend C).

Decides nothing else. Upstream only logs a failed send (faust/topics.py:463) and goes on to commit offsets
behind it: an alert, a result or a changelog record is lost. `app.sensors.add(SendErrorEndsProcess())`.
"""

from typing import Any

import faust

from pipeline.stream.exits import ExitCode, end_process


class SendErrorEndsProcess(faust.Sensor):  # type: ignore[misc]
    """Hears of failed sends from Faust, once aiokafka has given up on them."""

    def on_send_error(self, producer: Any, exc: BaseException, state: Any) -> None:  # noqa: ANN401, ARG002
        """End the process: its successor replays from the committed offset, which lies before the record."""
        end_process(ExitCode.SEND_FAILED, f"a record could not be written to Kafka: {exc!r}", cause=exc)
