"""Refuses to run beside versions of Faust, aiokafka and mode that nobody has read.

Decides nothing else. `pipeline/stream` overrides methods that are private to these three, so another
version may call them differently, silently. Imported by every module that overrides one; raises
`VersionError` at import, with what is installed, what is needed and what to do.
"""

from importlib.metadata import PackageNotFoundError, version

from pipeline.errors import MsgmeterError

PINNED_VERSIONS = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}
"""Distribution name to the only version whose private methods were read; the same pins as pyproject.toml."""


class VersionError(MsgmeterError):
    """An installed version is not the pinned one; install the pins, or read the new source and move them."""


def check_pins(pinned: dict[str, str]) -> None:
    """Raise `VersionError`, naming every distribution of `pinned` that is missing or of another version."""
    faults = []
    for name, wanted in pinned.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            faults.append(f"{name} {wanted} is needed, found: {found}")
    if faults:
        raise VersionError(
            "pipeline/stream mends private methods of exact versions. "
            + "; ".join(faults)
            + ". Install the versions of pyproject.toml; before moving a pin, read every override again."
        )


check_pins(PINNED_VERSIONS)
