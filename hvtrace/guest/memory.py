"""What lies where in the guest's memory: the one contract of VMM, guest and ledger.

All of it is one shared block (a memfd). `hvtrace guest` fills it in (hvtrace.guest.image); the
process of the VM, which knows no mixes, does what it says; the guest writes its results into it.
So the counters outlive the VM: one that is killed in the middle of a call still has a ledger.

=============  ====================================================================
from address   what
=============  ====================================================================
0x0000         struct Header: what the VM's process is to do (the guest never looks)
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

PAGE_BYTES = 0x1000
PAGE_TABLES, GDT, IDT, CODE = 0x1000, 0x4000, 0x5000, 0x6000
HYPERCALL_PAGE, OUTPUT_PAGE, BLOCKS = 0x7000, 0x8000, 0x9000
GRANULE_BYTES = 0x200000

REGISTERS = {
    "rdx": slice(0, 1),
    "r8": slice(1, 2),
    **{f"xmm{n}": slice(2 * n + 2, 2 * n + 4) for n in range(6)},
}
"""The registers of a fast call, and where each is among the REGISTER_WORDS words that hold them
all: the order of the TLFS (3.7.2), and of what KVM hands to a VMM."""
REGISTER_WORDS = 14
STATUS_ENTRIES = 24
MAX_ANSWERS = 20
MAX_MSRS = 16
MAX_EDITS = 16
MAX_CONNECTIONS = 16

PATHS = ("kernel", "fault", "unseen", "vmm", "immediate-exit", "other-thread", "killed")
"""What becomes of a call (hvtrace.guest.mix.PATHS says more); a descriptor holds the index."""

STOP_PORT = 0x10  # the guest asks for its next slice
PANIC_PORT = 0x11  # the guest had an exception that nothing expects

u32, u64, f64 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_double


class CpuidEdit(ctypes.LittleEndianStructure):
    """A change to what KVM offers: bits of a register (0 to 3: EAX to EDX) of a leaf."""

    _fields_ = [("leaf", u32), ("register", u32), ("clear", u32), ("set", u32)]


class Header(ctypes.LittleEndianStructure):
    """One VM: its shape and its orders, and what its process tells of it."""

    _fields_ = [
        ("vcpus", u64),
        ("calls", u64),
        ("blocks", u64),
        ("first", u64),  # number of its first vCPU in the whole run
        ("rounds", u64),  # how often the table is made, where the rate is 0
        ("seed", ctypes.c_int64),
        ("rate", f64),  # calls a second of each vCPU
        ("swing", f64),
        ("syndbg", u64),  # the synthetic debugger is in CPUID
        ("old_vmm", u64),  # the VMM knows nothing of output in registers
        ("edit_count", u64),
        ("edits", CpuidEdit * MAX_EDITS),
        ("connection_count", u64),
        ("connections", u64 * MAX_CONNECTIONS),  # served by KVM through an eventfd
        ("vm_fd", u64),  # by the VM's process
        ("kvm_hypercalls", u64),  # by the VM's process: KVM's own counter after the last call
    ]


class StatusCount(ctypes.LittleEndianStructure):
    """How many calls ended with one status; count 0: the entry is free."""

    _fields_ = [("status", u64), ("count", u64)]


class Descriptor(ctypes.LittleEndianStructure):
    """One call: what the guest loads into its registers, and what it found after each call.

    The registers found are compared with `wanted` after a success, with `registers_in` after a
    failure. From the first call on that left others, they stay as that call left them.
    """

    _fields_ = [
        ("input", u64),  # RCX: the hypercall input value
        ("entry", u64),  # where the guest calls: the hypercall page, or one of its own sites
        ("registers_in", u64 * REGISTER_WORDS),
        ("target", u64),  # for the entry "user": where ring 3 begins
        ("repeat", u64),  # how often in the next slice; the VMM sets it before each
        ("started", u64),  # results, by the guest
        ("completed", u64),
        ("confirmed", u64),  # of the completed: those before the first with wrong registers
        ("faulted", u64),  # #UD instead of a result
        ("reps", u64),  # sum of the results' bits 43:32
        ("rax_out", u64),  # as registers_out
        ("registers_out", u64 * REGISTER_WORDS),
        ("wanted", u64 * REGISTER_WORDS),
        ("written", u64),  # for the VMM: the words of `wanted` that it writes, a bit for each
        ("forwarded", u64),  # by the VMM: exits to it
        ("moved", u64),  # by the VMM: completed on another thread
        ("times", u64),  # for the VMM: how often in a round; with a rate: its share
        ("path", u64),  # for the VMM: index into PATHS
        ("enforce", u64),  # for the VMM: made while KVM enforces CPUID
        ("answer_count", u64),
        ("answers", u64 * MAX_ANSWERS),  # for the VMM: in turn
        ("pad", u64),
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
        ("start", u64),  # for the VMM: RIP of the first instruction
        ("tid", u64),  # by the VMM: its thread
        ("msrs", Msr * MAX_MSRS),
    ]


DESCRIPTOR_BYTES = ctypes.sizeof(Descriptor)

CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR = 0x08, 0x10, 0x28
USER_DATA_SELECTOR, USER_CODE_SELECTOR = 0x1B, 0x23
GDT_BYTES = TSS_SELECTOR  # the TSS, which nothing ever loads again, has no entry in it
IDT_BYTES = 256 * 16
TSS_OFFSET = 0x200  # in a control page
TSS_BYTES = 104


class GuestMemory:
    """The memory of one VM, mapped here; shared with whoever holds the same descriptor."""

    def __init__(self, fd: int) -> None:
        """Map `fd`, which is from `create`."""
        self.fd = fd
        self.size_bytes = os.fstat(fd).st_size
        self.map = mmap.mmap(fd, self.size_bytes)
        self.header = Header.from_buffer(self.map)

    @classmethod
    def create(cls, vcpus: int, calls: int, blocks: int) -> GuestMemory:
        """New memory of the right size, zeros but for these three counts."""
        fd = os.memfd_create("hvtrace-guest")
        area = PAGE_BYTES + whole_pages(calls * DESCRIPTOR_BYTES)
        end = BLOCKS + blocks * PAGE_BYTES + vcpus * area
        os.ftruncate(fd, -(-end // GRANULE_BYTES) * GRANULE_BYTES)
        memory = cls(fd)
        memory.header.vcpus, memory.header.calls, memory.header.blocks = vcpus, calls, blocks
        return memory

    @property
    def address(self) -> int:
        """Where this process has it mapped: what KVM wants to know."""
        return ctypes.addressof(self.header)

    def control_address(self, vcpu: int) -> int:
        """Guest address of a vCPU's control page."""
        area = PAGE_BYTES + whole_pages(self.header.calls * DESCRIPTOR_BYTES)
        return BLOCKS + int(self.header.blocks) * PAGE_BYTES + vcpu * area

    def control(self, vcpu: int) -> Control:
        """A vCPU's control structure, in place."""
        return Control.from_buffer(self.map, self.control_address(vcpu))

    def descriptor_address(self, vcpu: int, call: int) -> int:
        """Guest address of the descriptor of call number `call`."""
        return self.control_address(vcpu) + PAGE_BYTES + call * DESCRIPTOR_BYTES

    def descriptors(self, vcpu: int) -> list[Descriptor]:
        """The descriptors of a vCPU's calls, in place."""
        first, calls = self.descriptor_address(vcpu, 0), range(self.header.calls)
        return [Descriptor.from_buffer(self.map, first + i * DESCRIPTOR_BYTES) for i in calls]

    def write(self, address: int, data: bytes) -> None:
        """Copy `data` to guest address `address`."""
        self.map[address : address + len(data)] = data

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """`count` 64-bit words from guest address `address`."""
        return struct.unpack_from(f"<{count}Q", self.map, address)


def whole_pages(size: int) -> int:
    """`size` in bytes, rounded up to pages."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES
