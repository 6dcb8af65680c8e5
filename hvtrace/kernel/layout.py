"""bpf/hvtrace.h in Python: numpy dtypes of its structs, and its constants.

The header is the authority. tests/unit/test_layout.py compiles it and compares
every size, offset and constant with this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvtrace.hyperv.xmm import COUNTED
from hvtrace.stats.histogram import BUCKETS
from hvtrace.stats.snapshot import SIZES as SIZES  # noqa: PLC0414 (of a slot as of a row)

LAYOUT = 4
STATUSES = 4
TABLE = 128
COMM = 16
CACHE = 4096
FAILURES = 4096
SLOW_PAGES = 64  # 4,681 records

FREE, LIVE, DEAD = range(3)

CALL_FAST = 1 << 16
CALL_VMM = 1 << 17
CALL_VAR_SHIFT = 18
CALL_REP_SHIFT = 28
CALL_SIZES = 0x3FFFFF << CALL_VAR_SHIFT
CALL_NONE = 1 << 40
CALL_EPOCH_SHIFT = 41
CALL_SKIPPED = 1 << 62
CALL_OPEN = 1 << 63
NO_PROCESS = 0xFFFF_FFFF  # no pid: they end at 2^22

ABI = np.dtype(
    [
        ("in_fixed", "<u2"),
        ("out_fixed", "<u2"),
        ("in_elem", "u1"),
        ("out_elem", "u1"),
        ("flags", "u1"),
        ("xmm", "u1"),
    ]
)

SLOT = np.dtype(
    [
        ("shape", "<u8"),
        ("abi", ABI),
        ("sum_ns", "<u8"),
        ("min_ns", "<u8"),
        ("max_ns", "<u8"),
        ("reps", "<u8"),
        ("xmm_input", "<u8"),
        ("unfinished", "<u8"),
        ("xmm_output", "<u8", (len(COUNTED),)),
        ("status_count", "<u8", (STATUSES,)),
        ("status", "<u2", (STATUSES,)),
        ("buckets", "<u8", (BUCKETS,)),
        ("more", "<u4"),
        ("pad", "<u4"),
    ]
)

TRIP = np.dtype(
    [("sum_ns", "<u8"), ("min_ns", "<u8"), ("max_ns", "<u8"), ("buckets", "<u8", (BUCKETS,))]
)

THREAD = np.dtype(
    [
        ("call", "<u8"),
        ("start_ns", "<u8"),
        ("exit_ns", "<u8"),
        ("vcpu", "<u8"),
        ("trip", "<u4"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("state", "<u4"),
        ("comm", f"S{COMM}"),
        ("table", "<u2", (TABLE,)),
    ]
)

CONTROL = np.dtype(
    [
        ("filter_tgid", "<u4"),
        ("filter_code", "<u4"),
        ("epoch", "<u8"),
        ("slow_ns", "<u8"),
        ("pad", "<u8", (5,)),
        ("orphans", "<u8"),
        ("no_slot", "<u8"),
        ("no_thread", "<u8"),
        ("no_status", "<u8"),
        ("no_exit", "<u8"),
        ("no_trip", "<u8"),
        ("no_event", "<u8"),
        ("pad_to_line", "<u8", (1,)),
    ]
)


def state(cache: int, threads: int) -> np.dtype[np.void]:
    """Struct hvt_state; `cache` words of the programs' own, `threads` of entries."""
    return np.dtype(
        [
            ("control", CONTROL),
            ("cache", "<u8", (cache,)),
            ("threads", THREAD, (threads,)),
            ("process_ns", "<u8", (threads,)),
        ]
    )


LOSSES = ("orphans", "no_slot", "no_thread", "no_status", "no_exit", "no_trip", "no_event")

FAILURE = np.dtype([("next", "<u4"), ("status", "<u2"), ("pad", "<u2"), ("count", "<u8")])

SLOW = np.dtype(
    [
        ("start_ns", "<u8"),
        ("duration_ns", "<u8"),
        ("call", "<u8"),
        ("result", "<u8"),
        ("entry", "<u4"),
        ("tid", "<u4"),
    ]
)

EXIT_KEY = np.dtype([("tgid", "<u4"), ("tid", "<u4"), ("call", "<u4"), ("type", "<u4")])
EXIT = np.dtype([("calls", "<u8"), ("untouched", "<u8")])

# Of a thread: who it is, as user space found out while its process was there. For the next
# hvtrace that looks at these maps (pins.py); no program reads it.
IDENTITY = np.dtype(
    [
        ("tid", "<u4"),  # written last: 0 where nobody has found out
        ("pid", "<u4"),
        ("start_time", "<u8"),
        ("fd", "<i4"),  # -1: not known
        ("vcpu", "<i4"),
        ("uuid", "S48"),
        ("vmm", "S64"),
        ("name", "S376"),
    ]
)

CPUID_WORDS = 8
VCPU = np.dtype(
    [
        ("tgid", "<u4"),
        ("vcpu_id", "<u4"),
        ("hyperv", "u1"),
        ("enforced", "u1"),
        ("pad", "u1", (2,)),
        ("cpuid", "<u4", (CPUID_WORDS,)),
    ]
)


def bpf_folder() -> Path:
    """The folder of the BPF sources: in the wheel, or the checkout's own."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"
