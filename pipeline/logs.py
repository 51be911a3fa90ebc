"""How every long-running process logs: one line per event on standard error, for people or for programs.

Takes the format, the level and what the process is; sets up the standard library's logging once, so that whoever logs
knows `logging` alone. A text says everything to a person; what a program wants besides stands in `extra` and is a field
of its own in JSON, where process and worker are named too. Whoever logs gives no body, no address and no secret.

Invariants
- One event is one line, but for a traceback on the console: what strangers wrote cannot begin a line.
- Logging raises nothing into whoever logs: an event that cannot be written as it is, is told as that.
- Of one message no more than 10 are shown in a minute, warnings and libraries' messages alike; how many were left out
  is told with the first event after it, or at the end of the process. Of our own, those about different partitions are
  different messages. Never left out are the last words of a process, and what our own modules tell at `info` or at
  `error`.
- Libraries are heard from `warning` on, whatever the level: at `debug` they would show what records hold.
"""

import contextlib
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

_Key = tuple[str, int, str, tuple[int, ...]]
"""Logger, level, text before its values are put in, and which of these are told apart: partitions' numbers."""


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

    def ended(self, *, is_last: bool = False) -> list[tuple[_Key, int, str]]:
        """Messages of which some were left out in a minute that is over: how many, and the text of the first.

        The last time that it is asked, every minute is over.
        """
        now = self._clock()
        over = [
            key for key, each in self._windows.items() if is_last or now - each.began_at >= _MINUTE_SECONDS
        ]
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
        try:
            self._tell_left_out()
            if not _is_limited(record) or self._limit.admits(
                _key(record), record.getMessage()[:_SHOWN_CHARACTERS]
            ):
                super().emit(record)
        except Exception:  # noqa: BLE001 - strangers' values may raise anything when they are made to text
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Tell of an event that could not be written: where it came from and its text without values, in one line."""
        text = _text(record.msg)[:_SHOWN_CHARACTERS]
        if _is_limited(record) and not self._limit.admits((record.name, record.levelno, text, ()), text):
            return
        told = logging.LogRecord(
            record.name, record.levelno, "", 0, "an event could not be written: %r", (text,), None
        )
        # Where that cannot be written either, nobody reads it: the process goes on.
        with contextlib.suppress(Exception):
            self.stream.write(self.format(told) + self.terminator)
            self.flush()

    def close(self) -> None:
        """Tell what was left out and not told yet: nothing is logged after this."""
        self._tell_left_out(is_last=True)
        super().close()

    def _tell_left_out(self, *, is_last: bool = False) -> None:
        for (name, level, *_), count, text in self._limit.ended(is_last=is_last):
            told = "%d more like this were left out within a minute: %s"
            super().emit(logging.LogRecord(name, level, "", 0, told, (count, text), None))


def _is_limited(record: logging.LogRecord) -> bool:
    if record.name.startswith(_OURS):
        return record.levelno == logging.WARNING
    return record.levelno < logging.CRITICAL


def _key(record: logging.LogRecord) -> _Key:
    """What makes an event the same as another: of our own, whole numbers count, which name a partition mostly."""
    given = record.args if record.name.startswith(_OURS) and isinstance(record.args, tuple) else ()
    numbers = tuple(each for each in given if isinstance(each, int))
    return record.name, record.levelno, str(record.msg), numbers


def _text(value: object) -> str:
    """A value as text; its type where even that raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a stranger's class raises
        return f"<{type(value).__name__}>"


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
    return record.levelno <= logging.INFO and bool(_ROUTINE.match(_text(record.msg)))


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
            return orjson.dumps(document, default=_text, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:
            # Half a surrogate pair, as in the name of a file that is no UTF-8; or what JSON has no words for.
            return json.dumps({name: _in_json(value) for name, value in document.items()})

    return line


def _in_json(value: object) -> object:
    """A field as it is, where JSON can hold it, else as text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _text(value)
    return value


def _console_line(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    """What is in the text; fields repeat it for programs."""
    text = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(event["event"])
    )
    line = f"{event['time']} {event['level'].upper()} {event['logger']} {_SERVICE.sub('', text)}"
    return f"{line}\n{event['exception']}" if "exception" in event else line
