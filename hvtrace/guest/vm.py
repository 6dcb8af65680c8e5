"""The process of one VM (or several): started by `hvtrace guest`, one for each VM.

Started as ``python -m hvtrace.guest.vm --name NAME FD...``, so that a VM's name is in its command
line like that of any VMM; each FD is the memory of a VM, which says all there is to do. The rest
is words, a line each: it says "ready", "idle" (no more calls) or "error TEXT" on stdout, and is
told "go", "stop" (after the slice at hand) and "end" on stdin.

It imports little: every module costs time where the machine is emulated.
"""

from __future__ import annotations

import ctypes
import os
import sys

from hvtrace.errors import HvtraceError
from hvtrace.guest.kvm import Kvm
from hvtrace.guest.machine import Machine
from hvtrace.guest.memory import GuestMemory
from hvtrace.guest.vcpu import Signals, VcpuThread

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


class Process:
    """The VMs of this process and their threads."""

    def __init__(self, memories: list[GuestMemory]) -> None:
        """Create a VM in each of `memories`; no vCPU runs yet."""
        kvm = Kvm()
        self.machines = [Machine(kvm, memory) for memory in memories]
        vcpus = [(machine, i) for machine in self.machines for i in range(len(machine.vcpus))]
        self.signals = Signals(len(vcpus), self.tell)
        self.threads = [VcpuThread(machine, i, self.signals, fail) for machine, i in vcpus]

    def tell(self, event: str) -> None:
        """Say `event` to the parent; what belongs to it is in the VMs' memory."""
        for machine in self.machines:
            counts = [vcpu.count("hypercalls") for vcpu in machine.vcpus]
            machine.memory.header.kvm_hypercalls = sum(counts)
        say(event)

    def run(self) -> None:
        """Do what the parent says until it says "end" or is gone."""
        for thread in self.threads:
            thread.start()
        for line in sys.stdin:
            order = line.strip()
            if order == "end":
                break
            if order == "stop":
                self.signals.stop.set()
            self.signals.go.set()
        if self.threads[0].answered < len(self.threads[0].calls):
            os.kill(os.getpid(), _SIGKILL)
        self.signals.end.set()


def say(text: str) -> None:
    """One line to the parent, whole."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def fail(text: str) -> None:
    """Tell the parent of an error, which ends everything."""
    say(f"error {text}")


def main(argv: list[str]) -> None:
    """Run the process; it ends by SIGKILL where a call stays unanswered."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)  # no VM without its parent
    _, _name, *descriptors = argv
    try:
        process = Process([GuestMemory(int(fd)) for fd in descriptors])
    except HvtraceError as error:
        fail(str(error))
    except OSError as error:
        fail(f"KVM refused to make the VM: {error.strerror}")
    else:
        process.run()


if __name__ == "__main__":
    main(sys.argv[1:])
