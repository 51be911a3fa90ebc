"""What a worker logs of its work: each epoch and checkpoint that is stored, and each command that is answered.

Takes what was done; logs it, and nothing else. The fields beside the texts are for programs (pipeline/logs.py). A
command's line is the step between its record and its answer: all have its id, its partition and its position, and so
have the entries of the ledger that it caused. No text of a message is in reach here.
"""

import logging
from collections.abc import Iterable, Mapping

from pipeline.core.outcomes import Document

_epochs = logging.getLogger("msgmeter.epochs")
_commands = logging.getLogger("msgmeter.commands")
"""Named by what they tell, so that a collector can keep them apart."""


def tell_epoch(epoch: int, rows: int, spans: Mapping[int, tuple[int, int]], seconds: float) -> None:
    """Log an epoch whose effects are stored and published; `spans` has its first and last position by partition.

    `epoch` counts those of this process. One in which nothing was folded is not told.
    """
    if not spans:
        return
    records = sum(last - first + 1 for first, last in spans.values())
    fields = {
        "epoch": epoch,
        "rows": rows,
        "records": records,
        "partitions": len(spans),
        "seconds": round(seconds, 3),
        "positions": dict(spans),
    }
    text = "epoch %d: %d rows of %d records in %d partitions, stored in %.2f s"
    _epochs.info(text, epoch, rows, records, len(spans), seconds, extra=fields)


def tell_checkpoint(epoch: int, partitions: int, seconds: float) -> None:
    """Log that state was written and offsets will be committed, up to and with an epoch; not where there was none."""
    if partitions:
        fields = {"epoch": epoch, "partitions": partitions, "seconds": round(seconds, 3)}
        text = "checkpoint of epoch %d: %d partitions, kept in %.2f s"
        _epochs.info(text, epoch, partitions, seconds, extra=fields)


def tell_results(results: Iterable[Document]) -> None:
    """Log what commands were answered, as `result.v1`; at `debug` of ticks, of which there may be thousands at once."""
    for result in results:
        level = logging.DEBUG if result["type"] == "tick" else logging.INFO
        if not _commands.isEnabledFor(level):
            continue
        partition, position = result["partition"], result["offset"]
        # As Python writes texts: both names are a stranger's choice.
        told = (result["command_id"], result["tenant"], result["outcome"], partition, position)
        reason = f" ({result['reason']})" if result["reason"] else ""
        fields = {
            "command_id": result["command_id"],
            "tenant": result["tenant"],
            "type": result["type"],
            "outcome": result["outcome"],
            "reason": result["reason"],
            "partition": partition,
            "position": position,
        }
        _commands.log(level, f"command %r of tenant %r answered %s at %d:%d{reason}", *told, extra=fields)
