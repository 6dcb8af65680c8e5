"""Rates, names and lists, as findings say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtrace.stats.text import short_names

_NAME_WIDTH = 48  # longer than any name that is known


def amount(value: float) -> str:
    """A number in two or three digits: "0.4", "9.7", "120", "3.1 M"."""
    thousands = 0
    while value >= 999.5:
        value /= 1000
        thousands += 1
    text = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
    return text.removesuffix(".0") + ("", " k", " M", " G", " T")[thousands]


def tally(per_minute: Mapping[int, float], kind: str = "") -> str:
    """Calls a minute by code, the most frequent first: "12 k memory-form PostMessage a minute"."""
    amounts = [
        " ".join(filter(None, (amount(n), kind, f"of {name}" if name[0] == "0" else name)))
        for name, n in _by_frequency(per_minute)
    ]
    return f"{listed(amounts)} a minute"


def names(counts: Mapping[int, float]) -> str:
    """Names of call codes, the most frequent first."""
    return listed([name for name, _ in _by_frequency(counts)])


def _by_frequency(counts: Mapping[int, float]) -> list[tuple[str, float]]:
    names = short_names(counts, _NAME_WIDTH)
    return sorted(((names[code], n) for code, n in counts.items()), key=lambda item: -item[1])


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; of more than four, three and how many others."""
    if len(items) > 4:
        items = [*items[:3], f"{len(items) - 3} others"]
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
