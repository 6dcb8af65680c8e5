"""/dev/kvm, one thin class for each kind of descriptor: system, VM, vCPU."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable

from hvtrace.errors import HvtraceError
from hvtrace.guest import abi

DEVICE = "/dev/kvm"

_libc = ctypes.CDLL(None, use_errno=True)


def _ioctl(fd: int, request: int, argument: ctypes.Structure | ctypes.c_uint32 | int = 0) -> int:
    """ioctl without the retry that Python's own has for EINTR, and without the GIL meanwhile.

    KVM_RUN must come back after a signal or with immediate_exit set. Raises OSError.
    """
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else ctypes.byref(argument)
    result: int = _libc.ioctl(fd, ctypes.c_ulong(request), value)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Kvm:
    """The system: what this KVM can do."""

    def __init__(self) -> None:
        """Open /dev/kvm; HvtraceError where that fails, or KVM has no Hyper-V."""
        try:
            self.fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise HvtraceError(
                f"{DEVICE} does not exist: load kvm_intel or kvm_amd, on a machine that may run VMs"
            ) from None
        except PermissionError:
            raise HvtraceError(
                f"no permission to open {DEVICE}: run as root or join the group kvm"
            ) from None
        except OSError as error:
            raise HvtraceError(f"cannot open {DEVICE}: {error.strerror}") from None
        if not self.has(abi.KVM_CAP_HYPERV):
            self.close()
            raise HvtraceError(
                "this kernel's KVM has no Hyper-V (CONFIG_KVM_HYPERV is off), so no guest can make"
                ' a hypercall here; "hvtrace demo" boots a kernel that has it'
            )

    def __enter__(self) -> Kvm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of KVM: as long as this is open, its module cannot be unloaded."""
        os.close(self.fd)

    def has(self, capability: int) -> bool:
        """KVM_CHECK_EXTENSION."""
        return _ioctl(self.fd, abi.KVM_CHECK_EXTENSION, capability) > 0

    def cpuid(self) -> list[abi.CpuidEntry]:
        """What KVM offers besides Hyper-V."""
        return self._cpuid(abi.KVM_GET_SUPPORTED_CPUID)

    def hyperv_cpuid(self) -> list[abi.CpuidEntry]:
        """The Hyper-V leaves that KVM offers; HvtraceError before 5.11, which asks a vCPU only."""
        if not self.has(abi.KVM_CAP_SYS_HYPERV_CPUID):
            raise HvtraceError("this kernel's KVM is older than 5.11: hvtrace guest needs a newer")
        return self._cpuid(abi.KVM_GET_SUPPORTED_HV_CPUID)

    def _cpuid(self, request: int) -> list[abi.CpuidEntry]:
        table = abi.Cpuid(nent=abi.MAX_CPUID_ENTRIES)
        _ioctl(self.fd, request, table)
        return list(table.entries[: table.nent])

    def create_vm(self) -> Vm:
        """A VM without memory and vCPUs, with the interrupt controllers in the kernel.

        Those are what SynIC needs; KVM ends the VM with its last descriptor.
        """
        vm = Vm(_ioctl(self.fd, abi.KVM_CREATE_VM), self)
        _ioctl(vm.fd, abi.KVM_SET_TSS_ADDR, 0xFFFBD000)  # Intel without unrestricted guest
        _ioctl(vm.fd, abi.KVM_CREATE_IRQCHIP)
        return vm


class Vm:
    """One KVM VM."""

    def __init__(self, fd: int, kvm: Kvm) -> None:
        self.fd = fd
        self.kvm = kvm

    def set_memory(self, address: int, size_bytes: int) -> None:
        """Give the guest `size_bytes` of this process from `address`, at guest address 0."""
        region = abi.MemoryRegion(memory_size=size_bytes, userspace_addr=address)
        _ioctl(self.fd, abi.KVM_SET_USER_MEMORY_REGION, region)

    def add_eventfd(self, connection: int, fd: int) -> None:
        """Let KVM serve HvCallSignalEvent to `connection` itself."""
        _ioctl(self.fd, abi.KVM_HYPERV_EVENTFD, abi.HypervEventfd(conn_id=connection, fd=fd))

    def create_vcpu(self, number: int) -> Vcpu:
        """A vCPU, which may run at once (without the start-up interrupts of real hardware)."""
        vcpu = Vcpu(_ioctl(self.fd, abi.KVM_CREATE_VCPU, number), self.kvm)
        _ioctl(vcpu.fd, abi.KVM_SET_MP_STATE, ctypes.c_uint32(abi.KVM_MP_STATE_RUNNABLE))
        return vcpu


class Vcpu:
    """One vCPU, and the page it shares with the kernel as `run`."""

    def __init__(self, fd: int, kvm: Kvm) -> None:
        self.fd = fd
        size = _ioctl(kvm.fd, abi.KVM_GET_VCPU_MMAP_SIZE)
        self.run = abi.Run.from_buffer(mmap.mmap(fd, size))

    def enter(self) -> bool:
        """KVM_RUN; False where it came back without an exit (a signal, immediate_exit)."""
        try:
            _ioctl(self.fd, abi.KVM_RUN)
        except InterruptedError:
            return False
        return True

    def complete(self) -> None:
        """KVM_RUN as far as the completion of the last exit: the guest is not entered."""
        self.run.immediate_exit = 1
        if self.enter():
            raise OSError(errno.EPROTO, "KVM_RUN entered the guest in spite of immediate_exit")
        self.run.immediate_exit = 0

    def set_cpuid(self, entries: Iterable[abi.CpuidEntry]) -> None:
        """KVM_SET_CPUID2: at most abi.MAX_CPUID_ENTRIES, before the first `enter`."""
        table = abi.Cpuid()
        for i, entry in enumerate(entries):
            table.entries[i] = entry
            table.nent = i + 1
        _ioctl(self.fd, abi.KVM_SET_CPUID2, table)

    def enable(self, capability: int, *args: int) -> None:
        """KVM_ENABLE_CAP."""
        _ioctl(self.fd, abi.KVM_ENABLE_CAP, abi.EnableCap(cap=capability, args=args))

    def sregs(self) -> abi.Sregs:
        """KVM_GET_SREGS."""
        sregs = abi.Sregs()
        _ioctl(self.fd, abi.KVM_GET_SREGS, sregs)
        return sregs

    def set_sregs(self, sregs: abi.Sregs) -> None:
        """KVM_SET_SREGS."""
        _ioctl(self.fd, abi.KVM_SET_SREGS, sregs)

    def set_regs(self, **values: int) -> None:
        """KVM_SET_REGS; registers not named are 0."""
        _ioctl(self.fd, abi.KVM_SET_REGS, abi.Regs(**values))

    def count(self, name: str) -> int:
        """One of KVM's own counters of this vCPU, from its binary statistics (since 5.14)."""
        fd = _ioctl(self.fd, abi.KVM_GET_STATS_FD)
        try:
            header = abi.StatsHeader.from_buffer_copy(os.pread(fd, 24, 0))
            size = ctypes.sizeof(abi.StatsDescriptor) + header.name_size
            table = os.pread(fd, size * header.num_desc, header.desc_offset)
            for at in range(0, len(table), size):
                entry = abi.StatsDescriptor.from_buffer_copy(table, at)
                if table[at + 16 : at + size].split(b"\0", 1)[0] == name.encode():
                    value = os.pread(fd, 8, header.data_offset + entry.offset)
                    return int.from_bytes(value, "little")
        finally:
            os.close(fd)
        raise HvtraceError(f"this kernel's KVM has no counter named {name}")
