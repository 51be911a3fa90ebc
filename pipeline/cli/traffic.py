"""`msgmeter generate` and `msgmeter send`: records into the log, from a seed or from a file.

Takes options; writes to Kafka or to a file. Counts go to standard output, progress and errors to standard
error; the counts too where the log itself goes to standard output. Exits with 1 where a record was not taken.
"""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from types import FrameType

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.core.fields import milliseconds
from pipeline.logfile import LogRecord, read_log, sign_plain, write_log
from pipeline.sending import LogSender
from pipeline.settings import load_settings
from pipeline.traffic import Traffic, TrafficGenerator

_PROGRESS_RECORDS = 1_000
_DEFAULT_SPAN_SECONDS = 3_600
"""A log without `--rate` lies in one hour, so that its density does not depend on its length."""
_SLEEP_SECONDS = 0.02


class InstantParam(click.ParamType):
    """An instant as UTC epoch milliseconds, given as RFC 3339 with an offset or as milliseconds."""

    name = "instant"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the text; fails with a sentence for the user."""
        if isinstance(value, int):
            return value
        text = str(value)
        if text.isdecimal():
            return int(text)
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is not an instant such as 2026-02-03T10:15:00Z", param, ctx)
        if instant.tzinfo is None:
            self.fail(f"{text!r} has no offset: write 2026-02-03T10:15:00Z or +03:00 at its end", param, ctx)
        return milliseconds(instant)


INSTANT = InstantParam()


def _writable(_: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Open the file once before work begins, so that a bad place is a fault of the call."""
    if path not in (None, "-"):
        try:
            Path(path).open("ab").close()
        except OSError as error:
            raise click.BadParameter(f"{path} cannot be written: {error.strerror}", param=param) from error
    return path


def now() -> int:
    """Give the clock's instant in UTC epoch milliseconds."""
    return milliseconds(datetime.now(UTC))


