"""All that is known of one row: what the detail pane shows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
