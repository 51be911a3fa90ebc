"""The house rules that a machine can hold: who imports whom, how long files are, and what the README promises."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.access import permissions
from pipeline.cli import main
from pipeline.cli.doctor import FAULTY
from pipeline.cli.reconcile import DIFFERS, INCOMPLETE
from pipeline.cli.refusal_meanings import MEANINGS
from pipeline.clickhouse.client import Table
from pipeline.clickhouse.facts import FACTS
from pipeline.clickhouse.snapshots import ACCOUNTS, ALERTS, CONTACTS, ENTRIES, USAGE
from pipeline.core.refusals import Refusal
from pipeline.data import plan_names
from pipeline.settings import Settings, describe_settings
from pipeline.stream.exits import ExitCode
from pipeline.topics import topics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PIPELINE = sorted((ROOT / "pipeline").rglob("*.py"))
BESIDE = sorted(path for folder in ("grafana/source", "docker") for path in (ROOT / folder).rglob("*.py"))
CORE = sorted((ROOT / "pipeline" / "core").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_LINES = 400

MAY_IMPORT = {
    "metrics": {"core", "errors", "metrics"},
    "core": {"core"},
    "data": {"core", "data"},
    "clickhouse": {"core", "clickhouse", "errors"},
    "embedded": {"embedded", "errors", "logs"},
    "stream": {
        "access", "clickhouse", "clickhouse_clients", "core", "data", "eras", "errors", "kafka_clients", "metrics",
        "rules", "settings", "stream", "topics",
    },
}  # fmt: skip
"""Which parts of `pipeline` a folder may import. What is not named here is the edge, which may import all."""
STREAM_HOST = {"faust", "mode", "aiokafka"}
IMPURE = {
    "asyncio", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "socket", "sqlite3",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _imports(path: Path) -> Iterator[str]:
    """The full names of all modules a file imports, wherever in it."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_id(path)}:{node.lineno} imports relatively"
            yield node.module or ""
            if node.module == "pipeline":
                yield from (f"pipeline.{alias.name}" for alias in node.names)


