"""Everything known about a call code, an input value, a result or a status, as one document.

A document is made of plain values: `hvtrace explain --json` prints it as it
is, and the text for people is made from nothing else.
"""

from __future__ import annotations

from typing import Any

from hvtrace.hyperv import codes, kvm, statuses, xmm
from hvtrace.hyperv.block import Layout, Piece, max_reps
from hvtrace.hyperv.codes import CODES, Definition
from hvtrace.hyperv.findings import findings
from hvtrace.hyperv.sizes import Size
from hvtrace.hyperv.values import decode_input, decode_result
from hvtrace.hyperv.xmm import xmm_input_registers

SCHEMA = 1

Document = dict[str, Any]

RULES_SOURCE = "TLFS 3.7 and 3.8: hypercall inputs, hypercall outputs"


def explain_code(code: int, var_cnt: int = 0, rep_cnt: int = 1) -> Document:
    """What a call code is, where a fast call with these counts has its data, what KVM does."""
    known = CODES.get(code)
    sources = [codes.SOURCES[letter] for letter in known.sources] if known else []
    return {
        "schema": SCHEMA,
        "about": "call",
        **_identity(code),
        "class": known.kind if known else None,
        "linux_name": known.linux_name if known else None,
        "input": _size(known.input if known else Size()),
        "output": _size(known.output if known else Size()),
        "tlfs_fast": known.tlfs_fast if known else None,
        "fast_call": _registers(known, var_cnt, rep_cnt),
        "kvm": _kvm(code),
        "xmm_output_verdicts": {
            "memory": ["memory"],
            "fast": list(_stock_verdicts(code)),
            "fast_in_registers": _success_verdict(code),
        },
        "note": known.note if known else "",
        "sources": [*sources, RULES_SOURCE, kvm.SOURCE],
    }


def explain_input(value: int) -> Document:
    """The fields of an input value, what is wrong with it, and where its data is."""
    fields = decode_input(value)
    counts = (fields.var_cnt, fields.rep_cnt)
    known = CODES.get(fields.code)
    return {
        "schema": SCHEMA,
        "about": "input",
        "value": f"{value:#x}",
        **_identity(fields.code),
        "fast": fields.fast,
        "var_cnt": fields.var_cnt,
        "nested": fields.nested,
        "rep_cnt": fields.rep_cnt,
        "rep_idx": fields.rep_idx,
        "reserved": f"{fields.reserved:#x}",
        "findings": [
            {"text": found.text, "kvm_status": found.kvm_status} for found in findings(fields)
        ],
        "input_bytes": known.input.length_bytes(*counts) if known else None,
        "output_bytes": known.output_bytes(fields.rep_cnt) if known else None,
        "fast_call": _registers(known, *counts) if fields.fast else None,
        "xmm_input": xmm.is_xmm_input(fields.code, fields.fast, *counts),
        "xmm_output": xmm.outlook(fields.code, fields.fast, *counts),
        "sources": [RULES_SOURCE, kvm.SOURCE],
    }


def explain_status(status: int) -> Document:
    """What a status means, and for what KVM itself returns it."""
    known = statuses.STATUSES.get(status)
    sources = [statuses.SOURCES[letter] for letter in known.sources] if known else []
    return {
        "schema": SCHEMA,
        "about": "status",
        **_status(status),
        "withdrawn": known.withdrawn if known else None,
        "kvm_returns_it_for": [
            {"calls": rule.scope, "when": rule.when, "kernels": rule.kernels}
            for rule in kvm.RULES
            if rule.status == status
        ],
        "sources": [*sources, kvm.SOURCE],
    }


def explain_result(value: int) -> Document:
    """The fields of a result value."""
    fields = decode_result(value)
    return {
        "schema": SCHEMA,
        "about": "result",
        "value": f"{value:#x}",
        **_status(fields.status),
        "reps_completed": fields.reps_completed,
        "ignored": f"{fields.ignored:#x}",
        "sources": [RULES_SOURCE],
    }


def explain_all() -> Document:
    """All codes and statuses, one line each."""
    return {
        "schema": SCHEMA,
        "about": "list",
        "calls": [
            {
                **_identity(code),
                "class": known.kind,
                "input": known.input.formula,
                "output": known.output.formula,
                "kvm": known.kvm,
                "kvm_since": known.kvm_since,
                "xmm_input_since": known.xmm_input_since,
            }
            for code, known in CODES.items()
        ],
        "statuses": [_status(status) for status in statuses.STATUSES],
        "sources": list(dict.fromkeys([*codes.SOURCES.values(), *statuses.SOURCES.values()])),
    }


