"""From successive snapshots to frames: what one picture can show. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

import numpy as np

from hvtrace.stats.arithmetic import join, since
from hvtrace.stats.slow import SlowCall
from hvtrace.stats.snapshot import Lost, Probe, Snapshot, Vm
from hvtrace.stats.tally import EMPTY, TID_SHIFT, VM_SHIFT, Tally, outline, settled, tally
from hvtrace.stats.text import printable
from hvtrace.stats.vm import Identity

KEEP_ENDED_SECONDS = 15.0
"""How long a VM that has ended is still shown, in one frame at least."""

NEW_SECONDS = 15.0
"""How long a VM is new."""

PROBE_OF_CALLS = "kvm_hv_hypercall"
"""The program that runs once for each call."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What hvtrace itself takes."""

    ns_per_call: float | None  # of its BPF programs, all together; None: not measured
    kernel_share: float | None  # of a core, in them
    own_share: float  # of a core, in this process


@dataclass(frozen=True, slots=True)
class Frame:
    """All that one picture can show; it never changes, so a paused view just keeps it.

    `counted` is of the interval of `seconds` that ended at `time`; `total` and `counts`, its
    outline, are since the start or the last reset, `total_seconds` ago. VMs are known by numbers,
    as in the tallies' keys.
    """

    number: int  # they count up; of several frames in one, the last's
    time: float  # unix seconds
    seconds: float
    counted: Tally | None  # None: the first, there is no interval yet
    counts: Tally
    total: Tally | None  # None: of the past, where only the counts were worked out
    total_seconds: float
    vms: Mapping[int, Vm]  # those to be shown
    labels: Mapping[int, str]  # their names, with the pid where others have the same
    new: frozenset[int]
    vcpus: Mapping[int, int]  # key of the thread (VM and tid) -> KVM's number of its vCPU
    lost: Lost  # since the start, or the last reset
    in_flight: int
    slow: tuple[SlowCall, ...]  # of the interval
    sized: bool  # rep counts and variable headers are known
    probes: tuple[Probe, ...]
    cost: Cost

    @property
    def vcpu_count(self) -> int:
        """Of all VMs: those that have made a call."""
        return sum(vm.vcpus for vm in self.vms.values())


