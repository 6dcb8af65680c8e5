"""The columns of the live view: what each shows and sorts by. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan

import numpy as np

from hvtrace.hyperv import codes
from hvtrace.stats import text
from hvtrace.stats.groups import Groups
from hvtrace.stats.histogram import quantiles_ns
from hvtrace.stats.snapshot import Vm
from hvtrace.stats.table import ATTEMPTS
from hvtrace.stats.table import TRIP as TRIP_HEADING
from hvtrace.stats.tally import Floats
from hvtrace.top.sheet import Grouping, Sheet

ENDED = "×"  # noqa: RUF001 - a sign, not a letter
NEW = "+"
"""In front of the name of a VM that has ended or is new: also seen where there is no colour."""

EVERYWHERE = frozenset(Grouping)
OF_VM = EVERYWHERE - {Grouping.CALL}
OF_CALL = frozenset({Grouping.CALL_OF_VM, Grouping.CALL})
OF_VCPU = frozenset({Grouping.VCPU})


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column. `value` gives one number for each row (NaN: nothing to show), by which it sorts;
    `texts` what stands there."""

    key: str
    width: int
    about: str
    value: Callable[[Sheet], Floats]
    texts: Callable[[Sheet], list[str]]
    left: bool = False  # aligned to the left, and sorted from the smallest first
    of: frozenset[Grouping] = EVERYWHERE
    alarm: Callable[[Groups], Floats] | None = None  # how much is wrong with a row


def _column(
    key: str,
    width: int,
    about: str,
    value: Callable[[Sheet], Floats],
    show: Callable[[float], str],
) -> Column:
    def texts(sheet: Sheet) -> list[str]:
        return ["-" if isnan(one) else show(one) for one in value(sheet).tolist()]

    return Column(key, width, about, value, texts)


def _some(counts: Floats) -> Floats:
    """NaN for zero: nothing to show."""
    return np.where(counts > 0, counts, np.nan)


