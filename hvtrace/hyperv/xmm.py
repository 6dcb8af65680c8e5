"""Which calls use XMM registers, for input and for output.

*Fast* is not *XMM*: a fast call with at most 16 bytes of input has it in two
general registers. And the "XMM output" convention is not always an XMM
register: a call without input finds its output in RDX and R8.
"""

from __future__ import annotations

from typing import NamedTuple

from hvtrace.hyperv.block import PAIR_BYTES, layout_of, pairs
from hvtrace.hyperv.codes import CODES

VERDICTS = (
    "memory",
    "none",
    "unknown",
    "impossible",
    "refused",
    "used-gpr",
    "used-xmm",
    "claimed",
)
"""All verdicts on the XMM output of a call that is over, see :func:`verdict`."""

COUNTED = ("impossible", "refused", "used-gpr", "used-xmm")
"""Verdicts that differ from call to call, in the order of hvtrace.h's `enum hvt_xmm_output`.
The BPF programs count these; the others follow from (code, fast): :func:`fixed_verdict`."""


def is_xmm_input(code: int, fast: bool, var_cnt: int, rep_cnt: int) -> bool | None:
    """Whether the call passes input in XMM registers; None where its input size is unknown.

    TLFS 3.7.2: exactly where a fast call has more than 16 bytes of input.
    """
    if not fast:
        return False
    known = CODES.get(code)
    length_bytes = known.input.length_bytes(var_cnt, rep_cnt) if known else None
    return None if length_bytes is None else length_bytes > PAIR_BYTES


def xmm_input_registers(input_bytes: int) -> int:
    """Number of XMM registers that carry fast input of this length, from XMM0 on."""
    return max(0, pairs(input_bytes) - 1)


def fixed_verdict(code: int, fast: bool) -> str | None:
    """The verdict that is the same for all calls of (code, fast); None where calls differ."""
    if not fast:
        return "memory"
    known = CODES.get(code)
    if known is None:
        return "unknown"
    if known.output.is_none:
        return "none"
    return None if known.input.known and known.output.known else "unknown"


def outlook(code: int, fast: bool, var_cnt: int, rep_cnt: int) -> str:
    """The verdict on a call that is still open: one of VERDICTS, or "eligible".

    "eligible" has output and fits; its end decides between the last four.
    """
    fixed = fixed_verdict(code, fast)
    if fixed is not None:
        return fixed
    layout = layout_of(CODES[code], var_cnt, rep_cnt)
    return "eligible" if layout and layout.fits else "impossible"


def verdict(
    code: int,
    fast: bool,
    var_cnt: int,
    rep_cnt: int,
    *,
    reps_completed: int,
    status: int | None,
    xmm_out_kernel: bool,
) -> str:
    """What became of the XMM output of a call that is over: one of VERDICTS.

    `status` is None for a call that never completed; `xmm_out_kernel` says
    whether the kernel has the feature at all (none up to 7.2 has).

    - ``memory``: not a fast call
    - ``none``: fast, and the code has no output
    - ``unknown``: fast, but the code or a size of it is not known
    - ``impossible``: input and output together exceed the 112 bytes
    - ``refused``: it would fit, but the call failed or never completed
    - ``used-gpr``: success, and no output beyond RDX and R8
    - ``used-xmm``: success, with output in an XMM register
    - ``claimed``: success on a kernel that cannot have done it: an anomaly
    """
    open_verdict = outlook(code, fast, var_cnt, rep_cnt)
    if open_verdict != "eligible":
        return open_verdict
    if status != 0:
        return "refused"
    if not xmm_out_kernel:
        return "claimed"
    known = CODES[code]
    first = pairs(known.input.length_bytes(var_cnt, rep_cnt) or 0)
    # Only completed elements are written, from the start of the list.
    used = pairs(known.output_bytes(reps_completed) or 0)
    return "used-xmm" if used and first + used > 1 else "used-gpr"


class Abi(NamedTuple):
    """Parameter sizes of a code in bytes: `struct hvt_abi` of hvtrace.h, in its order."""

    in_fixed: int
    out_fixed: int
    in_elem: int
    out_elem: int
    flags: int


ABI_INPUT = 1  # HVT_ABI_INPUT: input size known
ABI_OUTPUT = 2  # HVT_ABI_OUTPUT: output size known, and not zero


def abi_table() -> dict[int, Abi]:
    """What the BPF programs need to know of every known code.

    An unknown size has its flag clear, and then 0 as a filler. With both
    flags a call gets one of COUNTED, without one of them fixed_verdict().
    """
    return {code: _abi(code) for code in CODES}


def _abi(code: int) -> Abi:
    known = CODES[code]
    has_output = known.output.known and not known.output.is_none
    return Abi(
        in_fixed=known.input.fixed_bytes or 0 if known.input.known else 0,
        out_fixed=known.output.fixed_bytes or 0 if has_output else 0,
        in_elem=known.input.element_bytes or 0 if known.input.known else 0,
        out_elem=known.output.element_bytes or 0 if has_output else 0,
        flags=(ABI_INPUT if known.input.known else 0) | (ABI_OUTPUT if has_output else 0),
    )
