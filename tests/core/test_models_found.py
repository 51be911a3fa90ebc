"""What the five billing models found wrong in the core, each as the smallest case."""

from pathlib import Path
from typing import get_args

import orjson
import pytest

from pipeline.core.instructions import Command
from pipeline.logfile import read_log
from tests.builders import NOON

COMMAND_TYPES = [command.__struct_config__.tag for command in get_args(Command)]


@pytest.mark.parametrize("command_type", COMMAND_TYPES)
def test_a_log_file_knows_every_command_there_is(tmp_path: Path, command_type: str) -> None:
    """A type it does not know would pass for a message, go out unsigned and be refused."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(orjson.dumps({"type": command_type, "tenant": "acme", "effective_at": NOON}))
    assert [record.is_plain_command for record in read_log(path)] == [True]
