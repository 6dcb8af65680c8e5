"""The audit for people: a section for each guest, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hvtrace.audit import words
from hvtrace.audit.facts import Guest, Host
from hvtrace.audit.rules import Finding, findings
from hvtrace.hyperv.cpuid import BY_NAME, FEATURES, Cpuid, Feature
from hvtrace.hyperv.interface import KINDS
from hvtrace.stats import text
from hvtrace.stats.snapshot import Lost
from hvtrace.stats.table import LOSSES

WIDTH = 80
_LABEL = 14  # columns of the words in front
_COLUMNS = {"a minute": 9, "memory": 7, "registers": 10, "xmm": 5}
_COLORS = {"error": "\x1b[31m", "warning": "\x1b[33m", "advice": "\x1b[36m"}
_XMM = (BY_NAME["xmm-input"], BY_NAME["xmm-output"])  # always of interest
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def render(host: Host, guests: Sequence[Guest], lost: Lost, color: bool = False) -> str:
    """All of it, a newline behind every line, none of which is longer than WIDTH."""
    number = f"{len(guests)} guest{'' if len(guests) == 1 else 's'}" if guests else "No guests"
    span = text.duration(host.duration_s * 1e9)
    out = [f"{number} in {span} on Linux {host.kernel}"]
    out += _row("XMM output", KINDS[host.xmm_output_kind])
    for guest in guests:
        heading = f"{guest.vm.name} ({guest.vm.vmm}, pid {guest.vm.pid})"
        cut = text.printable(heading)[: WIDTH - 16]
        title = f"{cut}: {guest.vcpus} vCPU{'' if guest.vcpus == 1 else 's'}"
        out += ["", f"{_BOLD}{title}{_PLAIN}" if color else title]
        out += [
            *_setup(host, guest),
            *_calls(host, guest),
            *_findings(findings(host, guest), color),
        ]
    losses = [
        f"lost: {getattr(lost, name):,} {what}"
        for name, what in LOSSES.items()
        if getattr(lost, name)
    ]
    if host.notes or losses:
        out += ["", *(line for note in (*host.notes, *losses) for line in _wrap(note, "", "  "))]
    return "\n".join(out) + "\n"


def _setup(host: Host, guest: Guest) -> Iterator[str]:
    """What CPUID shows and what else KVM offers, and what the command line says."""
    given = guest.given
    if given is None:
        yield from _row("exposed", "not known: no BTF, or no vCPU has entered its guest meanwhile")
    elif guest.hyperv is False:
        yield from _row("exposed", "nothing of Hyper-V")
    else:
        shown = [_shown(one, given) for one in FEATURES if one.exposed(given)]
        yield from _row("exposed", ", ".join(shown) or "none of what hvtrace knows")
        withheld = [
            one.name
            for one in FEATURES
            if one.exposed(given) is False and (one.exposed(host.offered) or one in _XMM)
        ]
        yield from _row("not exposed", ", ".join(withheld))
    enforced = {True: "on", False: "off", None: "not known"}[guest.enforced]
    yield from _row("enforcement", enforced)
    if guest.flags is not None:
        yield from _row("QEMU's flags", text.printable(", ".join(guest.flags)) or "none")


def _shown(feature: Feature, cpuid: Cpuid) -> str:
    """A feature by name; where it is a number of retries, with that."""
    retries = f"={cpuid.enlightenments_ebx:#x}" if feature.name == "spin-wait" else ""
    return feature.name + retries


@dataclass(slots=True)
class _Use:
    """What a guest makes of one code."""

    calls: int = 0
    fast: int = 0
    xmm_input: int = 0
    output: dict[str, int] = field(default_factory=dict)  # verdicts other than memory and none


def _uses(guest: Guest) -> dict[int, _Use]:
    found: dict[int, _Use] = {}
    for call in guest.calls:
        use = found.setdefault(call.code, _Use())
        use.calls += call.calls
        use.fast += call.calls if call.fast else 0
        use.xmm_input += call.xmm_input
        for verdict, number in call.xmm_output.items():
            if verdict not in ("memory", "none"):
                use.output[verdict] = use.output.get(verdict, 0) + number
    return dict(sorted(found.items(), key=lambda item: -item[1].calls))


def _calls(host: Host, guest: Guest) -> Iterator[str]:
    """A line for each code: how often, and in which form; one more on output in registers."""
    uses = _uses(guest)
    if not uses:
        yield from _row("calls", "none")
        return
    names = text.short_names(uses, WIDTH - 4 - sum(_COLUMNS.values()))
    width = max(map(len, [*names.values(), " " * _LABEL])) + 2
    yield f"  {'calls':{width}}" + "".join(f"{name:>{n}}" for name, n in _COLUMNS.items())
    minutes = max(host.duration_s, 1e-9) / 60
    for code, use in uses.items():
        forms = (use.calls - use.fast, use.fast - use.xmm_input, use.xmm_input)
        cells = [words.amount(use.calls / minutes), *(_share(form, use.calls) for form in forms)]
        columns = zip(cells, _COLUMNS.values(), strict=True)
        yield f"  {names[code]:{width}}" + "".join(f"{cell:>{n}}" for cell, n in columns)
        if use.output:
            verdicts = [f"{words.amount(n / minutes)} {name}" for name, n in use.output.items()]
            yield from _wrap(
                f"output in registers: {', '.join(verdicts)} a minute", "    ", "      "
            )


def _share(part: int, whole: int) -> str:
    share = text.percent(part, whole)
    return share if share == "-" else f"{share}%"


def _findings(found: Sequence[Finding], color: bool) -> Iterator[str]:
    """Severity and id, then the text."""
    if not found:
        yield from _row("findings", "none")
    for one in found:
        mark = f"{_COLORS[one.severity]}{one.severity}{_PLAIN}" if color else one.severity
        yield f"  {mark} {one.id}"
        yield from _wrap(one.text, "    ", "    ")


def _row(label: str, content: str) -> Iterator[str]:
    """`content` behind its label, wrapped under itself."""
    indent = " " * (_LABEL + 2)
    for number, line in enumerate(_wrap(content, indent, indent)):
        yield line if number else f"  {label:{_LABEL}}{line[len(indent) :]}"


def _wrap(content: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text.printable(content),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    )