def _ratio(part: Floats, whole: Floats | float) -> Floats:
    """NaN where there is no whole."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(whole) > 0, part / whole, np.nan)


def _count(
    key: str,
    about: str,
    counts: Callable[[Groups], Floats],
    alarm: Callable[[Groups], Floats] | None = None,
) -> Column:
    def value(sheet: Sheet) -> Floats:
        return _some(counts(sheet.counts))

    column = _column(key, 5, about, value, lambda count: text.quantity(int(count)))
    return replace(column, alarm=alarm)


def _quantile(key: str, about: str, q: float) -> Column:
    def value(sheet: Sheet) -> Floats:
        shown = sheet.shown
        found = quantiles_ns(shown.buckets, (q,), shown.min_ns, shown.max_ns)[:, 0]
        return np.where(shown.completed > 0, found, np.nan)

    return _column(key, 6, about, value, text.duration)


def _share(key: str, width: int, about: str, part: Callable[[Groups], Floats]) -> Column:
    def value(sheet: Sheet) -> Floats:
        return _ratio(part(sheet.shown), sheet.shown.calls)

    return _column(key, width, about, value, lambda ratio: text.percent(ratio, 1.0))


def _rate(sheet: Sheet) -> Floats:
    return _some(_ratio(sheet.shown.calls, sheet.seconds))


def _of_vcpus(sheet: Sheet) -> Floats:
    return _some(_ratio(sheet.shown["sum_ns"], sheet.seconds * 1e9 * sheet.vcpu_counts))


def _of_time(sheet: Sheet) -> Floats:
    return _some(_ratio(sheet.shown["sum_ns"], sheet.time_ns))


def _mean(sheet: Sheet) -> Floats:
    return _ratio(sheet.shown["sum_ns"], sheet.shown.completed)


def _trip(sheet: Sheet) -> Floats:
    return _ratio(sheet.shown["trip_ns"], sheet.shown["trips"])


def _longest(sheet: Sheet) -> Floats:
    return np.where(sheet.shown.completed > 0, sheet.shown.max_ns, np.nan)


def _attempts(groups: Groups) -> Floats:
    return sum((groups[name] for name in ATTEMPTS), np.zeros(len(groups.calls)))


def _verdicts(sheet: Sheet) -> list[str]:
    rows = np.stack([sheet.counts[name] for name in ATTEMPTS], axis=-1).tolist()
    return [verdict_text(dict(zip(ATTEMPTS, counts, strict=True))) for counts in rows]


def verdict_text(counts: dict[str, float]) -> str:
    """The most frequent verdict, and its share where there are others: "refused 31%".

    "claimed" goes before all others: a single one is a guest that read garbage.
    """
    found = {verdict: count for verdict, count in counts.items() if count}
    if not found:
        return "-"
    verdict, count = max(found.items(), key=lambda item: (item[0] == "claimed", item[1]))
    share = text.percent(count, sum(found.values()))
    return verdict if share == "100" else f"{verdict} {share}%"


def vm_text(vm: Vm | None, label: str, new: bool) -> str:
    """A VM as shown, where there is room for all of it."""
    return f"{ENDED if vm and vm.ended else NEW if new else ''}{label}"


def _vm_texts(sheet: Sheet) -> list[str]:
    new = {sheet.frame.labels[number] for number in sheet.frame.new}
    return [
        vm_text(vm, label, vm is not None and label in new)
        for vm, label in zip(sheet.vms, sheet.labels, strict=True)
    ]


def _by_name(names: list[str]) -> Floats:
    place = {name: float(i) for i, name in enumerate(sorted(set(names)))}
    return np.array([place[name] for name in names])


def _vcpu_texts(sheet: Sheet) -> list[str]:
    """Its number, else its thread; "ended" for all threads that have."""
    tids = (sheet.keys >> np.uint64(18) & np.uint64(0x3FFFFF)).tolist()
    return [
        str(number) if number is not None else f"tid {tid}" if tid else "ended"
        for number, tid in zip(sheet.vcpus, tids, strict=True)
    ]


VM = Column(
    "vm",
    6,
    f"virtual machine; {NEW} marks a new one, {ENDED} one that has ended",
    lambda sheet: _by_name([label.lower() for label in sheet.labels]),
    _vm_texts,
    left=True,
    of=OF_VM,
)
VCPU = Column(
    "vcpu",
    8,
    "KVM's number of the vCPU, else its thread",
    lambda sheet: np.array([-1.0 if one is None else float(one) for one in sheet.vcpus]),
    _vcpu_texts,
    left=True,
    of=OF_VCPU,
)
CALL = Column(
    "call",
    16,
    "hypercall, named as in the TLFS, without Hv and Call",
    lambda sheet: _by_name([codes.name_of(code).lower() for code in sheet.codes.tolist()]),
    lambda sheet: [text.short_names([code], 1000)[code] for code in sheet.codes.tolist()],
    left=True,
    of=OF_CALL,
)
TRIP = _column(
    TRIP_HEADING,
    6,
    "mean time from the call's exit to the next entry (--round-trip)",
    _trip,
    text.duration,
)
RATE = _column("/s", 5, "calls per second", _rate, text.quantity)
MINUTE = Column(
    "minute",
    12,
    "calls per second in the last minute, each row to its own scale",
    RATE.value,
    lambda sheet: [""] * len(sheet),  # drawn from the history: sparks.py
)

COLUMNS: tuple[Column, ...] = (
    VM,
    VCPU,
    CALL,
    RATE,
    MINUTE,
    _count("calls", "calls that are over", lambda groups: groups.calls),
    _column(
        "vcpu%",
        5,
        "share of the time of all vCPUs that make calls, %",
        _of_vcpus,
        text.share,
    ),
    _column(
        "time",
        4,
        "share of all time spent in completed calls, %",
        _of_time,
        lambda ratio: text.percent(ratio, 1.0),
    ),
    _column("mean", 6, "mean time from call to completion", _mean, text.duration),
    TRIP,
    _quantile("p50", "median of that time", 0.5),
    _quantile("p99", "99th percentile of it", 0.99),
    _quantile("p999", "99.9th percentile of it", 0.999),
    _column("max", 6, "longest time", _longest, text.duration),
    _share("fast", 4, "parameters in registers, % of calls", lambda groups: groups.fast),
    _share("xmm", 3, "input in XMM registers, % of calls", lambda groups: groups["xmm_input"]),
    _share("vmm", 3, "served by the VMM, % of calls", lambda groups: groups.vmm),
    _count(
        "fail",
        "completed with a status other than SUCCESS",
        lambda groups: groups.failures,
        alarm=lambda groups: groups.failures,
    ),
    _count(
        "unfin",
        "never completed",
        lambda groups: groups["unfinished"],
        alarm=lambda groups: groups["unfinished"],
    ),
    Column(
        "xmm-out",
        12,
        "what became of output in registers, where asked for",
        lambda sheet: _some(_attempts(sheet.counts)),
        _verdicts,
        alarm=lambda groups: groups["claimed"],
    ),
    Column(
        "code",
        6,
        "number of the hypercall",
        lambda sheet: sheet.codes.astype(np.float64),
        lambda sheet: [f"0x{code:04x}" for code in sheet.codes.tolist()],
        of=OF_CALL,
    ),
    Column(
        "pid",
        7,
        "process of the VMM",
        lambda sheet: np.array([float(vm.pid) if vm else np.nan for vm in sheet.vms]),
        lambda sheet: [str(vm.pid) if vm else "-" for vm in sheet.vms],
        of=OF_VM - {Grouping.HOST},
    ),
)
"""All columns, in their order on the screen."""

BY_KEY = {column.key: column for column in COLUMNS}
