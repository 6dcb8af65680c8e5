"""Charts of text: sparkline, bar, histogram. Pure: numpy and Rich's Text.

Each says all it has to say without colour, in characters that terminals'
fonts have: eighths of blocks, and Latin-1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from hvtrace.stats import text
from hvtrace.stats.histogram import BUCKETS, LOWER_NS, UPPER_NS

Floats = NDArray[np.float64]

BAR = "cyan"
MARK = "bold"
QUIET = "dim"

LABEL = 14
"""Width of a row's bounds, with the space behind them: "1.91µs-3.81µs "."""

_HEIGHTS = "▁▂▃▄▅▆▇█"
_EIGHTHS = "▏▎▍▌▋▊▉█"
_MERGED = (1, 2, 4, 8, 16, 32, 128)  # buckets to a row: parts of an octave, octaves, all
_GAPS = (100, 4, 2)  # so many empty rows are drawn as one: none, long ones, all


@dataclass(frozen=True, slots=True)
class Band:
    """A row of a chart: buckets from `first` to `last`, both included."""

    first: int
    last: int
    skipped: bool = False  # an empty stretch of the axis, drawn as one row whatever its length

    @property
    def label(self) -> str:
        """Its bounds: "1.91µs-3.81µs", ">4.00s"."""
        if self.skipped:
            return "..."
        low = text.duration(LOWER_NS[self.first])
        if self.last == BUCKETS - 1:
            return f">{low}"
        return f"{low if self.first else '0'}-{text.duration(UPPER_NS[self.last])}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of `values`, oldest first, in `width` columns; the newest at the right end.

    Heights are shares of the largest value, "." is zero, a blank is NaN or
    not there yet. Something is never nothing. Where there are more values
    than columns, each column is the maximum of neighbours: a burst that is
    averaged away is what one looks at a sparkline for.
    """
    per_column = max(1, -(-len(values) // max(1, width)))
    columns: list[float] = []
    for end in range(len(values), 0, -per_column):
        there = [v for v in values[max(0, end - per_column) : end] if not math.isnan(v)]
        columns.insert(0, max(there, default=math.nan))
    top = max((value for value in columns if value > 0), default=1.0)
    return "".join(_height(value / top) for value in columns).rjust(width) if width > 0 else ""


def _height(share: float) -> str:
    if math.isnan(share):
        return " "
    return _HEIGHTS[math.ceil(share * 8) - 1] if share > 0 else "."


def bar(share: float, width: int) -> str:
    """A bar of `share` (0..1) of `width` columns, in eighths; a share above 0 is at least one."""
    if not share > 0 or width <= 0:
        return ""
    eighths = max(1, round(min(share, 1) * width * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest - 1] if rest else "")


def bands(buckets: Floats, height: int) -> list[Band]:
    """Rows, `height` at most, for the range of `buckets` (BUCKETS,) in use; [] where none is.

    As fine as they fit. Empty stretches are cut short for that: a single
    outlier does not take the resolution from all others.
    """
    used = np.flatnonzero(buckets).tolist()
    if not used:
        return []
    for size in _MERGED:
        # The first and the last bucket stand alone, octaves begin at bucket 1.
        groups = [0 if b == 0 else 1 + (b - 1) // size for b in used]
        if used[-1] == BUCKETS - 1:
            groups[-1] = 1 + -(-(BUCKETS - 2) // size)
        for gap in _GAPS:
            found = list(_with_gaps(sorted(set(groups)), size, gap))
            if len(found) <= height:
                return found
    return [Band(used[0], used[-1])]


def _with_gaps(groups: Sequence[int], size: int, gap: int) -> Iterable[Band]:
    """A band for each of `groups`, and for those between: one for all where they are `gap`."""

    def first(group: int) -> int:
        return min(1 + (group - 1) * size, BUCKETS - 1) if group else 0

    for before, group in zip((groups[0] - 1, *groups), groups, strict=False):
        between = range(before + 1, group)
        if len(between) >= gap:
            yield Band(first(before + 1), first(group) - 1, skipped=True)
        else:
            yield from (Band(first(g), first(g + 1) - 1) for g in between)
        yield Band(first(group), max(first(group), first(group + 1) - 1))


def histogram(
    buckets: Floats, width: int, height: int, *, rows: Sequence[Band] | None = None
) -> list[Text]:
    """Calls by service time: bounds, count, percent, a mark at p50 and p99, a bar.

    `buckets` has shape (BUCKETS,). At most `height` lines, slow calls at the
    top; `rows` where it should share them with another chart. [] where
    nothing was counted.
    """
    rows = bands(buckets, height) if rows is None else rows
    counts = [int(buckets[row.first : row.last + 1].sum()) for row in rows]
    total, most = sum(counts), max(counts, default=0)
    if not total:
        return []
    marks = _marks(buckets, rows)
    mark_width = max(map(len, marks), default=0)
    lines = []
    for row, count, mark in reversed(list(zip(rows, counts, marks, strict=True))):
        line = labelled(row.label, QUIET if row.skipped else "")
        if not row.skipped:
            numbers = f"{text.quantity(count):>5} {percent(count, total):>4} "
            line.append(numbers, "" if count else QUIET)
            line.append(f"{mark:{mark_width}} ", MARK)
            line.append(bar(count / most, width - line.cell_len), BAR)
        line.truncate(max(0, width), overflow="ellipsis")
        lines.append(line)
    return lines


def percent(part: float, whole: float) -> str:
    """A share in four columns at most; "-" for none."""
    return f"{text.percent(part, whole)}%" if part > 0 and whole > 0 else "-"


def _marks(buckets: Floats, rows: Sequence[Band]) -> list[str]:
    """Which percentiles are in which row: the calls that histogram.quantiles_ns finds."""
    cumulative = np.cumsum(buckets)
    ranks = {name: math.ceil(q * cumulative[-1]) for name, q in (("p50", 0.5), ("p99", 0.99))}
    at = {name: int(np.searchsorted(cumulative, max(1, rank))) for name, rank in ranks.items()}
    return [" ".join(name for name, b in at.items() if r.first <= b <= r.last) for r in rows]


def labelled(label: str, style: str = "") -> Text:
    """The start of a row: its bounds, in LABEL columns."""
    return Text(no_wrap=True).append(f"{label:>{LABEL - 1}} ", style)
