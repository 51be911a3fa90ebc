"""Every command of the runbooks, as it stands there, on a deployment that lives: it ends as they say, and answers."""

from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from pipeline.embedded.owned import free_port
from pipeline.logfile import LogRecord
from pipeline.traffic import Traffic
from tests import runbooks
from tests.builders import message, plan
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import log_now
from tests.e2e.watching import Shell, watched

_FASTER = 15
"""Prometheus looks every second."""
_AT_ONCE = 3


def tenant_acme(at: int) -> list[LogRecord]:
    """The tenant that the runbooks ask about, with a plan and a message."""
    set_plan = {
        "type": "set_plan",
        "id": "p",
        "tenant": "acme",
        "effective_at": at - 60_000,
        "plan": plan("100"),
    }
    return [
        LogRecord(b"acme", orjson.dumps(set_plan), is_plain_command=True),
        LogRecord(b"acme", orjson.dumps(message(occurred_at=at))),
    ]


def fault(shell: Shell, command: runbooks.Command) -> str:
    """What is wrong with how a command ends, or with what it says; empty where all is well."""
    answer = shell.run(command.text)
    if answer.exit_code not in command.exit_codes:
        return f"{command.text}\nended with {answer.exit_code}\n{answer.output}"
    if not answer.output.strip() and not command.may_be_silent:
        return f"{command.text}\nsaid nothing"
    return ""


@pytest.mark.timeout(300)
def test_every_command_that_only_looks_ends_as_the_runbook_says_and_says_something(
    make_system: MakeSystem,
) -> None:
    system = make_system()
    port = free_port()
    worker = system.worker(metrics_port=port).start()
    worker.await_ready()
    log = log_now(Traffic(start_at=0, messages=6_000, tenants=20, records_per_second=200, malformed=0.02))
    with watched(system, [port], faster=_FASTER) as prometheus:
        system.send(tenant_acme(log[-1].received_at or 0))
        gateway = system.gateway(log, records_per_second=300)
        # By then there are rows, refusals, a checkpoint, and a look of the scheduler's and the reconciliation's.
        system.await_condition(
            lambda: system.rows("SELECT 1 FROM account_snapshots WHERE tenant = 'acme'"), "acme was stored"
        )
        prometheus.await_samples("msgmeter:group_lag_seconds:max")
        prometheus.await_samples("msgmeter:insert_seconds:p90_10m > 0")
        prometheus.await_samples("msgmeter_reconcile_last_run_timestamp_seconds > 0")
        shell = Shell(system.directory, system.settings, prometheus, port, worker.name)
        once = {(each.text, each.exit_codes): each for each in runbooks.commands()}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            faults = [found for found in pool.map(lambda each: fault(shell, each), once.values()) if found]
        gateway.join()
    assert not faults, "\n\n".join(faults)
    assert worker.stop() == 0