@click.command()
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, allow_dash=True),
    callback=_writable,
    help="A log file instead of Kafka; .gz packs it, - is standard output.",
)
@click.option("--seed", default=1, show_default=True, help="The same seed and start give the same bytes.")
@click.option(
    "--messages",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Records after the opening commands.",
)
@click.option("--tenants", default=10_000, show_default=True, type=click.IntRange(1, 99_999))
@click.option(
    "--duplicates",
    default=0.02,
    show_default=True,
    type=click.FloatRange(0, 0.5),
    help="Share of records sent again.",
)
@click.option(
    "--late",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of messages that arrive hours late.",
)
@click.option(
    "--malformed",
    default=0.005,
    show_default=True,
    type=click.FloatRange(0, 0.5),
    help="Share of records that must be refused.",
)
@click.option(
    "--receipts",
    default=0.6,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of outbound messages whose statuses come one by one.",
)
@click.option(
    "--late-hours",
    default=(1, 40),
    show_default=True,
    type=(click.IntRange(0, 166), click.IntRange(1, 167)),
    help="How late those are.",
)
@click.option(
    "--start",
    type=INSTANT,
    help="When the first record is received; by default the last one is received now.",
)
@click.option(
    "--rate", type=click.IntRange(min=1), help="Records per second, in the log's time and on the clock."
)
@click.option("--forever", is_flag=True, help="Until interrupted; needs --rate.")
@click.option("--plans/--no-plans", default=True, help="Whether the log begins with a plan for each tenant.")
@click.option(
    "--purchases",
    default=0.00002,
    show_default=True,
    type=click.FloatRange(0, 0.5),
    help="Share of records at which a tenant buys credits.",
)
@click.option("--json", "as_json", is_flag=True, help="Counts as one JSON object.")
def generate(
    output: str | None,
    seed: int,
    messages: int,
    tenants: int,
    duplicates: float,
    late: float,
    malformed: float,
    receipts: float,
    late_hours: tuple[int, int],
    start: int | None,
    rate: int | None,
    forever: bool,
    plans: bool,
    purchases: float,
    as_json: bool,
) -> None:
    """Write seeded traffic: plans, messages, receipts, duplicates, late and malformed records."""
    if forever and rate is None:
        raise click.UsageError("--forever needs --rate")
    if late_hours[0] >= late_hours[1]:
        raise click.UsageError("--late-hours must ascend")
    records_per_second = rate or max(1, messages // _DEFAULT_SPAN_SECONDS)
    span_milliseconds = 0 if rate else messages * 1000 // records_per_second
    traffic = Traffic(
        start_at=now() - span_milliseconds if start is None else start,
        seed=seed,
        messages=None if forever else messages,
        tenants=tenants,
        records_per_second=records_per_second,
        duplicates=duplicates,
        late=late,
        malformed=malformed,
        receipts=receipts,
        late_hours=late_hours,
        plans=plans,
        purchases=purchases,
    )
    generator = TrafficGenerator(traffic)
    records: Iterable[LogRecord] = generator
    if rate is not None:
        records = _paced(records, traffic.start_at)
        _announce(traffic)
    began = monotonic()
    with progress_bar("generated", traffic.messages) as bar:
        refused = _write(output, _counted(_until_interrupted(records), bar))
    counts = {**generator.counts, "refused_by_broker": refused}
    _show(counts, monotonic() - began, as_json=as_json, to_stderr=output == "-")
    if refused:
        sys.exit(1)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Counts as one JSON object.")
def send(file: str, as_json: bool) -> None:
    """Send a log FILE in its order; plain commands are signed with our key. `-` reads standard input."""
    settings = load_settings()
    secret = settings.command_key.encode()
    began = monotonic()
    with progress_bar("sent", None) as bar:
        sender = LogSender(settings)
        commands = strange = 0
        for record in _counted(read_log(file), bar):
            commands += record.is_plain_command
            strange += record.key is None and not _is_object(record.value)
            sender.send(sign_plain(record, secret))
        sender.flush()
    _report(sender)
    if strange:
        lines = "1 line holds" if strange == 1 else f"{strange:,} lines hold"
        click.echo(
            f"{lines} no JSON object; the worker will refuse {'it' if strange == 1 else 'them'}", err=True
        )
    counts = {"records": sender.sent_count, "commands": commands, "refused_by_broker": sender.refused_count}
    _show(counts, monotonic() - began, as_json=as_json, to_stderr=False)
    if sender.refused_count:
        sys.exit(1)


def _is_object(value: bytes) -> bool:
    try:
        return isinstance(orjson.loads(value), dict)
    except orjson.JSONDecodeError:
        return False


def _announce(traffic: Traffic) -> None:
    """Say on standard error how long records at a rate will take."""
    rate = f"{traffic.records_per_second:,} records a second"
    if traffic.messages is None:
        click.echo(f"{rate} until Ctrl-C", err=True)
        return
    span = timedelta(seconds=-(-traffic.messages // traffic.records_per_second))
    click.echo(
        f"{traffic.messages:,} records at {rate} take {span}; --messages sets their number, Ctrl-C stops",
        err=True,
    )


def _write(output: str | None, records: Iterable[LogRecord]) -> int:
    """Write to the file or the topic; gives the number of records that were not taken."""
    if output is not None:
        write_log(output, records)
        return 0
    settings = load_settings()
    secret = settings.command_key.encode()
    sender = LogSender(settings)
    try:
        for record in records:
            sender.send(sign_plain(record, secret))
    finally:
        sender.flush()
    _report(sender)
    return sender.refused_count


def _paced(records: Iterable[LogRecord], start_at: int) -> Iterator[LogRecord]:
    """Hold each record back until its own instant has come on the clock."""
    began = monotonic()
    for record in records:
        early_seconds = ((record.received_at or 0) - start_at) / 1000 - (monotonic() - began)
        # Sleeping for each record would cap the rate, so a few milliseconds early is on time.
        if early_seconds > _SLEEP_SECONDS:
            sleep(early_seconds)
        yield record


def _counted(records: Iterable[LogRecord], bar: Progress | None) -> Iterator[LogRecord]:
    for count, record in enumerate(records):
        yield record
        if bar is not None and count % _PROGRESS_RECORDS == 0:
            bar.update(bar.task_ids[0], completed=count)


@contextmanager
def progress_bar(text: str, total: int | None) -> Iterator[Progress | None]:
    """Show a bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(text, total=total)
        yield progress


def _until_interrupted(records: Iterable[LogRecord]) -> Iterator[LogRecord]:
    """End in order at the first Ctrl-C or SIGTERM (which the embedded stack sends); a second one kills."""
    stopped = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for record in records:
            if stopped:
                return
            yield record
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(sender: LogSender) -> None:
    for text in sender.errors:
        click.echo(f"not taken: {text}", err=True)


def _show(counts: dict[str, int], seconds: float, *, as_json: bool, to_stderr: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(counts), err=to_stderr)
        return
    for name, count in counts.items():
        click.echo(f"{count:>12,}  {name.replace('_', ' ')}", err=to_stderr)
    click.echo(f"{seconds:>12.1f}  seconds", err=to_stderr)
