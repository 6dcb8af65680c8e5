"""A VM as its memory wants it: 64-bit vCPUs with Hyper-V's CPUID, ready for their first run."""

from __future__ import annotations

import os

from hvtrace.guest import abi
from hvtrace.guest import memory as layout
from hvtrace.guest.cpuid import guest_cpuid
from hvtrace.guest.kvm import Kvm, Vcpu, Vm
from hvtrace.guest.memory import GuestMemory

_CR0 = 0x80010033  # PG, WP, NE, ET, MP, PE
_CR4 = 0x620  # PAE, and OSFXSR with OSXMMEXCPT: XMM registers
_EFER = 0x500  # LME, LMA
_RFLAGS = 0x2  # interrupts off: IPIs the guest sends stay pending


class Machine:
    """One VM in `memory`, whose vCPUs have not run yet."""

    def __init__(self, kvm: Kvm, memory: GuestMemory) -> None:
        """Create the VM. Raises OSError where KVM refuses something."""
        self.memory = memory
        header = memory.header
        self.vm: Vm = kvm.create_vm()
        header.vm_fd = self.vm.fd
        self.vm.set_memory(memory.address, memory.size_bytes)
        for connection in header.connections[: header.connection_count]:
            self.vm.add_eventfd(connection, os.eventfd(0))
        cpuid = guest_cpuid(
            kvm.cpuid(),
            kvm.hyperv_cpuid(),
            header.edits[: header.edit_count],
            syndbg=bool(header.syndbg),
        )
        self.vcpus = [self._create_vcpu(i, cpuid) for i in range(header.vcpus)]

    def _create_vcpu(self, number: int, cpuid: list[abi.CpuidEntry]) -> Vcpu:
        vcpu = self.vm.create_vcpu(number)
        vcpu.set_cpuid(cpuid)
        vcpu.enable(abi.KVM_CAP_HYPERV_SYNIC2)  # without it messages and events are not forwarded
        control, address = self.memory.control(number), self.memory.control_address(number)
        vcpu.set_sregs(_long_mode(vcpu.sregs(), address + layout.TSS_OFFSET))
        vcpu.set_regs(rip=control.start, rsp=control.stack_top, rdi=address, rflags=_RFLAGS)
        return vcpu


def _long_mode(sregs: abi.Sregs, tss: int) -> abi.Sregs:
    """Registers of a 64-bit kernel: flat segments, paging on, no boot needed."""
    flat = {"limit": 0xFFFFFFFF, "present": 1, "s": 1, "g": 1}
    sregs.cs = abi.Segment(selector=layout.CODE_SELECTOR, type=0xB, l=1, **flat)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, abi.Segment(selector=layout.DATA_SELECTOR, type=3, db=1, **flat))
    sregs.tr = abi.Segment(
        base=tss, limit=layout.TSS_BYTES - 1, selector=layout.TSS_SELECTOR, type=0xB, present=1
    )
    sregs.gdt = abi.Table(base=layout.GDT, limit=layout.GDT_BYTES - 1)
    sregs.idt = abi.Table(base=layout.IDT, limit=layout.IDT_BYTES - 1)
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0, layout.PAGE_TABLES, _CR4, _EFER
    return sregs
