"""The columns of the live view: what each shows and sorts by. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hvtrace.stats import text
from hvtrace.stats.calls import Latency
from hvtrace.stats.snapshot import Vm
from hvtrace.stats.table import ATTEMPTS, Line
from hvtrace.stats.table import COLUMNS as WIDTHS
from hvtrace.stats.table import TRIP as TRIP_HEADING
from hvtrace.top.model import Span

Value = float | str | None

ENDED = "×"  # noqa: RUF001 - a sign, not a letter
"""In front of the name of a VM that has ended: also seen where there is no colour."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as a view shows it: counts are of `total`, all the rest of `line`, over `span`."""

    vm: Vm
    label: str  # of the VM
    total: Line
    line: Line | None  # None: not called in the span
    span: Span

    @property
    def code(self) -> int:
        """What was called."""
        return self.total.total.code

    @property
    def latency(self) -> Latency | None:
        """Service times in the span, None where nothing has completed."""
        return self.line.total.latency if self.line else None


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `value` gives what it sorts by (None: nothing to show), `show` its text."""

    key: str
    width: int
    about: str
    value: Callable[[Shown], Value]
    show: Callable[[Shown], str]
    left: bool = False  # aligned to the left
    alarm: Callable[[Line], int] | None = None  # how much is wrong with a line

    @property
    def upwards(self) -> bool:
        """Whether one wants to see the smallest first: names."""
        return self in (VM, CALL)


def _quantity(
    key: str,
    about: str,
    value: Callable[[Shown], float],
    alarm: Callable[[Line], int] | None = None,
) -> Column:
    def show(shown: Shown) -> str:
        number = value(shown)
        return text.quantity(number) if number else "-"

    return Column(key, WIDTHS.get(key, 5), about, value, show, alarm=alarm)


def _duration(key: str, about: str, value: Callable[[Line, Latency], float | None]) -> Column:
    def number(shown: Shown) -> float | None:
        line, latency = shown.line, shown.latency
        return value(line, latency) if line and latency else None

    def show(shown: Shown) -> str:
        found = number(shown)
        return "-" if found is None else text.duration(found)

    return Column(key, WIDTHS.get(key, 6), about, number, show)


def _percent(
    key: str, about: str, part: Callable[[Line], int], whole: Callable[[Shown, Line], int]
) -> Column:
    def ratio(shown: Shown) -> float | None:
        line = shown.line
        return part(line) / whole(shown, line) if line and whole(shown, line) else None

    def show(shown: Shown) -> str:
        return text.percent(part(shown.line), whole(shown, shown.line)) if shown.line else "-"

    return Column(key, WIDTHS[key], about, ratio, show)


def _calls(_: Shown, line: Line) -> int:
    return line.total.calls


def _rate(shown: Shown) -> float:
    return shown.line.total.calls / shown.span.seconds if shown.line and shown.span.seconds else 0.0


def vm_text(vm: Vm, label: str) -> str:
    """A VM as shown, where there is room for all of it."""
    return f"{ENDED if vm.ended else ''}{label}"


def call_text(code: int) -> str:
    """Name of a call as shown, where there is room for all of it."""
    return text.short_names([code], 1000)[code]


def _attempts(shown: Shown) -> int | None:
    counts = shown.total.total.xmm_output
    return sum(counts.get(verdict, 0) for verdict in ATTEMPTS) or None


def _verdict(shown: Shown) -> str:
    """The most frequent verdict, and its share where there are others: "refused 31%".

    "claimed" goes before all others: a single one is a guest that read garbage.
    """
    found = {v: n for v, n in shown.total.total.xmm_output.items() if v in ATTEMPTS}
    if not found:
        return "-"
    verdict, count = max(found.items(), key=lambda item: (item[0] == "claimed", item[1]))
    share = text.percent(count, sum(found.values()))
    return verdict if share == "100" else f"{verdict} {share}%"


VM = Column(
    "vm",
    6,
    f"virtual machine; {ENDED} marks one that has ended",
    lambda shown: shown.label.lower(),
    lambda shown: vm_text(shown.vm, shown.label),
    left=True,
)
CALL = Column(
    "call",
    16,
    "hypercall, named as in the TLFS, without Hv and Call",
    lambda shown: shown.total.total.name.lower(),
    lambda shown: call_text(shown.code),
    left=True,
)
TRIP = _duration(
    TRIP_HEADING,
    "mean time from the call's exit to the next entry (--round-trip)",
    lambda line, _: (
        line.total.round_trip.sum / line.total.trips
        if line.total.round_trip and line.total.trips
        else None
    ),
)
RATE = _quantity("/s", "calls per second", _rate)

COLUMNS: tuple[Column, ...] = (
    VM,
    CALL,
    RATE,
    _quantity("calls", "calls that are over", lambda shown: shown.total.total.calls),
    _percent(
        "time",
        "share of all time spent in completed calls, %",
        lambda line: line.time_ns,
        lambda shown, _: shown.span.time_ns,
    ),
    _duration(
        "mean",
        "mean time from call to completion",
        lambda line, latency: latency.sum / line.total.completed,
    ),
    TRIP,
    _duration("p50", "median of that time", lambda _, latency: latency.p50),
    _duration("p99", "99th percentile of it", lambda _, latency: latency.p99),
    _duration("p999", "99.9th percentile of it", lambda _, latency: latency.p999),
    _duration("max", "longest time", lambda _, latency: latency.max),
    _percent("fast", "parameters in registers, % of calls", lambda line: line.fast, _calls),
    _percent("xmm", "input in XMM registers, % of calls", lambda line: line.xmm_input, _calls),
    _percent("vmm", "served by the VMM, % of calls", lambda line: line.vmm, _calls),
    _quantity(
        "fail",
        "completed with a status other than SUCCESS",
        lambda shown: shown.total.total.failures,
        alarm=lambda line: line.total.failures,
    ),
    _quantity(
        "unfin",
        "never completed",
        lambda shown: shown.total.total.unfinished,
        alarm=lambda line: line.total.unfinished,
    ),
    Column(
        "xmm-out",
        12,
        "what became of output in registers, where asked for",
        _attempts,
        _verdict,
        left=True,
        alarm=lambda line: line.total.xmm_output.get("claimed", 0),
    ),
    Column(
        "code",
        6,
        "number of the hypercall",
        lambda shown: shown.code,
        lambda shown: f"0x{shown.code:04x}",
    ),
    Column(
        "pid", 7, "process of the VMM", lambda shown: shown.vm.pid, lambda shown: str(shown.vm.pid)
    ),
)
"""All columns, in their order on the screen."""

BY_KEY = {column.key: column for column in COLUMNS}
