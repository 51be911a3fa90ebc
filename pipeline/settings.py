"""Every setting, read once from the environment into one frozen object.

Takes the environment; gives `Settings`, or one `SettingsError` that lists every fault at once. Units are in
the names. Prices and plans are versioned data and commands, not settings. Secrets never show in `repr`, and each
may lie in a file instead: `MSGMETER_X_FILE` names the file whose text is `MSGMETER_X`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.connection_faults import connection_faults
from pipeline.data import plan_names
from pipeline.errors import MsgmeterError

DEVELOPMENT_KEY = "development-only"
"""The value of both keys where none is set, so that a first look needs no setting up; `worker` warns about it."""


LOG_FORMATS = ("console", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
_STATE_DIRECTORY = Path("var/worker")
_SHORTEST_KEY = 16
_LARGEST_PORT = 65_535
_SESSION_SECONDS = range(6, 301)
"""Kafka's own lower bound, and an upper one after which a dead worker's partitions would wait for too long."""


class SettingsError(MsgmeterError):
    """The environment holds values that cannot be used; the message lists all of them."""


class SettingsFaultsError(SettingsError):
    """The same, as a list."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("Settings cannot be used:\n" + "\n".join(f"  - {fault}" for fault in faults))
        self.faults = faults


def _setting(default: Any, text: str, *, hidden: bool = False) -> Any:  # noqa: ANN401 - a field of any type
    return field(default=default, repr=not hidden, metadata={"text": text, "is_secret": False})


def _secret(default: str, text: str) -> Any:  # noqa: ANN401 - as above
    return field(default=default, repr=False, metadata={"text": text, "is_secret": True})


