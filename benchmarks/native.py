"""What the programs cost on this machine, beside what they could be compared with.

The real ones, run through BPF_PROG_TEST_RUN, timed by the kernel's own
BPF statistics. All variants take turns in each round, so that a machine that
changes its speed changes it for all; figures are medians over the rounds.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hvtrace.kernel import bpf, loader, shape
from hvtrace.kernel.features import Features
from hvtrace.kernel.live import LiveSource
from hvtrace.kernel.programs import counters

ROUNDS, CALLS = 31, 2003
PEERS = Path(__file__).with_name("peers.bpf.c")


@dataclass(frozen=True)
class Variant:
    """A way to trace one kind of call: its programs, and the tracepoints of one call."""

    name: str
    programs: tuple[int, ...]
    call: Callable[[], None]


def _variant(name: str, programs: dict[str, int], *events: tuple[str, tuple[int, ...]]) -> Variant:
    steps = [(programs[program], arguments) for program, arguments in events]

    def call() -> None:
        for fd, arguments in steps:
            bpf.run_raw_tracepoint(fd, *arguments)

    return Variant(name, tuple(dict.fromkeys(fd for fd, _ in steps)), call)


def _hypercall(code: int, fast: int, rep: int = 0) -> tuple[str, tuple[int, ...]]:
    return "kvm_hv_hypercall", (code, fast, 0, rep, 0, 0x1000, 0)


def _done(result: int) -> tuple[str, tuple[int, ...]]:
    return "kvm_hv_hypercall_done", (result,)


# What verdicts do differs by call: nothing, nearly nothing, and all that they do.
VERDICT_CALLS = {
    "fast call without output": (_hypercall(2, 1), _done(0)),
    "fast call, output refused": (_hypercall(0x50, 1, 4), _done(2)),
    "fast call, output used": (_hypercall(0x50, 1, 4), _done(4 << 32)),
    "memory call": (_hypercall(2, 0), _done(0)),
}


def variants(ours: dict[str, int], without: dict[str, int], peers: dict[str, int]) -> list[Variant]:
    """The floor first, the textbook second; `without` are our programs without verdicts."""
    memory = (2, 0, 0, 0, 0, 0x1000, 0)
    return [
        _variant(
            "two clock reads: the floor", peers, ("floor_start", memory), ("floor_done", (0,))
        ),
        _variant("textbook", peers, ("textbook_start", memory), ("textbook_done", (0,))),
        _variant("hvtrace: memory call, in kernel", ours, _hypercall(2, 0), _done(0)),
        _variant("hvtrace: XMM call, in kernel", ours, _hypercall(3, 1, 5), _done(5 << 32)),
        _variant("hvtrace: unknown code, status 2", ours, _hypercall(0x7777, 0), _done(2)),
        _variant(
            "hvtrace, forwarded to the VMM (3 events)",
            ours,
            _hypercall(0x5C, 0),
            ("kvm_userspace_exit", (27, 0)),
            _done(0),
        ),
        # Last, and in pairs: see figures().
        *(
            _variant(kind, programs, *events)
            for kind, events in VERDICT_CALLS.items()
            for programs in (without, ours)
        ),
    ]


def measure(variant: Variant) -> float:
    """ns per call: all programs of the variant together."""
    before = [bpf.counters(fd) for fd in variant.programs]
    for _ in range(CALLS):
        variant.call()
    after = [bpf.counters(fd) for fd in variant.programs]
    return sum((b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(before, after, strict=True))


def run() -> list[tuple[str, list[float]]]:
    """(variant, ns per call in each round), in the order of `variants`."""
    names = ("floor_start", "floor_done", "textbook_start", "textbook_done")
    peers = loader.load([PEERS], [], [loader.Program(name, "raw", "") for name in names], ())
    events = shape.raw()
    host = Features("bench", events)
    source = LiveSource(counters(host).load(), host)
    without = LiveSource(counters(host, more_flags=["-DHVT_NO_VERDICTS=1"]).load(), host)
    source.set_filter(None, None)
    without.set_filter(None, None)
    statistics_on = bpf.enable_statistics()
    todo = variants(source.loaded.programs, without.loaded.programs, peers.programs)
    rounds: list[tuple[str, list[float]]] = [(variant.name, []) for variant in todo]
    for done in range(ROUNDS + 1):
        # To and fro: what comes second would else look dearer on a machine that slows down.
        order = list(zip(todo, rounds, strict=True))[:: 1 if done % 2 else -1]
        for variant, (_, times) in order:
            ns = measure(variant)
            if done:  # the first round warms up
                times.append(ns)
        if done % 10 == 0:
            print(f"round {done} of {ROUNDS}", file=sys.stderr, flush=True)
    os.close(statistics_on)
    source.close()
    without.close()
    peers.close()
    return rounds


def figures(rounds: list[tuple[str, list[float]]]) -> dict[str, float]:
    """Figures from ns per call of each variant's rounds, in the order of `variants`. Pure.

    What verdicts cost is the median of the rounds' own ratios: of the same call, by the
    same programs compiled without and with them.
    """
    split = len(rounds) - 2 * len(VERDICT_CALLS)
    floor, textbook = (statistics.median(times) for _, times in rounds[:2])
    found: dict[str, float] = {}
    for name, times in rounds[:split]:
        ns = statistics.median(times)
        measures = {"ns": ns, "least, ns": min(times), "most, ns": max(times)}
        measures |= {"of floor": ns / floor, "of textbook": ns / textbook}
        found |= {f"native/{name}/{measure}": value for measure, value in measures.items()}
    for (name, without), (_, with_them) in zip(
        rounds[split::2], rounds[split + 1 :: 2], strict=True
    ):
        ratios = [b / a for a, b in zip(without, with_them, strict=True)]
        found[f"verdicts/{name}/without, ns"] = statistics.median(without)
        found[f"verdicts/{name}/with, ns"] = statistics.median(with_them)
        found[f"verdicts/{name}/ratio"] = statistics.median(ratios)
    return found
