"""docs/benchmarks.md from the figures of a run, and of the one before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Template

from benchmarks.gates import Verdict, number
from benchmarks.instructions import KERNELS
from benchmarks.memory import OF_EACH, TOTAL
from benchmarks.results import Change, Results, changes, other_machine, part
from benchmarks.scale import SIZES

Table = list[str]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A Markdown table whose first column is text; an empty line follows."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def gates(verdicts: Sequence[Verdict]) -> Table:
    """Each gate, its worst figure, and whether it is met."""
    return table(
        ["gate", "at most", "measured", ""],
        [
            [v.gate.what, number(v.gate.most), number(v.worst), "met" if v.met else "**not met**"]
            for v in verdicts
        ],
    )


def measures(figures: dict[str, float], name: str, columns: Sequence[str]) -> Table:
    """A part whose subjects are rows and whose measures are columns."""
    return table(
        [name, *columns],
        [
            [subject, *(number(found.get(column)) for column in columns)]
            for subject, found in part(figures, name).items()
        ],
    )


def subjects(figures: dict[str, float], name: str) -> Table:
    """A part whose measures are rows and whose subjects are columns; each map is in the file."""
    found = part(figures, name)
    rows = dict.fromkeys(
        measure
        for of_one in found.values()
        for measure in of_one
        if not measure.startswith(OF_EACH) or measure == TOTAL
    )
    return table(
        [name, *found],
        [
            [row, *(number(one[row]) if row in one else "" for one in found.values())]
            for row in rows
        ],
    )


def added(run: Results, kernel: str) -> Table:
    """Instructions that each tracer adds under one kernel, and of what the tracefs log adds."""
    release = run.machine.get(f"VM {kernel}, kernel", "of an unknown release")
    tracers = part(run.figures, f"vm {kernel}")
    bare = tracers.pop("nothing")
    tracers.pop("options that are off")
    made = ", ".join(f"{count:,.0f} ({call})" for call, count in bare.items())
    rows = [
        [name, *(f"{one[call]:,.0f}" for call in bare), f"{one['of tracefs']:.2f}"]
        for name, one in tracers.items()
    ]
    head = ["instructions added to", *bare, "of tracefs"]
    return [
        f"### Linux {release} (Debian {kernel})",
        "",
        f"With nothing attached it takes {made}.",
        "",
        *table(head, rows),
    ]


def comparison(then: Results | None, now: Results) -> list[str]:
    """What changed since the last run: what it ran on, and each figure that can be compared."""
    if then is None:
        return ["There is none to compare with.", ""]
    other = other_machine(then, now)
    machine = ["The same machine and versions.", ""]
    if other:
        machine = ["Not the same:", "", *(f"- {line}" for line in other), ""]
    rows = [_change_row(change) for change in changes(then, now)]
    return [
        f"Now, beside the run of {then.date}.",
        "",
        *machine,
        *table(["figure", "then", "now", "change"], rows),
    ]


def _change_row(change: Change) -> list[str]:
    percent = "" if change.percent is None else f"{change.percent:+.1f} %"
    name = change.name.replace("/", ": ", 2)
    then, now = ("none" if v is None else number(v) for v in (change.then, change.now))
    return [name, then, now, percent]


def page(now: Results, then: Results | None, verdicts: Sequence[Verdict]) -> str:
    """The whole page."""
    figures = now.figures
    blocks = {
        "date": [now.date],
        "gates": gates(verdicts),
        "machine": [f"- {what}: {text}" for what, text in now.machine.items()],
        "native": measures(
            figures, "native", ["ns", "least, ns", "most, ns", "of floor", "of textbook"]
        ),
        "verdicts": measures(figures, "verdicts", ["without, ns", "with, ns", "ratio"]),
        "process": subjects(figures, "process"),
        "scale": subjects(figures, "scale"),
        "scrape": subjects(figures, "scrape"),
        "top": subjects(figures, "top"),
        "comparison": comparison(then, now),
        **{kernel: added(now, kernel) for kernel in KERNELS},
    }
    text = {name: "\n".join(lines).rstrip("\n") for name, lines in blocks.items()}
    return Template(_PAGE).substitute(text, slots=f"{SIZES[0].threads * SIZES[0].calls:,}")


_PAGE = """\
# Benchmarks

