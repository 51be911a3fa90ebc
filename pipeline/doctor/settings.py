"""What a deployment should know of its settings, beyond whether they can be used.

Takes the environment; gives settings, or none where they cannot be used, and findings. Shows names and no secret.
"""

import os
from collections.abc import Mapping
from dataclasses import fields

from pipeline.doctor.findings import Finding, failure, ok, warning
from pipeline.settings import DEVELOPMENT_KEY, Settings, SettingsError, SettingsFaultsError, load_settings

_SUBJECT = "settings"


def read_settings(environment: Mapping[str, str] | None = None) -> tuple[Settings | None, list[Finding]]:
    """The settings of an environment, the process's own by default; None, and each fault, where they are faulty."""
    try:
        settings = load_settings(environment)
    except SettingsFaultsError as error:
        return None, [failure(_SUBJECT, fault, "set it right, and look again") for fault in error.faults]
    except SettingsError as error:
        return None, [failure(_SUBJECT, str(error), "set it right, and look again")]
    given = os.environ if environment is None else environment
    return settings, [_told(given), *judge_settings(settings)]


def _told(given: Mapping[str, str]) -> Finding:
    names = sorted(name for name in given if name.startswith("MSGMETER_"))
    return ok(
        _SUBJECT, f"can be used; set are {', '.join(names)}" if names else "can be used; all are defaults"
    )


def judge_settings(settings: Settings) -> list[Finding]:
    """What usable settings mean for a deployment."""
    findings = [
        _key(each.name, getattr(settings, each.name)) for each in fields(Settings) if each.name in _KEYS
    ]
    if settings.default_plan:
        found = f"{settings.default_plan}: tenants without a plan are metered under it"
    else:
        found = "none: messages of tenants without a plan wait until one is set (`msgmeter retry`)"
    findings.append(ok("default plan", found + "; workers, scheduler and reconcile need the same"))
    if settings.replication == 1 and not _is_loopback(settings.kafka):
        findings.append(
            warning(
                "replication",
                "MSGMETER_REPLICATION is 1: a broker that is lost takes its records with it",
                "3 brokers and MSGMETER_REPLICATION=3 before the first `msgmeter migrate`",
            )
        )
    return findings


_KEYS = {
    "command_key": "commands that anybody could have signed are obeyed",
    "counterparty_key": "anybody can tell a phone number from its hash by trying",
}
"""What follows from a key that everybody knows."""


def _key(name: str, value: str) -> Finding:
    variable = f"MSGMETER_{name.upper()}"
    if value != DEVELOPMENT_KEY:
        return ok(variable, "is set")
    remedy = f"set {variable}, or {variable}_FILE, to a secret of 16 characters or more, the same everywhere"
    return warning(variable, f"is the development key: {_KEYS[name]}", remedy)


def _is_loopback(servers: str) -> bool:
    return all(server.startswith(("127.", "localhost:", "[::1]")) for server in servers.split(","))
