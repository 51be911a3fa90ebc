"""The executable scenarios of the billing models: one folder each, found by looking, never listed.

A folder is named by its plan preset and holds `log.jsonl`, messages and plain commands as `msgmeter simulate` reads
them, the last of them ticks that let time pass; and `expected.json`, what came of it, one record a line. A further
model is a further preset and a further folder: nothing here knows which there are.

The log's `set_plan` commands carry whole plans. Those named like a preset are that preset but for what is a
tenant's own: zone, anchor and allowance. `with_presets` brings them there, and a test sees that they are.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from pipeline.core.simulation import Report, simulate
from pipeline.logfile import LogRecord, read_log, sign_plain
from tests.builders import COMMAND_KEY, rules

MODELS = Path(__file__).parent
PLANS = Path(str(resources.files("pipeline.data"))) / "plans"
OWN_OF_A_TENANT = ("zone", "anchor_day", "allowance_credits")
"""What of a plan a scenario may choose differently from the preset."""

RULES = rules()

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSITION = ("partition", "offset")
_INSTANTS = frozenset({"start", "end", "period_start", "period_end", "window_start"})


def scenario_names(models: Path = MODELS) -> list[str]:
    """The scenarios there are: every folder with a log."""
    return sorted(path.parent.name for path in models.glob("*/log.jsonl"))


def scenario_log(name: str, models: Path = MODELS) -> Iterator[LogRecord]:
    """The records of a scenario, unsigned."""
    return read_log(models / name / "log.jsonl")


def one_log(models: Path = MODELS) -> list[LogRecord]:
    """The records of all scenarios by their times of receipt, as their tenants would share one broker."""
    records = [record for name in scenario_names(models) for record in scenario_log(name, models)]
    return sorted(records, key=lambda record: record.received_at or 0)


def run(name: str, models: Path = MODELS, *, upto: str = "") -> Report:
    """What `simulate` says of a scenario, in a log of one partition: offsets are lines, from 0.

    `upto` is the id of the last command that is taken; "" for the whole log.
    """
    records = [sign_plain(record, COMMAND_KEY) for record in scenario_log(name, models)]
    if upto:
        last = next(at for at, record in enumerate(records) if orjson.loads(record.value)["id"] == upto)
        del records[last + 1 :]
    return simulate(records, RULES)


def expected_path(name: str, models: Path = MODELS) -> Path:
    """Where it stands what a scenario must give."""
    return models / name / "expected.json"


def rendered(report: Report) -> str:
    """A report as JSON of one record a line, instants as dates, so that a change is a diff that can be read."""
    document = report.document()
    usage = document.pop("usage")
    sections = {**document, "days": usage["days"], "counts": [document["counts"]]}
    parts = [f'"{name}": [\n{_lines(records)}]' for name, records in sections.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def with_presets(lines: Iterable[str], plans: Path = PLANS) -> str:
    """The lines of a log in which every plan named like a preset is the preset, but for a tenant's own."""
    return "".join(f"{_with_preset(line.rstrip(), plans)}\n" for line in lines)


def _with_preset(line: str, plans: Path) -> str:
    record = orjson.loads(line)
    preset = plans / f"{record.get('plan', {}).get('name')}.json"
    if not preset.is_file():
        return line
    own = {name: value for name, value in record["plan"].items() if name in OWN_OF_A_TENANT}
    record["plan"] = orjson.loads(preset.read_bytes()) | own
    return orjson.dumps(record).decode()


def _lines(records: Iterable[dict[str, Any]]) -> str:
    """One record a line, without what a further line in the log would change everywhere: positions."""
    shown = [{name: each for name, each in record.items() if name not in _POSITION} for record in records]
    return ",\n".join(orjson.dumps(_dated(record)).decode() for record in shown)


def _dated(value: Any, name: str = "") -> Any:
    """The same with RFC 3339 text for instants, which are known by their names."""
    if isinstance(value, dict):
        return {key: _dated(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_dated(each, name) for each in value]
    if isinstance(value, int) and (name in _INSTANTS or name.endswith("_at")):
        return (_EPOCH + timedelta(milliseconds=value)).isoformat().replace("+00:00", "Z")
    return value
