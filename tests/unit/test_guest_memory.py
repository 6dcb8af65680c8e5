"""The layout of a guest's memory: nothing overlaps, everything is aligned, both sides see it."""

from __future__ import annotations

import ctypes
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.guest import memory as layout
from hvtrace.guest.memory import Control, Descriptor, GuestMemory, Header
from hvtrace.hyperv import block

shapes = st.tuples(st.integers(1, 64), st.integers(1, 100), st.integers(0, 40))


def extents(memory: GuestMemory) -> list[tuple[int, int]]:
    """(start, end) of everything in it."""
    header = memory.header
    fixed = [
        (0, ctypes.sizeof(Header)),
        (layout.PAGE_TABLES, layout.PAGE_TABLES + 3 * layout.PAGE_BYTES),
        (layout.GDT, layout.GDT + layout.GDT_BYTES),
        (layout.IDT, layout.IDT + layout.IDT_BYTES),
        (layout.CODE, layout.CODE + layout.PAGE_BYTES),
        (layout.HYPERCALL_PAGE, layout.HYPERCALL_PAGE + layout.PAGE_BYTES),
        (layout.OUTPUT_PAGE, layout.OUTPUT_PAGE + layout.PAGE_BYTES),
        (layout.BLOCKS, layout.BLOCKS + header.blocks * layout.PAGE_BYTES),
    ]
    for vcpu in range(header.vcpus):
        control = memory.control_address(vcpu)
        fixed.append((control, control + layout.PAGE_BYTES))
        first = memory.descriptor_address(vcpu, 0)
        fixed.append((first, first + header.calls * layout.DESCRIPTOR_BYTES))
    return fixed


@given(shapes)
def test_nothing_overlaps_and_all_is_inside(shape: tuple[int, int, int]) -> None:
    memory = GuestMemory.create(*shape)
    parts = sorted(extents(memory))
    for (_, end), (start, _) in pairwise(parts):
        assert end <= start
    assert parts[-1][1] <= memory.size_bytes
    assert memory.size_bytes % layout.GRANULE_BYTES == 0
    assert memory.size_bytes <= 512 * layout.GRANULE_BYTES  # what the page tables cover
    os.close(memory.fd)


@given(shapes)
def test_descriptors_are_aligned_for_movaps(shape: tuple[int, int, int]) -> None:
    memory = GuestMemory.create(*shape)
    for vcpu in (0, shape[0] - 1):
        assert memory.descriptor_address(vcpu, shape[1] - 1) % 16 == 0
    os.close(memory.fd)
    xmm = 8 * layout.REGISTERS["xmm0"].start
    assert (Descriptor.registers_in.offset + xmm) % 16 == 0
    assert (Descriptor.registers_out.offset + xmm) % 16 == 0
    assert layout.DESCRIPTOR_BYTES % 16 == 0


def test_registers_lie_as_in_the_block_of_the_tlfs() -> None:
    """Same names, same places as where hvtrace explains them."""
    found = {name.upper(): (8 * s.start, 8 * s.stop) for name, s in layout.REGISTERS.items()}
    assert found == {r.name: (r.start, r.start + r.size_bytes) for r in block.REGISTERS}
    assert 8 * layout.REGISTER_WORDS == block.BLOCK_BYTES


def test_a_descriptor_is_what_its_size_says() -> None:
    assert layout.DESCRIPTOR_BYTES == 1024


def test_status_table_ends_with_the_descriptor() -> None:
    """The guest's search for an entry stops at the descriptor's end."""
    assert Descriptor.statuses.offset + Descriptor.statuses.size == layout.DESCRIPTOR_BYTES


def test_control_page_has_room_for_all_three() -> None:
    assert ctypes.sizeof(Control) <= layout.TSS_OFFSET
    assert layout.TSS_OFFSET + layout.TSS_BYTES < layout.PAGE_BYTES // 2  # the rest is stack


def test_header_does_not_reach_the_page_tables() -> None:
    assert ctypes.sizeof(Header) <= layout.PAGE_TABLES


def test_two_maps_of_one_descriptor_are_one_memory() -> None:
    here = GuestMemory.create(2, 3, 1)
    there = GuestMemory(here.fd)
    assert (there.header.vcpus, there.header.calls, there.header.blocks) == (2, 3, 1)
    there.descriptors(1)[2].completed = 41
    assert here.descriptors(1)[2].completed == 41
    assert [d.completed for d in here.descriptors(1)] == [0, 0, 41]
    assert [d.completed for d in here.descriptors(0)] == [0, 0, 0]


def test_fields_are_where_the_addresses_say() -> None:
    memory = GuestMemory.create(2, 3, 1)
    memory.control(1).end = 0x1122334455667788
    assert memory.words(memory.control_address(1) + 8, 1) == (0x1122334455667788,)
    memory.descriptors(1)[2].entry = 7
    assert memory.words(memory.descriptor_address(1, 2) + 8, 1) == (7,)


def test_address_is_that_of_the_map() -> None:
    memory = GuestMemory.create(1, 1, 0)
    memory.write(layout.BLOCKS, b"here")
    assert ctypes.string_at(memory.address + layout.BLOCKS, 4) == b"here"


@pytest.mark.parametrize(("size", "pages"), [(0, 0), (1, 1), (4096, 1), (4097, 2)])
def test_whole_pages(size: int, pages: int) -> None:
    assert layout.whole_pages(size) == pages * layout.PAGE_BYTES
