"""What one check found, and what to do about it.

Decides nothing. `examination` puts findings together, and `pipeline/cli/doctor.py` shows them. No text holds a secret.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How a check ended, from nothing to do to something that must be done."""

    OK = "ok"
    SKIP = "skip"
    """It could not be looked at, or there was nothing to look at; the text says why."""
    WARN = "warn"
    """It works as it is, and there is something to know or to do."""
    FAIL = "FAIL"
    """A worker does not start, stands still, or would break a promise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    status: Status
    subject: str
    """What was looked at, such as "topic messages.raw"; the same in every run, so that programs find it."""
    found: str
    remedy: str = ""
    """What to do; empty where there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Group:
    """Findings about one thing, in the order in which they were looked at."""

    name: str
    """The same in every run, so that programs find it."""
    findings: list[Finding]
    where: str = ""
    """Which server."""


def ok(subject: str, found: str) -> Finding:
    """A finding that asks for nothing."""
    return Finding(Status.OK, subject, found)


def skipped(subject: str, found: str, remedy: str = "") -> Finding:
    """A finding of what could not be looked at."""
    return Finding(Status.SKIP, subject, found, remedy)


def warning(subject: str, found: str, remedy: str) -> Finding:
    """A finding of what works, but not as well as it should."""
    return Finding(Status.WARN, subject, found, remedy)


def failure(subject: str, found: str, remedy: str) -> Finding:
    """A finding of what is broken."""
    return Finding(Status.FAIL, subject, found, remedy)


def worst(groups: Iterable[Group]) -> Status:
    """The gravest status of all findings; what was skipped is no fault, and nothing is well."""
    found = {finding.status for group in groups for finding in group.findings}
    return next((status for status in (Status.FAIL, Status.WARN) if status in found), Status.OK)
