"""What tracers add to one hypercall, in instructions: real hypercalls in the VM lab.

The VM's clock counts instructions there (QEMU's -icount), so the time between two entries
of the guest is a number of instructions, the same on every machine. A round is one KVM_RUN
with many calls in it; timer ticks and other tasks only ever add, so the least of many
rounds counts, less that of rounds without a call.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tracers import Tracer, tracers, versions
from hvtrace.errors import HvtraceError
from hvtrace.guest import memory, mixfile
from hvtrace.guest.image import Amount, write
from hvtrace.guest.kvm import Kvm
from hvtrace.guest.machine import Machine
from hvtrace.guest.vcpu import Signals, VcpuThread

ROUNDS, CALLS = 61, 64
KERNELS = ("trixie", "sid")
ROOT, PACKAGES = "sid", ("bpftrace", "linux-perf")
"""The user space: peers as new as Debian has them."""
TIMEOUT_SECONDS = 1800

OUTPUT = {"code": 0x50, "fast": True, "reps": 4, "status": 2, "xmm_output": "refused"}
HYPERCALLS: dict[str, dict[str, object]] = {
    "unknown code": {"code": 0x7777, "status": 2},
    "output refused": {**OUTPUT, "xmm_input": True},
}
CPUID = "CPUID, no hypercall"
# push rbx; cpuid; pop rbx; ret
CPUID_CODE = b"\x53\x0f\xa2\x5b\xc3"


class Guest:
    """One vCPU that makes one call, as often as it is told."""

    def __init__(self, call: dict[str, object], hypercall_page: bytes | None = None) -> None:
        """`hypercall_page` replaces what KVM has put there."""
        mix = mixfile.parse("bench", {"guest": {"offer": ["xmm-output"]}, "call": [call]})
        machine = Machine(Kvm(), write(mix, 1, Amount()))
        self._thread = VcpuThread(machine, 0, Signals(1, print), print)
        self._thread.until_stop()
        if hypercall_page:
            machine.memory.write(memory.HYPERCALL_PAGE, hypercall_page)
        self.made = 0

    def instructions(self) -> float:
        """Of one call, from its start to the start of the next."""
        return (self._least(CALLS) - self._least(0)) / CALLS

    def _least(self, calls: int) -> int:
        return min(self._round(calls) for _ in range(ROUNDS))

    def _round(self, calls: int) -> int:
        self._thread.calls[0].repeat = calls
        self.made += calls
        begin = time.monotonic_ns()
        self._thread.run_slice(0, 1)
        return time.monotonic_ns() - begin


def measure(tracer: Tracer, guests: dict[str, Guest]) -> dict[str, float]:
    """Instructions of a call of each guest with the tracer attached.

    Raises HvtraceError where the tracer did not count every call, or one that it must not.
    """
    before = {name: guest.made for name, guest in guests.items()}
    with tracer.attach() as counted:
        found = {name: guest.instructions() for name, guest in guests.items()}
    made = sum(guests[name].made - before[name] for name in HYPERCALLS) if tracer.counts else 0
    if counted.calls != made:
        raise HvtraceError(f"{tracer.name} counted {counted.calls} of {made} calls")
    return found


def inside(out: Path) -> None:
    """In the VM: measure, and write what `figures` takes."""
    guests = {name: Guest(call) for name, call in HYPERCALLS.items()}
    guests[CPUID] = Guest(HYPERCALLS["unknown code"], CPUID_CODE)
    found, peers = {}, []
    for tracer in tracers():
        print(f"{tracer.name}: ", end="", flush=True)
        found[tracer.name] = measure(tracer, guests)
        peers += [tracer.name] if tracer.is_peer else []
        print(", ".join(f"{count:.1f}" for count in found[tracer.name].values()), flush=True)
    text = json.dumps({"versions": versions(), "peers": peers, "instructions": found})
    out.write_text(text, encoding="utf-8")


def figures(name: str, found: dict[str, dict[str, float]], peers: list[str]) -> dict[str, float]:
    """Figures of part "vm NAME", from instructions of a call by tracer and call. Pure."""
    bare = found["nothing"]
    added = {
        tracer: {call: count - bare[call] for call, count in calls.items()}
        for tracer, calls in found.items()
    }
    result: dict[str, float] = {}
    for tracer, calls in {**added, "nothing": bare}.items():
        for call, count in calls.items():
            result[f"vm {name}/{tracer}/{call}"] = count
        if tracer != "nothing":
            log = added["the kernel's own tracefs log"]
            result[f"vm {name}/{tracer}/of tracefs"] = max(calls[c] / log[c] for c in HYPERCALLS)
    result[f"vm {name}/hvtrace/of cheapest peer"] = max(
        added["hvtrace"][call] / min(added[peer][call] for peer in peers) for call in HYPERCALLS
    )
    after = added["hvtrace, after all of these"]
    result[f"vm {name}/options that are off/left on a call"] = max(
        abs(after[call] - added["hvtrace"][call]) for call in HYPERCALLS
    )
    result[f"vm {name}/options that are off/on another exit"] = abs(added["hvtrace"][CPUID])
    return result


def run() -> tuple[dict[str, str], dict[str, float]]:
    """What ran, and the figures, under each kernel, which is booted for it.

    Raises HvtraceError where a VM, or a tracer in it, does not do what it is for.
    """
    from hvtrace.lab import kernels, roots
    from hvtrace.lab.front import Front
    from hvtrace.lab.progress import Progress
    from hvtrace.lab.vm import Vm

    progress = Progress(sys.stderr)
    root = roots.find(ROOT, progress, PACKAGES)
    machine: dict[str, str] = {}
    result: dict[str, float] = {}
    for name in KERNELS:
        kernel = kernels.find(name, progress)
        with tempfile.TemporaryDirectory(prefix="hvtrace-bench-") as folder:
            out = Path(folder) / "found.json"
            front = Front(sys.stderr.buffer.write)
            vm = Vm(kernel, Path(folder), front, progress, icount=True, root=root)
            command = f"modprobe kvm_amd && exec {roots.PYTHON} -m benchmarks.instructions {out}"
            if status := vm.run(["sh", "-c", command], TIMEOUT_SECONDS):
                raise HvtraceError(f"the measurement in the VM ended with status {status}")
            found = json.loads(out.read_text(encoding="utf-8"))
        machine |= {f"VM {name}, {what}": text for what, text in found["versions"].items()}
        result |= figures(name, found["instructions"], found["peers"])
    return machine, result


if __name__ == "__main__":
    try:
        inside(Path(sys.argv[1]))
    except HvtraceError as error:
        sys.exit(f"hvtrace: {error}")