def _tracked() -> list[Path]:
    """Every file of the repository, or of the checkout where there is no git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# Code.


@pytest.mark.parametrize("path", CORE, ids=_id)
def test_the_core_imports_the_standard_library_msgspec_and_itself(path: Path) -> None:
    allowed = (sys.stdlib_module_names - IMPURE) | {"msgspec", "pipeline"}
    assert [name for name in _imports(path) if name.split(".")[0] not in allowed] == []


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_inwards(folder: str) -> None:
    wrong = [
        f"{_id(path)} imports {name}"
        for path in sorted((ROOT / "pipeline" / folder).rglob("*.py"))
        for name in _imports(path)
        if name.startswith("pipeline.") and name.split(".")[1] not in MAY_IMPORT[folder]
    ]
    assert wrong == []


def test_only_the_stream_knows_its_host() -> None:
    wrong = [
        f"{_id(path)} imports {name}"
        for path in PIPELINE
        if "stream" not in path.parts
        for name in _imports(path)
        if name.split(".")[0] in STREAM_HOST
    ]
    assert wrong == []


@pytest.mark.parametrize("path", CORE, ids=_id)
def test_the_core_has_no_float_and_no_clock(path: Path) -> None:
    found = []
    for node in ast.walk(_tree(path)):
        is_float = isinstance(node, ast.Constant) and isinstance(node.value, float)
        is_named = isinstance(node, ast.Name) and node.id == "float"
        is_divided = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not _is_path(node)
        is_clock = isinstance(node, ast.Attribute) and node.attr in CLOCKS
        is_output = isinstance(node, ast.Name) and node.id in {"print", "input", "open"}
        if is_float or is_named or is_divided or is_clock or is_output:
            found.append(f"{_id(path)}:{node.lineno} {ast.unparse(node)}")
    assert found == []


def _is_path(node: ast.BinOp) -> bool:
    """Whether the slash joins a path of package data (the zone files)."""
    return "resources.files" in ast.unparse(node)


@pytest.mark.parametrize("path", PIPELINE, ids=_id)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), "a module opens with a docstring"


@pytest.mark.parametrize("path", [*PIPELINE, *BESIDE], ids=_id)
def test_a_module_fits_into_a_head(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MAX_LINES


def test_no_name_says_nothing() -> None:
    modules = [path for path in [*PIPELINE, *TESTS] if set(path.stem.split("_")) & VAGUE_NAMES]
    definitions = [
        f"{_id(path)}:{node.lineno} {node.name}"
        for path in PIPELINE
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef)
        and set(re.findall("[A-Z][a-z]+", node.name.removesuffix("TableManager")))
        & {"Manager", "Helper", "Util", "Utils"}
    ]
    assert (modules, definitions) == ([], [])


def test_nothing_is_left_for_later_and_no_machine_is_named() -> None:
    # In pieces, so that this file does not find itself.
    words = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b|/(?:ro" r"ot|wo" r"rk|ho" r"me/\w+)/")
    found = []
    for path in _tracked():
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{_id(path)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, 1)
            if words.search(line)
        ]
    assert found == []


def test_no_file_is_large() -> None:
    assert [_id(path) for path in _tracked() if path.stat().st_size > 1_000_000] == []


# Data that goes with the code.


def test_migrations_are_numbered_without_gaps_and_say_what_they_store() -> None:
    files = sorted((ROOT / "sql").glob("*.sql"))
    assert [int(path.name[:3]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        text = path.read_text("utf-8")
        assert all(f"-- {word}:" in text or f" {word}:" in text for word in ("Grain", "Key", "Engine")), (
            path.name
        )


def test_every_query_says_what_it_takes_and_is_asked() -> None:
    code = "".join(path.read_text("utf-8") for path in PIPELINE)
    for path in sorted((ROOT / "sql" / "queries").glob("*.sql")):
        assert "-- Parameters:" in path.read_text("utf-8"), path.name
        assert f'"{path.stem}"' in code, f"nobody asks {path.name}"


def test_every_schema_has_valid_and_invalid_examples_and_every_example_a_schema() -> None:
    schemas = {path.stem for path in (ROOT / "schemas").glob("*.json")}
    assert schemas
    for kind in ("valid", "invalid"):
        examples = (ROOT / "schemas" / "examples" / kind).glob("*.json")
        assert {".".join(path.name.split(".")[:2]) for path in examples} == schemas


@pytest.mark.parametrize("reason", Refusal)
def test_every_refusal_is_tested(reason: Refusal) -> None:
    needles = (f"Refusal.{reason.name}", f'"{reason.value}"')
    tests = [path for path in TESTS if path != Path(__file__)]
    assert any(needle in path.read_text("utf-8") for path in tests for needle in needles), reason.name


# The README.


def _section(title: str) -> str:
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match, f"the README has no section {title!r}"
    return match[1]


def test_the_readme_lists_every_setting() -> None:
    expected = ["| variable | default | meaning |", "|---|---|---|"]
    expected += [
        f"| `{name}` | {f'`{default}`' if default else 'empty'} | {meaning} |"
        for name, default, meaning in describe_settings()
    ]
    assert "\n".join(expected) in _section("Settings"), "paste this:\n" + "\n".join(expected)


def test_the_readme_lists_what_each_role_may_do_in_kafka() -> None:
    expected = ["| role | topic or group | may |", "|---|---|---|"]
    for each in permissions(Settings()):
        names = ", ".join(f"`{name}{'*' if each.is_prefix else ''}`" for name in each.names)
        kind = "group " if each.resource == "group" else ""
        expected.append(f"| {each.role} | {kind}{names} | {', '.join(each.operations)} |")
    assert "\n".join(expected) + "\n\n" in _section("Securing"), "paste this:\n" + "\n".join(expected)


def test_the_readme_lists_every_exit_code() -> None:
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", _section("Operating"), re.MULTILINE)]
    assert codes == [0, 1, 2, 3, DIFFERS, INCOMPLETE, FAULTY, *ExitCode]


def test_the_readme_lists_every_refusal_in_the_order_of_the_checks() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (yes|no) \|$", _section("Bad input"), re.MULTILINE)
    assert rows == [(reason.value, "yes" if reason.retryable else "no") for reason in Refusal]


def test_the_readme_and_the_command_line_say_the_same_of_every_refusal() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (?:yes|no) \|$", _section("Bad input"), re.MULTILINE)
    assert rows == [(reason.value, meaning) for reason, meaning in MEANINGS.items()]


def test_the_readme_names_every_topic_schema_table_query_and_plan() -> None:
    tables: list[Table] = [FACTS, USAGE, ACCOUNTS, ENTRIES, ALERTS, CONTACTS]
    names = [
        *(topic.name for topic in topics(Settings())),
        *(path.name for path in (ROOT / "schemas").glob("*.json")),
        *(table.name for table in tables),
        *(path.stem for path in (ROOT / "sql" / "queries").glob("*.sql")),
        *plan_names(),
    ]
    assert [name for name in names if f"`{name}`" not in README] == []


def test_the_readme_shows_every_command() -> None:
    shown = {line.split()[1] for line in _commands() if line.startswith("msgmeter ")}
    assert [name for name in main.list_commands(click.Context(main)) if name not in shown] == []


def test_the_way_of_a_message_passes_at_most_eight_files_which_exist() -> None:
    files = list(dict.fromkeys(re.findall(r"`(pipeline/[\w/]+\.py)`", _section("The way of one message"))))
    assert 1 < len(files) <= 8
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_every_file_the_readme_names_exists() -> None:
    names = set(re.findall(r"`((?:pipeline|tests|sql|schemas|benchmarks|\.ci)/[\w./-]*)`", README))
    names |= {name for name in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in name}
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    """Every command of the README: lines of `sh` blocks, and those after `$ ` in `console` blocks."""
    lines = [line for block in _blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [
        line[2:] for block in _blocks("console") for line in block.splitlines() if line.startswith("$ ")
    ]
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("line", [line for line in _commands() if line.startswith("msgmeter ")])
def test_every_command_of_the_readme_can_be_typed(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"[\w-]+\.(?:jsonl|json)", line):
        (tmp_path / name).touch()
    arguments = shlex.split(re.split(r" [|<>] ", line)[0])[1:]
    group: click.Command = main
    context: click.Context | None = None
    while isinstance(group, click.Group):
        context = click.Context(group, parent=context)
        name, command, arguments = group.resolve_command(context, arguments)
        assert command is not None
        assert name is not None
        group = command
    group.make_context(group.name, arguments, parent=context)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {line.split()[1] for line in _commands() if line.startswith("make ")}
    assert {"run", "test"} <= targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("block", _blocks("console"))
def test_what_the_readme_shows_is_what_comes_out(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a session line by line in one directory; a shown line `...` stands for any lines."""
    monkeypatch.chdir(tmp_path)
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        result = CliRunner().invoke(main, shlex.split(line)[1:], env={"COLUMNS": "100", "TERM": "dumb"})
        assert result.exit_code == 0, f"{line}\n{result.output}"
        pattern = "".join(
            r"(?:.*\n)*?" if text == "..." else re.escape(text.rstrip()) + r" *\n"
            for text in shown.splitlines()
        )
        assert re.fullmatch(pattern, result.stdout), f"{line}\n{result.stdout}"
