"""The machine: what a vCPU is told before its first instruction."""

from __future__ import annotations

from typing import Any

import pytest

from hvtrace.guest import abi, image
from hvtrace.guest import memory as layout
from hvtrace.guest.image import Amount
from hvtrace.guest.machine import Machine
from hvtrace.guest.mix import Call, Guest, Mix


class FakeVcpu:
    def __init__(self, number: int) -> None:
        self.number = number
        self.capabilities: list[int] = []

    def set_cpuid(self, entries: list[abi.CpuidEntry]) -> None:
        self.cpuid = {entry.function: entry for entry in entries}

    def enable(self, capability: int, *args: int) -> None:
        self.capabilities.append(capability)

    def sregs(self) -> abi.Sregs:
        return abi.Sregs(apic_base=0xFEE00900)

    def set_sregs(self, sregs: abi.Sregs) -> None:
        self.set = sregs

    def set_regs(self, **values: int) -> None:
        self.regs = values


class FakeKvm:
    """Both the system and its one VM."""

    fd = 77

    def create_vm(self) -> FakeKvm:
        self.eventfds: dict[int, int] = {}
        return self

    def cpuid(self) -> list[abi.CpuidEntry]:
        return [abi.CpuidEntry(function=1), abi.CpuidEntry(function=0x40000000)]

    def hyperv_cpuid(self) -> list[abi.CpuidEntry]:
        functions = (0x40000000, 0x40000001, 0x40000003, 0x40000004, 0x40000080)
        return [abi.CpuidEntry(function=f, edx=0xFFFFFFFF) for f in functions]

    def set_memory(self, address: int, size_bytes: int) -> None:
        self.memory = (address, size_bytes)

    def add_eventfd(self, connection: int, fd: int) -> None:
        self.eventfds[connection] = fd

    def create_vcpu(self, number: int) -> FakeVcpu:
        return FakeVcpu(number)


def machine(**guest: Any) -> tuple[FakeKvm, Machine]:
    memory = image.write(Mix("test", (Call(2),), guest=Guest(**guest)), 2, Amount())
    kvm = FakeKvm()
    return kvm, Machine(kvm, memory)  # type: ignore[arg-type]


def test_memory_and_descriptor() -> None:
    kvm, made = machine()
    assert kvm.memory == (made.memory.address, made.memory.size_bytes)
    assert made.memory.header.vm_fd == 77


def test_vcpus_start_in_64_bit_mode_at_the_code() -> None:
    _, made = machine()
    for i, vcpu in enumerate(made.vcpus):
        sregs = vcpu.set
        assert sregs.efer & 0x500 == 0x500  # LME, LMA
        assert sregs.cr0 & 0x80000001 == 0x80000001  # PG, PE
        assert sregs.cr4 & 0x220 == 0x220  # PAE, OSFXSR
        assert sregs.cr3 == layout.PAGE_TABLES
        assert (sregs.cs.l, sregs.cs.db, sregs.cs.selector) == (1, 0, layout.CODE_SELECTOR)
        assert sregs.apic_base == 0xFEE00900  # what was there before stays
        control = made.memory.control_address(i)
        assert sregs.tr.base == control + layout.TSS_OFFSET
        assert vcpu.regs["rdi"] == control
        assert vcpu.regs["rip"] == made.memory.control(i).start != 0
        assert vcpu.regs["rflags"] & 0x200 == 0  # no interrupts


def test_synic_is_there() -> None:
    _, made = machine()
    assert all(abi.KVM_CAP_HYPERV_SYNIC2 in vcpu.capabilities for vcpu in made.vcpus)


def test_cpuid_has_the_edits_of_the_mix() -> None:
    _, made = machine(withhold=("xmm-input",))
    leaf = made.vcpus[1].cpuid[0x40000003]
    assert leaf.edx == 0xFFFFFFFF & ~(1 << 4)
    assert 0x40000080 not in made.vcpus[1].cpuid


@pytest.mark.parametrize("syndbg", ["on", "hypercalls"])
def test_cpuid_with_the_debugger(syndbg: str) -> None:
    assert 0x40000080 in machine(syndbg=syndbg)[1].vcpus[0].cpuid


def test_connections_have_descriptors_of_their_own() -> None:
    kvm, _ = machine(eventfd=(0x10, 0x11))
    assert list(kvm.eventfds) == [0x10, 0x11]
    assert len(set(kvm.eventfds.values())) == 2
