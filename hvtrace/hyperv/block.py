"""Where the parameters of a fast call are: the 112-byte block laid over registers.

The block is seven pairs of 16 bytes: pair 0 is RDX and R8, pair n is
XMM(n-1). Input starts at byte 0, output at the first pair after the input
(TLFS 3.7.2 "XMM fast hypercall input", 3.8.1 "XMM fast hypercall output").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hvtrace.hyperv.codes import Definition
from hvtrace.hyperv.values import MAX_REP

PAIR_BYTES = 16
PAIRS = 7
BLOCK_BYTES = PAIRS * PAIR_BYTES


class Register(NamedTuple):
    """One register of the block, by its names for 64-bit and 32-bit callers.

    XMM output (TLFS 3.8.1) is for 64-bit callers only; XMM input is for both.
    """

    name: str
    name_32: str | None  # None: the same
    start: int  # its first byte in the block
    size_bytes: int


REGISTERS = (
    Register("RDX", "EBX:ECX", 0, 8),
    Register("R8", "EDI:ESI", 8, 8),
    *(Register(f"XMM{n}", None, PAIR_BYTES * (n + 1), PAIR_BYTES) for n in range(PAIRS - 1)),
)


class Piece(NamedTuple):
    """The bytes `first` to `last` of the parameters, and the register that holds them."""

    register: Register
    first: int
    last: int


def pairs(length_bytes: int) -> int:
    """Pairs that `length_bytes` bytes take, a partly used one included."""
    return -(-length_bytes // PAIR_BYTES)


@dataclass(frozen=True, slots=True)
class Layout:
    """Input and output of one fast call in the block; lengths of whole rep lists, in bytes."""

    input_bytes: int
    output_bytes: int

    @property
    def input_fits(self) -> bool:
        """Whether the input alone fits; if not, the call exists as a memory call only."""
        return self.input_bytes <= BLOCK_BYTES

    @property
    def fits(self) -> bool:
        """Whether input and output fit together."""
        return pairs(self.input_bytes) + pairs(self.output_bytes) <= PAIRS

    @property
    def first_output_pair(self) -> int:
        """Pair where output begins: registers that carry input are left unchanged."""
        return pairs(self.input_bytes)

    @property
    def output_room_bytes(self) -> int:
        """Bytes that the input leaves for output."""
        return max(0, BLOCK_BYTES - self.first_output_pair * PAIR_BYTES)

    def input_pieces(self) -> tuple[Piece, ...]:
        """Registers that carry the input; ValueError where it does not fit."""
        if not self.input_fits:
            raise ValueError(f"{self.input_bytes} bytes of input exceed the block")
        return tuple(_pieces(0, self.input_bytes))

    def output_pieces(self) -> tuple[Piece, ...]:
        """Registers that carry the output; ValueError where it does not fit."""
        if not self.fits:
            raise ValueError(f"{self.output_bytes} bytes of output exceed the block")
        return tuple(_pieces(self.first_output_pair * PAIR_BYTES, self.output_bytes))


def _pieces(start: int, length_bytes: int) -> Iterator[Piece]:
    end = start + length_bytes
    for register in REGISTERS:
        first = max(start, register.start)
        last = min(end, register.start + register.size_bytes) - 1
        if first <= last:
            yield Piece(register, first - start, last - start)


def layout_of(known: Definition, var_cnt: int, rep_cnt: int) -> Layout | None:
    """Layout of a call of this code; None where a size is not known."""
    input_bytes = known.input.length_bytes(var_cnt, rep_cnt)
    output_bytes = known.output_bytes(rep_cnt)
    if input_bytes is None or output_bytes is None:
        return None
    return Layout(input_bytes, output_bytes)


def max_reps(known: Definition, var_cnt: int = 0) -> int | None:
    """Most elements that a fast call of this code can have.

    0 where not even one fits. None where the count does not matter (no
    element on either side) or a size is not known.
    """
    if known.input.element_bytes == known.output.element_bytes == 0:
        return None
    if layout_of(known, var_cnt, 1) is None:
        return None
    fitting = 0
    for rep_cnt in range(1, MAX_REP + 1):
        layout = layout_of(known, var_cnt, rep_cnt)
        if layout is None or not layout.fits:
            break
        fitting = rep_cnt
    return fitting
