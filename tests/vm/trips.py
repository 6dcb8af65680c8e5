"""Round trips in the kernel's log: from the exit that made a call to its vCPU's next entry.

Followed by vCPU, where hvtrace goes by thread: an exit, a call and an entry belong together
because the thread was running that vCPU, as its exits and entries say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tests.vm import tracefs
from tests.vm.tracefs import HYPERV_EXIT, Event

EVENTS = (*tracefs.EVENTS, "kvm_exit", "kvm_entry")
HYPERCALLS = {(1, 18), (2, 0x81)}  # isa, exit reason: VMX, SVM

Key = tuple[int, int, bool, str]  # tid, code, fast, handler


class _Call:
    def __init__(self, event: Event, vcpu: tuple[int, int], exit_ns: int) -> None:
        self.code, self.fast, self.handler = event.fields["code"], bool(event.fields["fast"]), ""
        self.vcpu, self.exit_ns = vcpu, exit_ns


def round_trips(events: Iterable[Event]) -> dict[Key, list[int]]:
    """Times in ns, in the order of the entries that ended them.

    A vCPU is (tid, vcpu_id), so no thread may run two of one number.
    """
    found: defaultdict[Key, list[int]] = defaultdict(list)
    exits: dict[tuple[int, int], int] = {}  # vCPU -> when its last exit was, if a hypercall
    runs: dict[int, tuple[int, int]] = {}  # tid -> the vCPU that it ran last
    calls: dict[int, _Call] = {}  # tid -> open call
    over: dict[tuple[int, int], _Call] = {}  # vCPU -> completed call, not entered yet
    for event in events:
        tid, fields = event.tid, event.fields
        if event.name == "kvm_exit":
            vcpu = runs[tid] = (tid, fields["vcpu_id"])
            exits.pop(vcpu, None)
            if (fields["isa"], fields["exit_reason"] & 0xFFFF) in HYPERCALLS:
                exits[vcpu] = event.ns
        elif event.name == "kvm_entry":
            call = over.pop((tid, fields["vcpu_id"]), None)
            if call:
                key = (tid, call.code, call.fast, call.handler or "kernel")
                found[key].append(event.ns - call.exit_ns)
        elif event.name == "kvm_hv_hypercall":
            calls[tid] = _Call(event, runs[tid], exits[runs[tid]])
        elif event.name == "kvm_hv_hypercall_done":
            if tid in calls:
                call = calls.pop(tid)
                over[call.vcpu] = call
        elif fields["reason"] == HYPERV_EXIT and fields["errno"] < 1 << 31 and tid in calls:
            calls[tid].handler = "vmm"
    return dict(found)
