"""One deployment for one test: topics, a database, gateways that send a log, and workers that meter it.

Takes settings that name a running broker and ClickHouse; gives workers, senders, and what the system says in
the end. Knows nothing of a worker's inside: progress is what the group has committed.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import clickhouse_connect
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from pipeline.clickhouse.client import connect
from pipeline.clickhouse.migrate import apply_migrations, create_database
from pipeline.core.simulation import Report, simulate
from pipeline.logfile import LogRecord, read_log, sign_plain, write_log
from pipeline.rules import make_rules
from pipeline.sending import LogSender
from pipeline.settings import Settings
from pipeline.topics import create_topics, topics
from pipeline.traffic import Traffic, TrafficGenerator
from tests.e2e.agreement import Totals, committed, running, simulated, uncommitted
from tests.e2e.worker_process import WorkerProcess

_POLL_SECONDS = 0.2
_PACE_SECONDS = 0.02


class System:
    """`settings` as every process of the deployment has them; files go into `directory`."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.group = settings.application
        """Of the workers: another one in a later era of the log."""
        self.directory = directory
        self.workers: list[WorkerProcess] = []

    def migrate(self) -> None:
        """What `msgmeter migrate` does."""
        create_topics(self.settings)
        create_database(self.settings.clickhouse)
        client = connect(self.settings.clickhouse)
        apply_migrations(client)
        client.close()

    def worker(
        self,
        name: str = "worker",
        *,
        module: str = "pipeline",
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> WorkerProcess:
        """A worker that is not started yet, with state files of its own; `changes` are settings."""
        given = {"state_directory": self.directory / name, "metrics_port": 0, **changes}
        variables = environment_of(replace(self.settings, **given)) | dict(environment or {})
        worker = WorkerProcess(name, self.directory, variables, module=module, prefix=prefix)
        self.workers.append(worker)
        return worker

    def signed(self, records: Iterable[LogRecord]) -> list[LogRecord]:
        """The records as they go over the wire: our commands with our signature."""
        secret = self.settings.command_key.encode()
        return [sign_plain(record, secret) for record in records]

    def send(self, records: Iterable[LogRecord]) -> None:
        """What `msgmeter send` does; returns when the broker has everything."""
        sender = LogSender(self.settings)
        for record in self.signed(records):
            sender.send(record)
        sender.flush()
        assert not sender.refused_count, sender.errors

    def gateway(self, records: Sequence[LogRecord], records_per_second: float) -> "Gateway":
        """Sends the records in the background at this pace; `join` it."""
        return Gateway(self, records, records_per_second)

    def simulated(self, records: Iterable[LogRecord]) -> Totals:
        """What must come of the records."""
        return simulated(self.report(records))

    def report(self, records: Iterable[LogRecord]) -> Report:
        """The simulation of the records under this deployment's rules."""
        return simulate(self.signed(records), make_rules(self.settings))

    def totals(self) -> Totals:
        """What came of them."""
        return running(self.settings.kafka, self.settings.clickhouse)

    def assert_agreement(self, records: Iterable[LogRecord], note: str = "") -> Totals:
        """Fails with all differences unless the system says what the simulation of the records says."""
        totals, expected = self.totals(), self.simulated(records)
        differences = "\n".join(totals.differences(expected))
        assert not differences, f"{note}\n{differences}"
        return totals

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """The answer to a query."""
        client = clickhouse_connect.get_client(dsn=self.settings.clickhouse)
        try:
            return [tuple(row) for row in client.query(statement).result_rows]
        finally:
            client.close()

    def committed(self) -> dict[int, int]:
        """The committed offset of every partition of messages.raw; 0 where there is none."""
        return committed(self.settings.kafka, self.group)

    def uncommitted(self) -> int:
        """How many records of messages.raw the group has not committed."""
        return uncommitted(self.settings.kafka, self.group)

    def await_all_committed(self, deadline_seconds: float = 300) -> None:
        """Returns when the group has committed the end of the log; fails when no worker is left."""
        self.await_condition(lambda: self.uncommitted() == 0, "everything was committed", deadline_seconds)

    def await_condition(self, holds: Callable[[], object], what: str, deadline_seconds: float = 300) -> None:
        """Returns when `holds()`; fails when no worker is left or the deadline has passed."""
        deadline = time.monotonic() + deadline_seconds
        while not holds():
            assert any(worker.is_running for worker in self.workers), f"no worker is left\n{self._tails()}"
            assert time.monotonic() < deadline, f"{deadline_seconds} s passed before {what}\n{self._tails()}"
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Ends every worker."""
        for worker in self.workers:
            worker.kill()

    def _tails(self) -> str:
        return "\n".join(
            f"--- {worker.name} ({worker.exit_code})\n{worker.log_tail()}" for worker in self.workers
        )


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment in which a process has these settings."""
    return {f"MSGMETER_{each.name.upper()}": str(getattr(settings, each.name)) for each in fields(Settings)}


class Gateway:
    """Sends records from a thread, evenly."""

    def __init__(self, system: System, records: Sequence[LogRecord], records_per_second: float) -> None:
        self._records = system.signed(records)
        self._sender = LogSender(system.settings)
        self._records_per_second = records_per_second
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            began = time.monotonic()
            for number, record in enumerate(self._records):
                early_seconds = number / self._records_per_second - (time.monotonic() - began)
                if early_seconds > _PACE_SECONDS:
                    time.sleep(early_seconds)
                self._sender.send(record)
            self._sender.flush()
        except BaseException as error:  # noqa: BLE001 - raised again by `join`
            self._error = error

    @property
    def is_sending(self) -> bool:
        """Whether there is still something to send."""
        return self._thread.is_alive()

    @property
    def sent_count(self) -> int:
        """Records given to the producer."""
        return self._sender.sent_count

    def join(self) -> None:
        """Returns when the broker has everything."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert not self._sender.refused_count, self._sender.errors


def log_now(traffic: Traffic, path: Path | None = None) -> list[LogRecord]:
    """A generated log whose last record is received about now; through a file where one is named."""
    span_milliseconds = (traffic.messages or 0) * 1000 // traffic.records_per_second
    generator = TrafficGenerator(replace(traffic, start_at=time.time_ns() // 1_000_000 - span_milliseconds))
    if path is None:
        return list(generator)
    write_log(path, generator)
    return list(read_log(path))


def delete_topics(settings: Settings) -> None:
    """Takes the topics away, whose names are fixed; returns when they are gone."""
    admin = AdminClient({"bootstrap.servers": settings.kafka, "log_level": 2})
    names = {topic.name for topic in topics(settings)}
    while there := sorted(names & set(admin.list_topics(timeout=10).topics)):
        for future in admin.delete_topics(there).values():
            if error := future.exception(30):
                assert error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
