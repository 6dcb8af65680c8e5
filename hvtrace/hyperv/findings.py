"""What is wrong with an input value, and what KVM makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hvtrace.hyperv import kvm
from hvtrace.hyperv.block import BLOCK_BYTES, layout_of
from hvtrace.hyperv.codes import CODES, Definition
from hvtrace.hyperv.values import InputValue


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about an input value that a caller should not have done."""

    text: str
    kvm_status: int | None = None  # how KVM ends the call for it; None: it does not mind


def findings(value: InputValue) -> tuple[Finding, ...]:
    """Everything that is wrong with `value`, in the order in which KVM looks at it."""
    known = CODES.get(value.code)
    found = [*_bits(value), *_code(value)]
    if known is not None:
        found += [*_rep(value, known), *_variable_header(value, known), *_room(value, known)]
    return tuple(found)


def _bits(value: InputValue) -> Iterator[Finding]:
    for bits in value.reserved_fields:
        yield Finding(f"bits {bits} must be zero (the tracepoint does not show them)", 3)
    if value.nested:
        yield Finding("bit 31 asks the hypervisor below (the tracepoint does not show it)", 3)


def _code(value: InputValue) -> Iterator[Finding]:
    how = kvm.handling_of(value.code).how
    if value.code not in CODES:
        yield Finding("the call code is not known", 2 if how == "status-2" else None)
    elif how == "status-2":
        yield Finding("KVM does not implement this call code", 2)
    if value.fast and (value.code in kvm.NOT_FAST or value.code in kvm.EXTENDED):
        yield Finding("KVM refuses this call code when fast", 5)


def _rep(value: InputValue, known: Definition) -> Iterator[Finding]:
    count, index = value.rep_cnt, value.rep_idx
    if known.kind == "simple" and (count or index):
        status = 3 if value.code in kvm.NO_REP else None
        yield Finding(f"a simple call has no reps, here: count {count}, start {index}", status)
    if known.kind == "rep":
        status = 3 if value.code in kvm.FLUSH_LIST else None
        if not count:
            yield Finding("a rep call needs a rep count, here: 0", status)
        elif index >= count:
            yield Finding(f"the rep start index {index} is not below the count {count}", status)
        elif index:
            yield Finding(f"start index {index}: KVM does not continue rep calls", status)


def _variable_header(value: InputValue, known: Definition) -> Iterator[Finding]:
    if value.var_cnt and known.input.variable_header is False:
        status = 3 if value.code in kvm.NO_VAR else None
        yield Finding(f"this call has no variable header, here: {8 * value.var_cnt} bytes", status)


def _room(value: InputValue, known: Definition) -> Iterator[Finding]:
    layout = layout_of(known, value.var_cnt, value.rep_cnt)
    if value.fast and layout and not layout.fits:
        yield Finding(
            f"{layout.input_bytes} bytes of input and {layout.output_bytes} of output do not fit "
            f"the {BLOCK_BYTES} bytes of a fast call"
        )
