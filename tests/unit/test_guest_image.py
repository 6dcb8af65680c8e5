"""What is written into a guest's memory, read back the way a processor would."""

from __future__ import annotations

import struct

import pytest

from hvtrace.guest import image
from hvtrace.guest import memory as layout
from hvtrace.guest.code import CODE, SYMBOLS
from hvtrace.guest.cpuid import FEATURES
from hvtrace.guest.image import Amount
from hvtrace.guest.memory import GuestMemory
from hvtrace.guest.mix import Call, Guest, Mix

PRESENT, WRITE, USER, LARGE = 1, 2, 4, 0x80
ADDRESS = 0x000FFFFFFFFFF000


def write(*calls: Call, vcpus: int = 1, guest: Guest | None = None, **amount: int) -> GuestMemory:
    mix = Mix("test", calls or (Call(1),), guest=guest or Guest(), swing=0.25)
    return image.write(mix, vcpus, Amount(**amount))


def translate(memory: GuestMemory, virtual: int) -> int:
    """Walk the page tables (AMD manual, volume 2, 5.3.4: 2 MiB pages)."""
    table = layout.PAGE_TABLES
    for shift in (39, 30):
        (entry,) = memory.words(table + 8 * (virtual >> shift & 511), 1)
        assert entry & (PRESENT | WRITE | USER) == PRESENT | WRITE | USER
        table = entry & ADDRESS
    (entry,) = memory.words(table + 8 * (virtual >> 21 & 511), 1)
    assert entry & (PRESENT | WRITE | USER | LARGE) == PRESENT | WRITE | USER | LARGE
    return (entry & ADDRESS) + (virtual & 0x1FFFFF)


@pytest.mark.parametrize("address", [0, 0x6000, 0x1FFFFF, 0x200000, 0x3FFFFFFF])
def test_addresses_are_one_to_one(address: int) -> None:
    assert translate(write(), address) == address


def test_every_vector_has_a_handler() -> None:
    memory = write()
    for vector in range(256):
        low, selector, flags, middle, high = struct.unpack_from(
            "<HHHHI", memory.map, layout.IDT + 16 * vector
        )
        handler = "invalid_opcode" if vector == 6 else "panic"
        assert low | middle << 16 | high << 32 == layout.CODE + SYMBOLS[handler]
        assert selector == layout.CODE_SELECTOR
        assert flags == 0x8E00  # present, ring 0, interrupt gate, no separate stack


@pytest.mark.parametrize(
    ("selector", "ring", "is_code"),
    [
        (layout.CODE_SELECTOR, 0, True),
        (layout.DATA_SELECTOR, 0, False),
        (layout.USER_DATA_SELECTOR, 3, False),
        (layout.USER_CODE_SELECTOR, 3, True),
    ],
)
def test_segments(selector: int, ring: int, is_code: bool) -> None:
    assert selector & 3 == ring
    (entry,) = write().words(layout.GDT + (selector & ~7), 1)
    assert entry >> 47 & 1  # present
    assert entry >> 45 & 3 == ring
    assert entry >> 44 & 1  # code or data
    assert bool(entry >> 43 & 1) == is_code
    assert bool(entry >> 53 & 1) == is_code  # 64 bit
    assert (selector & ~7) + 8 <= layout.GDT_BYTES


def test_code_is_in_place() -> None:
    memory = write()
    assert memory.map[layout.CODE : layout.CODE + len(CODE)] == CODE


def test_vcpus_have_their_own_stacks_and_task_segments() -> None:
    memory = write(vcpus=3)
    tops = []
    for vcpu in range(3):
        control, address = memory.control(vcpu), memory.control_address(vcpu)
        assert control.start == layout.CODE + SYMBOLS["start"]
        assert control.stack_top == address + layout.PAGE_BYTES
        rsp0 = struct.unpack_from("<Q", memory.map, address + layout.TSS_OFFSET + 4)
        assert rsp0 == (control.stack_top,)
        tops.append(control.stack_top)
    assert len(set(tops)) == 3


def msrs(memory: GuestMemory, vcpu: int) -> dict[int, int]:
    control = memory.control(vcpu)
    return {msr.index: msr.value for msr in control.msrs[: control.msr_count]}


def test_the_first_vcpu_makes_the_vm_a_hyperv_guest() -> None:
    memory = write(vcpus=2)
    assert msrs(memory, 0) == {
        0x40000080: 1,
        0x40000000: image.GUEST_OS_ID,
        0x40000001: layout.HYPERCALL_PAGE | 1,
    }
    assert msrs(memory, 1) == {0x40000080: 1}


