"""Where the programs find the fields of an event: read from tracefs, never assumed.

Raw tracepoints get the arguments of TP_PROTO as 64-bit words, normal ones the
record that a format file describes. Raw is cheaper, and exact as long as a
tracepoint runs with preemption disabled. Linux 7.0 ended that (tracepoints are
guarded by SRCU since): a thread can be preempted inside a program, and the next
vCPU on that CPU then skips the program, which the kernel counts as a recursion
miss. Normal tracepoints still disable preemption, so there they are used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREEMPTIBLE_SINCE = (7, 0)

# By event: the fields that are read, and the number of the argument of TP_PROTO.
# kvm_hv_hypercall since 5.18: code, fast, var_cnt, rep_cnt, rep_idx, ingpa, outgpa.
_EVENTS: dict[str, dict[str, int]] = {
    "kvm_hv_hypercall": {"code": 0, "fast": 1, "var_cnt": 2, "rep_cnt": 3},
    "kvm_hv_hypercall_done": {"result": 0},
    "kvm_userspace_exit": {"reason": 0, "errno": 1},
}
EVENTS = tuple(_EVENTS)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which kind of tracepoint, and where each field is."""

    raw: bool
    fields: dict[str, int]

    @property
    def flags(self) -> list[str]:
        """Compiler flags of bpf/hvtrace.bpf.c."""
        named = [f"-DHVT_{name.upper()}={at}" for name, at in self.fields.items()]
        return [f"-DHVT_RECORD={int(not self.raw)}", *named]


def raw(has_var_cnt: bool = True) -> Shape:
    """Fields as arguments; `var_cnt` came with 5.18 and moved what is behind it."""
    fields = {name: at for event in _EVENTS.values() for name, at in event.items()}
    if not has_var_cnt:
        del fields["var_cnt"]
        fields["rep_cnt"] -= 1
    return Shape(True, fields)


def record(formats: dict[str, str]) -> Shape:
    """Fields as offsets into the records that the format files (by event) describe."""
    fields: dict[str, int] = {}
    for event, text in formats.items():
        offsets = re.findall(r"field:.*?(\w+);\s*offset:(\d+);", text)
        wanted = _EVENTS.get(event, {})
        fields.update((name, int(at)) for name, at in offsets if name in wanted)
    return Shape(False, fields)


def choose(release: str, formats: dict[str, str]) -> Shape:
    """The cheapest kind that is exact under kernel `release`."""
    # The order in a format file is the record's, not the arguments', but what
    # is in it says which prototype this is.
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) >= PREEMPTIBLE_SINCE:
        return record(formats)
    return raw(has_var_cnt=" var_cnt;" in formats["kvm_hv_hypercall"])
