"""From the kernel's slots to rows of a snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.xmm import COUNTED, VERDICTS, fixed_verdict
from hvtrace.kernel import layout
from hvtrace.stats.snapshot import NO_MIN, ROW, STATUS, VCPU, Array, completed

_COUNTED, _CONVENTIONS = -1, 1 << 17  # of the latter: code, CALL_FAST


def _fixed_verdicts() -> NDArray[np.int8]:
    """Index of the verdict on all calls of a convention; _COUNTED where calls differ."""
    table = np.full(_CONVENTIONS, VERDICTS.index("unknown"), dtype=np.int8)
    table[: layout.CALL_FAST] = VERDICTS.index("memory")
    for code in CODES:
        fixed = fixed_verdict(code, fast=True)
        table[layout.CALL_FAST | code] = _COUNTED if fixed is None else VERDICTS.index(fixed)
    return table


_FIXED = _fixed_verdicts()

# Made apart and written at once: to touch every row takes longer than to work its fields out.
_HEAD = np.dtype([(name, ROW[name]) for name in (ROW.names or ())[:6]])
_HEAD_OF_ROW = np.dtype(
    {"names": ["head"], "formats": [_HEAD], "offsets": [0], "itemsize": ROW.itemsize}
)


def rows_of(
    slots: Array,
    vm: NDArray[np.int32],
    tid: NDArray[np.uint32],
    vcpu: NDArray[np.int32],
    can_output: bool,
) -> Array:
    """ROWs of SLOTs, one each; `vm`, `tid` and `vcpu` (-1: unknown) are of each slot's thread.

    Made in place, for they are megabytes: `slots` are no SLOTs any more.
    `can_output` says whether this KVM can return output in registers: where it
    cannot, the success of a fast call with output is only *claimed* by the VMM.
    """
    shape = slots["shape"].copy()
    fixed = _FIXED[shape & (_CONVENTIONS - 1)]
    differ = np.flatnonzero(fixed == _COUNTED)
    counted = slots["xmm_output"][differ]
    head = np.zeros(len(slots), dtype=_HEAD)
    head["code"] = shape & 0xFFFF
    head["fast"] = shape & layout.CALL_FAST != 0
    head["handler"] = shape & layout.CALL_VMM != 0
    head["vm"], head["tid"], head["vcpu"] = vm, tid, vcpu + 1
    slots.view(_HEAD_OF_ROW)["head"] = head
    rows = slots.view(ROW)
    verdicts = np.zeros((len(rows), len(VERDICTS)), dtype=np.uint64)
    verdicts[np.arange(len(rows)), fixed] = completed(rows) + rows["unfinished"]
    verdicts[differ] = 0
    for i, name in enumerate(COUNTED):
        said = "claimed" if name.startswith("used") and not can_output else name
        verdicts[differ, VERDICTS.index(said)] += counted[:, i]
    rows["xmm_output"] = verdicts
    return rows


def vcpus_of(rows: Array) -> Array:
    """VCPUs of ROWs, one each."""
    vcpus = np.zeros(len(rows), dtype=VCPU)
    vcpus["vm"], vcpus["vcpu"], vcpus["sum_ns"] = rows["vm"], rows["vcpu"], rows["sum_ns"]
    vcpus["vcpu"] -= 1
    return vcpus


def add_up_vcpus(*parts: Array) -> Array:
    """One VCPU for each (vm, vcpu) in `parts`, sorted by them, -1 last."""
    every = np.concatenate(parts)
    # One number is sorted in a tenth of a struct's time.
    keys = every["vm"].astype(np.int64) << 32 | every["vcpu"].astype(np.uint32)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    out = every[first]
    out["sum_ns"] = 0
    np.add.at(out["sum_ns"], group, every["sum_ns"])
    return out


def trips_of(trips: Array) -> Array:
    """TRIPs of a snapshot from those of the kernel, made in place."""
    trips["min_ns"][trips["min_ns"] == 0] = NO_MIN
    return trips


def statuses_of(slots: Array, more: Iterable[tuple[int, int, int]]) -> Array:
    """STATUS entries of SLOTs; `more` are those of the overflow map as (row, status, count)."""
    failing = np.flatnonzero(slots["status"][:, 0])  # entries are filled from the first on
    row, entry = np.nonzero(slots["status_count"][failing])
    held = np.zeros(len(row), dtype=STATUS)
    held["row"] = row = failing[row]
    held["status"] = slots["status"][row, entry]
    held["count"] = slots["status_count"][row, entry]
    return np.concatenate((held, np.array(list(more), dtype=STATUS)))