def _identity(code: int) -> Document:
    return {"code": code, "name": codes.name_of(code), "known": code in CODES}


def _status(status: int) -> Document:
    known = statuses.STATUSES.get(status)
    return {
        "status": status,
        "name": statuses.name_of(status),
        "known": known is not None,
        "meaning": known.meaning if known else None,
        "from_kvm": known.from_kvm if known else None,
    }


def _size(size: Size) -> Document:
    return {
        "formula": size.formula or None,
        "words": size.in_words(),
        "fixed_bytes": size.fixed_bytes,
        "rep_bytes": size.element_bytes,
        "variable_header": size.variable_header,
    }


def _registers(known: Definition | None, var_cnt: int, rep_cnt: int) -> Document:
    """The register block of a fast call: what is not known is None."""
    input_bytes = known.input.length_bytes(var_cnt, rep_cnt) if known else None
    output_bytes = known.output_bytes(rep_cnt) if known else None
    # Without the output's size, the input's place is known all the same.
    layout = Layout(input_bytes, output_bytes or 0) if input_bytes is not None else None
    with_input = layout if layout and layout.input_fits else None
    with_both = layout if layout and layout.fits and output_bytes is not None else None
    return {
        "var_cnt": var_cnt,
        "rep_cnt": rep_cnt,
        "input_bytes": input_bytes,
        "output_bytes": output_bytes,
        "fits": layout.fits if layout and output_bytes is not None else None,
        "input_registers": _pieces(with_input.input_pieces(), True) if with_input else None,
        "output_registers": _pieces(with_both.output_pieces(), False) if with_both else None,
        "output_range": _range(with_both) if with_both else None,
        "output_room_bytes": layout.output_room_bytes if layout else None,
        "xmm_input_registers": xmm_input_registers(with_input.input_bytes) if with_input else None,
        "max_reps": max_reps(known, var_cnt) if known else None,
    }


def _range(layout: Layout) -> Document | None:
    """First register that carries output and how many do; None where there is no output."""
    names = [piece.register.name for piece in layout.output_pieces()]
    return {"first": names[0], "count": len(names)} if names else None


def _pieces(pieces: tuple[Piece, ...], narrow: bool) -> list[Document]:
    """The registers, and their names for 32-bit callers where `narrow`."""
    return [
        {
            "register": piece.register.name,
            "register_32bit": piece.register.name_32 if narrow else None,
            "first_byte": piece.first,
            "last_byte": piece.last,
        }
        for piece in pieces
    ]


def _kvm(code: int) -> Document:
    handling = kvm.handling_of(code)
    known = CODES.get(code)
    return {
        "handling": handling.how,
        "words": kvm.HANDLING[handling.how],
        "since": handling.since,
        "vmms": kvm.VMMS if "vmm" in handling.how else None,
        "xmm_input_since": known.xmm_input_since if known else None,
        "xmm_use": kvm.XMM_USE.get(code),
        "history": list(kvm.history_of(code)),
        "ends_with": [
            {
                "status": rule.status,
                "name": "#UD" if rule.status is None else statuses.name_of(rule.status),
                "when": rule.when,
                "kernels": rule.kernels,
            }
            for rule in kvm.rules_of(code)
        ],
    }


def _stock_verdicts(code: int) -> tuple[str, ...]:
    """Verdicts possible for fast calls on a kernel without XMM output.

    Such a kernel ends every fast call that has output itself, and never with
    success: "claimed" would be an anomaly.
    """
    fixed = xmm.fixed_verdict(code, fast=True)
    if fixed is not None:
        return (fixed,)
    reps = max_reps(CODES[code])
    if reps is None:
        fits = xmm.outlook(code, True, 0, 0) == "eligible"
        return ("refused",) if fits else ("impossible",)
    return ("refused", "impossible") if reps else ("impossible",)


def _success_verdict(code: int) -> str | None:
    """How a fast call counts that succeeds where KVM returns output; None: not by its output."""
    if xmm.fixed_verdict(code, fast=True) is not None:
        return None
    reps = min(max_reps(CODES[code]) or 0, 1)
    result = xmm.verdict(code, True, 0, reps, reps_completed=reps, status=0, xmm_out_kernel=True)
    return result if result.startswith("used") else None
