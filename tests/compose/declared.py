"""docker-compose.yml as data, with what it leans on; read as Compose reads it, merge keys and all."""

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


def environment(name: str, secrets: Path, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of one of our services, its secrets in a directory of this machine; `changes` go over it."""
    declared = {**image_environment(), **OURS[name].get("environment", {}), **(changes or {})}
    return {
        key: value.replace(IN_CONTAINER, f"{secrets}/")
        for key, value in declared.items()
        if key.startswith("MSGMETER_")
    }


def host_mounts(service: Mapping[str, Any]) -> list[tuple[Path, str, str]]:
    """(file or folder here, path in the container, options) of everything mounted from the repository."""
    split = [volume.split(":") for volume in service.get("volumes", [])]
    return [(ROOT / parts[0], parts[1], ":".join(parts[2:])) for parts in split if parts[0].startswith("./")]
