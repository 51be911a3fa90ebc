"""The golden log's report as text, one field a line, so that a change is a diff that can be read."""

from pathlib import Path

import orjson

from pipeline.core.simulation import simulate
from pipeline.logfile import read_log, sign_plain
from tests.builders import COMMAND_KEY, instant, rules

LOG = Path(__file__).with_name("log.jsonl")
REPORT = Path(__file__).with_name("report.json")
UNTIL = instant("2026-04-02T00:00")


def golden_report() -> bytes:
    """Simulate the golden log under the standard rate card, and let time pass for two more periods."""
    given = rules(partitions=4)
    records = (sign_plain(record, COMMAND_KEY) for record in read_log(LOG))
    document = simulate(records, given, until=UNTIL).document()
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
