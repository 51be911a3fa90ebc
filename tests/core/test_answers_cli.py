"""What strangers wrote, shown to a person: nothing that a terminal obeys gets through."""

import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.cli.answers import show_csv, show_facts, show_table
from pipeline.embedded.owned import free_port

OBEYED = "\x1b[2J\x9b2J\x00\x07\r\n\t\x7f\x85\u2028\u2029\u202e\u2066\ud83d"
SHOWN = (
    "␛[2J\u2039U+009B\u203a2J␀␇␍␊␉␡\u2039U+0085\u203a"
    "\u2039U+2028\u203a\u2039U+2029\u203a\u2039U+202E\u203a\u2039U+2066\u203a\u2039U+D83D\u203a"
)
METRICS_PORTS = ["--metrics-port", "0", "--scheduler-metrics-port", "0"]


def test_no_cell_of_a_table_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("list", "messages"), [(OBEYED, 1)], amounts=frozenset(), total=(OBEYED, 1))
    _, _, row, *_, total = capsys.readouterr().out.splitlines()
    assert row.split("  ")[0] == total.split("  ")[0] == SHOWN


def test_no_fact_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    show_facts({OBEYED: OBEYED})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split() == [SHOWN, SHOWN]


def test_no_error_is_obeyed(tmp_path: Path) -> None:
    """Errors quote what they are about: an address here, the log of a process elsewhere."""
    servers = {"MSGMETER_KAFKA": "a\x1b[2Jb", "MSGMETER_CLICKHOUSE": "http://[", "MSGMETER_METRICS_PORT": "0"}
    result = CliRunner().invoke(
        main, ["up", "--directory", str(tmp_path / "var"), *METRICS_PORTS], env=servers
    )
    assert result.exit_code == 3
    assert "none answers at a\u241b[2Jb;" in result.stderr


def test_a_directory_that_cannot_be_written_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "var"
    ports = ["--kafka-port", str(free_port()), "--clickhouse-port", str(free_port()), *METRICS_PORTS]
    result = CliRunner().invoke(
        main, ["up", "--directory", str(directory), *ports], env={"MSGMETER_METRICS_PORT": "0"}
    )
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f"msgmeter: --directory {directory} cannot be written (Not a directory): name another"
    )


def test_names_of_people_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Joiners are letters' business: Persian and emoji need them."""
    name = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 👩\u200d🚀 Zoë"
    show_facts({"list": name})
    assert name in capsys.readouterr().out


def test_programs_get_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show_csv(("list",), [("a\x1b[2J\nb",)])
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["list"], ["a\x1b[2J\nb"]]
