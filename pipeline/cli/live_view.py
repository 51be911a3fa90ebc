"""How the live figures look: a block of text for a terminal, or one line for a log.

Takes `Figures`, the state of each process and the seconds since the start; gives rich renderables and text.
Reads nothing and keeps nothing. Fits 80 columns and 24 lines; a wider terminal gets longer curves.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pipeline.cli.live_figures import Figures
from pipeline.cli.visible import visible_text
from pipeline.core.amounts import MICROS
from pipeline.embedded.stack import ProcessState, State

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {
    State.WAITING: ("○", "dim"),
    State.STARTING: ("◐", "yellow"),
    State.RUNNING: ("●", "green"),
    State.DONE: ("●", "green"),
    State.DIED: ("●", "red"),
    State.STOPPED: ("○", "dim"),
    State.EXTERNAL: ("●", "blue"),
}
_LEVELS = (80, 85, 90, 95)
_WARNING_LAG_SECONDS = 5.0
_STALE_SECONDS = 5.0
"""What the worker said longer ago is no rate and no lag of now."""
_WIDEST = 100
_INDENT = 31
"""Columns before the fourth column of the counts."""


class Event(NamedTuple):
    """What happened to a process."""

    text: str
    at: datetime
    """Local time."""
    is_bad: bool


def start_view(processes: Sequence[ProcessState], names: Sequence[str], note: str) -> RenderableType:
    """The list of what is being started, in order; `names` holds all, `processes` those begun."""
    begun = {process.name: process for process in processes}
    table = Table.grid(padding=(0, 2))
    for name in names:
        process = begun.get(name)
        state = process.state if process else State.WAITING
        table.add_row(_light(state), name, Text(_state_text(process, state), "dim"))
    return Group(Text(), table, Text(), Text(note, "dim"))


def live_view(
    figures: Figures,
    processes: Sequence[ProcessState],
    last_event: Event | None,
    seconds: float,
    directory: str,
    width: int,
) -> RenderableType:
    """The whole view, at most `width` columns wide."""
    width = min(width, _WIDEST)
    parts: list[RenderableType] = [
        _title(seconds, width),
        Text(),
        _counts(figures, processes, width),
        Text(),
        _alerts_and_refusals(figures, width),
        Text(),
        _lists(figures, width),
        Text(),
        Rule(style="dim"),
        _processes(processes, figures),
        Text.assemble(
            ("data and logs ", "dim"), directory, ("   in another terminal ", "dim"), _example(figures)
        ),
    ]
    if last_event is not None:
        parts.append(
            Text.assemble(
                (f"{last_event.at:%H:%M:%S} ", "dim"),
                (last_event.text, "yellow" if last_event.is_bad else ""),
            )
        )
    if figures.faults:
        names = " and ".join(figures.faults)
        parts.append(Text(f"No answer from {names}: these are older figures", "yellow"))
    view = Table.grid()
    view.add_column(width=width)
    for part in parts:
        view.add_row(part)
    return view


def figures_line(figures: Figures, processes: Sequence[ProcessState]) -> str:
    """All of it in one line, for an output that is no terminal."""
    troubled = [
        f"{process.name} {process.state.value}"
        for process in processes
        if process.state in (State.DIED, State.STARTING)
    ]
    is_known = _lag_is_known(figures, processes)
    rate = "?" if _is_stale(figures) else f"{figures.received_per_second:.0f}"
    return "  ".join(
        (
            f"{datetime.now().astimezone():%H:%M:%S}",
            f"messages {figures.received} ({rate}/s)",
            f"credits {figures.credits_burned:.0f}",
            f"alerts {sum(figures.alerts.values())}",
            f"rows stored {figures.stored}",
            f"refused {sum(figures.refused.values())}",
            f"lag {figures.lag_offsets} ({figures.lag_seconds:.1f} s)" if is_known else "lag ?",
            *troubled,
            *(f"no answer from {name}" for name in figures.faults),
        )
    )


def _is_stale(figures: Figures) -> bool:
    return time.monotonic() - figures.worker_read_at > _STALE_SECONDS


def _lag_is_known(figures: Figures, processes: Sequence[ProcessState]) -> bool:
    """Whether the worker's lag is one of now.

    A worker that is cut off from Kafka goes on saying that nothing is left to meter: nothing metered while the gateway
    sends is no lag of nought.
    """
    if _is_stale(figures) or not figures.partitions or figures.partitions_assigned > figures.partitions:
        return False
    is_sent_to = any(each.name == "gateway" and each.state is State.RUNNING for each in processes)
    return bool(figures.lag_offsets or figures.received_per_second or not is_sent_to)


def _title(seconds: float, width: int) -> RenderableType:
    hours, rest = divmod(int(seconds), 3600)
    clock = f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    grid.width = width
    grid.add_row(
        Text("msgmeter", "bold"), Text.assemble(("running ", "dim"), clock, ("   Ctrl-C stops", "dim"))
    )
    return grid


def _counts(figures: Figures, processes: Sequence[ProcessState], width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=14)
    grid.add_column(justify="right", style="bold", min_width=13)
    grid.add_column(justify="right", min_width=9)
    grid.add_column()
    curve = _curve(figures.history, max(width - 48, 8))
    earlier = f"{figures.stored_before + figures.stored:,} with earlier runs" if figures.stored_before else ""
    rows = (
        ("messages in", f"{figures.received:,}", figures.received_per_second, Text(curve, "cyan")),
        ("credits burned", f"{figures.credits_burned:,.0f}", figures.credits_per_second, Text()),
        ("rows stored", f"{figures.stored:,}", figures.stored_per_second, Text(earlier, "dim")),
    )
    for name, total, rate, more in rows:
        grid.add_row(name, total, "?/s" if _is_stale(figures) else f"{rate:,.0f}/s", more)
    slow = "yellow" if figures.lag_seconds >= _WARNING_LAG_SECONDS else ""
    if _lag_is_known(figures, processes):
        grid.add_row("lag", f"{figures.lag_offsets:,}", Text(f"{figures.lag_seconds:.1f} s", slow))
    else:
        grid.add_row("lag", Text("unknown", "dim"))
    return grid


def _alerts_and_refusals(figures: Figures, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=14)
    grid.add_column(justify="right", style="bold", min_width=13)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    levels = sorted({*_LEVELS, *figures.alerts})
    counts = [(level, figures.alerts.get(level, 0)) for level in levels]
    alerts = Text("  ").join(
        Text.assemble((f"{level}% ", "dim"), (f"{count:,}", "" if count else "dim"))
        for level, count in counts
    )
    grid.add_row("alerts", f"{sum(figures.alerts.values()):,}", alerts)
    grid.add_row("refused", f"{sum(figures.refused.values()):,}", _reasons(figures.refused, width - _INDENT))
    grid.add_row(
        "not charged",
        f"{figures.statuses + figures.duplicates:,}",
        Text.assemble(
            ("later statuses ", "dim"),
            f"{figures.statuses:,}",
            ("   duplicates ", "dim"),
            f"{figures.duplicates:,}",
        ),
    )
    return grid


def _reasons(refused: Mapping[str, int], width: int) -> Text:
    """The most frequent reasons, as many as fit into one line."""
    line = Text()
    left = sum(refused.values())
    for reason, count in sorted(refused.items(), key=lambda each: (-each[1], each[0])):
        each = Text.assemble((f"{reason} ", "dim"), f"{count:,}   ")
        others = len(f"others {left:,}")
        if line.cell_len + each.cell_len + others > width:
            line.append_text(Text.assemble(("others ", "dim"), f"{left:,}"))
            break
        line.append_text(each)
        left -= count
    return line


def _lists(figures: Figures, width: int) -> RenderableType:
    alerts = Table.grid(padding=(0, 2))
    alerts.add_row(Text("last alerts", "dim"))
    for alert in figures.latest_alerts:
        at = datetime.fromtimestamp(alert.occurred_at / 1000).astimezone()
        alerts.add_row(
            Text.assemble(
                (f"{at:%H:%M:%S}  ", "dim"),
                f"{visible_text(alert.tenant)}  ",
                (f"{alert.level:>3}%", _level_style(alert.level)),
                (f"  {alert.used_micros // MICROS:,} of {alert.limit_micros // MICROS:,}", "dim"),
            )
        )
    if not figures.latest_alerts:
        alerts.add_row(Text("none so far", "dim"))
    top = Table.grid(padding=(0, 2))
    top.add_column()
    top.add_column(justify="right")
    top.add_row(Text("credits today (UTC)", "dim"))
    for tenant in figures.top:
        top.add_row(Text(visible_text(tenant.tenant)), f"{tenant.credits_micros // MICROS:,}")
    if not figures.top:
        top.add_row(Text("after the first checkpoint", "dim"))
    grid = Table.grid(padding=(0, 4))
    grid.add_column(width=width * 3 // 5 - 4)
    grid.add_column()
    grid.add_row(alerts, top)
    return grid


def _processes(processes: Sequence[ProcessState], figures: Figures) -> Text:
    texts = []
    for process in processes:
        if process.state is State.DONE:
            continue
        text = Text.assemble(_light(process.state), f" {process.name}")
        if process.name == "worker" and process.state is State.RUNNING and not figures.partitions:
            text.append(" recovering", "yellow")
        elif process.state is not State.RUNNING:
            text.append(f" {process.state.value}", "dim")
        elif process.restarts:
            times = "once" if process.restarts == 1 else f"{process.restarts} times"
            text.append(f" restarted {times}", "dim")
        texts.append(text)
    return Text("   ").join(texts)


def _light(state: State) -> Text:
    return Text(*_STYLES[state])


def _state_text(process: ProcessState | None, state: State) -> str:
    if process is not None and state in (State.RUNNING, State.EXTERNAL) and process.address:
        return process.address
    return "" if state is State.WAITING else state.value


def _level_style(level: int) -> str:
    return "red" if level >= 95 else "yellow"


def _example(figures: Figures) -> str:
    tenant = visible_text(figures.top[0].tenant) if figures.top else "tenant-00001"
    return f"msgmeter usage {tenant} --by day"


def _curve(history: Sequence[float], columns: int) -> str:
    """The last `columns` samples as bars over the highest of them."""
    shown = history[-columns:]
    highest = max(shown, default=0.0)
    if not highest:
        return ""
    return "".join(_BARS[min(int(value / highest * len(_BARS)), len(_BARS) - 1)] for value in shown)
