"""The detail of a row as lines of text: numbers, charts, tables, and what the call is. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from rich.text import Text

from hvtrace.hyperv import kvm, statuses
from hvtrace.hyperv.explain import Document, explain_code
from hvtrace.stats import text
from hvtrace.top.detail import Detail, Part
from hvtrace.top.draw import (
    BAR,
    LABEL,
    QUIET,
    Band,
    Floats,
    bands,
    bar,
    heatmap,
    histogram,
    sparkline,
)

WIDE = 120
"""From this width on charts, and what is below them, stand side by side."""

FAILURE = "bold red"

VERDICTS = {
    "claimed": "success where this KVM returns nothing in registers: the guest reads what was "
    "there before",
    "refused": "it would fit the registers, but the call failed or never completed",
    "impossible": "input and output together exceed the 112 bytes of the registers",
    "used-gpr": "success, and no output beyond RDX and R8",
    "used-xmm": "success, with output in XMM registers",
}
"""What became of output in registers, the worst first."""

VERSUS = "vmm/kernel"
"""Label of the factors between the handlers."""

UNFINISHED = "it faulted (#UD), or the thread made its next call, or ended, before it completed"

Lines = list[Text]

_GAP = 3  # columns between what stands side by side
_MIN_ROWS, _MAX_ROWS = 4, 24  # of the charts
_AROUND = 10  # lines of the first screenful that are not the histogram's rows
_AROUND_HEATMAP = 4  # lines of a heatmap that are no rows
_NUMBERS = 44  # columns of a part's numbers
_MEANING = 30  # columns, or a meaning gets lines of its own
_INDENT = 11  # of what the call is


def detail_lines(detail: Detail, width: int, height: int | None = None) -> Lines:
    """All of `detail` in lines of `width` columns at most.

    With `height`, that of the screen, the charts have the size that lets the
    first screenful show numbers, latencies and handlers.
    """
    wide = width >= WIDE
    rows = (height or 24) - _AROUND - (_AROUND_HEATMAP if wide else 0)
    rows = min(max(rows, _MIN_ROWS), _MAX_ROWS)
    most = max(6, (height or 36) // 3)
    lines = _numbers(detail, width)
    if wide:
        column = (width - _GAP) // 2
        lines += [Text(), *_charts(detail, width, rows)]
        lines += _two_columns([_handlers(detail, column), *_sections(detail, column, most)], column)
    else:
        charts = (_latency(detail, width, rows), _handlers(detail, width))
        over_time = _over_time(detail, width, rows)
        for section in (*charts, over_time, *_sections(detail, width, most)):
            lines += [Text(), *section] if section else []
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def _sections(detail: Detail, width: int, most: int) -> list[Lines]:
    """All that is below charts and handlers; tables of parts have `most` rows at most."""
    return [
        _statuses(detail, width),
        _convention(detail, width),
        *(
            _parts(title, parts, detail.whole, width, most)
            for title, parts in (("vCPU", detail.vcpus), ("Call", detail.calls), ("VM", detail.vms))
        ),
        _sizes(detail, width),
        [] if detail.code is None else _about(explain_code(detail.code), width),
    ]


def _two_columns(sections: Iterable[Lines], column: int) -> Iterator[Text]:
    """Each section below the shorter one of two columns."""
    left: Lines = []
    right: Lines = []
    for section in sections:
        shorter = left if len(left) <= len(right) else right
        shorter += [Text(), *section] if section else []
    return _beside(left, right, column)


def _beside(left: Lines, right: Lines, column: int) -> Iterator[Text]:
    """The lines of `left` in `column` columns, those of `right` behind them."""
    for one, other in zip_longest(left, right):
        line = Text().append_text(one or Text())
        line.truncate(column, overflow="ellipsis", pad=True)
        yield line.append(" " * _GAP).append_text(other or Text())


def _heading(title: str, width: int, note: str = "") -> Text:
    """A title, a rule, and a note at its right end."""
    line = Text().append(title, "bold")
    rule = width - line.cell_len - len(note) - (2 if note else 1)
    return line.append(f" {'─' * max(1, rule)} {note}".rstrip(), QUIET)


def _numbers(detail: Detail, width: int) -> Lines:
    """Title, and the row's numbers: as many to a line as fit, then the course of its rate."""
    whole, calls = detail.whole, detail.whole.calls
    title = Text().append(text.printable(detail.title), "bold")
    title.truncate(max(1, width - len(detail.span) - 2), overflow="ellipsis", pad=True)
    lines = [title.append(f"  {detail.span}", QUIET)]
    failed = detail.completed - detail.statuses.get("SUCCESS", 0)
    vmm = sum(part.calls for part in detail.handlers if part.label == "vmm")
    fields = {
        "calls": f"{calls:,}",
        "calls/s": _rate(calls, detail.seconds),
        "mean": _duration(whole.mean_ns),
        "p50": _duration(whole.p50_ns),
        "p99": _duration(whole.p99_ns),
        "max": _duration(whole.max_ns),
        "busy": _busy(whole.time_ns, detail.seconds),
        "fast": _percent(detail.fast, calls),
        "XMM in": _percent(detail.xmm_input, calls),
        "VMM": _percent(vmm, calls),
        "failed": f"{failed:,}",
        "unfinished": f"{detail.unfinished:,}",
    }
    line = Text()
    for label, value in fields.items():
        if line and line.cell_len + 2 + len(label) + 1 + len(value) > width:
            lines.append(line)
            line = Text()
        line.append("  " if line else "").append(f"{label} ", QUIET)
        line.append(
            value, FAILURE if label in ("failed", "unfinished") and value != "0" else "bold"
        )
    lines.append(line)
    room = min(width - line.cell_len - 2, len(detail.rates))
    if room >= 8:
        line.append("  ").append(sparkline(detail.rates[-room:].tolist(), room), BAR)
    return lines


