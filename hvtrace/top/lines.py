"""The two lines that are always true: what is seen, and how well. Pure, but for Rich's Text."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields

from rich.text import Text

from hvtrace.stats import text
from hvtrace.stats.snapshot import Lost
from hvtrace.top.model import Frame
from hvtrace.top.view import View

ALARM = "bold #ffffff on #c00000"
GAP = "  "


@dataclass(frozen=True, slots=True)
class State:
    """All that the two lines speak of."""

    frame: Frame | None = None
    view: View = field(default_factory=View)
    shown: int = 0  # rows that match the filter
    interval_seconds: float = 1.0
    kernel: str = ""  # release; "" until the source is open
    probes: int | None = None  # attached; None where the source has none
    paused: bool = False
    sort_hidden: bool = False  # the column sorted by is not on the screen


def summary(state: State) -> Text:
    """First line: when, how much by how many, and over what time."""
    line = Text(" ", no_wrap=True, overflow="ellipsis")
    line.append("hvtrace top", "bold")
    frame = state.frame
    if frame is None:
        return line
    line.append(f"{GAP}{time.strftime('%H:%M:%S', time.localtime(frame.time))}")
    line.append(f"{GAP}{frame.vms} VM{'' if frame.vms == 1 else 's'}")
    span = frame.span(state.view.scope)
    if span.seconds:
        rate = span.calls / span.seconds if span.calls else 0
        line.append(f"{GAP}{text.quantity(rate)} calls/s", "bold")
        line.append(f"{GAP}{text.duration(span.time_ns / span.seconds)}/s in calls")
        line.append(f"{GAP}{state.view.scope.value} {text.duration(span.seconds * 1e9)}")
    return line


def status(state: State) -> Text:
    """Last line: what is held still or left out, is it attached, is anything lost."""
    line = Text("", no_wrap=True, overflow="ellipsis")
    frame, view = state.frame, state.view
    if state.paused:
        line.append(" PAUSED ", "bold reverse")
    if view.filter.strip():
        line.append(f" /{view.filter.strip()}", "bold")
        line.append(f" {state.shown} of {len(frame.rows) if frame else 0} ")
    if state.sort_hidden:
        line.append(f" sorted by {view.column.key} ")
    line.append(f" {_attached(state)}{GAP}every {state.interval_seconds:g}s")
    if frame is not None:
        line.append(f"{GAP}in flight {frame.in_flight}{GAP}")
        line.append(*_lost(frame.lost))
        claimed = sum(row.total.total.xmm_output.get("claimed", 0) for row in frame.rows)
        if claimed:
            line.append(GAP)
            line.append(f" XMM OUTPUT CLAIMED {claimed:,} ", ALARM)
    if state.kernel:
        line.append(GAP + state.kernel)
    return line


def _attached(state: State) -> str:
    if not state.kernel:
        return "attaching"
    return "attached" if state.probes is None else f"{state.probes} probes attached"


def _lost(lost: Lost) -> tuple[str, str]:
    found = [(field.name, getattr(lost, field.name)) for field in fields(Lost)]
    if not any(count for _, count in found):
        return "lost 0", ""
    text = ", ".join(f"{name} {count:,}" for name, count in found if count)
    if lost.no_slot or lost.no_thread:
        text += ": raise --slots"
    return f" LOST {text} ", ALARM
