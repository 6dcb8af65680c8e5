"""From slots to rows: in place, so what is not a counter must not be left behind."""

from __future__ import annotations

import numpy as np
import pytest

from hvtrace.hyperv.xmm import COUNTED, VERDICTS, fixed_verdict
from hvtrace.kernel import layout
from hvtrace.kernel.layout import SLOT
from hvtrace.kernel.rows import rows_of, statuses_of
from hvtrace.stats.snapshot import HANDLERS, KEY, ROW

SHARED = ("sum_ns", "min_ns", "max_ns", "reps", "xmm_input", "unfinished", "buckets")
CODES = (0x02, 0x03, 0x13, 0x15, 0x50, 0x5C, 0x5D, 0x4242, 0xFFFF)


def some_slots(seed: int = 7) -> np.ndarray:
    """Slots of every kind of call, with no byte that is zero by chance."""
    count = len(CODES) * 4
    noise = np.random.default_rng(seed).integers(1, 251, count * SLOT.itemsize, dtype=np.uint8)
    slots = noise.view(SLOT).copy()
    kinds = [(fast, vmm) for fast in (0, layout.CALL_FAST) for vmm in (0, layout.CALL_VMM)]
    sizes = 7 << layout.CALL_VAR_SHIFT | 11 << layout.CALL_REP_SHIFT  # of its last call
    slots["shape"] = [code | fast | vmm | sizes for code in CODES for fast, vmm in kinds]
    slots["buckets"] %= 1 << 32  # so that no sum of them overflows
    slots["unfinished"] %= 1 << 32
    slots["xmm_output"] %= 1 << 32
    for slot in slots:  # the programs count verdicts where calls differ, and nowhere else
        if fixed_verdict(int(slot["shape"]) & 0xFFFF, bool(slot["shape"] & layout.CALL_FAST)):
            slot["xmm_output"] = 0
    return slots


def test_a_row_has_its_counters_where_a_slot_has_them() -> None:
    assert ROW.itemsize == SLOT.itemsize
    for name in SHARED:
        assert (ROW.fields or {})[name] == (SLOT.fields or {})[name], name


@pytest.mark.parametrize("can_output", [False, True])
def test_rows_of_slots_of_every_kind(can_output: bool) -> None:
    slots = some_slots()
    vm, tid = np.arange(len(slots), dtype=np.int32) % 5, np.arange(len(slots)).astype(np.uint32)
    vcpu = np.arange(-1, len(slots) - 1, dtype=np.int32)
    rows = rows_of(slots.copy(), vm, tid, vcpu, can_output)
    for i, (row, slot) in enumerate(zip(rows, slots, strict=True)):
        shape = int(slot["shape"])
        fast, vmm = bool(shape & layout.CALL_FAST), bool(shape & layout.CALL_VMM)
        assert row[list(KEY)].tolist() == (i % 5, i, shape & 0xFFFF, fast, vmm)
        assert row["vcpu"] == i  # and 0 where it is not known
        for name in SHARED:
            assert row[name].tolist() == slot[name].tolist(), name
        expected = dict.fromkeys(VERDICTS, 0)
        for name, count in zip(COUNTED, slot["xmm_output"].tolist(), strict=True):
            expected["claimed" if name.startswith("used") and not can_output else name] += count
        if fixed := fixed_verdict(shape & 0xFFFF, fast):
            expected[fixed] = sum(slot["buckets"].tolist()) + int(slot["unfinished"])
        found = dict(zip(VERDICTS, row["xmm_output"].tolist(), strict=True))
        assert found == expected, HANDLERS[row["handler"]]


def test_conventions_are_those_of_every_code() -> None:
    """The table stands for `fixed_verdict`: of all codes there are."""
    slots = np.zeros(2 << 16, dtype=SLOT)
    slots["shape"] = np.arange(2 << 16)
    slots["unfinished"] = 3
    none = np.zeros(len(slots), dtype=np.int32)
    output = rows_of(slots, none, none.astype(np.uint32), none, False)["xmm_output"]
    for convention in range(2 << 16):
        fixed = fixed_verdict(convention & 0xFFFF, convention >= 1 << 16)
        column = output[convention].tolist()
        assert column == [3 * (name == fixed) for name in VERDICTS]


def test_statuses_of_slots_and_those_beyond() -> None:
    slots = np.zeros(5, dtype=SLOT)
    slots["status"][1, :2], slots["status_count"][1, :2] = (3, 5), (7, 11)
    slots["status"][4], slots["status_count"][4] = (2, 3, 4, 5), (13, 17, 19, 23)
    assert statuses_of(slots, [(4, 6, 29)]).tolist() == [
        *((1, 3, 7), (1, 5, 11)),
        *((4, 2, 13), (4, 3, 17), (4, 4, 19), (4, 5, 23), (4, 6, 29)),
    ]
    assert len(statuses_of(slots[:1], [])) == 0
