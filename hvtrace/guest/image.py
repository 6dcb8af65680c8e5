"""Writes a mix into a guest's memory: tables, code, parameters, descriptors, orders."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hvtrace.guest import memory as layout
from hvtrace.guest.code import CODE, SYMBOLS
from hvtrace.guest.cpuid import FEATURES
from hvtrace.guest.memory import GuestMemory
from hvtrace.guest.mix import Call, Mix

# TLFS, guest OS identity: Microsoft (1), Windows NT (4), version 10.0, build 20348.
GUEST_OS_ID = 0x0001_040A_0000_4F7C
_MSR_GUEST_OS_ID, _MSR_HYPERCALL = 0x40000000, 0x40000001
_MSR_SCONTROL, _MSR_SYNDBG_OPTIONS = 0x40000080, 0x400000FF
_ENABLE = 1
_SYNDBG_USE_HYPERCALLS = 1 << 2

_SEGMENTS = (
    0,
    0x00AF9B000000FFFF,  # 0x08 ring 0 code, 64 bit
    0x00CF93000000FFFF,  # 0x10 ring 0 data
    0x00CFF3000000FFFF,  # 0x18 ring 3 data
    0x00AFFB000000FFFF,  # 0x20 ring 3 code, 64 bit
)
_INVALID_OPCODE = 6
_INTERRUPT_GATE = 0x8E00  # present, ring 0
_PRESENT_WRITE_USER = 0x7  # user, too: calls from ring 3 are one of the paths
_LARGE = 0x80
_TSS_RSP0 = 4
_REGISTERS = ("eax", "ebx", "ecx", "edx")


@dataclass(frozen=True, slots=True)
class Amount:
    """How much the vCPUs of a VM make."""

    rounds: int = 1  # of the table, where the rate is 0
    rate: float = 0.0  # calls a second of each vCPU
    seed: int = 0  # of a rate's draws
    first: int = 0  # number of the VM's first vCPU in the whole run


def write(mix: Mix, vcpus: int, amount: Amount) -> GuestMemory:
    """New memory for a VM with `vcpus` vCPUs, complete: the VM's process needs nothing else."""
    memory = GuestMemory.create(vcpus, len(mix.calls), mix.blocks)
    _write_header(memory.header, mix, amount)
    _write_tables(memory)
    blocks = _write_blocks(memory, mix)
    for vcpu in range(vcpus):
        _write_control(memory, vcpu, mix.guest.syndbg)
        for descriptor, call, block in zip(
            memory.descriptors(vcpu), mix.calls, blocks, strict=True
        ):
            _write_descriptor(descriptor, call, block)
            descriptor.times = mix.times(call, amount.first + vcpu)
    return memory


def _write_header(header: layout.Header, mix: Mix, amount: Amount) -> None:
    header.first, header.rounds, header.seed = amount.first, amount.rounds, amount.seed
    header.rate, header.swing = amount.rate, mix.swing
    header.syndbg = mix.guest.syndbg != "off"
    header.old_vmm = mix.guest.vmm == "old"
    edits = [(FEATURES[name], False) for name in mix.guest.withhold]
    edits += [(FEATURES[name], True) for name in mix.guest.offer]
    header.edit_count = len(edits)
    for edit, ((leaf, register, bits), present) in zip(header.edits, edits, strict=False):
        edit.leaf, edit.register = leaf, _REGISTERS.index(register)
        edit.set, edit.clear = (bits, 0) if present else (0, bits)
    header.connection_count = len(mix.guest.eventfd)
    for i, connection in enumerate(mix.guest.eventfd):
        header.connections[i] = connection


def _write_tables(memory: GuestMemory) -> None:
    """Page tables, GDT, IDT and code."""
    pml4, pdpt, directory = (layout.PAGE_TABLES + i * layout.PAGE_BYTES for i in range(3))
    memory.write(pml4, struct.pack("<Q", pdpt | _PRESENT_WRITE_USER))
    memory.write(pdpt, struct.pack("<Q", directory | _PRESENT_WRITE_USER))
    large = (i * layout.GRANULE_BYTES | _PRESENT_WRITE_USER | _LARGE for i in range(512))
    memory.write(directory, struct.pack("<512Q", *large))
    memory.write(layout.GDT, struct.pack(f"<{len(_SEGMENTS)}Q", *_SEGMENTS))
    panic, invalid_opcode = (_gate(SYMBOLS[name]) for name in ("panic", "invalid_opcode"))
    gates = [invalid_opcode if vector == _INVALID_OPCODE else panic for vector in range(256)]
    memory.write(layout.IDT, b"".join(gates))
    memory.write(layout.CODE, CODE)


def _gate(offset: int) -> bytes:
    """IDT entry for a handler `offset` bytes into the code."""
    low, high = (layout.CODE + offset) & 0xFFFF, (layout.CODE + offset) >> 16
    return struct.pack("<HHHHIxxxx", low, layout.CODE_SELECTOR, _INTERRUPT_GATE, high, 0)


def _write_blocks(memory: GuestMemory, mix: Mix) -> list[int]:
    """Write the parameter blocks, a page each; for each call the address of its own, or 0."""
    addresses = []
    address = layout.BLOCKS
    for call in mix.calls:
        addresses.append(address if call.block else 0)
        if call.block:
            memory.write(address, struct.pack(f"<{len(call.block)}Q", *call.block))
            address += layout.PAGE_BYTES
    return addresses


def _write_control(memory: GuestMemory, vcpu: int, syndbg: str) -> None:
    control, address = memory.control(vcpu), memory.control_address(vcpu)
    control.start = layout.CODE + SYMBOLS["start"]
    control.stack_top = address + layout.PAGE_BYTES
    stack = struct.pack("<Q", control.stack_top)
    memory.write(address + layout.TSS_OFFSET + _TSS_RSP0, stack)
    msrs = _msrs(syndbg, first=vcpu == 0)
    control.msr_count = len(msrs)
    for i, (index, value) in enumerate(msrs):
        control.msrs[i] = layout.Msr(index, value)


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


def _write_descriptor(descriptor: layout.Descriptor, call: Call, block: int) -> None:
    descriptor.input = call.input
    r8 = call.r8 or (layout.OUTPUT_PAGE if block else 0)
    for i, word in enumerate((block or call.rdx, r8, *call.xmm)):
        descriptor.registers_in[i] = descriptor.wanted[i] = word
    for i, word in call.writes:
        descriptor.wanted[i] = word
        descriptor.written |= 1 << i
    descriptor.target = layout.HYPERCALL_PAGE
    if call.via == "page":
        descriptor.entry = layout.HYPERCALL_PAGE
    else:
        descriptor.entry = layout.CODE + SYMBOLS[f"site_{call.via}"]
    descriptor.path = layout.PATHS.index(call.path)
    descriptor.enforce = call.enforce
    descriptor.answer_count = len(call.answers)
    for i, answer in enumerate(call.answers):
        descriptor.answers[i] = answer
