"""Slow calls as lines of text. Pure, but for Rich's Text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from hvtrace.hyperv import statuses
from hvtrace.stats import text
from hvtrace.stats.slow import SlowCall

LIMITS_NS: tuple[int, ...] = tuple(
    m * 10**e for e in range(3, 11) for m in (1, 2, 5) if m * 10**e <= 10**10
)
"""1 µs to 10 s, for the keys < and >."""

FAILURE = "bold red"

_FIXED = 12 + 4 + 6 + 6 + 4 + 4 + 9  # all columns but names, status and reps, and the spaces
_WIDE = 100  # from this width on it is said of how many reps that many were completed


def beside(limit_ns: int, step: int) -> int:
    """The next longer (1) or shorter (-1) limit; from 0, which is off, the default of 1 ms."""
    if not limit_ns:
        return 10**6
    longer = [ns for ns in LIMITS_NS if ns > limit_ns]
    shorter = [ns for ns in LIMITS_NS if ns < limit_ns]
    return ((longer[:1] if step > 0 else shorter[-1:]) or [limit_ns])[0]


class SlowLines:
    """Lines of `calls` in `width` columns; 80 have room for everything."""

    def __init__(
        self, calls: Sequence[SlowCall], width: int, names: Callable[[SlowCall], str]
    ) -> None:
        self._calls, self._names_of = calls, names
        self._reps = 9 if width >= _WIDE else 4
        left = max(0, width - _FIXED - self._reps)
        vm = max([2, *(cell_len(names(call)) for call in calls)])
        short = text.short_names({call.code for call in calls}, 1000)
        call = max([4, *map(len, short.values())])
        # A third for VMs, a third for what failed, the rest for calls, unless they need less.
        self._vm = min(vm, max(8, left // 3))
        self._status = max(8, min(left - self._vm - call, max(8, left // 3)))
        self._call = max(4, left - self._vm - self._status)
        self._names = text.short_names(short, self._call)

    @property
    def heading(self) -> Text:
        """Of the columns."""
        words = self._row(("time", "vm", "vcpu", "call", "took", "by", "", "status", "reps", "var"))
        return Text(words, "bold underline", no_wrap=True, overflow="ellipsis")

    def line(self, number: int) -> Text:
        """One call."""
        one = self._calls[number]
        moment = time.strftime("%H:%M:%S", time.localtime(one.start))
        status = statuses.name_of(one.status)
        words = self._row(
            (
                f"{moment}.{int(one.start * 1000) % 1000:03d}",
                self._names_of(one),
                "-" if one.vcpu is None else str(one.vcpu),
                self._names[one.code],
                text.duration(one.duration_ns),
                one.handler,
                "fast" if one.fast else "mem",
                status,
                f"{one.reps}/{one.rep_cnt}" if self._reps > 4 else str(one.reps),
                str(8 * one.var_cnt),
            )
        )
        return Text(words, FAILURE if one.status else "", no_wrap=True, overflow="ellipsis")

    def _row(self, cells: Sequence[str]) -> str:
        when, vm, vcpu, call, took, by, way, status, reps, var = cells
        return (
            f"{when:12} {_cut(vm, self._vm)} {vcpu:>4} {_cut(call, self._call)} {took:>6} "
            f"{by:6} {way:4} {_cut(status, self._status)} {reps:>{self._reps}} {var:>4}"
        )


def _cut(words: str, width: int) -> str:
    """Exactly `width` columns; the end of what is too long is marked."""
    if cell_len(words) > width:
        words = set_cell_size(words, width - 1) + "…"
    return set_cell_size(words, width)
