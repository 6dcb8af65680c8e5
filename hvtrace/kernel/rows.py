"""From the kernel's slots to rows of a snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv.xmm import COUNTED, VERDICTS, fixed_verdict
from hvtrace.kernel import layout
from hvtrace.stats.snapshot import ROW, STATUS, Array

_SAME = ("sum_ns", "min_ns", "max_ns", "unfinished", "reps", "xmm_input", "buckets")


def rows_of(
    slots: Array, vm: NDArray[np.int32], tid: NDArray[np.uint32], can_output: bool
) -> Array:
    """ROWs of SLOTs, one each; `vm` and `tid` are those of each slot's thread.

    `can_output` says whether this KVM can return output in registers: where it
    cannot, the success of a fast call with output is only *claimed* by the VMM.
    """
    rows = np.zeros(len(slots), dtype=ROW)
    rows["vm"], rows["tid"] = vm, tid
    rows["code"] = slots["shape"] & 0xFFFF
    rows["fast"] = slots["shape"] & layout.CALL_FAST != 0
    rows["handler"] = slots["shape"] & layout.CALL_VMM != 0
    for name in _SAME:
        rows[name] = slots[name]
    rows["xmm_output"] = _verdicts(slots, can_output)
    return rows


def _verdicts(slots: Array, can_output: bool) -> NDArray[np.uint64]:
    """Calls that are over by verdict, shape (slots, verdicts)."""
    out = np.zeros((len(slots), len(VERDICTS)), dtype=np.uint64)
    counted = slots["xmm_output"]
    for i, name in enumerate(COUNTED):
        said = "claimed" if name.startswith("used") and not can_output else name
        out[:, VERDICTS.index(said)] += counted[:, i]
    over = slots["buckets"].sum(axis=-1, dtype=np.uint64) + slots["unfinished"]
    convention = slots["shape"] & (layout.CALL_FAST | 0xFFFF)
    for key in np.unique(convention).tolist():
        fixed = fixed_verdict(key & 0xFFFF, bool(key & layout.CALL_FAST))
        if fixed is not None:
            same = convention == key
            out[same, VERDICTS.index(fixed)] = over[same]
    return out


def statuses_of(slots: Array, more: Iterable[tuple[int, int, int]]) -> Array:
    """STATUS entries of SLOTs; `more` are those of the overflow map as (row, status, count)."""
    row, entry = np.nonzero(slots["status_count"])
    held = np.zeros(len(row), dtype=STATUS)
    held["row"] = row
    held["status"] = slots["status"][row, entry]
    held["count"] = slots["status_count"][row, entry]
    return np.concatenate((held, np.array(list(more), dtype=STATUS)))
