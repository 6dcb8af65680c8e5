"""What was counted in an interval, for people: one line for each call of each VM. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from hvtrace.hyperv import statuses
from hvtrace.stats import text
from hvtrace.stats.calls import Call, calls
from hvtrace.stats.snapshot import EVERY_VM, Lost, SlowCall, Snapshot, Vm, completed, rollup

COLUMNS = {
    "calls": 5,
    "/s": 5,
    "time": 4,
    "mean": 6,
    "p50": 6,
    "p99": 6,
    "max": 6,
    "fast": 4,
    "xmm": 3,
    "vmm": 3,
    "fail": 5,
}
"""Heading and width of the columns behind the call's name."""

TRIP = "trip"
"""Heading of the mean round trip: as wide as "p50", and in its place where there is little room."""

LOSSES = {
    "orphans": "completions of calls that began before the trace",
    "no_slot": "calls for which there was no free slot (raise --slots)",
    "no_thread": "calls of vCPU threads beyond the room for them (raise --slots)",
    "no_status": "statuses of failures (these calls are counted as successes)",
    "no_exit": "forwarded calls whose exit was not seen (--evidence)",
    "no_trip": "completed calls whose exit or entry was not seen (--round-trip)",
    "no_event": "slow calls that were counted, but not listed: no room (--slow)",
    "missed": "events that the kernel withheld (hvtrace was running already)",
}
"""What each loss counter (a field of Lost) counts."""

ATTEMPTS = ("impossible", "refused", "used-gpr", "used-xmm", "claimed")
"""Verdicts on calls that asked for output in registers."""

MOST_SLOW = 20
"""How many slow calls a table lists."""

_CLAIMED = (
    "the VMM says success where this KVM cannot return output in registers;"
    " the guest reads what was there before (hvtrace audit)"
)

_GLUE = "\N{NO-BREAK SPACE}"  # a space where no line may end
_BOLD, _DIM, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Line:
    """One call of one VM, all of its (fast, handler) variants together."""

    total: Call  # `fast` and `handler` mean nothing here
    fast: int  # calls, as the next two
    xmm_input: int
    vmm: int

    @property
    def time_ns(self) -> int:
        """Service time of all its completed calls."""
        return self.total.latency.sum if self.total.latency else 0


def lines(delta: Snapshot) -> list[Line]:
    """The rows of `delta` by VM and call code, the one that took most time first."""
    fast: Counter[tuple[int, int]] = Counter()
    vmm: Counter[tuple[int, int]] = Counter()
    over = (completed(delta.rows) + delta.rows["unfinished"]).tolist()
    for row, count in zip(delta.rows, over, strict=True):
        key = int(row["vm"]), int(row["code"])
        fast[key] += count if row["fast"] else 0
        vmm[key] += count if row["handler"] else 0
    whole = rollup(delta, ("vm", "code"))
    keys = whole.rows[["vm", "code"]].tolist()
    found = [
        Line(call, fast[key], call.xmm_input, vmm[key])
        for key, call in zip(keys, calls(whole), strict=True)
    ]
    return sorted(found, key=lambda line: (line.time_ns, line.total.calls), reverse=True)


