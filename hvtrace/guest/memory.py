"""What lies where in the guest's memory: one place for the VMM, the guest's code and the ledger.

All of it is one shared block (a memfd), because the counters in it must outlive the VM: a VM
that is killed in the middle of a call still has a ledger. The guest writes its results itself;
the VMM writes only the fields marked so.

=============  ====================================================================
from address   what
=============  ====================================================================
0x1000         page tables: PML4, PDPT, PD: the first GiB, 2 MiB pages, one to one
0x4000         GDT
0x5000         IDT
0x6000         code (hvtrace.guest.code)
0x7000         hypercall page: written by KVM when the guest enables it
0x8000         output page of memory calls
0x9000         parameter blocks of memory calls, a page each
then, by vCPU  control page (struct Control, TSS, stack), then a Descriptor for each call
=============  ====================================================================
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Sequence

PAGE_BYTES = 0x1000
PAGE_TABLES, GDT, IDT, CODE = 0x1000, 0x4000, 0x5000, 0x6000
HYPERCALL_PAGE, OUTPUT_PAGE, BLOCKS = 0x7000, 0x8000, 0x9000
GRANULE_BYTES = 0x200000

XMM_REGISTERS = 6
STATUS_ENTRIES = 32
MAX_MSRS = 16

u64 = ctypes.c_uint64


class StatusCount(ctypes.LittleEndianStructure):
    """How many calls ended with one status; count 0: the entry is free."""

    _fields_ = [("status", u64), ("count", u64)]


class Descriptor(ctypes.LittleEndianStructure):
    """One call: what the guest loads into its registers, and what it found after each call."""

    _fields_ = [
        ("input", u64),  # RCX: the hypercall input value
        ("rdx_in", u64),
        ("r8_in", u64),
        ("entry", u64),  # where the guest calls: the hypercall page, or one of its own sites
        ("xmm_in", u64 * (2 * XMM_REGISTERS)),  # XMM0-5, low half first
        ("target", u64),  # for the entry "user": where ring 3 begins
        ("repeat", u64),  # how often in the next slice; the VMM sets it before each
        ("started", u64),  # results, by the guest
        ("completed", u64),
        ("faulted", u64),  # #UD instead of a result
        ("reps", u64),  # sum of the results' bits 43:32
        ("rax_out", u64),  # registers after the last completed call
        ("rdx_out", u64),
        ("r8_out", u64),
        ("forwarded", u64),  # by the VMM: exits to it
        ("moved", u64),  # by the VMM: completed on another thread
        ("pad", u64),
        ("xmm_out", u64 * (2 * XMM_REGISTERS)),
        ("pad2", u64 * 24),
        ("statuses", StatusCount * STATUS_ENTRIES),
    ]


class Msr(ctypes.LittleEndianStructure):
    """One WRMSR the guest makes before its first call."""

    _fields_ = [("index", u64), ("value", u64)]


class Control(ctypes.LittleEndianStructure):
    """A vCPU's orders: it runs the descriptors from `first` up to `end`, then asks for more."""

    _fields_ = [
        ("first", u64),
        ("end", u64),
        ("msr_count", u64),
        ("current", u64),  # by the guest: the descriptor it works on
        ("stack_top", u64),
        ("panic_frame", u64),  # by the guest: RSP at an exception that nothing expects
        ("pad", u64 * 2),
        ("msrs", Msr * MAX_MSRS),
    ]


DESCRIPTOR_BYTES = ctypes.sizeof(Descriptor)
TSS_OFFSET = 0x200
TSS_LIMIT = 103
_TSS_RSP0 = 4

CODE_SELECTOR, USER_DATA_SELECTOR, USER_CODE_SELECTOR = 0x08, 0x1B, 0x23
_SEGMENTS = (
    0,
    0x00AF9B000000FFFF,  # 0x08 ring 0 code, 64 bit
    0x00CF93000000FFFF,  # 0x10 ring 0 data
    0x00CFF3000000FFFF,  # 0x18 ring 3 data
    0x00AFFB000000FFFF,  # 0x20 ring 3 code, 64 bit
)
GDT_LIMIT = 8 * len(_SEGMENTS) - 1
IDT_LIMIT = 16 * 256 - 1
_INTERRUPT_GATE = 0x8E00  # present, ring 0
_PRESENT_WRITE_USER = 0x7  # user too: calls from ring 3 are one of the paths
_LARGE = 0x80


