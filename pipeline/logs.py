"""How every long-running process logs: one line per event on standard error, for people or for programs.

Takes the format, the level and what the process is; sets up the standard library's logging once, so that whoever logs
knows `logging` alone. A text says everything to a person; what a program wants besides stands in `extra` and is a field
of its own in JSON, where process and worker are named too. Whoever logs gives no body, no address and no secret.

Invariants
- One event is one line, but for a traceback on the console: what strangers wrote cannot begin a line.
- Of one message no more than 10 are shown in a minute, warnings and libraries' messages alike; how many were left out
  is told afterwards. Never left out are the last words of a process, and what our own modules tell at `info`.
- Libraries are heard from `warning` on, whatever the level: at `debug` they would show what records hold.
"""

import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

import orjson
import structlog

MOST_PER_MINUTE = 10
_MINUTE_SECONDS = 60.0
_QUIET = {
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "aiokafka": logging.WARNING,
    "asyncio": logging.WARNING,
    # The driver logs a traceback of every lost connection, and urllib3 each try to connect: both reach us as errors.
    "clickhouse_connect": logging.CRITICAL,
    "urllib3": logging.ERROR,
}
_OURS = ("pipeline", "msgmeter")
_SERVICE = re.compile(r"^\[\^[^\]]*\]: ")
"""What Faust puts before what its services say, also those of ours."""
_ROUTINE = re.compile(_SERVICE.pattern + r"(?:Starting|Stopping|Restarting|Waiting).*\.\.\.$", re.DOTALL)
_SHOWN_CHARACTERS = 200

_Key = tuple[str, int, str]
"""Logger, level and text before its values are put in."""


@dataclass(slots=True)
class _Window:
    """A minute of one message."""

    began_at: float
    shown: int = 0
    left_out: int = 0
    text: str = ""
    """Of the first that was left out."""


class MessageLimit:
    """Which of equal messages are shown, and how many were not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[_Key, _Window] = {}

    def admits(self, key: _Key, text: str) -> bool:
        """Whether this one is shown; counted if not."""
        window = self._windows.setdefault(key, _Window(self._clock()))
        if window.shown < MOST_PER_MINUTE:
            window.shown += 1
            return True
        window.text = window.text or text
        window.left_out += 1
        return False

    def ended(self) -> list[tuple[_Key, int, str]]:
        """Messages of which some were left out in a minute that is over: how many, and the text of the first."""
        now = self._clock()
        over = [key for key, each in self._windows.items() if now - each.began_at >= _MINUTE_SECONDS]
        windows = [(key, self._windows.pop(key)) for key in over]
        return [(key, each.left_out, each.text) for key, each in windows if each.left_out]


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes to what is standard error at the moment, and leaves out what repeats itself."""

    def __init__(self, log_format: str, limit: MessageLimit) -> None:
        super().__init__()
        self.is_json = log_format == "json"
        self._limit = limit

    @property
    def stream(self) -> TextIO:
        """Standard error."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """It is looked up for each event."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write an event, after the number of those that were left out before; the handler's lock is held."""
        for (name, level, _), count, text in self._limit.ended():
            told = "%d more like this were left out within a minute: %s"
            super().emit(logging.LogRecord(name, level, "", 0, told, (count, text), None))
        if self._is_limited(record):
            key, text = (record.name, record.levelno, str(record.msg)), record.getMessage()
            if not self._limit.admits(key, text[:_SHOWN_CHARACTERS]):
                return
        super().emit(record)

    @staticmethod
    def _is_limited(record: logging.LogRecord) -> bool:
        is_ours = record.name.startswith(_OURS)
        return record.levelno < logging.CRITICAL and not (is_ours and record.levelno < logging.WARNING)


def set_up_logs(process: str, log_format: str, level: str) -> None:
    """Log as `settings.LOG_FORMATS` and `settings.LOG_LEVELS` say; `process` is what metrics call this one."""
    own = {"process": process, "worker": f"{socket.gethostname()}-{os.getpid()}"}
    handler = LogHandler(log_format, MessageLimit())
    handler.setFormatter(_formatter(own, is_json=handler.is_json))
    if level != "debug":
        handler.addFilter(lambda record: not _is_routine(record))
    root = logging.getLogger()
    for each in [each for each in root.handlers if isinstance(each, LogHandler)]:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def is_json_logged() -> bool:
    """Whether this process logs JSON, so that its last words are to be JSON too."""
    return any(isinstance(each, LogHandler) and each.is_json for each in logging.getLogger().handlers)


def _is_routine(record: logging.LogRecord) -> bool:
    """Whether it only says that one of Faust's services starts or stops, of which there are dozens."""
    return record.levelno <= logging.INFO and bool(_ROUTINE.match(str(record.msg)))


def _formatter(own: dict[str, str], *, is_json: bool) -> logging.Formatter:
    """Structlog's, for events of the standard library."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            # Without the values of local variables, which may be anything.
            structlog.processors.format_exc_info,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _json_line(own) if is_json else _console_line,
        ],
    )


def _json_line(own: dict[str, str]) -> structlog.typing.Processor:
    def line(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
        text = _SERVICE.sub("", str(event.pop("event")))
        head = {name: event.pop(name) for name in ("time", "level", "logger")}
        # Left by another formatter, where there is one.
        event.pop("message", None)
        document = {**head, "event": text, **own, **event}
        try:
            return orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:
            # Half a surrogate pair, as in the name of a file that is no UTF-8.
            return json.dumps(document, default=str)

    return line


def _console_line(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    """What is in the text; fields repeat it for programs."""
    text = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(event["event"])
    )
    line = f"{event['time']} {event['level'].upper()} {event['logger']} {_SERVICE.sub('', text)}"
    return f"{line}\n{event['exception']}" if "exception" in event else line
