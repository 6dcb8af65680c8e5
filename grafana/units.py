"""Numbers as Grafana writes them, for the units that the dashboards use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

_SECONDS = ((1e-6, 1e9, " ns"), (1e-3, 1e6, " µs"), (1.0, 1e3, " ms"), (60.0, 1.0, " s"))
_LONGER = ((3600.0, 1 / 60, " mins"), (86400.0, 1 / 3600, " hours"), (math.inf, 1 / 86400, " days"))


def digits(value: float) -> str:
    """Three significant digits, and none behind the point of a whole number."""
    if value == 0 or value % 1 == 0:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _scaled(base: float, prefixes: Sequence[str], unit: str = "") -> Callable[[float], str]:
    def write(value: float) -> str:
        steps = 0
        while abs(value) >= base and steps < len(prefixes) - 1:
            value, steps = value / base, steps + 1
        return f"{digits(value)}{prefixes[steps]}{unit}"

    return write


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    for below, times, unit in (*_SECONDS, *_LONGER):
        if abs(value) < below:
            return digits(value * times) + unit
    raise ValueError(value)


_WRITE: dict[str, Callable[[float], str]] = {
    "short": _scaled(1000, ("", " K", " Mil", " Bil", " Tri")),
    "cps": _scaled(1000, ("", "K", "M", "B", "T"), " c/s"),
    "bytes": _scaled(1024, (" B", " KiB", " MiB", " GiB", " TiB")),
    "percentunit": lambda value: f"{digits(value * 100)}%",
    "s": _seconds,
    "string": str,
}


def written(value: float, unit: str) -> str:
    """`value` in `unit`, by Grafana's name of it. Raises KeyError for one that no panel has."""
    if math.isnan(value):
        return "NaN"
    if unit.startswith("suffix:"):
        return f"{digits(value)} {unit.removeprefix('suffix:')}"
    return _WRITE[unit](value)