Written by `make bench`, one run of $date; so is [benchmarks.json](benchmarks.json), with which
the next run is compared (its schema: `benchmarks/results.py`). `make bench` ends with a status
other than 0 where a gate is missed.

## Gates

$gates

## What it ran on

$machine

## The BPF programs, on this machine

ns per hypercall, all programs of it together. They are the real ones, run through
BPF_PROG_TEST_RUN and timed by the kernel's own BPF statistics; all variants take turns in each
round, to and fro, and figures are medians of the rounds. Ratios are the part that holds on
another machine. The floor is two programs that only read the clock. The textbook
(`benchmarks/peers.bpf.c`) inserts and deletes a start entry, and has one hash key for each
process, code, kind and power of two.

$native

What verdicts on output in XMM registers cost: the same programs compiled without and with
them; the ratio is the median of the rounds' own ratios.

$verdicts

## Instructions added to a hypercall

Real hypercalls of a real guest on the real KVM, in the VM lab. The VM's clock counts
instructions there (QEMU's `-icount`), so a figure is the same on every machine and however busy
it is. A round is one KVM_RUN with 64 calls in it. Timer ticks and other processes, such as a
peer's own, only ever add, so the least of 61 rounds counts, less the least of 61 rounds without
a call. What a peer does later, outside of the call, is therefore not in here; hvtrace does
nothing later. Each tracer's own count is compared with the guest's: one that missed a call ends
the benchmark.

The peers are those of Debian sid, and all of this runs in its user space:

- the kernel's own tracefs log of `kvm_hv_hypercall` and `kvm_hv_hypercall_done`, which nobody
  reads;
- the textbook way with BCC, as above, on raw tracepoints;
- bpftrace with `benchmarks/peer.bt`: a histogram of latencies for each process, code and kind,
  in the cheapest way of five that were tried;
- `perf record -a` of the two events with its default buffer, into a file in memory.

Since Linux 7.0 raw tracepoints miss calls where threads are preempted (docs/design.md, 5), so
hvtrace uses normal ones there, which cost more. The floor and the peers use raw ones all the same.

"CPUID, no hypercall" is another exit: what is added there is paid by guests that make no
hypercalls.

$trixie

$sid

## The process

The real commands. Start: from the start of the interpreter to that of the command that `hvtrace
stat` runs after its first snapshot, median of 5. Memory: after several seconds in which `stat` took
four snapshots a second and `exporter` was scraped seven times; then the same again, with calls
of 1,000 threads x 16 counted by their programs. Kernel memory is what the kernel accounts for
programs and maps (`bytes_memlock` in bpftool); what of it a process has mapped and touched is
in "file", too; benchmarks.json has it by map. Where no map is there for every CPU, it is the
same however many there are.

$process

## Scale

As many real threads, each of which runs the real programs. Snapshots are medians of 31, or of
7 after every thread has made every call once more. Then the room that is left is filled, and
more: each call must be counted, or counted as lost for want of a slot or of a thread's entry,
to the last one; else the benchmark ends with an error.

$scale

## A scrape

Of the exporter, from the keeper's rows to the bytes that Prometheus gets: the two real processes
and what is between them, with a simulated host in the keeper. Between two scrapes the guests call
for 15 seconds. Milliseconds are CPU time, the least of 15, for what disturbs only adds; the first
scrape makes the templates of all series. Resident memory is the server's after all three formats.
What prometheus-client's own writer takes for the same bytes is beside it, and what compressing
them would take. The keeper rolls up a row for each of 16 vCPU threads before.

$scrape

## The live view

The real `hvtrace top` on a pseudo-terminal of 120x40, at an interval of a second: 200 processes of
eight threads make 20 different calls each, through BPF_PROG_TEST_RUN of the programs that it has
attached. After half a minute its CPU time is taken over another half. "At most" is the peak of the
resident memory since its start. A key's answer is the time from typing it, right behind a picture
of the interval, until the last write that changes a cell of the screen, for a terminal emulator
(pyte) that has read all of them. Esc is apart: Textual takes 100 ms and more to tell it from the
beginning of another key's sequence.

$top

## Since the last run

$comparison
"""