def _rate(calls: int, seconds: float) -> str:
    return text.quantity(calls / seconds if calls else 0) if seconds else "-"


def _busy(time_ns: float, seconds: float) -> str:
    """Time in calls per second, as in the first line of the table."""
    return f"{text.duration(time_ns / seconds)}/s" if time_ns > 0 and seconds else "-"


def _duration(ns: float) -> str:
    return "-" if math.isnan(ns) else text.duration(ns)


def _percent(part: float, whole: float) -> str:
    return f"{text.percent(part, whole)}%" if part > 0 and whole > 0 else "-"


def _charts(detail: Detail, width: int, rows: int) -> Iterator[Text]:
    """Histogram and heatmap beside each other, with the same rows."""
    column = 52 + (width - WIDE) // 3
    shared = bands(detail.buckets + detail.heat.sum(axis=0), rows)
    latency = _latency(detail, column, rows, shared)
    if detail.buckets.any() and not _why_no_course(detail):
        columns = f"{'time':>{LABEL - 1}} {'calls':>5} {'%':>4}"
        latency.insert(1, Text(columns, QUIET))  # beside the heatmap's line of rates
    return _beside(latency, _over_time(detail, width - column - _GAP, rows, shared), column)


def _latency(detail: Detail, width: int, rows: int, shared: Sequence[Band] | None = None) -> Lines:
    note = f"{detail.completed:,} completed" if detail.completed else ""
    found = histogram(detail.buckets, width, rows, rows=shared)
    if not found and detail.unfinished:
        calls = "The call" if detail.unfinished == 1 else f"All {detail.unfinished:,} calls"
        found = _prose(f"{calls} never completed: there is no time to show.", width)
    elif not found:
        found = _prose(f"No calls ({detail.span}).", width)
    return [_heading("Latency", width, note), *found]


def _over_time(
    detail: Detail, width: int, rows: int, shared: Sequence[Band] | None = None
) -> Lines:
    """The heatmap, or why there is none."""
    head = _heading("Over time", width, _reach(detail))
    if why := _why_no_course(detail):
        return [head, *_prose(why, width)]
    return [head, *heatmap(detail.heat, detail.ends, detail.spans, width, rows, rows=shared)]


def _reach(detail: Detail) -> str:
    """How far back the history goes: "97s, 97 moments"."""
    if not len(detail.ends):
        return ""
    seconds = round(detail.ends[-1] - detail.ends[0] + detail.spans[0])
    reach = f"{seconds}s" if seconds < 120 else f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{reach}, {_moments(detail)} moment{'' if _moments(detail) == 1 else 's'}"


def _moments(detail: Detail) -> int:
    return int(np.count_nonzero(detail.spans > 0))


def _why_no_course(detail: Detail) -> str:
    """In words why there is nothing to show over time; "" where there is."""
    if not _moments(detail):
        return "No history yet."
    if not detail.heat.any():
        return "No call completed in this time."
    return "" if _moments(detail) > 1 else "One moment so far: it has no course yet."


def _handlers(detail: Detail, width: int) -> Lines:
    """Kernel against VMM, and the factor between them."""
    if not detail.handlers:
        return []
    both = {part.label: part for part in detail.handlers}
    if len(both) < 2:
        return _parts("Handler", detail.handlers, detail.whole, width, 1)
    lines = _parts("Handler", detail.handlers, detail.whole, width, 2, widest=VERSUS)
    factors = " ".join(
        "-".rjust(6) if math.isnan(one / other) else f"{text.quantity(one / other)}x".rjust(6)
        for one, other in zip(_times(both["vmm"]), _times(both["kernel"]), strict=True)
    )
    return [*lines, Text(f"{VERSUS}{factors:>{_NUMBERS}}", "bold")]


