"""What KVM of this host says of itself: its ioctls, its symbols, its types."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from hvtrace.hyperv.cpuid import BY_NAME, WORDS, Cpuid
from hvtrace.hyperv.interface import Interface
from hvtrace.kernel.structures import XMM_FUNCTIONS, Structures

DEVICE = Path("/dev/kvm")
# The same where /dev is someone else's. It comes with the module of the vendor: kvm.ko
# alone runs no VM.
CLASS = Path("/sys/class/misc/kvm")
COMPLETED = Path("/sys/kernel/debug/kvm/hypercalls")
KALLSYMS = Path("/proc/kallsyms")

# include/uapi/linux/kvm.h
_KVM_CHECK_EXTENSION = 0xAE03
_KVM_GET_SUPPORTED_HV_CPUID = 0xC008AEC1
_KVM_CAP_HYPERV = 44

_REGISTERS = ("EAX", "EBX", "ECX", "EDX")  # as a struct kvm_cpuid_entry2 has them


def is_loaded() -> bool:
    """Whether VMs can be made now."""
    return CLASS.exists()


def completed_calls() -> int:
    """KVM's own count of hypercalls, of the VMs that live; 0 where it cannot be read."""
    try:
        return int(COMPLETED.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def has_hyperv() -> bool:
    """Whether KVM here completes Hyper-V hypercalls at all."""
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # a /dev that lacks it
        return symbol(("kvm_hv_hypercall",)) is not None
    try:
        return fcntl.ioctl(device, _KVM_CHECK_EXTENSION, _KVM_CAP_HYPERV) > 0
    finally:
        os.close(device)


def symbol(names: Sequence[str]) -> str | None:
    """The first of `names` that /proc/kallsyms has."""
    wanted = set(names)
    try:
        with KALLSYMS.open(encoding="ascii", errors="replace") as symbols:
            return next((name for line in symbols if (name := line.split()[2]) in wanted), None)
    except OSError:
        return None


def offered_cpuid() -> Cpuid | None:
    """The Hyper-V features that KVM offers to VMMs; None where it does not say.

    That is: no /dev/kvm, no Hyper-V in KVM, or no such ioctl of the system (before 5.11).
    """
    count = 64
    entry = struct.Struct("<10I")  # struct kvm_cpuid_entry2
    request = bytearray(struct.pack("<II", count, 0) + bytes(entry.size * count))
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.ioctl(device, _KVM_GET_SUPPORTED_HV_CPUID, request)
    except OSError:
        return None
    finally:
        os.close(device)
    found = struct.unpack_from("<I", request)[0]
    entries = [entry.unpack_from(request, 8 + i * entry.size) for i in range(found)]
    leaves = {function: registers for function, _, _, *registers in entries}
    words = {}
    for name, where in WORDS.items():
        leaf, register = where.split()
        registers = leaves.get(int(leaf, 16), [0] * len(_REGISTERS))
        words[name] = registers[_REGISTERS.index(register)]
    return Cpuid(**words)


def interface(structures: Structures, offered: Cpuid | None) -> Interface:
    """How this KVM returns output in registers, if at all."""
    found = structures.xmm_function
    if structures.problem and has_hyperv():  # reading all symbols takes a tenth of a second
        found = symbol(XMM_FUNCTIONS)
    return Interface(
        offered=bool(BY_NAME["xmm-output"].exposed(offered)),
        symbol=found,
        exit_bytes=structures.exit_bytes,
        parts=structures.parts,
    )
