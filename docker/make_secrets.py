"""Makes the secrets that docker-compose.yml mounts: a random one each, none that is there already is changed.

    make secrets

Takes a directory; gives a file per secret in it, and one with the SHA-256 of ClickHouse's passwords, which is all that
ClickHouse gets to see of them. Shows names, never a secret. Standard library only, as it runs before anything is
installed.

Compose mounts a secret's file as it is, and does not change its owner or its mode; so each must be readable by
whichever user its container runs as. They are kept from everybody else by their directory, which only its owner may
enter: a container is given a file, not the way to it.
"""

import hashlib
import secrets
import sys
from pathlib import Path

KAFKA_ROLES = ("gateway", "scheduler", "operator", "worker", "alerts", "migrate")
CLICKHOUSE_USERS = ("migrate", "sink", "reader", "grafana", "tenant_00001")
NAMES = (
    "command_key",
    "counterparty_key",
    *(f"kafka_{role}" for role in KAFKA_ROLES),
    *(f"clickhouse_{user}" for user in CLICKHOUSE_USERS),
    "grafana_admin",
)
HASHES = "clickhouse_passwords.xml"
_BYTES = 24


def make(directory: Path) -> list[str]:
    """Make what is missing; returns the names of it."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    made = [name for name in NAMES if not (directory / name).exists()]
    for name in made:
        # Letters, digits, - and _: nothing that an XML file, a URL or a shell would take for its own.
        _write(directory / name, secrets.token_urlsafe(_BYTES))
    hashes = [f"    <{name}>{_sha256(directory / name)}</{name}>" for name in NAMES if "clickhouse_" in name]
    _write(directory / HASHES, "\n".join(["<clickhouse>", *hashes, "</clickhouse>"]))
    return made


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_text("utf-8").strip().encode()).hexdigest()


def _write(file: Path, text: str) -> None:
    # Renamed into its place: half a secret must not pass for one.
    partial = file.with_suffix(".partial")
    partial.write_text(f"{text}\n", "utf-8")
    partial.chmod(0o444)
    partial.replace(file)


def main() -> None:
    """Make them in the directory that is named, and say which were made."""
    directory = Path(sys.argv[1])
    made = make(directory)
    sys.stdout.write(f"{directory}: {', '.join(made) or 'all were there'}\n")


if __name__ == "__main__":
    main()
