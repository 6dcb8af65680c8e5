"""Which programs are loaded, and how they are compiled, for a host and a purpose."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from hvtrace.hyperv.interface import HCALL, Interface, Part
from hvtrace.kernel import layout, loader
from hvtrace.kernel.features import Features
from hvtrace.kernel.loader import Loaded, Program
from hvtrace.kernel.room import SLOTS, threads_for

MAX_VCPUS = 4096

MAPS = ("state", "slots", "free_slots", "free_threads", "free_failures", "abis", "failures")

# In the order of attaching: a thread's end must never be missed once its calls are seen.
EVENTS = (
    "sched_process_exit",
    "kvm_userspace_exit",
    "kvm_hv_hypercall_done",
    "kvm_hv_hypercall",
)
# Either tells which vCPU a thread runs (evidence); the first is cheaper.
BY_KPROBE = Program("vcpu_by_kprobe", "kprobe", "kvm_hv_hypercall")
BY_ENTRY = Program("vcpu_by_entry", "raw", "kvm_entry")
# Round trips. The last first: a trip that begins has an end.
TRIPS = (Program("trip_end", "raw", "kvm_entry"), Program("trip_begin", "raw", "kvm_exit"))
# Reads the CPUID of vCPUs.
VCPUS = Program("kvm_entry", "raw", "kvm_entry")

_NONE = 0xFFFF  # HVT_NONE
_NEW_TYPE = 4  # any that no released kernel has


class Job(NamedTuple):
    """What is to be compiled and loaded."""

    sources: list[Path]
    flags: list[str]
    programs: list[Program]
    maps: list[str]

    @property
    def fingerprint(self) -> str:
        """Other programs, another fingerprint."""
        texts = [file.read_bytes() for file in sorted(layout.bpf_folder().glob("*.[ch]"))]
        return sha256(b"\0".join([*texts, " ".join(self.flags).encode()])).hexdigest()[:16]

    def load(self) -> Loaded:
        """Do it, in a child. Raises HvtraceError."""
        return loader.load(*self)


def counters(
    host: Features,
    threads: int = threads_for(SLOTS),
    slots: int = SLOTS,
    *,
    evidence: bool = False,
    vcpus: bool = False,
    round_trip: bool = False,
    sizes: bool = False,
    slow: bool = False,
    more_flags: Sequence[str] = (),
) -> Job:
    """The programs that count calls.

    With `evidence`, they look at exits to user space, too; with `vcpus`, one
    more reads their CPUID; with `round_trip` (and `host.round_trip`), they count
    the time from exit to entry. All three need BTF. With `sizes`, they count what is in
    input values; with `slow`, they tell calls above a limit one by one.
    """
    sources = ["state", "hvtrace"]
    kind = "raw" if host.shape.raw else "tracepoint"
    programs = [Program(event, kind, event) for event in EVENTS]
    maps = [*MAPS]
    flags = [
        f"-DHVT_MAX_THREADS={1 << (threads - 1).bit_length()}",
        f"-DHVT_MAX_SLOTS={slots}",
        f"-DHVT_MAX_FAILURES={layout.FAILURES}",
        f"-DHVT_CACHE={layout.CACHE}",
        f"-DHVT_STATE={maps.index('state')}",
    ]
    if evidence:
        programs += [BY_KPROBE, BY_ENTRY] if host.kprobes else [BY_ENTRY]
        sources.append("evidence")
        flags += _evidence_flags(host.interface)
        maps.append("exits")
    if vcpus:
        sources.append("vcpus")
        programs.append(VCPUS)
        flags.append(f"-DHVT_MAX_VCPUS={MAX_VCPUS}")
        maps.append("vcpus")
    if round_trip:
        assert host.round_trip is not None
        sources.append("roundtrip")
        programs += TRIPS
        maps += ("waiting", "trips")
        flags += [
            "-DHVT_ROUND_TRIP",
            f"-DHVT_WAITING={maps.index('waiting')}",
            *host.round_trip.flags,
        ]
    if sizes:
        sources.append("sizes")
        flags.append("-DHVT_SIZES")
        maps.append("sizes")
    if slow:
        sources.append("slow")
        flags.append(f"-DHVT_SLOW_PAGES={layout.SLOW_PAGES}")
        maps.append("slow")
    flags += [*host.shape.flags, *host.structures.flags, *more_flags]
    files = [layout.bpf_folder() / f"{name}.bpf.c" for name in sources]
    return Job(files, flags, programs, maps)


def _evidence_flags(interface: Interface) -> list[str]:
    flags = ["-DHVT_EVIDENCE"]
    for name, exit_type in (("HCALL", HCALL), ("NEW", _NEW_TYPE)):
        part = interface.part(exit_type) or Part(0)
        for what, at in (("PARAMS", part.params_at), ("XMM", part.xmm_at)):
            flags.append(f"-DHVT_{name}_{what}={_NONE if at is None else at}")
    return flags
