"""What the runbooks name exists, and each says the same things in the same order."""

import re
import shlex
from pathlib import Path

import click
import orjson
import pytest
import yaml

from pipeline.cli import main
from pipeline.metrics import reconcile, scheduler, stack, worker
from tests import runbooks
from tests.grafana.programs import run
from tests.monitoring import CONFIGURATION

COMPOSE = runbooks.ROOT / "docker-compose.yml"
OURS = re.compile(r"\bmsgmeter[_:][a-z0-9_:]+")
PARTS = ("**Means.**", "**Customers feel.**", "**Look.**", "**Mended when**")


def test_the_table_lists_the_sections_in_their_order() -> None:
    table = re.findall(r"^\| \[(Msgmeter\w+)\]\(#(\w+)\)", runbooks.TEXT, re.MULTILINE)
    assert table == [(name, name.lower()) for name in runbooks.alerts()]


@pytest.mark.parametrize("alert", runbooks.alerts())
def test_each_section_says_what_it_means_what_is_felt_how_to_look_and_when_it_is_mended(alert: str) -> None:
    section = runbooks.sections()[alert]
    places = [section.find(part) for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)
    assert any(each.section == alert for each in runbooks.commands())
    assert len(section.splitlines()) < 70, "nobody reads that at night"


@pytest.mark.parametrize(
    "path",
    [runbooks.ROOT / "README.md", *sorted((runbooks.ROOT / "docs").rglob("*.md"))],
    ids=lambda path: path.name,
)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for link in runbooks.links(text):
        name, _, anchor = link.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), link
        if anchor:
            assert anchor in runbooks.anchors(there.read_text("utf-8")), link


@pytest.mark.parametrize(
    "path", sorted((runbooks.ROOT / "docs" / "walks").glob("*.md")), ids=lambda path: path.stem
)
def test_a_walk_goes_from_a_page_that_leads_to_a_section_to_a_cause_and_to_its_end(path: Path) -> None:
    text = path.read_text("utf-8")
    message = orjson.loads(re.search(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1])
    assert message["status"] == "firing"
    anchor = message["commonAnnotations"]["runbook_url"].rpartition("#")[2]
    assert f"../runbooks.md#{anchor}" in text
    typed = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    section = next(name for name in runbooks.alerts() if name.lower() == anchor)
    assert len({each.text for each in runbooks.commands() if each.section == section} & set(typed)) > 1
    assert text.index("## Conclusion") < text.index(" Mended: ") < text.index("the pager says `resolved`")


def test_each_walk_shows_its_dashboard_and_each_picture_is_of_a_walk() -> None:
    folder = runbooks.ROOT / "docs" / "walks"
    shown = {
        path.stem: [link for link in runbooks.links(path.read_text("utf-8")) if link.endswith(".png")]
        for path in folder.glob("*.md")
    }
    assert [walk for walk, links in shown.items() if not links] == [], "`make walk-screens` draws them"
    pictures = {f"screens/{path.name}": path.stat().st_size for path in folder.glob("screens/*.png")}
    assert {link for links in shown.values() for link in links} == pictures.keys()
    assert all(size < 200_000 for size in pictures.values())


def test_every_metric_that_is_asked_for_exists() -> None:
    groups = yaml.safe_load((CONFIGURATION / "rules" / "recording.yml").read_text("utf-8"))["groups"]
    known = {rule["record"] for group in groups for rule in group["rules"]}
    for process in (worker, scheduler, reconcile, stack):
        # Also those that have no value yet, which a scrape would not show.
        known |= process.REGISTRY._names_to_collectors.keys()
    asked = {name for question in runbooks.questions() for name in OURS.findall(question)}
    assert len(asked) > 30
    assert sorted(asked - known) == []


def test_every_question_is_promql(tmp_path: Path) -> None:
    given = [{"record": f"asked:{number}", "expr": each} for number, each in enumerate(runbooks.questions())]
    file = tmp_path / "asked.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": given}]}), "utf-8")
    run("promtool", "check", "rules", file)


@pytest.mark.parametrize("line", [line for line in runbooks.changing() if line.startswith("msgmeter ")])
def test_every_changing_command_of_ours_can_be_typed(line: str) -> None:
    arguments = shlex.split(re.split(r" [|<>] ", line)[0])[1:]
    group: click.Command = main
    context: click.Context | None = None
    while isinstance(group, click.Group):
        context = click.Context(group, parent=context)
        name, command, arguments = group.resolve_command(context, arguments)
        assert command is not None
        group = command
    group.make_context(name, arguments, parent=context)


def test_every_service_of_compose_that_is_named_exists() -> None:
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    named = set()
    for line in runbooks.changing():
        for call in re.findall(r"docker compose ([^\"]+)", line):
            verb, *words = shlex.split(call.replace("'", ""))
            words = re.sub(r"--(?:tail|scale) \S+", "", " ".join(words)).split()
            plain = [word for word in words if not word.startswith("-")]
            named |= set(plain[:1] if verb == "exec" else plain)
    assert {"worker", "kafka", "clickhouse", "prometheus"} <= named
    assert named <= services.keys()
