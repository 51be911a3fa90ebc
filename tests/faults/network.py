"""A network of its own for a process, which can be cut from single servers here without either end being told.

`Network` has one cable to this machine, with an address at our end for each server and one at the process's. A cut
gives the process a wrong hardware address for a server: packets leave and arrive nowhere, as behind a dead switch; with
`both_ways` what the servers send gets lost as well.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_NOWHERE = "02:00:00:00:de:ad"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        is_refused = any(text in done.stderr for text in ("not permitted", "Permission denied"))
        raise (PermissionError if is_refused else RuntimeError)(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Network:
    """Namespace `name`, `servers` at our end of the cable and `inside` at its own."""

    name: str
    cable: str
    servers: tuple[str, str]
    inside: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What goes before a command that is to run in it."""
        return ("ip", "netns", "exec", self.name)

    def cut(self, *servers: str, both_ways: bool = False) -> None:
        """Let what is sent to these servers get lost."""
        for server in servers:
            _run("ip", "-n", self.name, "neigh", "replace", server, "lladdr", _NOWHERE, "dev", self._end, "nud",
                 "permanent")  # fmt: skip
        if both_ways:
            _run(
                "ip",
                "neigh",
                "replace",
                self.inside,
                "lladdr",
                _NOWHERE,
                "dev",
                self.cable,
                "nud",
                "permanent",
            )

    def heal(self) -> None:
        """Let everything arrive again."""
        for end in (("ip", "-n", self.name, "neigh", "flush", "dev", self._end),
                    ("ip", "neigh", "flush", "dev", self.cable)):  # fmt: skip
            _run(*end, "nud", "permanent")

    @property
    def _end(self) -> str:
        return f"{self.cable}e"


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network that is gone afterwards, whatever happened; PermissionError where we may not make one."""
    number = os.getpid() % 250
    made = Network(
        f"msgmeter-{os.getpid()}",
        f"mm{os.getpid()}",
        (f"10.213.{number}.1", f"10.213.{number}.2"),
        f"10.213.{number}.3",
    )
    inside = ("ip", "-n", made.name)
    end = f"{made.cable}e"
    _run("ip", "netns", "add", made.name)
    try:
        _run("ip", "link", "add", made.cable, "type", "veth", "peer", "name", end)
        _run("ip", "link", "set", end, "netns", made.name)
        for address in made.servers:
            _run("ip", "address", "add", f"{address}/29", "dev", made.cable)
        _run("ip", "link", "set", made.cable, "up")
        _run(*inside, "address", "add", f"{made.inside}/29", "dev", end)
        _run(*inside, "link", "set", end, "up")
        _run(*inside, "link", "set", "lo", "up")
        yield made
    finally:
        # The cable goes with either of its ends; processes inside are the caller's to end.
        subprocess.run(["ip", "link", "delete", made.cable], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", made.name], capture_output=True, check=False)