class GuestMemory:
    """The memory of one VM, mapped here; shared with whoever holds the same descriptor."""

    def __init__(self, fd: int, vcpus: int, calls: int, blocks: int) -> None:
        """Map `fd`, whose size must be that of `size_bytes` for the same counts."""
        self.fd = fd
        self.vcpus = vcpus
        self.calls = calls
        self.blocks = blocks
        self.size_bytes = size_bytes(vcpus, calls, blocks)
        self.map = mmap.mmap(fd, self.size_bytes)

    @property
    def address(self) -> int:
        """Where this process has it mapped: what KVM wants to know."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def control_address(self, vcpu: int) -> int:
        """Guest address of a vCPU's control page."""
        area = PAGE_BYTES + _pages(self.calls * DESCRIPTOR_BYTES)
        return BLOCKS + self.blocks * PAGE_BYTES + vcpu * area

    def control(self, vcpu: int) -> Control:
        """A vCPU's control structure, in place."""
        return Control.from_buffer(self.map, self.control_address(vcpu))

    def descriptor_address(self, vcpu: int, call: int) -> int:
        """Guest address of the descriptor of call number `call`."""
        return self.control_address(vcpu) + PAGE_BYTES + call * DESCRIPTOR_BYTES

    def descriptor(self, vcpu: int, call: int) -> Descriptor:
        """A call's descriptor, in place."""
        return Descriptor.from_buffer(self.map, self.descriptor_address(vcpu, call))

    def write(self, address: int, data: bytes) -> None:
        """Copy `data` to guest address `address`."""
        self.map[address : address + len(data)] = data

    def write_block(self, block: int, words: Sequence[int]) -> int:
        """Write a parameter block of 64-bit words; returns its guest address."""
        address = BLOCKS + block * PAGE_BYTES
        self.write(address, struct.pack(f"<{len(words)}Q", *words))
        return address

    def write_tables(self, code: bytes, invalid_opcode: int, panic: int) -> None:
        """Page tables, GDT, IDT and code: all that does not depend on the calls.

        `invalid_opcode` and `panic` are offsets into `code`: the handlers of
        #UD, and of everything else.
        """
        pml4, pdpt, directory = (PAGE_TABLES + i * PAGE_BYTES for i in range(3))
        self.write(pml4, struct.pack("<Q", pdpt | _PRESENT_WRITE_USER))
        self.write(pdpt, struct.pack("<Q", directory | _PRESENT_WRITE_USER))
        large = (i * GRANULE_BYTES | _PRESENT_WRITE_USER | _LARGE for i in range(512))
        self.write(directory, struct.pack("<512Q", *large))
        self.write(GDT, struct.pack(f"<{len(_SEGMENTS)}Q", *_SEGMENTS))
        gates = (_gate(CODE + (invalid_opcode if v == 6 else panic)) for v in range(256))
        self.write(IDT, b"".join(gates))
        self.write(CODE, code)
        for vcpu in range(self.vcpus):
            stack_top = self.control_address(vcpu) + PAGE_BYTES
            self.control(vcpu).stack_top = stack_top
            self.write(
                self.control_address(vcpu) + TSS_OFFSET + _TSS_RSP0, struct.pack("<Q", stack_top)
            )


def size_bytes(vcpus: int, calls: int, blocks: int) -> int:
    """Memory a VM needs, in whole 2 MiB pages."""
    area = PAGE_BYTES + _pages(calls * DESCRIPTOR_BYTES)
    end = BLOCKS + blocks * PAGE_BYTES + vcpus * area
    return -(-end // GRANULE_BYTES) * GRANULE_BYTES


def create(name: str, vcpus: int, calls: int, blocks: int) -> int:
    """A new memory descriptor of the right size, full of zeros."""
    fd = os.memfd_create(name)
    os.ftruncate(fd, size_bytes(vcpus, calls, blocks))
    return fd


def _pages(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _gate(handler: int) -> bytes:
    return struct.pack(
        "<HHHHIxxxx",
        handler & 0xFFFF,
        CODE_SELECTOR,
        _INTERRUPT_GATE,
        handler >> 16 & 0xFFFF,
        handler >> 32,
    )
