"""The two words of every hypercall: input value (RCX) and result value (RAX).

Bits as in TLFS 3.7 "hypercall inputs" and 3.8 "hypercall outputs". A 32-bit
caller passes the input value in EDX:EAX and finds the result there.
"""

from __future__ import annotations

from dataclasses import dataclass

CODE_MASK = 0xFFFF
FAST_BIT = 1 << 16
VAR_SHIFT = 17
MAX_VAR = 0x3FF  # bits 26:17
NESTED_BIT = 1 << 31
REP_COUNT_SHIFT = 32
REP_INDEX_SHIFT = 48
MAX_REP = 0xFFF  # bits 43:32 and 59:48

MUST_BE_ZERO = {"30:27": 0xF << 27, "47:44": 0xF << 44, "63:60": 0xF << 60}
"""Reserved fields of the input value, by their bits."""

_RESERVED = sum(MUST_BE_ZERO.values())

STATUS_MASK = 0xFFFF
REPS_DONE_SHIFT = 32  # bits 43:32
_RESULT_IGNORED = 0xFFFF_FFFF_FFFF_FFFF & ~(STATUS_MASK | MAX_REP << REPS_DONE_SHIFT)


@dataclass(frozen=True, slots=True)
class InputValue:
    """The fields of a hypercall input value."""

    code: int
    fast: bool = False
    var_cnt: int = 0  # variable header, in 8-byte units
    rep_cnt: int = 0
    rep_idx: int = 0
    nested: bool = False  # bit 31: the hypervisor below is asked
    reserved: int = 0  # must-be-zero bits that are set, in place

    @property
    def reserved_fields(self) -> tuple[str, ...]:
        """Bits of the must-be-zero fields that are not zero, as "30:27"."""
        return tuple(bits for bits, mask in MUST_BE_ZERO.items() if self.reserved & mask)


def decode_input(value: int) -> InputValue:
    """Take a 64-bit input value apart; ValueError for anything that is none."""
    _check(value, 64, "input value")
    return InputValue(
        code=value & CODE_MASK,
        fast=bool(value & FAST_BIT),
        var_cnt=value >> VAR_SHIFT & MAX_VAR,
        rep_cnt=value >> REP_COUNT_SHIFT & MAX_REP,
        rep_idx=value >> REP_INDEX_SHIFT & MAX_REP,
        nested=bool(value & NESTED_BIT),
        reserved=value & _RESERVED,
    )


def encode_input(fields: InputValue) -> int:
    """The 64-bit input value of these fields; ValueError for one that is out of range."""
    _check(fields.code, 16, "code")
    _check(fields.var_cnt, 10, "variable header size")
    _check(fields.rep_cnt, 12, "rep count")
    _check(fields.rep_idx, 12, "rep start index")
    if fields.reserved & ~_RESERVED:
        raise ValueError(f"{fields.reserved:#x} has bits that are not reserved")
    return (
        fields.code
        | (FAST_BIT if fields.fast else 0)
        | fields.var_cnt << VAR_SHIFT
        | (NESTED_BIT if fields.nested else 0)
        | fields.rep_cnt << REP_COUNT_SHIFT
        | fields.rep_idx << REP_INDEX_SHIFT
        | fields.reserved
    )


@dataclass(frozen=True, slots=True)
class ResultValue:
    """The fields of a hypercall result value."""

    status: int
    reps_completed: int = 0  # an absolute count, whatever the start index
    ignored: int = 0  # the bits that a caller must not look at, in place


def decode_result(value: int) -> ResultValue:
    """Take a 64-bit result value apart; ValueError for anything that is none."""
    _check(value, 64, "result value")
    return ResultValue(
        status=value & STATUS_MASK,
        reps_completed=value >> REPS_DONE_SHIFT & MAX_REP,
        ignored=value & _RESULT_IGNORED,
    )


def encode_result(fields: ResultValue) -> int:
    """The 64-bit result value of these fields; ValueError for one that is out of range."""
    _check(fields.status, 16, "status")
    _check(fields.reps_completed, 12, "reps completed")
    if fields.ignored & ~_RESULT_IGNORED:
        raise ValueError(f"{fields.ignored:#x} has bits that are not ignored")
    return fields.status | fields.reps_completed << REPS_DONE_SHIFT | fields.ignored


def _check(number: int, bits: int, what: str) -> None:
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{what} {number} does not fit {bits} bits")
