"""The detail of a row as lines of text: numbers, charts, tables, and what the call is. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import numpy as np
from rich.text import Text

from hvtrace.hyperv.explain import explain_code
from hvtrace.stats import text
from hvtrace.top.detail import MOST_PARTS, Detail, Part
from hvtrace.top.draw import BAR, LABEL, QUIET, Band, bands, bar, histogram, percent, sparkline
from hvtrace.top.facts import (
    FAILURE,
    Lines,
    about_lines,
    convention_lines,
    heading,
    prose,
    size_lines,
    status_lines,
)
from hvtrace.top.heatmap import heatmap

WIDE = 119  # of 120, beside a scroll bar
"""From this width on charts, and what is below them, stand side by side."""

VERSUS = "vmm/kernel"
"""Label of the factors between the handlers."""

_GAP = 3  # columns between what stands side by side
_MIN_ROWS, _MAX_ROWS = 4, 24  # of the charts
_AROUND = 10  # lines of the first screenful that are not the histogram's rows
_AROUND_HEATMAP = 4  # lines of a heatmap that are no rows
_NUMBERS = 44  # columns of a part's numbers


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
        status_lines(detail, width),
        convention_lines(detail, width),
        *(
            _parts(title, parts, detail.whole, width, most)
            for title, parts in (("vCPU", detail.vcpus), ("Call", detail.calls), ("VM", detail.vms))
        ),
        size_lines(detail, width),
        [] if detail.code is None else about_lines(explain_code(detail.code), width),
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
        "fast": percent(detail.fast, calls),
        "XMM in": percent(detail.xmm_input, calls),
        "VMM": percent(vmm, calls),
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


def _charts(detail: Detail, width: int, rows: int) -> Iterator[Text]:
    """Histogram and heatmap beside each other, with the same rows."""
    column = 52 + (width - WIDE - 1) // 3
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
        found = prose(f"{calls} never completed: there is no time to show.", width)
    elif not found:
        found = prose(f"No calls ({detail.span}).", width)
    return [heading("Latency", width, note), *found]


def _over_time(
    detail: Detail, width: int, rows: int, shared: Sequence[Band] | None = None
) -> Lines:
    """The heatmap, or why there is none."""
    head = heading("Over time", width, _reach(detail))
    if why := _why_no_course(detail):
        return [head, *prose(why, width)]
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
    pairs = zip(_times(both["vmm"]), _times(both["kernel"]), strict=True)
    factors = " ".join(f"{_factor(vmm, kernel):>6}" for vmm, kernel in pairs)
    return [*lines, Text(f"{VERSUS}{factors:>{_NUMBERS}}", "bold")]


def _factor(vmm_ns: float, kernel_ns: float) -> str:
    if math.isnan(vmm_ns) or not kernel_ns > 0:
        return "-"
    return f"{text.quantity(vmm_ns / kernel_ns)}x"


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
        line.append(f" {text.quantity(part.calls):>5} {percent(part.calls, whole.calls):>4}")
        line.append(f" {percent(part.time_ns, whole.time_ns):>4} ")
        line.append(" ".join(_duration(ns).rjust(6) for ns in _times(part)))
        line.append(" ").append(bar(part.time_ns / (whole.time_ns or math.nan), room), BAR)
        lines.append(line)
    if rest := parts[most:]:
        calls, time_ns = sum(p.calls for p in rest), sum(p.time_ns for p in rest)
        share = percent(time_ns, whole.time_ns).replace("-", "none")
        hidden = len(parts[:MOST_PARTS]) - most + sum(map(_together, parts[MOST_PARTS:]))
        more = f"and {hidden:,} more: {text.quantity(calls)} calls, {share} of the time"
        lines.append(Text(more, QUIET))
    return lines


def _together(part: Part) -> int:
    """How many parts are in the last of a split, "7 more"."""
    return int(part.label.split()[0])
