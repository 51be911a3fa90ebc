"""Telling what retention deleted before it was read: once per record and process.

Takes spans of offsets from whoever finds them gone; logs and counts those that were not told before. An idle
partition finds the same span at every rebalance, until something is committed behind it. Another worker that gets
the partition meanwhile tells it once more. Never decides what is lost, and never changes anything else.
"""

import logging

from pipeline.metrics import worker as metrics

_log = logging.getLogger(__name__)

_told_before: dict[tuple[str, int], int] = {}
"""By topic and partition: everything before this offset was told; for the process, as the metric is."""


def tell_gone_unread(topic: str, partition: int, offsets: range) -> None:
    """Log and count those of the offsets, each one behind the other, that this process has not told yet."""
    where = (topic, partition)
    start = max(offsets.start, _told_before.get(where, 0))
    if start >= offsets.stop:
        return
    _log.error(
        "%s, partition %d: offsets %d to %d are gone, unread", topic, partition, start, offsets.stop - 1
    )
    metrics.GONE_UNREAD.inc(offsets.stop - start)
    _told_before[where] = offsets.stop
