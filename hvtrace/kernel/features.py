"""What can this host do, and what is missing: looked at once, before anything is loaded.

Each check raises HvtraceError with what to do about it. Nothing here asks for a
kernel version: files, symbols and ioctls say what is there.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.cpuid import Cpuid
from hvtrace.hyperv.interface import Interface
from hvtrace.kernel import bpf, kvm, structures
from hvtrace.kernel.shape import EVENTS, Shape, choose
from hvtrace.kernel.structures import RoundTrip, Structures

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
DEBUGFS = Path("/sys/kernel/debug")

NO_HYPERV = "this kernel's KVM is built without Hyper-V support (CONFIG_KVM_HYPERV)"

_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39


@dataclass(frozen=True, slots=True)
class Features:
    """What the rest of the kernel room needs to know of this host."""

    release: str
    shape: Shape  # of the events
    interface: Interface = field(default_factory=Interface)  # for output in XMM registers
    offered: Cpuid | None = None  # the features that KVM offers to VMMs
    structures: Structures = field(default_factory=Structures)  # of KVM
    round_trip: RoundTrip | None = None  # None: not asked for
    debugfs: Path | None = None  # KVM's folder there: which thread is which vCPU of which VM
    kprobes: bool = True


def probe(anyway: bool, say: Callable[[str], None], *, round_trip: bool = False) -> Features:
    """Check this host, wait for KVM where it is not loaded yet.

    `say` takes progress lines. With `anyway`, a KVM without Hyper-V support is
    accepted. `round_trip`: see `look`. Raises HvtraceError where tracing is impossible.
    """
    if platform.machine() != "x86_64":
        raise HvtraceError("KVM has Hyper-V guests on x86-64 only: there is nothing to trace here")
    check_privilege()
    check_bpf()
    events = mounted_tracefs() / "events"
    _wait_for_kvm(events, say)
    formats = read_formats(events)
    if not kvm.has_hyperv():
        if not anyway:
            raise HvtraceError(
                f"{NO_HYPERV}: its hypercall events exist and never fire;"
                " --anyway goes on all the same"
            )
        say(f"{NO_HYPERV}: no hypercall will be seen")
    return look(choose(platform.release(), formats), round_trip=round_trip)


def look(shape: Shape, *, round_trip: bool = False) -> Features:
    """What else there is on a host with these events; nothing of it is a must.

    With `round_trip`, also what its programs need of the vendor's module.
    """
    kvm_structures, offered = structures.read(), kvm.offered_cpuid()
    return Features(
        release=platform.release(),
        shape=shape,
        interface=kvm.interface(kvm_structures, offered),
        offered=offered,
        structures=kvm_structures,
        round_trip=structures.read_round_trip() if round_trip else None,
        debugfs=_kvm_debugfs(),
        kprobes=bpf.kprobe_type() is not None,
    )


def check_privilege() -> None:
    """Raise HvtraceError unless this process may trace."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    capabilities = int(line.split()[1], 16)
    bpf_and_perfmon = 1 << _CAP_BPF | 1 << _CAP_PERFMON
    if not capabilities & 1 << _CAP_SYS_ADMIN and capabilities & bpf_and_perfmon != bpf_and_perfmon:
        raise HvtraceError("tracing needs root, or CAP_BPF and CAP_PERFMON: run it with sudo")


def check_bpf() -> None:
    """Raise HvtraceError unless this process may use bpf(2)."""
    try:
        bpf.probe()
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise HvtraceError(
                "this kernel has no BPF (CONFIG_BPF_SYSCALL): hvtrace cannot run on it"
            ) from None
        raise HvtraceError(
            f"bpf(2) is not permitted here ({error.strerror}): "
            "run on the host itself, as root, outside a container's seccomp filter"
        ) from None


def _mount(kind: str, folder: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mount(b"nodev", str(folder).encode(), kind.encode(), 0, None) == 0)


def mounted_tracefs() -> Path:
    """The tracefs folder; mounts it where nobody has."""
    for folder in TRACEFS:
        if (folder / "events").is_dir():
            return folder
    folder = TRACEFS[0]
    if folder.is_dir() and _mount("tracefs", folder) and (folder / "events").is_dir():
        return folder
    raise HvtraceError(f"tracefs is not mounted: mount -t tracefs nodev {folder}")


def _wait_for_kvm(events: Path, say: Callable[[str], None]) -> None:
    folder = events / "kvm"
    if folder.is_dir() and kvm.is_loaded():
        return
    if not folder.is_dir():
        check_module()
    say("waiting for KVM to be loaded (modprobe kvm_intel or kvm_amd; Ctrl-C ends)")
    while not (folder.is_dir() and kvm.is_loaded()):
        time.sleep(0.2)
    say("KVM is loaded")


def check_module() -> None:
    """Raise HvtraceError unless KVM can be loaded here."""
    modules = Path("/lib/modules") / platform.release() / "modules.dep"
    try:
        text = modules.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise HvtraceError(
            f"this kernel has no KVM now, and whether it can load one is not known"
            f" ({modules}: {error.strerror}): modprobe kvm_intel or kvm_amd"
        ) from None
    if "/kvm/kvm.ko" in text:
        return
    raise HvtraceError("this kernel has no KVM: it can run no guests, so there is no hypercall")


def read_formats(events: Path) -> dict[str, str]:
    """The format files by event; refuses kernels without the `done` event."""
    files = {event: events / "kvm" / event / "format" for event in EVENTS}
    try:
        return {event: file.read_text(encoding="ascii") for event, file in files.items()}
    except FileNotFoundError:
        raise HvtraceError(
            f"KVM of kernel {platform.release()} has no kvm_hv_hypercall_done event: "
            "hvtrace needs Linux 5.14 or later"
        ) from None
    except OSError as error:
        raise HvtraceError(f"cannot read {error.filename}: {error.strerror}") from None


def event_id(event: str) -> int:
    """The number that a normal tracepoint has now. Raises OSError where there is none."""
    group = "kvm" if event in EVENTS else "sched"
    return int((mounted_tracefs() / "events" / group / event / "id").read_text(encoding="ascii"))


def _kvm_debugfs() -> Path | None:
    folder = DEBUGFS / "kvm"
    if not folder.is_dir() and DEBUGFS.is_dir():
        _mount("debugfs", DEBUGFS)
    return folder if folder.is_dir() else None
