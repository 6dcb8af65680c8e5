"""Latencies over time as a chart of text. Pure: numpy and Rich's Text.

It says all it has to say without colour, in characters that terminals' fonts have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from rich.text import Text

from hvtrace.stats import text
from hvtrace.top.draw import BAR, LABEL, QUIET, Band, Floats, bands, labelled, sparkline
from hvtrace.top.past import spread

LEVELS = "·░▒▓█"
"""Characters of a heatmap's cells that are not empty, from few calls to many."""

RAMP = (
    *("#6a29c5", "#7732cc", "#8838d0", "#9c3dd0", "#b240cc", "#c843c4", "#de47b7", "#f44ba6"),
    *("#fe5e91", "#ff7882", "#fe8e79", "#fea072", "#ffb16a", "#fec25d", "#fdd506"),
)
"""From violet over red to yellow; each of LEVELS has as many of them.

OKLCH, lightness in even steps from 0.47 to 0.88. With 16 colours they become
blue, magenta, bright magenta, bright red, bright yellow: in this order, and no grey.
"""

SHADES = len(RAMP) // len(LEVELS)
"""Colours of one character."""

_SNAP = 0.1  # of a column: so near to an edge a moment ends, or begins, at it
_SERIES = ((1, 2, 5), (1, 3), (1,))  # thresholds of LEVELS in each power of ten
_STEPS_SECONDS = (
    *(0.1, 0.2, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 60, 90),
    *(120, 180, 240, 300, 600, 900, 1200, 1800, 3600, 7200, 14400, 28800, 86400),
)


def heatmap(
    heat: Floats,
    ends: Floats,
    spans: Floats,
    width: int,
    height: int,
    *,
    rows: Sequence[Band] | None = None,
) -> list[Text]:
    """Calls per second by service time (up) and time (to the right).

    `heat` has shape (times, BUCKETS): what was counted in the `spans`
    (seconds) that ended at `ends` (unix seconds), oldest first. A line with
    the calls per second of each column, at most `height` rows as in
    :func:`histogram`, the axis of time, its labels, and what the characters
    stand for. Columns are equal stretches of time; what a moment counted is
    spread over those it covers. The axis has a gap where nobody looked. []
    where nothing was counted.
    """
    rows = bands(heat.sum(axis=0), height) if rows is None else rows
    room = width - LABEL
    if not heat.any() or room < 8:
        return []
    spans = np.maximum(spans, 1e-3)
    grid = _grid(ends, spans, room)
    counts = np.array([heat[:, row.first : row.last + 1].sum(axis=1) for row in rows])
    rates = spread(*grid.snap(ends, spans), (counts / spans).T, grid.edges).T
    scale = _Scale.of(rates)
    totals = rates.sum(axis=0)
    lines = [labelled(f"max {text.quantity(np.nanmax(totals))}/s")]
    lines[0].append(sparkline(totals.tolist(), room), BAR)
    for row, cells in reversed(list(zip(rows, rates, strict=True))):
        line = labelled(row.label, QUIET if row.skipped else "")
        line.append(" " * (room - len(cells)))
        for level, run in groupby(scale.shades(cells)):
            line.append(_cell(level) * len(list(run)), _color(level))
        lines.append(line)
    return [*lines, *_axis(grid, totals, room), scale.legend(width)]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Columns of `step` seconds between `edges`; the `newest` moment ended in the last of them."""

    step: float
    newest: float
    edges: Floats

    def snap(self, ends: Floats, spans: Floats) -> tuple[Floats, Floats]:
        """Ends and spans of moments that end, or begin, at an edge but for a little.

        No moment is a second to the millisecond, and what one counted should
        not touch the column beside its own.
        """
        stops, starts = (self._nearest(times) for times in (ends, ends - spans))
        fits = stops > starts
        return np.where(fits, stops, ends), np.where(fits, stops - starts, spans)

    def _nearest(self, times: Floats) -> Floats:
        edge = self.edges[-1] - self.step * np.round((self.edges[-1] - times) / self.step)
        return np.where(np.abs(edge - times) < _SNAP * self.step, edge, times)


def _grid(ends: Floats, spans: Floats, room: int) -> _Grid:
    """The finest columns that fit, none finer than the moments are.

    Where each moment has a column, columns go with the last of them. Else
    they stand on the clock, and a column that is past looks the same as
    long as it is seen.
    """
    newest, oldest = float(ends[-1]), float((ends - spans).min())
    usual = float(np.median(spans))
    step = next(
        (s for s in _STEPS_SECONDS if s > 0.9 * usual and (newest - oldest) / s <= room - 1),
        (newest - oldest) / max(1, room - 1),
    )
    step = usual if abs(step / usual - 1) < 0.1 else step
    end = newest if step == usual else math.ceil(newest / step - _SNAP) * step
    columns = min(room, max(1, math.ceil((end - oldest) / step - 1e-6)))
    return _Grid(step, newest, end + step * np.arange(-columns, 1.0))


def _axis(grid: _Grid, totals: Floats, room: int) -> list[Text]:
    """The axis of time, and its labels: ages, and the time of day at the right end."""
    line = [" " if math.isnan(total) else "─" for total in totals.tolist()]
    line = [" "] * (room - len(line)) + line
    labels = [" "] * room
    clock = time.strftime("%H:%M:%S", time.localtime(grid.newest))[:room]
    labels[room - len(clock) :] = clock
    every = next((s for s in _STEPS_SECONDS if s / grid.step >= 10), _STEPS_SECONDS[-1])
    for age in np.arange(every, len(totals) * grid.step, every).tolist():
        at = room - 1 - int((max(0.0, grid.edges[-1] - grid.newest) + age) / grid.step)
        label = _age(age)
        start = at - len(label) // 2
        if start >= 0 and start + len(label) < room - len(clock):
            line[at] = "┬" if line[at] == "─" else " "
            labels[start : start + len(label)] = label
    return [labelled("").append("".join(one), QUIET) for one in (line, labels)]


def _age(seconds: float) -> str:
    for unit, of in (("h", 3600), ("m", 60)):
        if seconds >= 2 * of and seconds % of == 0:
            return f"-{seconds / of:g}{unit}"
    return f"-{seconds:g}s"


@dataclass(frozen=True, slots=True)
class _Scale:
    """Rates from which on a cell has each of LEVELS but the first: even steps of a logarithm."""

    thresholds: tuple[float, ...]

    @classmethod
    def of(cls, rates: Floats) -> _Scale:
        """The finest scale that reaches down to the lowest rate, or the coarsest."""
        some = rates[rates > 0]
        high, low = float(some.max()), float(some.min())
        exponent = math.floor(math.log10(high)) + 1
        for series in _SERIES:
            values = [float(f"{m}e{e}") for e in range(exponent - 5, exponent + 1) for m in series]
            reached = [v for v in values if v <= high][-len(LEVELS) :]
            if reached[0] <= low:
                break
        return cls(tuple(reached[1:]))

    def shades(self, cells: Floats) -> list[int]:
        """Index in RAMP for each rate, -1 for none."""
        logs = np.log(self.thresholds)
        step = (logs[-1] - logs[0]) / (len(logs) - 1)
        known = np.log(np.where(cells > 0, cells, 1))
        levels = (logs[0] - step, *logs, logs[-1] + step)
        shade = np.interp(known, levels, SHADES * np.arange(len(levels))).astype(int)
        shade = np.minimum(shade, len(RAMP) - 1)
        found: list[int] = np.where(cells > 0, shade, -1).tolist()
        return found

    def legend(self, width: int) -> Text:
        """What each character stands for."""
        line = labelled("")
        for level, threshold in reversed(list(enumerate(self.thresholds, 1))):
            line.append(LEVELS[level], _color(level * SHADES))
            line.append(f" {_threshold(threshold)}+  ")
        line.append(LEVELS[0], _color(0)).append(" fewer calls/s")
        line.truncate(width, overflow="ellipsis")
        return line


def _threshold(value: float) -> str:
    """As text: "0.3", "10", "300k"."""
    exponent = max(0, int(math.log10(value) / 3 + 1e-9))
    return f"{value / 1000**exponent:g}{'kMGTPE'[exponent - 1] if exponent else ''}"


def _cell(shade: int) -> str:
    return LEVELS[shade // SHADES] if shade >= 0 else " "


def _color(shade: int) -> str:
    return RAMP[shade] if shade >= 0 else ""
