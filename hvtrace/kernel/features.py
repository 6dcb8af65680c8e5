"""What can this host do, and what is missing: looked at once, before anything is loaded.

Each check raises HvtraceError with what to do about it. Nothing here asks for a
kernel version: files, symbols and ioctls say what is there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf
from hvtrace.kernel.shape import EVENTS, Shape, choose

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
DEBUGFS = Path("/sys/kernel/debug")
KVM_DEVICE = Path("/dev/kvm")

_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39

# include/uapi/linux/kvm.h
_KVM_CHECK_EXTENSION = 0xAE03
_KVM_GET_SUPPORTED_HV_CPUID = 0xC008AEC1
_KVM_CAP_HYPERV = 44
_HV_CPUID_FEATURES = 0x40000003
_HV_XMM_OUTPUT = 1 << 15  # of EDX: HV_X64_HYPERCALL_XMM_OUTPUT_AVAILABLE


@dataclass(frozen=True, slots=True)
class Features:
    """What the rest of the kernel room needs to know of this host."""

    release: str
    shape: Shape  # of the events
    xmm_output: bool  # KVM can return output in XMM registers (no released kernel can)
    debugfs: Path | None  # KVM's folder in debugfs: which thread is which vCPU of which VM


def probe(anyway: bool, say: Callable[[str], None]) -> Features:
    """Check this host, wait for KVM where it is not loaded yet.

    `say` takes progress lines. With `anyway`, a KVM without Hyper-V support is
    accepted. Raises HvtraceError where tracing is impossible.
    """
    if platform.machine() != "x86_64":
        raise HvtraceError("KVM has Hyper-V guests on x86-64 only: there is nothing to trace here")
    _check_privilege()
    _check_bpf()
    events = _mounted_tracefs() / "events"
    _wait_for_kvm(events, say)
    formats = _read_formats(events)
    if not hyperv_in_kvm():
        text = "this kernel's KVM is built without Hyper-V support (CONFIG_KVM_HYPERV)"
        if not anyway:
            raise HvtraceError(
                f"{text}: its hypercall events exist and never fire; --anyway goes on all the same"
            )
        say(f"{text}: no hypercall will be seen")
    return Features(
        release=platform.release(),
        shape=choose(platform.release(), formats),
        xmm_output=_xmm_output_in_kvm(),
        debugfs=_kvm_debugfs(),
    )


def _check_privilege() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    capabilities = int(line.split()[1], 16)
    bpf_and_perfmon = 1 << _CAP_BPF | 1 << _CAP_PERFMON
    if not capabilities & 1 << _CAP_SYS_ADMIN and capabilities & bpf_and_perfmon != bpf_and_perfmon:
        raise HvtraceError("tracing needs root, or CAP_BPF and CAP_PERFMON: run it with sudo")


def _check_bpf() -> None:
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


def _mounted_tracefs() -> Path:
    """The tracefs folder; mounts it where nobody has."""
    for folder in TRACEFS:
        if (folder / "events").is_dir():
            return folder
    folder = TRACEFS[0]
    if folder.is_dir() and _mount("tracefs", folder) and (folder / "events").is_dir():
        return folder
    raise HvtraceError(f"tracefs is not mounted: mount -t tracefs nodev {folder}")


def _wait_for_kvm(events: Path, say: Callable[[str], None]) -> None:
    kvm = events / "kvm"
    if kvm.is_dir():
        return
    if not _kvm_module_exists():
        raise HvtraceError("this kernel has no KVM: it can run no guests, so there is no hypercall")
    say("waiting for KVM to be loaded (modprobe kvm_intel or kvm_amd; Ctrl-C ends)")
    while not kvm.is_dir():
        time.sleep(0.2)
    say("KVM is loaded")


def _kvm_module_exists() -> bool:
    modules = Path("/lib/modules") / platform.release() / "modules.dep"
    try:
        return "/kvm/kvm.ko" in modules.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _read_formats(events: Path) -> dict[str, str]:
    """The format files by event; refuses kernels without the `done` event."""
    files = {event: events / "kvm" / event / "format" for event in EVENTS}
    files["sched_process_exit"] = events / "sched" / "sched_process_exit" / "format"
    try:
        return {event: file.read_text(encoding="ascii") for event, file in files.items()}
    except FileNotFoundError:
        raise HvtraceError(
            f"KVM of kernel {platform.release()} has no kvm_hv_hypercall_done event: "
            "hvtrace needs Linux 5.14 or later"
        ) from None
    except OSError as error:
        raise HvtraceError(f"cannot read {error.filename}: {error.strerror}") from None


def hyperv_in_kvm() -> bool:
    """Whether KVM here completes Hyper-V hypercalls at all."""
    try:
        device = os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _symbol_exists("kvm_hv_hypercall")  # kvm.ko is there, its vendor module not yet
    try:
        return fcntl.ioctl(device, _KVM_CHECK_EXTENSION, _KVM_CAP_HYPERV) > 0
    finally:
        os.close(device)


def _symbol_exists(name: str) -> bool:
    try:
        with Path("/proc/kallsyms").open(encoding="ascii", errors="replace") as symbols:
            return any(line.split()[2] == name for line in symbols)
    except OSError:
        return False


def _xmm_output_in_kvm() -> bool:
    """Whether KVM offers guests the CPUID bit of XMM output."""
    count = 64
    entry = struct.Struct("<10I")  # struct kvm_cpuid_entry2
    request = bytearray(struct.pack("<II", count, 0) + bytes(entry.size * count))
    try:
        device = os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(device, _KVM_GET_SUPPORTED_HV_CPUID, request)
    except OSError:  # EINVAL: no Hyper-V in this KVM, or no system ioctl before 5.11
        return False
    finally:
        os.close(device)
    found = struct.unpack_from("<I", request)[0]
    leaves = (entry.unpack_from(request, 8 + i * entry.size) for i in range(found))
    return any(
        function == _HV_CPUID_FEATURES and edx & _HV_XMM_OUTPUT
        for function, _, _, _, _, _, edx, *_ in leaves
    )


def _kvm_debugfs() -> Path | None:
    folder = DEBUGFS / "kvm"
    if not folder.is_dir() and DEBUGFS.is_dir():
        _mount("debugfs", DEBUGFS)
    return folder if folder.is_dir() else None
