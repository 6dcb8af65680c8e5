"""All that is known of one row: what the detail pane shows. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hvtrace.hyperv import statuses
from hvtrace.stats import text
from hvtrace.stats.groups import Groups, group, statuses_of
from hvtrace.stats.histogram import quantiles_ns
from hvtrace.stats.snapshot import HANDLERS
from hvtrace.stats.table import ATTEMPTS
from hvtrace.stats.tally import (
    CODE_KEY,
    CODE_SHIFT,
    REPS_AT,
    TID_KEY,
    TID_SHIFT,
    VAR_AT,
    VAR_SIZES,
    VM_KEY,
    VM_SHIFT,
    VMM_KEY,
    Floats,
    Index,
    Tally,
)
from hvtrace.top.columns import BY_KEY, OF_CALL
from hvtrace.top.history import History
from hvtrace.top.past import moments, rows_in
from hvtrace.top.sheet import Grouping, Sheet, rows_of

HEAT_SECONDS = 15 * 60.0
"""How much of the past is shown: all that a history has."""

MOST_PARTS = 32
"""Of a split; what is beyond them is one more."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a row's calls: those of a handler, a vCPU, a call, a VM; or all of them.

    Times are of completed calls, in ns; NaN where there are none.
    """

    label: str
    calls: int
    time_ns: float
    mean_ns: float
    p50_ns: float
    p99_ns: float
    max_ns: float


@dataclass(frozen=True, slots=True)
class Detail:
    """One row of the table, whole. Counts are of `seconds` but where something else is said."""

    title: str  # of the row: "win11  FlushVirtualAddressList"
    span: str  # what counts are of, for people: "last 1.00s", "total 3m12s"
    seconds: float
    code: int | None  # None: the row is of several calls
    whole: Part
    completed: int
    unfinished: int
    fast: int  # calls with parameters in registers
    xmm_input: int  # calls with input in XMM registers
    verdicts: dict[str, int]  # on output in registers, of those calls that asked for it
    statuses: dict[str, int]  # name -> completed calls; SUCCESS among them
    buckets: Floats  # (histogram.BUCKETS,): completed calls by service time
    heat: Floats  # (times, histogram.BUCKETS): the same for each moment of the past, oldest first
    ends: Floats  # (times,): when each of these moments ended, unix seconds
    spans: Floats  # (times,): how long each was, in seconds
    rates: Floats  # (times,): calls per second in each
    reps_completed: int
    reps: Floats | None  # (12,): calls by rep count, [2^i, 2^(i+1)); None: not known (a replay)
    var: Floats | None  # (10,): the same by variable header size, in units of 8 bytes
    handlers: tuple[Part, ...]  # "kernel", "vmm": those of which there is any
    vcpus: tuple[Part, ...]  # none in a replay
    calls: tuple[Part, ...]  # of a row of several calls
    vms: tuple[Part, ...]  # of a row of several VMs


def detail(sheet: Sheet, row: int, history: History) -> Detail:
    """All that is known of a row of `sheet`."""
    key, frame = int(sheet.keys[row]), sheet.frame
    one = sheet.take(np.array([row]))
    counted = sheet.scope.of(frame)
    rows = rows_in(counted, sheet.grouping, key, sheet.calls_of_vms)
    rows = rows[rows_of(counted, frame, None)[rows]]
    heat, ends, spans, rates = moments(history, sheet, key, HEAT_SECONDS)
    shown = one.shown
    several = sheet.grouping not in OF_CALL
    threads = (counted.keys[rows] & TID_KEY).any()

    def split(mask: np.uint64, wanted: bool = True) -> tuple[Part, ...]:
        return _split(one, counted, rows, mask) if wanted else ()

    return Detail(
        title=_title(one),
        span=f"{sheet.scope.value} {text.duration(sheet.seconds * 1e9)}",
        seconds=sheet.seconds,
        code=None if several else int(one.codes[0]),
        whole=_part("all", shown, 0),
        completed=int(shown.completed[0]),
        unfinished=int(shown["unfinished"][0]),
        fast=int(shown.fast[0]),
        xmm_input=int(shown["xmm_input"][0]),
        verdicts={name: int(shown[name][0]) for name in ATTEMPTS if shown[name][0]},
        statuses=_statuses(counted, rows, int(shown.completed[0])),
        buckets=shown.buckets[0],
        heat=heat,
        ends=ends,
        spans=spans,
        rates=rates,
        reps_completed=int(shown["reps"][0]),
        reps=shown.cells[0, REPS_AT:VAR_AT] if frame.sized else None,
        var=shown.cells[0, VAR_AT : VAR_AT + VAR_SIZES] if frame.sized else None,
        handlers=split(VMM_KEY),
        vcpus=split(VM_KEY | TID_KEY, bool(threads)),
        calls=split(CODE_KEY, several),
        vms=split(VM_KEY, sheet.grouping in (Grouping.CALL, Grouping.HOST)),
    )


def _title(one: Sheet) -> str:
    names = [BY_KEY[key] for key in ("vm", "vcpu", "call") if one.grouping in BY_KEY[key].of]
    texts = [f"vCPU {c.texts(one)[0]}" if c.key == "vcpu" else c.texts(one)[0] for c in names]
    return "  ".join(texts)


def _split(sheet: Sheet, counted: Tally, rows: Index, mask: np.uint64) -> tuple[Part, ...]:
    """The rows added up by some bits of their keys, the part that took most time first."""
    keys, labels = np.unique(counted.keys[rows] & mask, return_inverse=True)
    of_row = np.full(len(counted.keys), -1)
    of_row[rows] = labels
    parts = group(counted, of_row, len(keys))
    order = np.lexsort((parts.calls, parts["sum_ns"]))[::-1]
    first, rest = order[:MOST_PARTS], order[MOST_PARTS:]
    name = _namer(sheet, mask)
    found = [_part(name(int(keys[i])), parts, i) for i in first.tolist()]
    if len(rest):
        calls, time_ns = parts.calls[rest].sum(), parts["sum_ns"][rest].sum()
        mean_ns = time_ns / max(1, parts.completed[rest].sum())
        longest_ns = float(parts.max_ns[rest].max())
        found.append(
            Part(f"{len(rest)} more", int(calls), time_ns, mean_ns, np.nan, np.nan, longest_ns)
        )
    return tuple(found)


def _namer(sheet: Sheet, mask: np.uint64) -> Callable[[int], str]:
    """What the parts are called, by what is left of their keys."""
    if mask == VMM_KEY:
        return lambda key: HANDLERS[key]
    if mask == CODE_KEY:
        return lambda key: text.short_names([key >> CODE_SHIFT], 1000)[key >> CODE_SHIFT]
    labels = sheet.frame.labels
    if mask == VM_KEY:
        return lambda key: labels[key >> VM_SHIFT]

    def thread(key: int) -> str:
        number, tid = sheet.frame.vcpus.get(key), key >> TID_SHIFT & 0x3FFFFF
        name = f"vCPU {number}" if number is not None else f"tid {tid}" if tid else "ended"
        return name if sheet.grouping.mask & VM_KEY else f"{labels[key >> VM_SHIFT]} {name}"

    return thread


def _part(label: str, groups: Groups, i: int) -> Part:
    done, total_ns = groups.completed[i], groups["sum_ns"][i]
    some = slice(i, i + 1)
    found = quantiles_ns(
        groups.buckets[some], (0.5, 0.99), groups.min_ns[some], groups.max_ns[some]
    )[0]
    times = (total_ns / done, *found, groups.max_ns[i]) if done else (np.nan,) * 4
    return Part(label, int(groups.calls[i]), float(total_ns), *(float(ns) for ns in times))


def _statuses(counted: Tally, rows: Index, completed: int) -> dict[str, int]:
    failed = statuses_of(counted, rows)
    success = max(0, completed - sum(failed.values()))
    names = {statuses.name_of(status): count for status, count in failed.items()}
    by_count = sorted(names.items(), key=lambda item: -item[1])
    return {**({"SUCCESS": success} if success else {}), **dict(by_count)}