class Model:
    """Turns the snapshots of one source into frames.

    `reset` may be called by another thread than `feed`.
    """

    def __init__(self) -> None:
        self._numbers: dict[Identity, int] = {}
        self._before: Tally | None = None
        self._base = EMPTY
        self._base_ns: int | None = None
        self._base_lost = Lost()
        self._last_ns = 0
        self._last_cpu_seconds = 0.0
        self._reset = False
        self._frames = 0
        self._sized = False
        self._vcpus: dict[int, int] = {}
        self._vms: dict[int, Vm] = {}
        self._labels: dict[int, str] = {}
        self._began_ns: dict[int, int] = {}  # VMs by number: when first seen
        self._ended_ns: dict[int, int] = {}  # when first seen to have ended

    def reset(self) -> None:
        """Count from the next snapshot on."""
        self._reset = True

    def feed(self, taken: Snapshot | Iterable[Snapshot], cpu_seconds: float = 0.0) -> Frame:
        """The frame of a new snapshot, whole or in parts (`snapshot.parts_of`).

        `cpu_seconds` is what this process has used so far.
        """
        tallies = []
        for snapshot in (taken,) if isinstance(taken, Snapshot) else taken:
            numbers = self._number(snapshot)
            tallies.append(tally(snapshot, numbers))
            self._know_vcpus(snapshot, numbers)
            self._sized |= len(snapshot.sizes) > 0
        now, now_ns = settled(join(tallies)), snapshot.monotonic_ns
        seconds = (now_ns - self._last_ns) / 1e9 if self._before is not None else 0.0
        counted = None
        if self._reset or self._base_ns is None:
            if self._reset:
                self._base, self._base_lost = now, snapshot.lost
                self._reset = False
            else:
                # Its counters began at zero: totals are those of the source, not a call less.
                # But completions of calls that were open while attaching are no loss.
                self._base_lost = Lost(orphans=snapshot.lost.orphans)
            self._base_ns = now_ns
        elif self._before is not None:
            counted = settled(since(self._before, now))
        own_seconds = cpu_seconds - self._last_cpu_seconds
        self._before, self._last_ns, self._last_cpu_seconds = now, now_ns, cpu_seconds
        self._frames += 1
        vms, new = self._shown(snapshot, numbers, now_ns)
        total = now if self._base is EMPTY else settled(since(self._base, now))
        return Frame(
            number=self._frames,
            time=snapshot.time,
            seconds=seconds if counted is not None else 0.0,
            counted=counted,
            counts=outline(total),
            total=total,
            total_seconds=(now_ns - self._base_ns) / 1e9,
            vms=vms,
            labels=self._labels,
            new=new,
            vcpus=self._vcpus,
            lost=_less(snapshot.lost, self._base_lost),
            in_flight=snapshot.in_flight,
            slow=snapshot.slow,
            sized=self._sized,
            probes=snapshot.probes,
            cost=_cost(snapshot.probes, counted, seconds, own_seconds),
        )

    def _number(self, snapshot: Snapshot) -> list[int]:
        """The numbers of its VMs: the same in every snapshot."""
        found = self._numbers
        return [found.setdefault(vm.identity, len(found)) for vm in snapshot.vms]

    def _know_vcpus(self, snapshot: Snapshot, numbers: list[int]) -> None:
        """One dict for all frames, for what is known of a thread stays true."""
        rows = snapshot.rows[snapshot.rows["vcpu"] > 0]
        vm = np.array(numbers, dtype=np.uint64)[rows["vm"]]
        keys = vm << np.uint64(VM_SHIFT) | rows["tid"].astype(np.uint64) << np.uint64(TID_SHIFT)
        threads, first = np.unique(keys, return_index=True)
        self._vcpus.update(zip(threads.tolist(), (rows["vcpu"][first] - 1).tolist(), strict=True))

    def _shown(
        self, snapshot: Snapshot, numbers: list[int], now_ns: int
    ) -> tuple[dict[int, Vm], frozenset[int]]:
        """VMs that are to be shown, and which of them are new."""
        vms = dict(zip(numbers, snapshot.vms, strict=True))
        first = self._frames == 1
        known, ended = self._began_ns, self._ended_ns
        # Who is there at the start is not new.
        self._began_ns = {n: known.get(n, 0 if first else now_ns) for n in vms}
        self._ended_ns = {n: ended.get(n, now_ns) for n, vm in vms.items() if vm.ended}
        gone_ns, new_ns = now_ns - KEEP_ENDED_SECONDS * 1e9, now_ns - NEW_SECONDS * 1e9
        for number, since_ns in self._ended_ns.items():
            if since_ns < gone_ns:
                del vms[number]
        new = (n for n, vm in vms.items() if self._began_ns[n] > max(0, new_ns) and not vm.ended)
        if not _same(vms, self._vms):  # a history keeps hundreds of frames: one dict for many
            self._vms, self._labels = vms, _labels(vms)
        return self._vms, frozenset(new)


def _less(lost: Lost, base: Lost) -> Lost:
    return Lost(*(a - b for a, b in zip(astuple(lost), astuple(base), strict=True)))


def _same(vms: dict[int, Vm], others: dict[int, Vm]) -> bool:
    """Whether they are the same VMs with as many vCPUs."""
    counts = [vm.vcpus for vm in vms.values()] == [vm.vcpus for vm in others.values()]
    return vms == others and counts


def _labels(vms: Mapping[int, Vm]) -> dict[int, str]:
    uses = Counter(vm.name for vm in vms.values())
    return {
        number: printable(vm.name if uses[vm.name] == 1 else f"{vm.name}/{vm.pid}")
        for number, vm in vms.items()
    }


def _cost(
    probes: tuple[Probe, ...], counted: Tally | None, seconds: float, own_seconds: float
) -> Cost:
    calls = sum(probe.runs for probe in probes if probe.name == PROBE_OF_CALLS)
    each = sum(probe.run_ns for probe in probes) / calls if calls else None
    rate = int(counted.calls.sum()) / seconds if counted is not None and seconds else None
    return Cost(
        ns_per_call=each,
        kernel_share=each * rate / 1e9 if each is not None and rate is not None else None,
        own_share=own_seconds / seconds if seconds else 0.0,
    )
