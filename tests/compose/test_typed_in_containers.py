"""What the runbooks and the README have people type into containers: these and the programs in them are there."""

import re
import shlex

import pytest
from declared import BUSYBOX, COMPOSE, PROGRAMS, SERVICES, repository
from docker_files import DOCKERFILE, ROOT

from tests import runbooks

README = (ROOT / "README.md").read_text("utf-8")
TYPED = sorted(
    {line.partition("  # ")[0] for text in (runbooks.TEXT, README) for line in runbooks.composed(text)}
)
EXECUTED = [
    (found[1], found[2])
    for line in TYPED
    if (found := re.match(r"docker compose exec (?:--index \d+ |-T )?(\w+) (.+)", line))
]
"""(service, what is run in it)."""
SHORT = {"ask", "sql", "msgmeter"}
"""What the setup for Compose defines, so that blocks run there as they stand."""


def program(command: str) -> str:
    """The first word; the alias of the setup ends in a quote."""
    return command.split(maxsplit=1)[0].strip('"')


@pytest.mark.parametrize(("service", "command"), EXECUTED)
def test_a_program_that_is_run_in_a_container_is_in_its_image(service: str, command: str) -> None:
    assert program(command) in PROGRAMS[repository(service)]
    if repository(service) in BUSYBOX and program(command) == "wget":
        assert [word for word in command.split() if word.startswith("--")] == []


def test_programs_of_every_kind_are_run_in_containers() -> None:
    assert {program(command) for _, command in EXECUTED} >= {
        "msgmeter",
        "python",
        "df",
        "wget",
        "promtool",
    }


def test_containers_and_networks_are_named_as_compose_names_them() -> None:
    text = "\n".join(TYPED)
    containers, networks = re.findall(r"\bmsgmeter-(\w+)-\d\b", text), re.findall(r"\bmsgmeter_(\w+)", text)
    assert COMPOSE["name"] == "msgmeter"
    assert containers
    assert networks
    assert set(containers) <= SERVICES.keys()
    assert set(networks) <= COMPOSE["networks"].keys()


def test_the_check_that_is_typed_is_the_one_of_the_image() -> None:
    (test,) = re.findall(r"^    CMD \[(.+)\]$", DOCKERFILE, re.MULTILINE)
    typed = [shlex.split(command) for service, command in EXECUTED if service == "worker"]
    assert re.findall(r'"([^"]*)"', test) in typed


@pytest.mark.parametrize("section", runbooks.alerts())
def test_what_needs_another_program_says_what_to_type_with_compose(section: str) -> None:
    others = [
        each.text
        for each in runbooks.commands()
        if each.section == section and shlex.split(each.text)[0] not in SHORT
    ]
    assert ("\nWith Compose" in runbooks.sections()[section]) == bool(others), others
