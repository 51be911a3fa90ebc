"""Values as workers of every state version kept them, and the log they are of.

`tests/golden/kept` holds the log, `history.jsonl`, and for each state version the values its program had kept after the
first part of it, in hexadecimal, and their shape, one field a line. `python -m tests.golden.kept_states` writes those
of the present version; for one that has ended they stay as they are.
"""

import inspect
from pathlib import Path

import msgspec
import orjson

from pipeline.core import account, identity_deltas, kept, usage
from pipeline.core.outcomes import FACT_COLUMNS
from tests.builders import Effects, Record, Tables, Worker, rules

DIRECTORY = Path(__file__).with_name("kept")
TABLES = ("identities", "windows", "accounts")
KEPT_RECORDS = 92
"""So many records of the log had been folded when the values were kept."""
_EPOCH_RECORDS = 7


def history() -> list[Record]:
    """The log, signed as it was sent."""
    records = []
    for line in (DIRECTORY / "history.jsonl").read_bytes().splitlines():
        offset, timestamp, key, value, headers = orjson.loads(line)
        signed = [(name, text.encode()) for name, text in headers]
        records.append(Record(offset, timestamp, key.encode(), value.encode(), signed))
    return records


def worker_of(tables: Tables | None = None, effects: Effects | None = None) -> Worker:
    """A worker under the rules of the log: identities are evicted in it."""
    return Worker(rules(identity_limit=20), tables, effects)


def take(worker: Worker, records: list[Record]) -> None:
    """Folds records with a checkpoint every few of them."""
    for start in range(0, len(records), _EPOCH_RECORDS):
        worker.take(records[start : start + _EPOCH_RECORDS])
        worker.keep()


def kept_by(version: int) -> Tables:
    """What survived a worker of that state version after the first part of the log."""
    document = orjson.loads((DIRECTORY / f"version_{version}.json").read_bytes())
    tables = Tables()
    for name in TABLES:
        for key, value in document[name].items():
            tables.offer(name, bytes.fromhex(key), bytes.fromhex(value), 0)
    return tables


def written(tables: Tables) -> bytes:
    """Tables as their file has them."""
    document = {
        name: {key.hex(): value.hex() for key, value in sorted(getattr(tables, name).items())}
        for name in TABLES
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def shape() -> str:
    """Every field that is kept: its struct, its place, name and type."""
    structs = {
        each
        for module in (account, identity_deltas, usage)
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, msgspec.Struct) and each.__struct_config__.array_like
    }
    lines = [
        f"{struct.__name__} {place} {field.name}: {field.type}\n"
        for struct in sorted(structs, key=lambda each: each.__name__)
        for place, field in enumerate(msgspec.structs.fields(struct))
    ]
    return "".join(lines) + "".join(f"Fact {place} {name}\n" for place, name in enumerate(FACT_COLUMNS))


if __name__ == "__main__":
    worker = worker_of()
    take(worker, history()[:KEPT_RECORDS])
    (DIRECTORY / f"version_{kept.STATE_VERSION}.json").write_bytes(written(worker.tables))
    (DIRECTORY / f"version_{kept.STATE_VERSION}.txt").write_text(shape(), "utf-8")