@dataclass(frozen=True)
class Settings:
    """The environment variable of a field is its name in capitals after `MSGMETER_`."""

    kafka: str = _setting("127.0.0.1:9092", "Kafka bootstrap servers, host:port[,host:port]")
    clickhouse: str = _setting(
        "http://127.0.0.1:8123/default", "http(s)://[user:password@]host:port/database", hidden=True
    )
    command_key: str = _secret(DEVELOPMENT_KEY, "signs commands; 16 characters or more")
    counterparty_key: str = _secret(
        DEVELOPMENT_KEY, "keys the hash under which counterparties are stored; 16 characters or more"
    )
    kafka_security: str = _setting("plaintext", "plaintext, tls, sasl_plaintext or sasl_tls")
    kafka_sasl_mechanism: str = _setting("SCRAM-SHA-512", "SCRAM-SHA-512 or SCRAM-SHA-256")
    kafka_user: str = _setting("", "who logs in to Kafka, with sasl_plaintext and sasl_tls")
    kafka_password: str = _secret("", "that user's password")
    kafka_ca: str = _setting("", "file of the CAs trusted for Kafka's certificates, PEM; empty: the system's")
    kafka_certificate: str = _setting("", "file of our certificate for Kafka, where it asks for one, PEM")
    kafka_key: str = _setting("", "file of that certificate's private key, PEM, without a pass phrase")
    clickhouse_password: str = _secret("", "password of ClickHouse's user, where its URL holds none")
    clickhouse_ca: str = _setting(
        "", "file of the CAs trusted for ClickHouse's certificate, PEM; empty: the system's"
    )
    clickhouse_certificate: str = _setting(
        "", "file of our certificate for ClickHouse, PEM; without a password it is the login"
    )
    clickhouse_key: str = _setting("", "file of that certificate's private key, PEM, without a pass phrase")
    application: str = _setting(
        "msgmeter-v2", "consumer group and prefix of state topics; only a name, with no version in it"
    )
    partitions: int = _setting(32, "partitions of messages.raw; more by msgmeter repartition")
    replication: int = _setting(1, "replicas of each topic")
    default_plan: str = _setting("", "plan preset for tenants without a plan; empty: such messages wait")
    store: str = _setting("memory", "where tables live in a worker: memory or rocksdb")
    state_directory: Path = _setting(_STATE_DIRECTORY, "the worker's local files")  # noqa: RUF009 - a Path never changes
    standbys: int = _setting(
        0, "1: each partition's tables are also kept up to date by a worker that does not own it"
    )
    metrics_host: str = _setting("127.0.0.1", "IP address of this machine on which /metrics is served")
    metrics_port: int = _setting(9464, "port of a worker's /metrics; 0: any free port")
    log_format: str = _setting("console", "how processes log: console or json")
    log_level: str = _setting("info", "what they log at least: debug, info, warning or error")
    epoch_rows: int = _setting(50_000, "rows after which an epoch closes")
    epoch_milliseconds: int = _setting(1_000, "time after which an epoch with rows closes")
    checkpoint_rows: int = _setting(500_000, "rows after which state is written and offsets are committed")
    checkpoint_milliseconds: int = _setting(10_000, "the same, as time")
    session_seconds: int = _setting(15, "a worker silent for this long loses its partitions")
    outage_minutes: int = _setting(
        360, "longest ClickHouse outage during which a worker keeps its partitions"
    )
    identity_hours: int = _setting(24, "how long a charged identity is held in memory")
    identity_limit: int = _setting(20_000_000, "how many of them over all partitions")
    pending_hours: int = _setting(72, "how long a message without a billable status is waited for")
    pending_limit: int = _setting(2_000_000, "how many of them over all partitions")
    window_hours: int = _setting(96, "how long a 15-minute window is held after its end")

    def __post_init__(self) -> None:
        """Checks values and their relations; raises `SettingsError` with every fault."""
        faults = [text for text, wrong in self._faults() if wrong] + connection_faults(self)
        if faults:
            raise SettingsFaultsError(faults)

    def _faults(self) -> list[tuple[str, bool]]:
        """(what a value must be, whether it is not) of every rule."""
        positive = [
            (f"MSGMETER_{name.upper()} must be at least 1, not {getattr(self, name)}", getattr(self, name) < 1)
            for name in (
                "partitions", "replication", "epoch_rows", "epoch_milliseconds", "checkpoint_rows",
                "checkpoint_milliseconds", "outage_minutes", "identity_hours", "window_hours",
            )
        ]  # fmt: skip
        keys = (self.command_key, self.counterparty_key)
        presets = plan_names()
        # Each partition holds its share of these two.
        per_partition = [
            (
                f"MSGMETER_{name.upper()} must be at least MSGMETER_PARTITIONS",
                getattr(self, name) < self.partitions,
            )
            for name in ("identity_limit", "pending_limit")
        ]
        return [
            *positive,
            *per_partition,
            ("MSGMETER_STANDBYS must be 0 or 1", self.standbys not in (0, 1)),
            ("MSGMETER_STORE must be memory or rocksdb", self.store not in ("memory", "rocksdb")),
            (
                f"MSGMETER_LOG_FORMAT must be {' or '.join(LOG_FORMATS)}",
                self.log_format not in LOG_FORMATS,
            ),
            (f"MSGMETER_LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}", self.log_level not in LOG_LEVELS),
            (
                "MSGMETER_CLICKHOUSE must start with http:// or https://",
                not self.clickhouse.startswith(("http://", "https://")),
            ),
            (
                f"MSGMETER_COMMAND_KEY and MSGMETER_COUNTERPARTY_KEY need {_SHORTEST_KEY} characters or more",
                min(map(len, keys)) < _SHORTEST_KEY,
            ),
            (
                f"MSGMETER_DEFAULT_PLAN must be empty or one of {', '.join(presets)}",
                self.default_plan not in ("", *presets),
            ),
            (
                f"MSGMETER_METRICS_PORT must be 0 to {_LARGEST_PORT}",
                not 0 <= self.metrics_port <= _LARGEST_PORT,
            ),
            (
                f"MSGMETER_SESSION_SECONDS must be {_SESSION_SECONDS[0]} to {_SESSION_SECONDS[-1]}",
                self.session_seconds not in _SESSION_SECONDS,
            ),
            (
                # A message that still waits must not be forgotten as one that was charged long ago.
                "MSGMETER_PENDING_HOURS must be at least MSGMETER_IDENTITY_HOURS",
                self.pending_hours < self.identity_hours,
            ),
            (
                "MSGMETER_CHECKPOINT_ROWS must be at least MSGMETER_EPOCH_ROWS",
                self.checkpoint_rows < self.epoch_rows,
            ),
        ]


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of an environment, the process's own by default.

    An unknown MSGMETER_ name is a fault too: a misspelt setting must not pass for its default.
    """
    given = os.environ if environment is None else environment
    known = {f"MSGMETER_{each.name.upper()}": each for each in fields(Settings)}
    from_files = {f"{name}_FILE" for name, each in known.items() if each.metadata["is_secret"]}
    values: dict[str, Any] = {}
    faults: list[str] = []
    unread = []
    for name, text in given.items():
        if not name.startswith("MSGMETER_") or name in _OTHER_NAMES:
            continue
        try:
            if name in from_files:
                values[known[name.removesuffix("_FILE")].name] = _read_secret(name, text, given)
            elif name not in known:
                faults.append(f"{name} is not a setting; see `msgmeter settings`")
            elif f"{name}_FILE" not in given:
                values[known[name].name] = _CONVERTERS[type(known[name].default)](text)
        except SettingsError as error:
            faults.append(str(error))
            unread.append(name.removesuffix("_FILE"))
        except ValueError:
            faults.append(f"{name} must be a whole number, not {text!r}")
            unread.append(name)
    try:
        settings = Settings(**values)
    except SettingsFaultsError as error:
        # Of what could not be read nothing more is said: its default stood in for it.
        faults += [fault for fault in error.faults if not any(name in fault for name in unread)]
    if faults:
        raise SettingsFaultsError(faults)
    return settings


def _read_secret(name: str, path: str, given: Mapping[str, str]) -> str:
    """The text of a secret's file without the end of its line; raises SettingsError, which never quotes it."""
    plain = name.removesuffix("_FILE")
    if given.get(plain):
        raise SettingsError(f"{plain} and {name} are both set: unset one")
    try:
        secret = Path(path).read_bytes().decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{name}: {path!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name}: {path!r} is no text in UTF-8") from None
    if not secret:
        raise SettingsError(f"{name}: {path!r} is empty")
    return secret


_OTHER_NAMES = frozenset({"MSGMETER_CACHE"})
"""Read elsewhere: the embedded stack's download cache is needed before there is anything to set."""

_CONVERTERS: dict[type, Callable[[str], Any]] = {str: str, int: int, type(Path()): Path}


_FROM_FILE = "; or set the same name with _FILE behind it to a file that holds it"


def describe_settings() -> list[tuple[str, str, str]]:
    """(environment variable, default, meaning) of each setting, secrets' defaults included: they are no secrets."""
    return [
        (
            f"MSGMETER_{each.name.upper()}",
            "" if each.default is MISSING else str(each.default),
            each.metadata["text"] + (_FROM_FILE if each.metadata["is_secret"] else ""),
        )
        for each in fields(Settings)
    ]
