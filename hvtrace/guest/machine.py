"""A VM as a mix wants it: 64-bit vCPUs with Hyper-V's CPUID and their calls, ready to run."""

from __future__ import annotations

import os

from hvtrace.guest import abi
from hvtrace.guest import memory as layout
from hvtrace.guest.code import CODE, SYMBOLS
from hvtrace.guest.cpuid import guest_cpuid
from hvtrace.guest.kvm import Kvm, Vcpu, Vm
from hvtrace.guest.memory import GuestMemory
from hvtrace.guest.mix import Call, Mix

# TLFS, guest OS identity: Microsoft (1), Windows NT (4), version 10.0, build 20348.
GUEST_OS_ID = 0x0001_040A_0000_4F7C
_MSR_GUEST_OS_ID, _MSR_HYPERCALL = 0x40000000, 0x40000001
_MSR_SCONTROL, _MSR_SYNDBG_OPTIONS = 0x40000080, 0x400000FF
_ENABLE = 1
_SYNDBG_USE_HYPERCALLS = 1 << 2

_CR0 = 0x80010033  # PG, WP, NE, ET, MP, PE
_CR4 = 0x620  # PAE, and OSFXSR with OSXMMEXCPT: XMM registers
_EFER = 0x500  # LME, LMA
_RFLAGS = 0x2  # interrupts off: IPIs the guest sends stay pending


class Machine:
    """One VM whose vCPUs stand before their first instruction."""

    def __init__(self, kvm: Kvm, mix: Mix, memory: GuestMemory) -> None:
        """Create the VM in `memory`. Raises OSError where KVM refuses something."""
        self.mix = mix
        self.memory = memory
        self.vm: Vm = kvm.create_vm()
        self.vm.set_memory(memory.address, memory.size_bytes)
        self._eventfds = [os.eventfd(0) for _ in mix.guest.eventfd]
        for connection, fd in zip(mix.guest.eventfd, self._eventfds, strict=True):
            self.vm.add_eventfd(connection, fd)
        memory.write_tables(CODE, SYMBOLS["invalid_opcode"], SYMBOLS["panic"])
        cpuid = guest_cpuid(
            kvm.cpuid(),
            kvm.hyperv_cpuid(),
            withhold=mix.guest.withhold,
            offer=mix.guest.offer,
            syndbg=mix.guest.syndbg != "off",
        )
        blocks = _write_blocks(memory, mix)
        self.vcpus = [self._create_vcpu(i, cpuid, blocks) for i in range(memory.vcpus)]

    def _create_vcpu(self, number: int, cpuid: list[abi.CpuidEntry], blocks: list[int]) -> Vcpu:
        vcpu = self.vm.create_vcpu(number)
        vcpu.set_cpuid(cpuid)
        vcpu.enable(abi.KVM_CAP_HYPERV_SYNIC2)  # without it messages and events are not forwarded
        for i, (call, block) in enumerate(zip(self.mix.calls, blocks, strict=True)):
            _write_descriptor(self.memory.descriptor(number, i), call, block)
        control = self.memory.control(number)
        msrs = _msrs(self.mix.guest.syndbg, first=number == 0)
        control.msr_count = len(msrs)
        for i, (index, value) in enumerate(msrs):
            control.msrs[i] = layout.Msr(index, value)
        address = self.memory.control_address(number)
        vcpu.set_sregs(_long_mode(vcpu.sregs(), address + layout.TSS_OFFSET))
        vcpu.set_regs(
            rip=layout.CODE + SYMBOLS["start"],
            rsp=control.stack_top,
            rdi=address,
            rflags=_RFLAGS,
        )
        return vcpu


def _msrs(syndbg: str, *, first: bool) -> list[tuple[int, int]]:
    """What a vCPU writes before its first call; the first one, what belongs to the whole VM."""
    msrs = [(_MSR_SCONTROL, _ENABLE)]
    if first:
        msrs += [
            (_MSR_GUEST_OS_ID, GUEST_OS_ID),
            (_MSR_HYPERCALL, layout.HYPERCALL_PAGE | _ENABLE),
        ]
        if syndbg == "hypercalls":
            msrs.append((_MSR_SYNDBG_OPTIONS, _SYNDBG_USE_HYPERCALLS))
    return msrs


def _write_blocks(memory: GuestMemory, mix: Mix) -> list[int]:
    """Write the parameter blocks; for each call the address of its own, or 0."""
    addresses: list[int] = []
    for call in mix.calls:
        used = sum(bool(address) for address in addresses)
        addresses.append(memory.write_block(used, call.block) if call.block else 0)
    return addresses


def _write_descriptor(descriptor: layout.Descriptor, call: Call, block: int) -> None:
    descriptor.input = call.input
    descriptor.rdx_in = block or call.rdx
    descriptor.r8_in = call.r8 or (layout.OUTPUT_PAGE if block else 0)
    for i, half in enumerate(call.xmm):
        descriptor.xmm_in[i] = half
    descriptor.target = layout.HYPERCALL_PAGE
    if call.via == "page":
        descriptor.entry = layout.HYPERCALL_PAGE
    else:
        descriptor.entry = layout.CODE + SYMBOLS[f"site_{call.via}"]


def _long_mode(sregs: abi.Sregs, tss: int) -> abi.Sregs:
    """Registers of a 64-bit kernel: flat segments, paging on, no boot needed."""
    code, data = layout.CODE_SELECTOR, layout.CODE_SELECTOR + 8
    sregs.cs = abi.Segment(limit=0xFFFFFFFF, selector=code, type=0xB, present=1, s=1, l=1, g=1)
    for name in ("ds", "es", "fs", "gs", "ss"):
        segment = abi.Segment(limit=0xFFFFFFFF, selector=data, type=3, present=1, db=1, s=1, g=1)
        setattr(sregs, name, segment)
    sregs.tr = abi.Segment(
        base=tss, limit=layout.TSS_LIMIT, selector=data + 0x18, type=0xB, present=1
    )
    sregs.gdt = abi.Table(base=layout.GDT, limit=layout.GDT_LIMIT)
    sregs.idt = abi.Table(base=layout.IDT, limit=layout.IDT_LIMIT)
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0, layout.PAGE_TABLES, _CR4, _EFER
    return sregs
