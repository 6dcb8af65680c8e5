"""The process of one VM (or several): started by `hvtrace guest`, one for each VM.

Started as ``python -m hvtrace.guest.vm --name NAME ...``, so that a VM's name is in its command
line like that of any VMM. It talks to its parent in lines of JSON: on stdout it says "ready" (with
the VMs' descriptors and thread ids), "idle" (no more calls; with KVM's own count of them) or
"error" (with a text); on stdin it is told "go", "stop" (after the slice at hand) and "end". The
memory of its VMs is the parent's, which can read the counters in it whatever happens here.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator

from hvtrace.errors import HvtraceError
from hvtrace.guest import mixfile as mixes
from hvtrace.guest import pace
from hvtrace.guest.kvm import Kvm
from hvtrace.guest.machine import Machine
from hvtrace.guest.memory import GuestMemory
from hvtrace.guest.vcpu import Signals, VcpuThread

_PR_SET_PDEATHSIG = 1


class Process:
    """The VMs of this process and their threads."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Create everything; no vCPU runs yet."""
        self.options = options
        self.mix = mixes.load(options.mix)
        self.signals = Signals(len(options.memory) * options.vcpus, self.tell)
        kvm = Kvm()
        self.machines = [
            Machine(
                kvm, self.mix, GuestMemory(fd, options.vcpus, len(self.mix.calls), self.mix.blocks)
            )
            for fd in options.memory
        ]
        self.threads = [
            [
                VcpuThread(machine, i, self._work(vm * options.vcpus + i), self.signals, self.fail)
                for i in range(options.vcpus)
            ]
            for vm, machine in enumerate(self.machines)
        ]

    def _work(self, vcpu: int) -> Iterator[list[int]]:
        """The counts of calls of a vCPU, `vcpu` being its number in this process."""
        options, stop = self.options, self.signals.stop
        number = options.first + vcpu
        times = [self.mix.times(c, number) for c in self.mix.calls if c.path != "killed"]
        if not options.rate:
            return pace.rounds(times, options.rounds, stop)
        seed = f"{options.seed}/{number}"
        return pace.paced(times, options.rate, self.mix.swing, seed, stop)

    def tell(self, event: str, **more: object) -> None:
        """Say `event` to the parent."""
        if event == "ready":
            more["vms"] = [
                {"fd": machine.vm.fd, "vcpus": [thread.native_id for thread in threads]}
                for machine, threads in zip(self.machines, self.threads, strict=True)
            ]
        if event == "idle":
            more["hypercalls"] = [
                sum(vcpu.count("hypercalls") for vcpu in machine.vcpus) for machine in self.machines
            ]
        print(json.dumps({"event": event, **more}), flush=True)

    def fail(self, text: str) -> None:
        """Tell the parent of an error, which ends everything."""
        self.tell("error", text=text)

    def run(self) -> None:
        """Do what the parent says until it says "end" or is gone."""
        for threads in self.threads:
            for thread in threads:
                thread.start()
        for line in sys.stdin:
            order = line.strip()
            if order == "end":
                break
            if order == "stop":
                self.signals.stop.set()
            self.signals.go.set()
        if self.mix.calls[-1].path == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        self.signals.end.set()


def main(argv: list[str]) -> None:
    """Run the process; it ends by SIGKILL where a call stays unanswered."""
    # Ctrl-C is the parent's, which then says how this process ends; so is its own sudden end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        process = Process(_parser().parse_args(argv))
    except HvtraceError as error:
        print(json.dumps({"event": "error", "text": str(error)}), flush=True)
    except OSError as error:
        text = f"KVM refused to make the VM: {error.strerror}"
        print(json.dumps({"event": "error", "text": text}), flush=True)
    else:
        process.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hvtrace.guest.vm", allow_abbrev=False)
    parser.add_argument("--name", required=True, help="what tools show for this VM")
    parser.add_argument("--mix", required=True)
    parser.add_argument("--vcpus", type=int, required=True)
    parser.add_argument("--memory", type=int, action="append", required=True, metavar="FD")
    parser.add_argument("--first", type=int, required=True, help="its first vCPU's number")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
