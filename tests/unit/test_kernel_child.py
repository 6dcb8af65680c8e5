"""What the loader's child does to a program before the kernel sees it."""

from __future__ import annotations

import ctypes
import struct

from hvtrace.kernel.child import _put_in_addresses

LD_IMM64, MAP_FD, MAP_VALUE = 0x18, 1, 2
MAPS = [71, 73, 79]


def wide(source: int, low: int, high: int = 0) -> bytes:
    """BPF_LD_IMM64 into r3: two instructions' room."""
    return struct.pack("<BBhI", LD_IMM64, source << 4 | 3, 0, low) + struct.pack("<II", 0, high)


def put(program: bytes) -> bytes:
    code = (ctypes.c_ubyte * len(program)).from_buffer_copy(program)
    _put_in_addresses(code, MAPS)
    return bytes(code)


def test_the_map_and_the_offset_stand_where_the_kernel_looks() -> None:
    assert put(wide(MAP_VALUE, 2 << 24 | 32896)) == wide(MAP_VALUE, 79, 32896)
    assert put(wide(MAP_VALUE, 0)) == wide(MAP_VALUE, 71, 0)
    assert put(wide(MAP_VALUE, 1 << 24 | 0xFFFFFF)) == wide(MAP_VALUE, 73, 0xFFFFFF)


def test_everything_else_stays() -> None:
    exit_ = struct.pack("<BBhI", 0x95, 0, 0, 0)
    program = wide(MAP_FD, 1) + wide(0, 0xFFFF_FFFF, 0xFF) + exit_
    assert put(program) == program
