"""What the figures have to show. Pure: the one place where the limits stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit: every figure whose name matches may be `most`, and one must be there."""

    what: str
    figures: str  # a pattern, as in a shell
    most: float


GATES = (
    # Two clock reads are the least that a latency takes; a quarter more pays for verdicts,
    # statuses and handlers. The textbook way is a start entry inserted and deleted, and one
    # hash key for each bucket. A forwarded call has a third event, and no gate.
    Gate("native: a call, of two clock reads", "native/hvtrace: */of floor", 1.25),
    Gate("native: a call, of the textbook way", "native/hvtrace: */of textbook", 0.45),
    # 560 instructions where tracefs adds 1,242.
    Gate("VM, 6.12: a call, of the kernel's own tracefs log", "vm trixie/hvtrace/of tracefs", 0.45),
    # "Fewer than every peer" as a number.
    Gate("VM: a call, of the cheapest peer", "vm */hvtrace/of cheapest peer", 0.999),
    # Instructions on an exit that is no hypercall, and left on a call after every option was
    # used: both are counted exactly, half an instruction is rounding.
    Gate("VM: an option that is off, instructions", "vm */options that are off/*", 0.5),
    Gate("snapshot of 16,000 used slots, ms", "scale/1000 threads x 16 calls/snapshot*, ms", 10.0),
    # As text it is 39,000 lines; the resident memory is the server's, after all formats.
    Gate("scrape, 100 VMs x 10 calls, as text, ms", "scrape/100 VMs x 10 calls/text, ms", 50.0),
    Gate("scrape, 100 VMs x 10 calls, native, ms", "scrape/100 VMs x 10 calls/native, ms", 15.0),
    Gate("scrape, 100 VMs x 10 calls, resident, MiB", "scrape/100 VMs*/resident, MiB", 64.0),
    Gate("start to first snapshot, s", "process/hvtrace stat/start to first snapshot, s", 1.0),
    Gate("resident, MiB", "process/hvtrace */resident, MiB", 48.0),
    Gate(
        "kernel memory, 1,000 vCPU threads x 16 calls, MiB",
        "scale/1000 threads x 16 calls/kernel memory, MiB",
        16.0,
    ),
    # The live view is left open all day, with many VMs on the host.
    Gate("top, 200 VMs x 20 calls x 8 vCPUs: of a core, %", "top/*/of a core, %", 15.0),
    Gate("top: resident at most, MiB", "top/*/resident at most, MiB", 120.0),
    Gate("top: first picture after the attach, s", "top/*/first picture*, s", 1.0),
    Gate("top: a key's answer at worst, ms", "top/*/a key, slowest, ms", 100.0),
    # So it is the same on a machine with hundreds of CPUs.
    Gate("kernel memory: maps that are there for every CPU", "*/maps for every CPU", 0),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate, and the worst of its figures; None where there was none."""

    gate: Gate
    worst: float | None

    @property
    def met(self) -> bool:
        """Whether all of the gate's figures are within it; not where nothing was measured."""
        return self.worst is not None and self.worst <= self.gate.most


def judge(figures: Mapping[str, float], gates: tuple[Gate, ...] = GATES) -> list[Verdict]:
    """Every gate beside the worst figure that it is for."""
    return [
        Verdict(
            gate,
            max(
                (v for name, v in figures.items() if fnmatchcase(name, gate.figures)), default=None
            ),
        )
        for gate in gates
    ]


def missed_line(verdicts: list[Verdict]) -> str | None:
    """The one line that says which gates were missed and by what; None where all were met."""
    missed = [
        f"{v.gate.what}: {number(v.worst)} (at most {number(v.gate.most)})"
        for v in verdicts
        if not v.met
    ]
    return f"gates missed: {'; '.join(missed)}" if missed else None


def number(value: float | None) -> str:
    """A figure as tables show it: three decimals below ten, one below a hundred, none above."""
    if value is None:
        return "not measured"
    if not value:
        return "0"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"
