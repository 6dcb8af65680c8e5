"""What tracers add to one hypercall, in instructions: real hypercalls in the VM lab.

The VM's clock counts instructions there (QEMU's -icount), so the time between two entries
of the guest is a number of instructions, the same on every machine. A round is one KVM_RUN
with many calls in it; timer ticks and other tasks only ever add, so the least of many
rounds counts, less that of rounds without a call.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hvtrace.guest import mixfile
from hvtrace.guest.image import Amount, write
from hvtrace.guest.kvm import Kvm
from hvtrace.guest.machine import Machine
from hvtrace.guest.vcpu import Signals, VcpuThread
from hvtrace.kernel import bpf, features, loader, shape
from hvtrace.kernel.live import LiveSource
from hvtrace.kernel.loader import Program
from hvtrace.kernel.programs import load_counters
from hvtrace.kernel.shape import Shape

ROUNDS, CALLS = 61, 64
PEERS = Path(__file__).with_name("peers.bpf.c")
TRACEFS = Path("/sys/kernel/tracing")
EVENTS = ("kvm_hv_hypercall", "kvm_hv_hypercall_done")

OUTPUT = {"code": 0x50, "fast": True, "reps": 4, "status": 2, "xmm_output": "refused"}
CALLS_MADE = {
    "unknown code": {"code": 0x7777, "status": 2},
    "output refused": {**OUTPUT, "xmm_input": True},
}


class Guest:
    """One vCPU that makes one call, as often as it is told."""

    def __init__(self, call: dict[str, object]) -> None:
        mix = mixfile.parse("bench", {"guest": {"offer": ["xmm-output"]}, "call": [call]})
        machine = Machine(Kvm(), write(mix, 1, Amount()))
        self._thread = VcpuThread(machine, 0, Signals(1, print), print)
        self._thread.until_stop()

    def instructions(self) -> float:
        """Of one call, from its start to the start of the next."""
        return (self._least(CALLS) - self._least(0)) / CALLS

    def _least(self, calls: int) -> int:
        return min(self._round(calls) for _ in range(ROUNDS))

    def _round(self, calls: int) -> int:
        self._thread.calls[0].repeat = calls
        begin = time.monotonic_ns()
        self._thread.run_slice(0, 1)
        return time.monotonic_ns() - begin


@contextmanager
def nothing() -> Iterator[None]:
    """The call as it is."""
    yield


@contextmanager
def peers(kind: str) -> Iterator[None]:
    """The floor, or the textbook."""
    names = (f"{kind}_start", f"{kind}_done")
    programs = [Program(name, "raw", event) for name, event in zip(names, EVENTS, strict=True)]
    loaded = loader.load([PEERS], [], programs, ())
    links = [bpf.attach_raw_tracepoint(loaded.programs[p.name], p.target) for p in programs]
    yield
    for link in links:
        os.close(link)
    loaded.close()


@contextmanager
def hvtrace(events: Shape, *more_flags: str, evidence: bool = False) -> Iterator[None]:
    """hvtrace, on this kind of tracepoints."""
    host = features.look(events)
    source = LiveSource(load_counters(host, evidence=evidence, more_flags=more_flags), host)
    source.attach()
    if evidence:
        source.attach_evidence(print)
    source.set_filter(None, None)
    yield
    source.close()


@contextmanager
def tracefs() -> Iterator[None]:
    """The kernel's own log of the two events, which nobody reads."""
    folder = TRACEFS / "instances" / "bench"
    folder.mkdir()
    for event in EVENTS:
        (folder / f"events/kvm/{event}/enable").write_text("1")
    yield
    for event in EVENTS:
        (folder / f"events/kvm/{event}/enable").write_text("0")
    folder.rmdir()


def tracers() -> dict[str, Callable[[], object]]:
    """By name, in the order of the table: contexts in which a tracer is attached."""
    formats = features.read_formats(features.mounted_tracefs() / "events")
    raw, record = shape.raw(), shape.record(formats)
    chosen = shape.choose(os.uname().release, formats)
    return {
        "nothing": nothing,
        "two clock reads (raw tracepoints): the floor": lambda: peers("floor"),
        "hvtrace": lambda: hvtrace(chosen),
        "hvtrace without verdicts": lambda: hvtrace(chosen, "-DHVT_NO_VERDICTS=1"),
        "hvtrace --evidence": lambda: hvtrace(chosen, evidence=True),
        "hvtrace, raw tracepoints": lambda: hvtrace(raw),
        "hvtrace, normal tracepoints": lambda: hvtrace(record),
        "textbook (raw tracepoints)": lambda: peers("textbook"),
        "the kernel's own tracefs log": tracefs,
    }


def inside(out: Path) -> None:
    """In the VM: measure, and write {tracer: {call: instructions}}."""
    guests = {name: Guest(call) for name, call in CALLS_MADE.items()}
    found = {}
    for name, tracer in tracers().items():
        with tracer():  # type: ignore[attr-defined]
            found[name] = {call: guest.instructions() for call, guest in guests.items()}
        print(name, found[name], flush=True)
    out.write_text(json.dumps(found), encoding="utf-8")


def section(names: Sequence[str] = ("trixie", "sid")) -> str:
    """Markdown of what is measured under each kernel, which is booted for it."""
    from hvtrace.lab import kernels
    from hvtrace.lab.front import Front
    from hvtrace.lab.progress import Progress
    from hvtrace.lab.vm import Vm

    progress = Progress(sys.stderr)
    lines = [
        "## Instructions added to a hypercall",
        "",
        "In the VM lab, where the clock counts instructions; how, is said in",
        "`benchmarks/instructions.py`.",
        "",
    ]
    for name in names:
        kernel = kernels.find(name, progress)
        with tempfile.TemporaryDirectory(prefix="hvtrace-bench-") as folder:
            out = Path(folder) / "found.json"
            machine = Vm(
                kernel, Path(folder), Front(sys.stderr.buffer.write), progress, icount=True
            )
            command = [sys.executable, "-m", "benchmarks.instructions", str(out)]
            status = machine.run(
                ["sh", "-c", f"modprobe kvm_amd && exec {' '.join(command)}"], 1800
            )
            if status:
                sys.exit(f"the measurement in the VM ended with status {status}")
            lines += table(kernel.release, json.loads(out.read_text(encoding="utf-8")))
    return "\n".join(lines)


def table(release: str, found: dict[str, dict[str, float]]) -> list[str]:
    """Instructions of a call with nothing attached, and what each tracer adds."""
    bare = found["nothing"]
    lines = [
        f"Linux {release}. With nothing attached, a call takes "
        f"{', '.join(f'{count:.0f} ({call})' for call, count in bare.items())}.",
        "",
        "| tracer | " + " | ".join(f"added, {call}" for call in bare) + " |",
        "| --- |" + " ---: |" * len(bare),
    ]
    for name, calls in found.items():
        if name != "nothing":
            added = (f"{count - bare[call]:.0f}" for call, count in calls.items())
            lines.append(f"| {name} | {' | '.join(added)} |")
    return [*lines, ""]


if __name__ == "__main__":
    inside(Path(sys.argv[1]))
