"""docker-compose.yml as data, with what it leans on; read as Compose reads it, merge keys and all."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from docker_files import ROOT, image_environment

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OUR_IMAGE = SERVICES["worker"]["image"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == OUR_IMAGE}
IN_CONTAINER = "/run/secrets/"
BUSYBOX = {"apache/kafka", "prom/prometheus", "prom/alertmanager", "grafana/grafana"}
"""Images whose programs of Unix are BusyBox's (Alpine, or BusyBox alone), which knows few long options of GNU's."""
PROGRAMS = {
    "msgmeter": {"msgmeter", "python", "df", "du"},
    "apache/kafka": {"/opt/kafka/bin/kafka-broker-api-versions.sh"},
    "clickhouse/clickhouse-server": {"clickhouse-client", "wget"},
    "prom/prometheus": {"promtool", "wget"},
    "prom/alertmanager": {"amtool", "wget"},
    "grafana/grafana": {"grafana", "wget"},
}
"""What we run inside of each image; nothing else is known to be there. Ours has neither `curl` nor `ps`.

Source: the Dockerfiles of these images, and `python:3.11-slim`, which is Debian without procps and curl.
"""


def environment(name: str, secrets: Path, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of one of our services, its secrets in a directory of this machine; `changes` go over it."""
    declared = {**image_environment(), **OURS[name].get("environment", {}), **(changes or {})}
    return {
        key: value.replace(IN_CONTAINER, f"{secrets}/")
        for key, value in declared.items()
        if key.startswith("MSGMETER_")
    }


def repository(name: str) -> str:
    """The image of a service, without its tag."""
    return str(SERVICES[name]["image"].rpartition(":")[0])


def commands(line: str) -> list[list[str]]:
    """The simple commands of a line of shell, each as its words; variables before them and redirections left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if re.fullmatch(r"[|&;]+", word):
            found.append([])
        elif found[-1] or not re.fullmatch(r"\w+=.*", word):
            found[-1].append(word)
    return found


def host_mounts(service: Mapping[str, Any]) -> list[tuple[Path, str, str]]:
    """(file or folder here, path in the container, options) of everything mounted from the repository."""
    split = [volume.split(":") for volume in service.get("volumes", [])]
    return [(ROOT / parts[0], parts[1], ":".join(parts[2:])) for parts in split if parts[0].startswith("./")]
