"""What the rules of an audit want to know, from the running host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from hvtrace.audit.facts import Guest, Host
from hvtrace.audit.qemu import hv_flags
from hvtrace.kernel.live import LiveSource, open_source
from hvtrace.kernel.room import SLOTS
from hvtrace.kernel.vcpus import Vcpu, Vcpus
from hvtrace.kernel.vms import Identities, Process
from hvtrace.stats.calls import Call, calls
from hvtrace.stats.exits import Exit
from hvtrace.stats.snapshot import Lost, Snapshot, Vm, delta, rollup

LOOK_SECONDS = 0.25
BURST_SECONDS, PAUSE_SECONDS = 5.0, 15.0
"""How long new vCPUs are looked at; then the same again, now and then, for those that are
parked or idle and have not entered their guest yet."""


@dataclass
class _Seen:
    """One VM, as far as it was seen."""

    vm: Vm
    flags: tuple[str, ...] | None
    threads: set[int] = field(default_factory=set)
    vcpus: dict[int, Vcpu] = field(default_factory=dict)


def observe(
    pid: int | None,
    seconds: float,
    *,
    evidence: bool = False,
    anyway: bool = False,
    slots: int = SLOTS,
    say: Callable[[str], None],
    wait: Callable[[float], object],
) -> tuple[Host, list[Guest], Lost]:
    """Watch the VMs of this host (of process `pid`) for so long: the facts about each.

    `wait` sleeps for the seconds it is given; what it returns says whether to end early.
    `evidence`, `anyway`, `slots` and `say` are those of `live.open_source`. Raises HvtraceError.
    """
    with open_source(
        pid, anyway=anyway, slots=slots, say=say, evidence=evidence, vcpus=True
    ) as source:
        observer = _Observer(source, pid)
        try:
            counted, duration_s = observer.watch(seconds, wait)
        finally:
            observer.close()
    return observer.host(duration_s, evidence), observer.guests(counted), counted.lost


class _Observer:
    """Watches a host for an interval: its VMs, their vCPUs, their calls."""

    def __init__(self, source: LiveSource, pid: int | None = None) -> None:
        """`source` is attached; only VMs of process `pid` are looked at, None: all."""
        self._source, self._pid = source, pid
        self._identities = Identities(source.host.debugfs)
        self._vms: dict[tuple[int, int, int | None], _Seen] = {}
        self._known: dict[int, _Seen] = {}  # by thread
        known = source.host.structures
        self._look_until = 0.0  # monotonic seconds
        self._vcpus = None if known.problem else Vcpus(source.loaded, known.cpuid_words)

    def close(self) -> None:
        """Let nothing stay attached."""
        if self._vcpus:
            self._vcpus.rest()

    def watch(self, seconds: float, wait: Callable[[float], object]) -> tuple[Snapshot, float]:
        """What was counted in the interval, and its length in seconds.

        `wait` sleeps as long as it is told, and says whether to end early.
        """
        before = rollup(self._source.snapshot())
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._look()
            if wait(min(left, LOOK_SECONDS)):
                break
            self._source.look()
        self._look()
        self.close()
        after = rollup(self._source.snapshot())
        return delta(before, after), (after.monotonic_ns - before.monotonic_ns) / 1e9

    def _look(self) -> None:
        """Note new VMs and vCPUs; look on for a burst where some are not known."""
        before = len(self._known)
        process = cache(self._identities.process)  # looked at once for all its threads
        for pid, tid in self._identities.threads():
            self._note(pid, tid, process)
        if self._vcpus is None:
            return
        for tid, vcpu in self._vcpus.seen().items():
            if seen := self._note(vcpu.pid, tid, process):
                seen.vcpus[tid] = vcpu
        # Without debugfs nobody says which vCPUs there are.
        unseen = self._source.host.debugfs is None or any(
            seen.threads - seen.vcpus.keys() for seen in self._vms.values()
        )
        now = time.monotonic()
        if len(self._known) > before or now > self._look_until + PAUSE_SECONDS:
            self._look_until = now + BURST_SECONDS
        if unseen and now < self._look_until:
            self._vcpus.look()
        else:
            self._vcpus.rest()

    def _note(self, pid: int, tid: int, process: Callable[[int], Process]) -> _Seen | None:
        if self._pid not in (None, pid):
            return None
        if tid not in self._known:
            vm = process(pid).vm_of(tid, f"process {pid}")
            flags = hv_flags(process(pid).arguments) if vm.vmm == "qemu" else None
            self._known[tid] = self._vms.setdefault(vm.identity, _Seen(vm, flags))
            self._known[tid].threads.add(tid)
        return self._known[tid]

    def guests(self, counted: Snapshot) -> list[Guest]:
        """The facts about each VM, with what it did according to `counted`."""
        made: dict[object, list[Call]] = {}
        for call in calls(counted):
            made.setdefault(call.vm.identity, []).append(call)
            # One that was gone before anybody looked.
            self._vms.setdefault(call.vm.identity, _Seen(call.vm, None))
        guests = [
            _guest(seen, made.get(identity, []), counted.exits)
            for identity, seen in self._vms.items()
        ]
        return sorted(guests, key=lambda guest: (guest.vm.name, guest.vm.pid))

    def host(self, duration_s: float, evidence: bool) -> Host:
        """What is the same for all guests, and what could not be seen here."""
        host = self._source.host
        notes = []
        if host.structures.problem:
            what = "CPUID of guests" + (" and exits of calls" if evidence else "")
            notes.append(f"not seen: {what} ({host.structures.problem})")
        if host.debugfs is None:
            notes.append("no debugfs: VMs of one process are taken for one; vCPUs only if they ran")
        if evidence and not host.kprobes:
            notes.append("no kprobes (CONFIG_KPROBES): evidence costs at every entry to a guest")
        return Host(host.release, host.interface.kind, host.offered, tuple(notes), duration_s)


def _guest(seen: _Seen, made: list[Call], exits: tuple[Exit, ...]) -> Guest:
    vcpus = sorted(seen.vcpus.values(), key=lambda vcpu: vcpu.number)
    first = vcpus[0] if vcpus else None
    return Guest(
        vm=seen.vm,
        vcpus=len(seen.threads),
        cpuid=first.cpuid if first else None,
        enforced=first.enforced if first and first.cpuid else None,
        hyperv=first.cpuid is not None if first else None,
        same_cpuid=len({(vcpu.cpuid, vcpu.enforced) for vcpu in vcpus}) <= 1,
        flags=seen.flags,
        calls=tuple(made),
        exits=tuple(one for one in exits if one.vm.identity == seen.vm.identity),
    )
