"""The Dockerfile and the scripts beside it, as tests look at them."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def script(name: str) -> ModuleType:
    """A file of docker/ as a module; it is part of no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets for every process."""
    block = re.search(r"^ENV (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert block is not None
    pairs = block[1].replace("\\\n", " ").split()
    return dict(pair.split("=", 1) for pair in pairs)
