"""Single calls that took long."""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.stats.vm import Vm


@dataclass(frozen=True, slots=True)
class SlowCall:
    """A completed call whose service time reached the limit."""

    start: float  # unix seconds
    vm: Vm
    vcpu: int | None  # KVM's number of it, where known
    tid: int
    code: int
    fast: bool
    handler: str  # of HANDLERS
    var_cnt: int  # of the input value: the variable header, in 8 bytes
    rep_cnt: int
    status: int
    reps: int  # completed
    duration_ns: int
