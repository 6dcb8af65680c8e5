"""The lines that are always true: what is seen, and how well. Pure, but for Rich's Text."""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass, field, fields

from rich.cells import cell_len
from rich.text import Text

from hvtrace.stats import text
from hvtrace.stats.snapshot import Lost
from hvtrace.stats.tally import CELL, Tally
from hvtrace.top.model import Frame
from hvtrace.top.sheet import Scope, View

ALARM = "bold white on red"
MODE = "bold reverse"
GAP = "  "
TITLE = "hvtrace"

Part = tuple[str, str]  # text and style


@dataclass(frozen=True, slots=True)
class State:
    """All that the lines speak of."""

    frame: Frame | None = None  # what is shown
    newest: Frame | None = None
    view: View = field(default_factory=View)
    shown: int = 0  # rows that match the filter
    interval_seconds: float = 1.0
    kernel: str = ""  # release; "" until the source is open
    probes: int | None = None  # attached; None where the source has none
    recording: str | None = None  # its name, where one is shown
    end: str | None = None  # the recording is over, and what was wrong with its end: "" nothing
    paused: bool = False
    sort_hidden: bool = False  # the column sorted by is not on the screen
    slow_ns: int = 0  # limit of slow calls; 0: off

    @property
    def behind_seconds(self) -> float:
        """How long before the newest frame the one ended that is shown."""
        return self.newest.time - self.frame.time if self.newest and self.frame else 0.0


def summary(state: State) -> Text:
    """First line: when, how much by how many, over what time, and what a row is."""
    line = Text(" ", no_wrap=True, overflow="ellipsis")
    line.append(TITLE, "bold")
    frame, view = state.frame, state.view
    if frame is None:
        return line
    vms = len([vm for vm in frame.vms.values() if not vm.ended])
    line.append(f" {time.strftime('%H:%M:%S', time.localtime(frame.time))}")
    line.append(f"{GAP}{vms} VM{'' if vms == 1 else 's'}")
    counted = view.scope.of(frame)
    seconds = frame.total_seconds if view.scope is Scope.TOTAL else frame.seconds
    if seconds:
        rate = int(counted.calls.sum()) / seconds
        line.append(f"{GAP}{text.quantity(rate or 0)} calls/s", "bold")
        line.append(f"{GAP}{text.duration(_sum(counted, 'sum_ns') / seconds)}/s busy")
        line.append(f"{GAP}{view.scope.value} {text.duration(seconds * 1e9)}")
    line.append(f"{GAP}by {view.grouping.value.replace(' and ', '+')}")
    return line


def _sum(counted: Tally, counter: str) -> int:
    """A counter of all rows together."""
    return int(counted.values[counted.ids == CELL[counter]].sum())


def notes(state: State) -> list[Part]:
    """What is not always so: losses by name, probes that are missing, what is left out."""
    frame, view = state.frame, state.view
    found: list[Part] = []
    if state.end:
        found.append((f" {state.end} ", ALARM))
    if frame is not None:
        found += _losses(frame.lost)
        if missing := [probe.name for probe in frame.probes if not probe.attached]:
            found.append((f" NOT ATTACHED {', '.join(missing)} ", ALARM))
        if claimed := _sum(frame.counts, "claimed"):
            found.append((f" XMM OUTPUT CLAIMED {claimed:,} ", ALARM))
    if view.filter.strip():
        rows = "row" if state.shown == 1 else "rows"
        found.append((f" /{view.filter.strip()}: {state.shown:,} {rows}, Esc drops it ", MODE))
    if state.sort_hidden:
        found.append((f" sorted by {view.sort}, not shown ", ""))
    return found


def status(state: State, width: int) -> list[Text]:
    """The last lines: notes where there are any, and one that is always there."""
    lines = _filled(notes(state), width)
    line = Text("", no_wrap=True, overflow="ellipsis")
    block = True  # a coloured one brings its own blanks
    for words, style in _facts(state):
        gap = "" if block and style else " " if block or style else GAP
        blanks = 2 if style else 0
        if line and line.cell_len + len(gap) + cell_len(words) + blanks > width:
            break
        line.append(gap).append(f" {words} " if style else words, style)
        block = bool(style)
    return [*lines, line]


def _facts(state: State) -> list[Part]:
    """Those that matter most come first: they are still there where the screen is narrow."""
    frame = state.frame
    found: list[Part] = []
    if state.paused:
        behind = f" -{text.duration(state.behind_seconds * 1e9)}" if state.behind_seconds else ""
        found.append((f"PAUSED{behind}", MODE))
    if state.end is not None:
        found.append(("END OF RECORDING", MODE))
    found.append(_attached(state))
    if frame is not None:
        lost = sum(astuple(frame.lost))
        found.append((f"LOST {lost:,}", ALARM) if lost else ("lost 0", ""))
        if state.recording is None:
            found += _cost(frame)
    found.append((f"every {state.interval_seconds:g}s", ""))
    if frame is not None:
        found.append((f"in flight {frame.in_flight}", ""))
    if state.slow_ns:
        found.append((f"slow {text.duration(state.slow_ns)}", ""))
    if state.kernel:
        found.append((f"{state.kernel}", ""))
    return found


def _attached(state: State) -> Part:
    if state.recording is not None:
        return f"replay {text.printable(state.recording)}", ""
    if not state.kernel:
        return "attaching", ""
    if state.frame is None or not state.frame.probes:
        return ("attached" if state.probes is None else f"{state.probes} probes"), ""
    attached = [probe.attached for probe in state.frame.probes]
    if all(attached):
        return f"{len(attached)} probes", ""
    return f"{sum(attached)} OF {len(attached)} PROBES", ALARM


def _cost(frame: Frame) -> list[Part]:
    """What hvtrace itself takes: of a core, in the kernel and here."""
    cost = frame.cost
    each = "-" if cost.ns_per_call is None else f"{text.duration(cost.ns_per_call)}/call"
    core = "" if cost.kernel_share is None else f" {_core(cost.kernel_share)}"
    own = _core(cost.own_share) if frame.seconds else "-"
    return [(f"cost {each}{core}", ""), (f"own {own}", "")]


def _core(share: float) -> str:
    return f"{text.share(share) if share else 0}%"


def _losses(lost: Lost) -> list[Part]:
    """Each by its name; those first that the user can do something about."""
    names = {one.name: getattr(lost, one.name) for one in fields(Lost)}
    found = {name: f"{name} {count:,}" for name, count in names.items() if count}
    room = [found.pop(name) for name in ("no_slot", "no_thread") if name in found]
    parts = [f"{', '.join(room)}: raise --slots"] if room else []
    parts += found.values()
    return [(f" {'' if i else 'LOST '}{part} ", ALARM) for i, part in enumerate(parts)]


def _filled(parts: list[Part], width: int) -> list[Text]:
    """As many parts to a line as fit; what is too long for one is cut."""
    lines: list[Text] = []
    for words, style in parts:
        if not lines or lines[-1].cell_len + len(words) > width:
            lines.append(Text("", no_wrap=True, overflow="ellipsis"))
        lines[-1].append(words, style)
    return lines