def _times(part: Part) -> tuple[float, ...]:
    """What the columns mean, p50, p99 and max show."""
    return part.mean_ns, part.p50_ns, part.p99_ns, part.max_ns


def _parts(
    title: str, parts: Sequence[Part], whole: Part, width: int, most: int, *, widest: str = ""
) -> Lines:
    """A table of parts of a row, in the order given, with bars of their time.

    It has `most` rows at most, and room for a label like `widest`.
    """
    if not parts:
        return []
    longest = max(len(title), len(widest), *(Text(part.label).cell_len for part in parts))
    label_width = max(6, min(longest, 32, width - _NUMBERS))
    room = width - label_width - _NUMBERS - 1
    columns = " ".join(h.rjust(6) for h in ("mean", "p50", "p99", "max"))
    head = Text().append(title.ljust(label_width), "bold")
    lines = [head.append(f" {'calls':>5} {'%':>4} {'time':>4} {columns} {'─' * room}", QUIET)]
    for part in parts[:most]:
        line = Text(text.printable(part.label))
        line.truncate(label_width, overflow="ellipsis", pad=True)
        line.append(f" {text.quantity(part.calls):>5} {_percent(part.calls, whole.calls):>4}")
        line.append(f" {_percent(part.time_ns, whole.time_ns):>4} ")
        line.append(" ".join(_duration(ns).rjust(6) for ns in _times(part)))
        line.append(" ").append(bar(part.time_ns / (whole.time_ns or math.nan), room), BAR)
        lines.append(line)
    if rest := parts[most:]:
        calls, time_ns = sum(p.calls for p in rest), sum(p.time_ns for p in rest)
        share = _percent(time_ns, whole.time_ns).replace("-", "none")
        more = f"and {len(rest):,} more: {text.quantity(calls)} calls, {share} of the time"
        lines.append(Text(more, QUIET))
    return lines


class _Counted(NamedTuple):
    """A line of a small table: what was counted, of how many, and what it means."""

    name: str
    calls: int
    of: int
    meaning: str
    style: str = ""
    more: Sequence[str] = ()


def _counted(entries: Sequence[_Counted], width: int) -> Iterator[Text]:
    """Name, count, percent, meaning: beside them where there is room, else below."""
    name_width = max(len(entry.name) for entry in entries)
    count_width = max(len(f"{entry.calls:,}") for entry in entries)
    indent = name_width + count_width + 9
    below = width - indent < _MEANING
    for entry in entries:
        line = Text().append(entry.name.ljust(name_width), entry.style)
        line.append(f"  {entry.calls:{count_width},} {_percent(entry.calls, entry.of):>4}")
        meaning = wrap(entry.meaning, max(10, width - (4 if below else indent)))
        if meaning and not below:
            line.append(f"  {meaning.pop(0)}")
        yield line
        for one in meaning:
            yield Text(" " * (4 if below else indent) + one)
        for item in entry.more:
            wrapped = wrap(item, width, initial_indent="  - ", subsequent_indent="    ")
            yield from (Text(one, QUIET) for one in wrapped)


def _statuses(detail: Detail, width: int) -> Lines:
    """What the calls ended with, and for each failure what KVM itself gives it for."""
    entries = [
        _Counted(name, count, detail.completed, *_status(detail, name))
        for name, count in detail.statuses.items()
    ]
    if detail.unfinished:
        when = [_when(r) for r in _rules(detail, None) if r.codes is not kvm.ALL]
        entries.append(
            _Counted(
                "never completed", detail.unfinished, detail.whole.calls, UNFINISHED, FAILURE, when
            )
        )
    return [_heading("Status", width), *_counted(entries, width)] if entries else []


def _status(detail: Detail, name: str) -> tuple[str, str, list[str]]:
    """Meaning, style, and where it comes from."""
    number = next((v for v, known in statuses.STATUSES.items() if known.name == name), None)
    if number == 0:
        return "", "", []
    meaning = "" if number is None else statuses.STATUSES[number].meaning
    rules = [] if number is None else _rules(detail, number)
    more = [_when(rule) for rule in rules]
    if detail.code is not None and any(part.label == "vmm" for part in detail.handlers):
        more.append("or the VMM answered so" if rules else "the VMM answered so, KVM does not")
    return meaning or "not known: in none of the sources used", FAILURE, more


