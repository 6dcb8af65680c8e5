"""One run of guests: starts the VMs' processes, tells them what to do, reads their memory."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hvtrace
from hvtrace.errors import HvtraceError
from hvtrace.guest import ledger as ledgers
from hvtrace.guest import memory
from hvtrace.guest.kvm import Kvm
from hvtrace.guest.mix import Mix

_STOP_SECONDS = 60.0  # an emulated machine can take some of them

# A VM's process needs the standard library and this package only: without `site` (-S) it starts
# in half the time, which counts on an emulated machine.
_PACKAGES = Path(hvtrace.__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Orders:
    """What to run."""

    mix: Mix
    mix_name: str  # name or path, for the VMs' processes
    vms: int = 1
    vcpus: int = 1
    vms_per_process: int = 1
    rounds: int = 1
    rate: float = 0.0  # calls a second of one vCPU; 0: whole rounds
    seed: int = 0
    name: str = ""  # of the VMs, a number behind it; the mix's where empty


class _Vm:
    """A VM's memory, and what its process told of it."""

    def __init__(self, orders: Orders) -> None:
        shape = (orders.vcpus, len(orders.mix.calls), orders.mix.blocks)
        self.memory = memory.GuestMemory(memory.create("guest", *shape), *shape)
        self.facts: dict[str, Any] = {}
        self.kvm_hypercalls: int | None = None


class _Process:
    """A process of VMs, and the lines between it and this one."""

    def __init__(self, orders: Orders, name: str, vms: list[_Vm], first: int) -> None:
        fds = [vm.memory.fd for vm in vms]
        self.name, self.vms, self.first = name, vms, first
        self.child = subprocess.Popen(
            [
                *(sys.executable, "-S", "-m", "hvtrace.guest.vm"),
                *("--name", name),
                *("--mix", orders.mix_name),
                *("--vcpus", str(orders.vcpus)),
                *(text for fd in fds for text in ("--memory", str(fd))),
                *("--first", str(first)),
                *("--rounds", str(orders.rounds)),
                *("--rate", str(orders.rate)),
                *("--seed", str(orders.seed)),
            ],
            env={**os.environ, "PYTHONPATH": str(_PACKAGES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=fds,
            process_group=0,  # Ctrl-C is for this process, which stops the VMs in good order
        )
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.input, self.output = self.child.stdin, self.child.stdout

    def say(self, order: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.input.write(f"{order}\n".encode())

    def hear(self, event: str) -> dict[str, Any]:
        """Wait for `event`. Raises HvtraceError for anything else."""
        line = self.output.readline()
        if not line:
            raise HvtraceError(f"VM {self.name} has ended with status {self.child.wait()}")
        message: dict[str, Any] = json.loads(line)
        if message["event"] != event:
            raise HvtraceError(f"VM {self.name}: {message.get('text', message)}")
        return message


class Session:
    """The VMs of one run, from start to end; a context manager that leaves no process behind."""

    def __init__(self, orders: Orders) -> None:
        """Nothing is started before `with`."""
        self.orders = orders
        self.start = self.end = time.time()
        self.cut_short = False
        self.vms = [_Vm(orders) for _ in range(orders.vms)]
        self.processes: list[_Process] = []

    def __enter__(self) -> Self:
        """Check that this host can, and start the processes. Raises HvtraceError."""
        Kvm()
        orders, size = self.orders, self.orders.vms_per_process
        try:
            for i, first in enumerate(range(0, orders.vms, size)):
                name = f"{orders.name or orders.mix.name}-{i}"
                vms = self.vms[first : first + size]
                self.processes.append(_Process(orders, name, vms, first * orders.vcpus))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            process.child.kill()
            process.child.wait()

    def wait_ready(self) -> list[dict[str, Any]]:
        """Wait until every guest stands before its first call.

        Returns {"pid", "fd", "name", "vcpus": thread ids} of each VM.
        """
        for process in self.processes:
            facts = process.hear("ready")["vms"]
            for vm, own in zip(process.vms, facts, strict=True):
                vm.facts = {"pid": process.child.pid, "name": process.name, **own}
        return [vm.facts for vm in self.vms]

    def go(self) -> None:
        """Let the guests make their calls."""
        self.start = time.time()
        for process in self.processes:
            process.say("go")

    def wait_idle(self, duration_s: float | None) -> None:
        """Wait until all calls are made, or for `duration_s` seconds, or until Ctrl-C."""
        try:
            self._hear_idle(duration_s)
        except KeyboardInterrupt:
            self.cut_short = True
        if waiting := [p for p in self.processes if any(v.kvm_hypercalls is None for v in p.vms)]:
            self.cut_short = True
            for process in waiting:
                process.say("stop")
            self._hear_idle(_STOP_SECONDS)
        self.end = time.time()

    def _hear_idle(self, seconds: float | None) -> None:
        """Take what arrives within `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        open_ = [p for p in self.processes if any(v.kvm_hypercalls is None for v in p.vms)]
        while open_:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready, _, _ = select.select([p.output for p in open_], [], [], left)
            if not ready:
                return
            for process in [p for p in open_ if p.output in ready]:
                counts = process.hear("idle")["hypercalls"]
                for vm, count in zip(process.vms, counts, strict=True):
                    vm.kvm_hypercalls = count
                open_.remove(process)

    def ledger(self) -> ledgers.Ledger:
        """What the guests made so far; after `wait_idle` it is whole."""
        orders = self.orders
        ledger = ledgers.Ledger(
            mix=orders.mix,
            kernel=platform.release(),
            seed=orders.seed,
            start=self.start,
            duration_s=self.end - self.start,
            vms=[
                ledgers.LedgerVm(
                    pid=vm.facts["pid"],
                    fd=vm.facts["fd"],
                    name=vm.facts["name"],
                    vcpus=tuple(vm.facts["vcpus"]),
                    first=i * orders.vcpus,
                    kvm_hypercalls=vm.kvm_hypercalls,
                )
                for i, vm in enumerate(self.vms)
            ],
        )
        found = [[ledgers.results(vm.memory, i) for i in range(orders.vcpus)] for vm in self.vms]
        ledgers.fill(ledger, found, None if self.cut_short or orders.rate else orders.rounds)
        return ledger

    def close(self) -> None:
        """End the VMs in good order: calls still open stay without an answer."""
        for process in self.processes:
            process.say("end")
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.child.wait(_STOP_SECONDS)
