"""What counts of a row mean: its statuses, conventions and sizes, and what the call is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from rich.text import Text

from hvtrace.hyperv import kvm, statuses
from hvtrace.hyperv.explain import Document
from hvtrace.stats import text
from hvtrace.top.detail import Detail
from hvtrace.top.draw import BAR, LABEL, QUIET, Floats, bar, percent

FAILURE = "bold red"
"""Style of what should not be; the words say so too."""

VERDICTS = {
    "claimed": "success where this KVM returns nothing in registers: the guest reads what was "
    "there before",
    "refused": "it would fit the registers, but the call failed or never completed",
    "impossible": "input and output together exceed the 112 bytes of the registers",
    "used-gpr": "success, and no output beyond RDX and R8",
    "used-xmm": "success, with output in XMM registers",
}
"""What became of output in registers, the worst first."""

UNFINISHED = "it faulted (#UD), or the thread made its next call, or ended, before it completed"

Lines = list[Text]

_MEANING = 30  # columns, or a meaning gets lines of its own
_INDENT = 11  # of what the call is


def heading(title: str, width: int, note: str = "") -> Text:
    """A title, a rule, and a note at its right end."""
    line = Text().append(title, "bold")
    rule = width - line.cell_len - len(note) - (2 if note else 1)
    return line.append(f" {'─' * max(1, rule)} {note}".rstrip(), QUIET)


def prose(words: str, width: int) -> Lines:
    """`words`, wrapped."""
    return [Text(line) for line in wrap(words, width)]


class _Counted(NamedTuple):
    """A line of a small table: what was counted, of how many, and what it means."""

    name: str
    calls: int
    of: int
    meaning: str
    style: str = ""
    more: Sequence[str] = ()


def _counted(entries: Sequence[_Counted], width: int) -> Iterator[Text]:
    """Name, count, percent, meaning: beside them where there is room, else below."""
    name_width = max(len(entry.name) for entry in entries)
    count_width = max(len(f"{entry.calls:,}") for entry in entries)
    indent = name_width + count_width + 9
    below = width - indent < _MEANING
    for entry in entries:
        line = Text().append(entry.name.ljust(name_width), entry.style)
        line.append(f"  {entry.calls:{count_width},} {percent(entry.calls, entry.of):>4}")
        meaning = wrap(entry.meaning, max(10, width - (4 if below else indent)))
        if meaning and not below:
            line.append(f"  {meaning.pop(0)}")
        yield line
        for one in meaning:
            yield Text(" " * (4 if below else indent) + one)
        for item in entry.more:
            wrapped = wrap(item, width, initial_indent="  - ", subsequent_indent="    ")
            yield from (Text(one, QUIET) for one in wrapped)


def status_lines(detail: Detail, width: int) -> Lines:
    """What the calls ended with, and for each failure what KVM itself gives it for."""
    entries = [
        _Counted(name, count, detail.completed, *_status(detail, name))
        for name, count in detail.statuses.items()
    ]
    if detail.unfinished:
        when = [_when(r) for r in _rules(detail, None) if r.codes is not kvm.ALL]
        entries.append(
            _Counted(
                "never completed", detail.unfinished, detail.whole.calls, UNFINISHED, FAILURE, when
            )
        )
    return [heading("Status", width), *_counted(entries, width)] if entries else []


def _status(detail: Detail, name: str) -> tuple[str, str, list[str]]:
    """Meaning, style, and where it comes from."""
    number = next((v for v, known in statuses.STATUSES.items() if known.name == name), None)
    if number == 0:
        return "", "", []
    meaning = "" if number is None else statuses.STATUSES[number].meaning
    rules = [] if number is None else _rules(detail, number)
    more = [_when(rule) for rule in rules]
    if detail.code is not None and any(part.label == "vmm" for part in detail.handlers):
        more.append("or the VMM answered so" if rules else "the VMM answered so, KVM does not")
    return meaning or "not known: in none of the sources used", FAILURE, more


def _rules(detail: Detail, status: int | None) -> list[kvm.Rule]:
    """How KVM itself ends calls of this code so; [] for several codes."""
    if detail.code is None:
        return []
    return [rule for rule in kvm.rules_of(detail.code) if rule.status == status]


def _when(rule: kvm.Rule) -> str:
    return f"KVM, where {rule.when}" + (f" [{rule.kernels}]" if rule.kernels else "")


def convention_lines(detail: Detail, width: int) -> Lines:
    """How parameters were passed, and what became of output in registers."""
    calls = detail.whole.calls
    if not calls:
        return []
    entries = [
        _Counted("memory", calls - detail.fast, calls, "parameters in the guest's memory"),
        _Counted("fast", detail.fast, calls, "parameters in registers"),
        _Counted("XMM input", detail.xmm_input, calls, "input in XMM registers too"),
    ]
    lines = [heading("Convention", width), *_counted(entries, width)]
    asked = sum(detail.verdicts.values())
    verdicts = [
        _Counted(name, count, asked, meaning, FAILURE if name == "claimed" else "")
        for name, meaning in VERDICTS.items()
        if (count := detail.verdicts.get(name))
    ]
    if verdicts:
        noun = "call" if asked == 1 else "calls"
        lines.append(Text(f"output in registers, asked for by {asked:,} {noun}", QUIET))
        lines += _counted(verdicts, width)
    return lines


def size_lines(detail: Detail, width: int) -> Lines:
    """Calls by rep count and by size of the variable header."""
    reps, var = detail.reps, detail.var
    if not detail.whole.calls:
        return []
    lines = [heading("Sizes", width)]
    if reps is None and var is None:
        return [*lines, *prose("Rep counts and variable headers: not known (a replay).", width)]
    if not any(sizes is not None and sizes.any() for sizes in (reps, var)):
        return [*lines, *prose("No reps, no variable header.", width)]
    done = f", {text.quantity(detail.reps_completed)} completed" if detail.reps_completed else ""
    lines += _size_rows(f"reps{done}", reps, 1, width)
    lines += _size_rows("variable header, bytes", var, 8, width)
    return lines


def _size_rows(title: str, sizes: Floats | None, unit: int, width: int) -> Iterator[Text]:
    """A row for each power of two in use: entry i counts sizes in [2^i, 2^(i+1)) units."""
    if sizes is None or not sizes.any():
        yield Text(f"{title}: {'not known (a replay)' if sizes is None else 'none'}", QUIET)
        return
    yield Text(title, QUIET)
    used = np.flatnonzero(sizes)
    for i in range(int(used[0]), int(used[-1]) + 1):
        low, high = unit << i, ((2 << i) - 1) * unit
        count = int(sizes[i])
        line = Text(f"{low if low == high else f'{low}-{high}':>{LABEL - 1}} ")
        line.append(f"{text.quantity(count):>5} {percent(count, sizes.sum()):>4} ")
        yield line.append(bar(count / sizes.max(), width - line.cell_len), BAR)


def about_lines(doc: Document, width: int) -> Lines:
    """What the call is, what it carries and who answers it: the core of `hvtrace explain`."""
    kind = f"{doc['class']} call" if doc["class"] else "class unknown"
    linux = f", Linux: {doc['linux_name']}" if doc["linux_name"] else ""
    handling = doc["kvm"]
    rows = [
        ("", f"{doc['code']:#06x}, {kind}{linux}"),
        ("input", doc["input"]["words"]),
        ("output", doc["output"]["words"]),
        ("fast", _fast(doc["fast_call"])),
        ("KVM", handling["words"] + _since(handling["since"])),
        ("VMMs", handling["vmms"]),
        ("XMM input", handling["xmm_use"]),
        *(("kernels", history) for history in handling["history"]),
        ("note", doc["note"]),
        ("more", f"hvtrace explain {doc['code']:#06x}"),
    ]
    lines = [heading(doc["name"], width)]
    for label, words in rows:
        wrapped = wrap(words or "", max(10, width - _INDENT), break_on_hyphens=False)
        for number, one in enumerate(wrapped):
            lines.append(Text().append(f"{'' if number else label:{_INDENT}}", QUIET).append(one))
    return lines


def _since(kernel: str | None) -> str:
    if kernel is None:
        return ""
    return f"; since {kernel.removeprefix('<=')}{' or before' if kernel.startswith('<=') else ''}"


def _fast(fast: Document) -> str:
    """The registers that carry the input of a fast call."""
    if fast["input_bytes"] is None:
        return "not known: the size of the input is not"
    pieces = fast["input_registers"]
    if pieces is None:
        return "does not fit the registers"
    names = ", ".join(piece["register"] for piece in pieces) or "no input"
    if not fast["max_reps"]:
        return f"input in {names}" if pieces else names
    return f"input of one rep in {names}; {fast['max_reps']} reps fit the registers"