def _rules(detail: Detail, status: int | None) -> list[kvm.Rule]:
    """How KVM itself ends calls of this code so; [] for several codes."""
    if detail.code is None:
        return []
    return [rule for rule in kvm.rules_of(detail.code) if rule.status == status]


def _when(rule: kvm.Rule) -> str:
    return f"KVM, where {rule.when}" + (f" [{rule.kernels}]" if rule.kernels else "")


def _convention(detail: Detail, width: int) -> Lines:
    """How parameters were passed, and what became of output in registers."""
    calls = detail.whole.calls
    if not calls:
        return []
    entries = [
        _Counted("memory", calls - detail.fast, calls, "parameters in the guest's memory"),
        _Counted("fast", detail.fast, calls, "parameters in registers"),
        _Counted("XMM input", detail.xmm_input, calls, "input in XMM registers too"),
    ]
    asked = sum(detail.verdicts.values())
    for name, meaning in VERDICTS.items():
        style = FAILURE if name == "claimed" else ""
        if count := detail.verdicts.get(name):
            entries.append(_Counted(f"output {name}", count, asked, meaning, style))
    return [_heading("Convention", width), *_counted(entries, width)]


def _sizes(detail: Detail, width: int) -> Lines:
    """Calls by rep count and by size of the variable header."""
    reps, var = detail.reps, detail.var
    if not detail.whole.calls:
        return []
    lines = [_heading("Sizes", width)]
    if reps is None and var is None:
        return [*lines, *_prose("Rep counts and variable headers: not known (a replay).", width)]
    if not any(sizes is not None and sizes.any() for sizes in (reps, var)):
        return [*lines, *_prose("No reps, no variable header.", width)]
    done = f", {text.quantity(detail.reps_completed)} completed" if detail.reps_completed else ""
    lines += _size_rows(f"reps{done}", reps, 1, width)
    lines += _size_rows("variable header, bytes", var, 8, width)
    return lines


def _size_rows(title: str, sizes: Floats | None, unit: int, width: int) -> Iterator[Text]:
    """A row for each power of two in use: entry i counts sizes in [2^i, 2^(i+1)) units."""
    if sizes is None or not sizes.any():
        yield Text(f"{title}: {'not known (a replay)' if sizes is None else 'none'}", QUIET)
        return
    yield Text(title, QUIET)
    used = np.flatnonzero(sizes)
    for i in range(int(used[0]), int(used[-1]) + 1):
        low, high = unit << i, ((2 << i) - 1) * unit
        count = int(sizes[i])
        line = Text(f"{low if low == high else f'{low}-{high}':>{LABEL - 1}} ")
        line.append(f"{text.quantity(count):>5} {_percent(count, sizes.sum()):>4} ")
        lines_width = width - line.cell_len
        yield line.append(bar(count / sizes.max(), lines_width), BAR)


def _about(doc: Document, width: int) -> Lines:
    """What the call is, what it carries and who answers it: the core of `hvtrace explain`."""
    kind = f"{doc['class']} call" if doc["class"] else "class unknown"
    linux = f", Linux: {doc['linux_name']}" if doc["linux_name"] else ""
    handling = doc["kvm"]
    since = handling["since"] or ""
    since = f"; since {since.removeprefix('<=')}{' or before' if '<' in since else ''}"
    rows = [
        ("", f"{doc['code']:#06x}, {kind}{linux}"),
        ("input", doc["input"]["words"]),
        ("output", doc["output"]["words"]),
        ("fast", _fast(doc["fast_call"])),
        ("KVM", handling["words"] + (since if handling["since"] else "")),
        ("VMMs", handling["vmms"]),
        ("XMM input", handling["xmm_use"]),
        *(("kernels", history) for history in handling["history"]),
        ("note", doc["note"]),
        ("more", f"hvtrace explain {doc['code']:#06x}"),
    ]
    lines = [_heading(doc["name"], width)]
    for label, words in rows:
        wrapped = wrap(words or "", max(10, width - _INDENT), break_on_hyphens=False)
        for number, one in enumerate(wrapped):
            lines.append(Text().append(f"{'' if number else label:{_INDENT}}", QUIET).append(one))
    return lines


def _fast(fast: Document) -> str:
    """The registers that carry the input of a fast call."""
    if fast["input_bytes"] is None:
        return "not known: the size of the input is not"
    pieces = fast["input_registers"]
    if pieces is None:
        return "does not fit the registers"
    names = ", ".join(piece["register"] for piece in pieces) or "no input"
    if not fast["max_reps"]:
        return f"input in {names}" if pieces else names
    return f"input of one rep in {names}; {fast['max_reps']} reps fit the registers"


def _prose(words: str, width: int) -> Lines:
    return [Text(line) for line in wrap(words, width)]