def render(delta: Snapshot, duration_s: float, width: int = 80, color: bool = False) -> str:
    """The table of a `delta` over `duration_s`, a newline behind every line.

    No line is longer than `width` columns, which is 80 or more. A section for
    each VM, then what was not counted. "time" is the share of all time spent
    in completed calls, mean to max are of completed calls ("trip": the mean
    round trip, of a `delta` that has them), "fast", "xmm"
    (input) and "vmm" (served by it) are percentages of calls.
    """
    found = lines(delta)
    columns = _columns(len(delta.trips) > 0, width)
    sheet = _Sheet(
        duration_s=max(duration_s, 1e-9),
        time_ns=sum(line.time_ns for line in found),
        columns=columns,
        names=_names(
            (line.total.code for line in found), width - sum(columns.values()) - len(columns)
        ),
        width=width,
        color=color,
    )
    vms: dict[Vm, list[Line]] = {}
    for line in found:
        vms.setdefault(line.total.vm, []).append(line)
    out = [_summary(found, len(vms), sheet)]
    for vm, own in sorted(vms.items(), key=lambda item: -_time_ns(item[1])):
        out += ["", *_section(vm, own, sheet)]
    out += ["", *found_exits] if (found_exits := exits(delta, width)) else []
    out += _slow(delta.slow, sheet)
    out += _footer(delta.lost, delta.in_flight, width)
    return "\n".join(out) + "\n"


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What all sections of one table share."""

    duration_s: float
    time_ns: int
    columns: dict[str, int]  # widths by heading
    names: dict[int, str]  # of call codes, all of one length
    width: int
    color: bool

    def paint(self, line: str, style: str) -> str:
        return f"{style}{line}{_PLAIN}" if self.color else line


def _columns(trips: bool, width: int) -> dict[str, int]:
    """COLUMNS, where asked for with the round trip among them."""
    columns = {}
    for heading, its_width in COLUMNS.items():
        if trips and heading == "p50":
            columns[TRIP] = its_width
            if width < 80 + 1 + its_width:
                continue
        columns[heading] = its_width
    return columns


def _names(codes: Iterable[int], room: int) -> dict[int, str]:
    """Names of call codes, all of one length."""
    names = text.short_names(set(codes), room)
    longest = max((len(name) for name in names.values()), default=0)
    return {code: name.ljust(longest) for code, name in names.items()}


def _time_ns(found: Sequence[Line]) -> int:
    return sum(line.time_ns for line in found)


def _summary(found: Sequence[Line], vms: int, sheet: _Sheet) -> str:
    span = text.duration(sheet.duration_s * 1e9)
    if not found:
        return f"No hypercalls in {span}."
    count = sum(line.total.calls for line in found)
    of_vms = "" if found[0].total.vm == EVERY_VM else f" of {_count(vms, 'VM')}"
    return (
        f"{_count(count, 'hypercall')}{of_vms} in {span}: "
        f"{text.quantity(count / sheet.duration_s)}/s, {text.duration(sheet.time_ns)} spent"
    )


def _section(vm: Vm, own: Sequence[Line], sheet: _Sheet) -> list[str]:
    """Heading, column headings and lines of one VM."""
    out = [sheet.paint(_vm_heading(vm, own, sheet), _BOLD)]
    indent = " " * len(next(iter(sheet.names.values())))
    out.append(sheet.paint(_join(indent, sheet.columns, sheet), _DIM))
    for line in own:
        text_line = _join(sheet.names[line.total.code], _cells(line, sheet), sheet)
        if line.total.failures:
            at = -COLUMNS["fail"]
            text_line = text_line[:at] + sheet.paint(text_line[at:], _RED)
        out.append(text_line)
    out += _paragraph("unfinished", _unfinished(own, sheet), sheet.width)
    out += _paragraph("failed", _failed(own, sheet), sheet.width, between="; ")
    out += _paragraph("XMM output", _xmm_output(own, sheet), sheet.width, between="; ")
    if any("claimed" in line.total.xmm_output for line in own):
        alarm = _paragraph("claimed", [_CLAIMED], sheet.width)
        out += [sheet.paint(line, _RED) for line in alarm]
    return out


def _vm_heading(vm: Vm, own: Sequence[Line], sheet: _Sheet) -> str:
    count = sum(line.total.calls for line in own)
    rate, spent = text.quantity(count / sheet.duration_s), text.duration(_time_ns(own))
    what = f": {_count(count, 'call')}, {rate}/s, {spent} spent"
    who = "all VMs" if vm == EVERY_VM else f"{vm.name} ({vm.vmm}, pid {vm.pid})"
    return text.printable(who)[: sheet.width - len(what)] + what


def _cells(line: Line, sheet: _Sheet) -> list[str]:
    total = line.total
    cells = {
        "calls": text.quantity(total.calls),
        "/s": text.quantity(total.calls / sheet.duration_s),
        "time": text.percent(line.time_ns, sheet.time_ns),
        "fast": text.percent(line.fast, total.calls),
        "xmm": text.percent(line.xmm_input, total.calls),
        "vmm": text.percent(line.vmm, total.calls),
        "fail": text.quantity(total.failures) if total.failures else "-",
    }
    if latency := total.latency:
        cells |= {
            "mean": text.duration(latency.sum / total.completed),
            "p50": text.duration(latency.p50),
            "p99": text.duration(latency.p99),
            "max": text.duration(latency.max),
        }
    if total.trips and total.round_trip:
        cells[TRIP] = text.duration(total.round_trip.sum / total.trips)
    return [cells.get(heading, "-") for heading in sheet.columns]


def _join(name: str, cells: Iterable[str], sheet: _Sheet) -> str:
    columns = zip(cells, sheet.columns.values(), strict=True)
    return " ".join((name, *(cell.rjust(width) for cell, width in columns)))


def _unfinished(own: Sequence[Line], sheet: _Sheet) -> list[str]:
    return [
        f"{sheet.names[line.total.code].strip()}{_GLUE}{line.total.unfinished:,}"
        for line in own
        if line.total.unfinished
    ]


def _failed(own: Sequence[Line], sheet: _Sheet) -> list[str]:
    """Failures of each call by status."""
    out = []
    for line in own:
        counts = [
            f"{status}{_GLUE}{count:,}"
            for status, count in line.total.statuses.items()
            if status != "SUCCESS"
        ]
        if counts:
            out.append(f"{sheet.names[line.total.code].strip()}{_GLUE}{', '.join(counts)}")
    return out


def _xmm_output(own: Sequence[Line], sheet: _Sheet) -> list[str]:
    """Verdicts on output in registers, of the calls that asked for it."""
    out = []
    for line in own:
        counts = [
            f"{verdict}{_GLUE}{line.total.xmm_output[verdict]:,}"
            for verdict in ATTEMPTS
            if verdict in line.total.xmm_output
        ]
        if counts:
            out.append(f"{sheet.names[line.total.code].strip()}{_GLUE}{', '.join(counts)}")
    return out


def exits(delta: Snapshot, width: int) -> list[str]:
    """What the exits of forwarded calls were, where evidence was asked for: a line for each."""
    out = []
    for one in delta.exits:
        name = text.short_names([one.code], 1000)[one.code]
        size = "of unknown size" if one.size_bytes is None else f"{one.size_bytes} bytes"
        items = [f"{one.calls:,}{_GLUE}calls by exit type {one.type}, {size}"]
        if one.untouched:
            items.append(f"{one.untouched:,}{_GLUE}succeeded with the registers left as they were")
        who = f"exits of {text.printable(one.vm.name)}, {name}{' fast' if one.fast else ''}"
        out += _paragraph(who, items, width)
    return out


def _slow(slow: Sequence[SlowCall], sheet: _Sheet) -> list[str]:
    """Single calls that took long, the longest first, and of many only those."""
    if not slow:
        return []
    listed = sorted(slow, key=lambda call: call.duration_ns, reverse=True)[:MOST_SLOW]
    title = _count(len(slow), "slow call")
    if more := len(slow) - len(listed):
        title += f": the {len(listed)} slowest, {more:,} more are not listed"
    starts = (datetime.fromtimestamp(call.start) for call in listed)
    columns = [
        ["began", *(start.strftime("%H:%M:%S.%f")[:12] for start in starts)],
        ["VM", *(text.printable(call.vm.name)[:16] for call in listed)],
        ["  took", *(text.duration(call.duration_ns).rjust(6) for call in listed)],
        ["status", *(statuses.name_of(call.status)[:23] for call in listed)],
    ]
    # The name of the call has the room that the others leave.
    room = sheet.width - sum(max(map(len, column)) + 1 for column in columns)
    names = _names((call.code for call in listed), room)
    columns.insert(2, ["call", *(names[call.code] for call in listed)])
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    heading, *found = (" ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return ["", sheet.paint(title, _BOLD), sheet.paint(heading, _DIM), *found]


def _footer(lost: Lost, in_flight: int, width: int) -> list[str]:
    opened = [f"{_count(in_flight, 'call')}, in no count above"] if in_flight else []
    losses = [
        f"{getattr(lost, name):,} {what}" for name, what in LOSSES.items() if getattr(lost, name)
    ]
    out = _paragraph("still open", opened, width) + _paragraph("lost", losses, width)
    return ["", *out] if out else []


def _paragraph(title: str, items: Sequence[str], width: int, between: str = ", ") -> list[str]:
    """`items` behind a title, wrapped; nothing where there are none."""
    if not items:
        return []
    wrapped = textwrap.wrap(f"{title}: {between.join(items)}", width, subsequent_indent="  ")
    return [line.replace(_GLUE, " ") for line in wrapped]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
