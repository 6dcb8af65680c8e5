"""The text for people of :mod:`hvtrace.hyperv.explain`'s documents: 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from hvtrace.hyperv.block import BLOCK_BYTES
from hvtrace.hyperv.explain import Document

WIDTH = 80
INDENT = 14

RESERVED = "30:27, 47:44, 63:60"

OUTLOOKS = {
    "memory": "none: a memory call",
    "none": "none: the call has no output",
    "unknown": "unknown: a size of this call is not known",
    "impossible": "impossible: input and output do not fit the registers together",
    "eligible": "wanted, and refused by kernels without XMM output (all up to 7.2)",
}

FROM_KVM = {
    "yes": "yes",
    "no": "no: where it is seen, it is the VMM's answer to a forwarded call",
    "forward": "no: KVM meets it inside SignalEvent, and forwards the call to the VMM",
    None: "no: where it is seen, it is the VMM's answer to a forwarded call",
}

XMM_INPUT_BIT = "CPUID 0x40000003 EDX bit 4 is set"
XMM_OUTPUT_BIT = "CPUID 0x40000003 EDX bit 15 is set"

LISTED = {"kernel": "k", "vmm": "v", "kernel-or-vmm": "k/v", "vmm-if-syndbg": "v", "status-2": "-"}


def render(document: Document) -> str:
    """The text of a document, without a newline at its end.

    Lines at the left margin are headings where they come first or after an empty line.
    """
    parts = {
        "call": _call,
        "input": _input,
        "status": _status,
        "result": _result,
        "list": _list,
    }
    return "\n".join(parts[document["about"]](document))


def _call(doc: Document) -> Iterator[str]:
    yield _title(doc["name"], doc["code"], doc["known"])
    kind = f"{doc['class'].capitalize()} call" if doc["class"] else "Class unknown"
    yield f"{kind}. Linux: {doc['linux_name']}" if doc["linux_name"] else f"{kind}."
    yield from _heading("Parameters")
    yield from _row("input", doc["input"]["words"])
    yield from _row("output", doc["output"]["words"])
    if doc["tlfs_fast"] is not None:
        ticked = "yes" if doc["tlfs_fast"] else "no"
        yield from _row("fast", f"TLFS 6.0b: {ticked} (it knows only the form of two registers)")
    yield from _heading("Memory call")
    yield from _memory(doc["input"]["words"], doc["output"]["words"])
    yield from _heading(_fast_heading(doc))
    yield from _registers(doc["fast_call"])
    yield from _heading("KVM")
    yield from _kvm(doc["kvm"])
    yield from _heading("How hvtrace counts XMM output")
    yield from _row("memory call", "memory")
    used = doc["xmm_output_verdicts"]["fast_in_registers"]
    without = " on kernels without it (all up to 7.2)" if used else ""
    yield from _row("fast call", _verdicts(doc) + without)
    if used:
        yield from _row("", f"{used} where KVM returns it and the call succeeds")
    yield from _end(doc)


def _fast_heading(doc: Document) -> str:
    fast = doc["fast_call"]
    counts = []
    if doc["class"] == "rep" or fast["rep_cnt"] != 1:
        counts.append(f"rep count {fast['rep_cnt']}")
    if doc["input"]["variable_header"] or fast["var_cnt"]:
        counts.append(f"variable header {fast['var_cnt']} x 8 bytes")
    return ", ".join(["Fast call", *counts])


def _memory(*lengths: str) -> Iterator[str]:
    """Where input and output of a memory call are; lengths in words."""
    places = ("RDX (32-bit: EBX:ECX)", "R8 (32-bit: EDI:ESI)")
    for label, length, place in zip(("input", "output"), lengths, places, strict=True):
        if length == "none":
            yield from _row(label, "none")
        else:
            some = "if any, " if length == "unknown" else ""
            yield from _row(label, f"{some}at the address in {place}")
    if set(lengths) != {"none"}:
        yield from _row("addresses", "8-byte aligned; parameters cross no page and do not overlap")


def _registers(fast: Document) -> Iterator[str]:
    """Where input and output of a fast call are."""
    yield from _carried("input", fast["input_bytes"], fast["input_registers"], BLOCK_BYTES)
    room = fast["output_room_bytes"]
    yield from _carried("output", fast["output_bytes"], fast["output_registers"], room)
    xmm = fast["xmm_input_registers"]
    if xmm is not None:
        last = f" to XMM{xmm - 1}" if xmm > 1 else ""
        yield from _row("XMM input", f"in XMM0{last}, if {XMM_INPUT_BIT}" if xmm else "no")
    if fast["max_reps"] is not None:
        yield from _row("max reps", f"{fast['max_reps']} fit the {BLOCK_BYTES} bytes")


def _carried(
    label: str, length: int | None, pieces: list[Document] | None, room: int | None
) -> Iterator[str]:
    """Length and registers of input or output, of which `room` bytes can be carried."""
    if length is None:
        yield from _row(label, "unknown")
    elif length == 0:
        yield from _row(label, "none")
    elif pieces is not None:
        condition = f" (64-bit callers, if {XMM_OUTPUT_BIT})" if label == "output" else ""
        yield from _row(label, _bytes(length) + condition)
        if label == "output":
            count = len(pieces)
            plural = "registers" if count > 1 else "register"
            yield f"{'':{INDENT}}{count} {plural}, first {pieces[0]['register']}"
        for piece in pieces:
            span = f"bytes {piece['first_byte']}-{piece['last_byte']}"
            narrow = f"(32-bit: {piece['register_32bit']})" if piece["register_32bit"] else ""
            yield f"{'':{INDENT}}{piece['register']:6}{span:14}{narrow}".rstrip()
    elif room is None:
        yield from _row(label, f"{_bytes(length)}, behind an input of unknown length")
    else:
        yield from _row(
            label, f"{_bytes(length)}, does not fit: the registers have room for {room}"
        )


def _kvm(doc: Document) -> Iterator[str]:
    yield from _row("handling", doc["words"])
    if doc["since"]:
        older = doc["since"].startswith("<=")
        since = f"{doc['since'].removeprefix('<=')}, or earlier" if older else doc["since"]
        yield from _row("since", since)
    if doc["vmms"]:
        yield from _row("VMMs", doc["vmms"])
    if doc["xmm_input_since"]:
        yield from _row("XMM input", f"read since {doc['xmm_input_since']}: {doc['xmm_use']}")
    for text in doc["history"]:
        yield from _row("kernels", text)
    previous = ""
    for end in doc["ends_with"]:
        if end["name"] != previous:
            if end["status"] is None:
                yield from _row("#UD", "the guest gets an exception, the call never completes")
            else:
                yield from _row(f"status {end['status']}", end["name"])
            previous = end["name"]
        yield from _row("", f"{end['when']}{_kernels(end)}", bullet="- ")


def _verdicts(doc: Document) -> str:
    fast = doc["xmm_output_verdicts"]["fast"]
    if fast == ["refused", "impossible"]:
        return f"refused up to {doc['fast_call']['max_reps']} reps, impossible beyond"
    return str(fast[0])


def _input(doc: Document) -> Iterator[str]:
    yield _title(doc["name"], doc["code"], doc["known"])
    yield f"Input value {doc['value']}"
    yield from _heading("Fields")
    yield from _row("15:0", f"code {doc['code']:#06x}")
    yield from _row("16", "fast: parameters in registers" if doc["fast"] else "memory call")
    yield from _row("26:17", f"variable header {doc['var_cnt']} x 8 bytes")
    yield from _row("31", "nested" if doc["nested"] else "not nested")
    yield from _row("43:32", f"rep count {doc['rep_cnt']}")
    yield from _row("59:48", f"rep start index {doc['rep_idx']}")
    yield from _row("must be 0", f"{doc['reserved']} (bits {RESERVED})")
    yield from _heading("Findings")
    for found in doc["findings"]:
        status = found["kvm_status"]
        end = "" if status is None else f" (KVM: status {status})"
        yield from _row("", f"{found['text']}{end}", bullet="- ")
    if not doc["findings"]:
        yield from _row("", "none")
    yield from _heading("Parameters")
    if doc["fast"]:
        yield from _registers(doc["fast_call"])
    else:
        sizes = [doc["input_bytes"], doc["output_bytes"]]
        yield from _memory(*("none" if size == 0 else "some" for size in sizes))
        for label, size in zip(("input", "output"), sizes, strict=True):
            yield from _row(f"{label} size", "unknown" if size is None else _bytes(size))
    yield from _row("XMM output", OUTLOOKS[doc["xmm_output"]])
    yield from _end(doc)


def _status(doc: Document) -> Iterator[str]:
    yield _title(doc["name"], doc["status"], doc["known"])
    yield from wrap(_meaning(doc), WIDTH)
    yield from _heading("From KVM itself")
    yield from _row("", FROM_KVM[doc["from_kvm"]])
    for rule in doc["kvm_returns_it_for"]:
        yield from _row("", f"{rule['calls']}: {rule['when']}{_kernels(rule)}", bullet="- ")
    yield from _end(doc)


def _result(doc: Document) -> Iterator[str]:
    yield _title(doc["name"], doc["status"], doc["known"])
    yield f"Result value {doc['value']}"
    yield from _heading("Fields")
    yield from _row("15:0", f"status {doc['status']:#06x}: {_meaning(doc)}")
    yield from _row("43:32", f"reps completed {doc['reps_completed']}")
    yield from _row("ignore", f"{doc['ignored']} (bits 31:16, 63:44)")
    yield from _end(doc)


def _list(doc: Document) -> Iterator[str]:
    yield f"{'code':7}{'call':41}{'input':16}{'output':8}KVM"
    for call in doc["calls"]:
        sizes = f"{call['input'] or '?':16}{call['output'] or '?':8}"
        yield f"{call['code']:#06x} {call['name']:41}{sizes}{LISTED[call['kvm']]}"
    yield ""
    yield f"{'status':7}{'name':54}from KVM itself"
    for status in doc["statuses"]:
        yield f"{status['status']:#06x} {status['name']:54}{status['from_kvm']}"
    yield from _heading("Legend")
    yield from _row("sizes", "bytes: fixed part, 8*var variable header, n*rep list; ? not known")
    yield from _row("KVM", "k answers in the kernel, v forwards to the VMM, - status 2")
    yield from _row("forward", "KVM meets this status inside, and forwards the call")
    yield from _end(doc)


def _kernels(rule: Document) -> str:
    return f" [{rule['kernels']}]" if rule["kernels"] else ""


def _meaning(doc: Document) -> str:
    return f"{doc['meaning']}." if doc["known"] else "Not known: in none of the sources used."


def _title(name: str, number: int, known: bool) -> str:
    return f"{name}  {number:#06x} ({number})" if known else f"{name} ({number}), not known"


def _heading(text: str) -> Iterator[str]:
    yield ""
    yield text


def _row(label: str, text: str, bullet: str = "") -> Iterator[str]:
    """`text` behind `label`, wrapped under itself."""
    lines = wrap(text, WIDTH - INDENT - len(bullet), break_on_hyphens=False)
    yield f"  {label:{INDENT - 2}}{bullet}{lines[0]}"
    for line in lines[1:]:
        yield f"{'':{INDENT + len(bullet)}}{line}"


def _end(doc: Document) -> Iterator[str]:
    if doc.get("note"):
        yield from _heading("Note")
        yield from _row("", doc["note"])
    yield from _heading("Sources")
    for source in doc["sources"]:
        yield from _row("", source)


def _bytes(number: int) -> str:
    return f"{number} byte" if number == 1 else f"{number} bytes"