@pytest.mark.parametrize(
    ("syndbg", "in_cpuid", "option"), [("off", 0, None), ("on", 1, None), ("hypercalls", 1, 4)]
)
def test_synthetic_debugger(syndbg: str, in_cpuid: int, option: int | None) -> None:
    memory = write(guest=Guest(syndbg=syndbg))
    assert memory.header.syndbg == in_cpuid
    assert msrs(memory, 0).get(0x400000FF) == option


@pytest.mark.parametrize(("vmm", "old"), [("new", 0), ("old", 1)])
def test_style_of_the_vmm(vmm: str, old: int) -> None:
    assert write(guest=Guest(vmm=vmm)).header.old_vmm == old


def test_header_has_shape_amount_and_edits() -> None:
    guest = Guest(withhold=("xmm-input", "spin-wait"), offer=("xmm-output",), eventfd=(0x10, 0x20))
    memory = write(vcpus=2, guest=guest, rounds=3, rate=7, seed=-5, first=6)
    header = memory.header
    assert (header.vcpus, header.calls, header.blocks) == (2, 1, 0)
    assert (header.rounds, header.rate, header.seed, header.first) == (3, 7.0, -5, 6)
    assert header.swing == 0.25
    assert list(header.connections[: header.connection_count]) == [0x10, 0x20]
    found = [(e.leaf, e.register, e.clear, e.set) for e in header.edits[: header.edit_count]]
    assert found == [
        (0x40000003, 3, FEATURES["xmm-input"][2], 0),
        (0x40000004, 1, 0xFFFFFFFF, 0),
        (0x40000003, 3, 0, FEATURES["xmm-output"][2]),
    ]


def test_descriptor_of_a_register_call() -> None:
    call = Call(
        0x14, fast=True, var=1, reps=3, rdx=11, r8=12, xmm=(1, 2, 3), times=5, enforce=True,
        path="vmm", answers=(7, 8),
    )  # fmt: skip
    (descriptor,) = write(call).descriptors(0)
    assert descriptor.input == 0x14 | 1 << 16 | 1 << 17 | 3 << 32
    assert list(descriptor.registers_in) == [11, 12, 1, 2, 3] + 9 * [0]
    assert list(descriptor.wanted) == list(descriptor.registers_in)
    assert descriptor.written == 0
    assert descriptor.entry == descriptor.target == layout.HYPERCALL_PAGE
    assert layout.PATHS[descriptor.path] == "vmm"
    assert (descriptor.times, descriptor.enforce) == (5, 1)
    assert list(descriptor.answers[: descriptor.answer_count]) == [7, 8]


def test_descriptor_of_a_call_with_output() -> None:
    call = Call(0x50, fast=True, rdx=11, r8=12, xmm=(1, 2, 3, 4, 5), writes=((0, 9), (4, 7)))
    (descriptor,) = write(call).descriptors(0)
    assert list(descriptor.registers_in) == [11, 12, 1, 2, 3, 4, 5] + 7 * [0]
    assert list(descriptor.wanted) == [9, 12, 1, 2, 7, 4, 5] + 7 * [0]
    assert descriptor.written == 0b10001


@pytest.mark.parametrize("via", ["vmcall", "vmmcall", "user"])
def test_calls_by_the_guests_own_sites(via: str) -> None:
    (descriptor,) = write(Call(2, via=via)).descriptors(0)
    assert descriptor.entry == layout.CODE + SYMBOLS[f"site_{via}"]


def test_blocks_have_a_page_each() -> None:
    first, none, second = write(
        Call(2, block=(1, 2, 3)), Call(8), Call(3, block=(4, 5))
    ).descriptors(0)
    memory = write(Call(2, block=(1, 2, 3)), Call(8), Call(3, block=(4, 5)), vcpus=2)
    assert memory.header.blocks == 2
    (rdx, r8), (no_rdx, no_r8), (other_rdx, other_r8) = (
        descriptor.registers_in[:2] for descriptor in (first, none, second)
    )
    assert memory.words(rdx, 3) == (1, 2, 3)
    assert memory.words(other_rdx, 2) == (4, 5)
    assert other_rdx - rdx == layout.PAGE_BYTES
    assert r8 == other_r8 == layout.OUTPUT_PAGE
    assert (no_rdx, no_r8) == (0, 0)
    assert [d.registers_in[0] for d in memory.descriptors(1)] == [rdx, 0, other_rdx]


def test_each_vcpu_of_the_run_has_its_own_prime() -> None:
    mix = Mix("test", (Call(1, times=6),), primes=True)
    found = [
        [memory.descriptors(vcpu)[0].times for vcpu in range(2)]
        for memory in (image.write(mix, 2, Amount(first=first)) for first in (0, 2))
    ]
    assert found == [[7, 11], [13, 17]]
