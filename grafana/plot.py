"""Lines, heatmaps and sparklines as SVG, much as Grafana draws them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import numpy as np
from numpy.typing import NDArray

from grafana.units import written

Floats = NDArray[np.float64]

# Grafana's classic palette for dark pages.
_COLORS = """
73bf69 f2cc0c 8ab8ff ff780a f2495c 5794f2 b877d9 705da0 37872d fade2a 447ebc
c15c17 890f02 0a437c 6d1f62 584477 b7dbab f4d598 70dbed f9ba8f f29191 82b5d8
"""
PALETTE = tuple(f"#{color}" for color in _COLORS.split())
# The scheme "Turbo", at nine places of the way from few to many.
_TURBO = ["30123b", "4669e0", "28bceb", "32f298", "a4fc3c", "eecf3a", "fb7e21", "d02f05", "7a0403"]
_LEFT, _BOTTOM, _TOP = 62, 22, 6  # around what is drawn
_ZEROS = re.compile(r"\.(\d*?)0+(?!\d)")  # at the end of a fraction
_LABEL_PIXELS = 34  # at least between two labels of an axis


@dataclass(frozen=True, slots=True)
class Line:
    """One series: a value at each time, NaN where there is none."""

    name: str
    color: str
    values: Floats


@dataclass(frozen=True, slots=True)
class Look:
    """What a panel says about its axis and lines; it begins at 0 where it is not logarithmic."""

    unit: str
    log: bool = False
    percent: bool = False  # stacked up to 100%


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels; both ends are values."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        place = (self._at(value) - self._at(self.low)) / (self._at(self.high) - self._at(self.low))
        return round(self.start + place * (self.end - self.start), 1)

    def _at(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, base: float) -> Iterator[float]:
        """Round values that leave room for their labels; `base` is 2 for bytes."""
        room = max(1, int(abs(self.end - self.start) / _LABEL_PIXELS))
        if self.log:
            decades = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            yield from (10.0**decade for decade in decades[:: math.ceil(len(decades) / room)])
            return
        step = _round_step((self.high - self.low) / room, base)
        for number in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1):
            yield number * step


def _round_step(least: float, base: float) -> float:
    """1, 2 or 5 times a power of ten, or a power of two."""
    if base == 2:
        return float(2 ** math.ceil(math.log2(least)))
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= least * (1 - 1e-9))


def lines(
    drawn: Sequence[Line], times: Sequence[float], look: Look, width: int, height: int
) -> str:
    """A chart of lines over `times` (Unix seconds, evenly spaced)."""
    rows = np.array([line.values for line in drawn])
    if look.percent:
        total = np.nansum(rows, axis=0)
        rows = np.cumsum(np.nan_to_num(rows), axis=0) / np.where(total, total, np.nan)
    if look.log:
        rows = np.where(rows > 0, rows, np.nan)
    scale = _values_scale(rows, look, height)
    labels = _labels(scale, "percentunit" if look.percent else look.unit)
    left = max(_LEFT, 14 + 7 * max(map(len, labels.values())))
    across = _Scale(times[0], times[-1], left, width - 8)
    parts = [_value_axis(scale, across, labels), _time_axis(across, height)]
    floors = [np.zeros(len(times)), *rows]
    for line, values, floor in zip(drawn, rows, floors, strict=False):
        for run in _runs(values):
            points = [(across(times[i]), scale(values[i])) for i in run]
            if len(run) == 1:  # a lone value is no line
                x, y = points[0]
                parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="2" fill="{line.color}"/>')
                continue
            if look.percent:
                back = [(across(times[i]), scale(floor[i])) for i in reversed(run)]
                area = f'<path d="{_path(points + back)}Z" fill="{line.color}"'
                parts.append(f'{area} fill-opacity="0.4"/>')
            parts.append(f'<path d="{_path(points)}" class="line" stroke="{line.color}"/>')
    return _svg(parts, width, height)


def _values_scale(rows: Floats, look: Look, height: int) -> _Scale:
    start, end = height - _BOTTOM, _TOP
    if look.percent:
        return _Scale(0.0, 1.0, start, end)
    finite = rows[np.isfinite(rows)]
    if look.log:
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (1.0, 10.0)
        decades = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return _Scale(10.0 ** decades[0], 10.0 ** max(decades[1], decades[0] + 1), start, end, True)
    high = float(finite.max()) if len(finite) else 0.0
    return _Scale(0.0, high * 1.05 or 1.0, start, end)


def _runs(values: Floats) -> list[list[int]]:
    """The places of values that follow each other without a gap."""
    there = np.flatnonzero(np.isfinite(values))
    parts = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1)
    return [part.tolist() for part in parts if len(part)]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def _labels(scale: _Scale, unit: str) -> dict[float, str]:
    ticks = scale.ticks(2 if unit == "bytes" else 10)
    return {tick: _ZEROS.sub(_shorter, written(tick, unit)) for tick in ticks}


def _value_axis(scale: _Scale, across: _Scale, labels: dict[float, str]) -> str:
    return "".join(
        f'<path d="M{across.start:g},{scale(tick):g}H{across.end:g}" class="grid"/>'
        f'<text x="{across.start - 6:g}" y="{scale(tick) + 4:g}" class="right">'
        f"{escape(label)}</text>"
        for tick, label in labels.items()
    )


def _shorter(fraction: re.Match[str]) -> str:
    return f".{fraction[1]}" if fraction[1] else ""


def _time_axis(across: _Scale, height: int) -> str:
    room = (across.end - across.start) / 90
    choices = (5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
    step = next(s for s in choices if (across.high - across.low) / s <= room)
    parts = []
    for number in range(math.ceil(across.low / step), math.floor(across.high / step) + 1):
        x = across(number * step)
        clock = datetime.fromtimestamp(number * step, UTC).strftime("%H:%M:%S")
        parts.append(f'<path d="M{x:g},{_TOP}V{height - _BOTTOM}" class="grid"/>')
        if x < across.end - 20:  # or it would be cut off
            parts.append(f'<text x="{x:g}" y="{height - 6}" class="middle">{clock}</text>')
    return "".join(parts)


def heatmap(
    cells: Sequence[tuple[int, float, float, float]],
    times: Sequence[float],
    unit: str,
    width: int,
    height: int,
) -> str:
    """Cells (number of its time, lower and upper bound > 0, value > 0) on a logarithmic axis."""
    most = max(cell[3] for cell in cells)
    step = times[1] - times[0]
    across = _Scale(times[0] - step, times[-1], _LEFT, width - 8)
    edges = [bound for cell in cells for bound in cell[1:3]]
    scale = _Scale(min(edges), max(edges), height - _BOTTOM - 24, _TOP, True)
    parts = [_time_axis(across, height - 24)]
    for at, lower, upper, value in cells:
        left, right = across(times[at] - step), across(times[at])
        top, bottom = scale(upper), scale(lower)
        parts.append(
            f'<rect x="{left:g}" y="{top:g}" width="{right - left - 1:.1f}"'
            f' height="{bottom - top - 1:.1f}" fill="{turbo(value / most)}"/>'
        )
    bounds = sorted(set(edges))
    room = max(1, int((scale.start - scale.end) / 18))
    for bound in bounds[:: math.ceil(len(bounds) / room)]:
        label = escape(written(bound, unit))
        parts.append(f'<text x="{_LEFT - 6}" y="{scale(bound) + 4:g}" class="right">{label}</text>')
    return _svg([*parts, *_color_bar(most, height)], width, height)


def _color_bar(most: float, height: int) -> Iterator[str]:
    for share in range(64):
        x, color = _LEFT + 4 * share, turbo((share + 0.5) / 64)
        yield f'<rect x="{x}" y="{height - 18}" width="4" height="8" fill="{color}"/>'
    yield f'<text x="{_LEFT - 6}" y="{height - 10}" class="right">{written(0, "cps")}</text>'
    yield f'<text x="{_LEFT + 262}" y="{height - 10}">{written(most, "cps")}</text>'


def turbo(share: float) -> str:
    """The colour of a share of the most, by its square root: the dashboards' exponent is 0.5."""
    at = math.sqrt(share) * (len(_TURBO) - 1)
    stops = np.array([list(bytes.fromhex(stop)) for stop in _TURBO])
    rgb = (round(float(np.interp(at, range(len(stops)), part))) for part in stops.T)
    return "#" + "".join(f"{part:02x}" for part in rgb)


def spark(values: Floats, color: str, width: int, height: int) -> str:
    """The course of a number, as a background."""
    shown = values[np.isfinite(values)]
    if len(shown) < 2:
        return ""
    top = float(shown.max()) or 1.0
    across, scale = _Scale(0, len(shown) - 1, 0, width), _Scale(0, top * 1.1, height, 0)
    path = _path([(across(i), scale(float(value))) for i, value in enumerate(shown)])
    area = f'<path d="{path}L{width},{height}L0,{height}Z" fill="{color}" fill-opacity="0.15"/>'
    return _svg([area, f'<path d="{path}" class="line" stroke="{color}"/>'], width, height)


def _svg(parts: Sequence[str], width: int, height: int) -> str:
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>'
