"""Real guests, held at their end, and what the kernel says of them: its log, KVM's counters.

hvtrace itself takes no part.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm.run import HVTRACE
from tests.vm.tracefs import Event, Log, Tally, tally

KVM_DEBUGFS = Path("/sys/kernel/debug/kvm")
Key = tuple[int, int, bool, str]  # index of the VM, code, fast, handler
Counts = tuple[int, int, int, dict[str, int]]  # completed, unfinished, reps, statuses


@dataclass
class Held:
    """A run at its end, its VMs still there, as long as the test looks at it."""

    ready: list[dict[str, Any]]
    quiet: list[Event]  # logged between ready and go
    ledger: dict[str, Any]
    counters: dict[tuple[int, int], int]  # (pid, fd) -> KVM's counter in debugfs
    total: int
    names: dict[int, str]  # thread id -> name
    command_lines: dict[int, list[str]]  # pid -> arguments
    events: list[Event]

    @property
    def vm_of(self) -> dict[int, int]:
        return {tid: i for i, vm in enumerate(self.ledger["vms"]) for tid in vm["vcpus"]}

    @property
    def made(self) -> dict[Key, dict[str, Any]]:
        index = {(vm["pid"], vm["fd"]): i for i, vm in enumerate(self.ledger["vms"])}
        return {
            (index[c["vm"]["pid"], c["vm"]["fd"]], c["code"], c["fast"], c["handler"]): c
            for c in self.ledger["calls"]
        }

    @property
    def logged(self) -> tuple[dict[Key, Tally], int]:
        by_thread, orphans = tally(self.events)
        found: dict[Key, Tally] = {}
        for (tid, *rest), one in by_thread.items():
            both = found.setdefault((self.vm_of[tid], *rest), Tally())
            both.completed += one.completed
            both.unfinished += one.unfinished
            both.reps += one.reps
            both.statuses += one.statuses
        return found, orphans

    @property
    def in_ledger(self) -> dict[Key, Counts]:
        """What the guests counted of each row, where a log can know it, too."""
        return {
            key: (c["completed"], c["unfinished"], c["reps"], c["statuses"])
            for key, c in self.made.items()
        }

    @property
    def in_log(self) -> dict[Key, Counts]:
        """The same from the kernel's log."""
        return {
            key: (
                one.completed,
                one.unfinished,
                one.reps,
                {f"0x{status:04x}": n for status, n in sorted(one.statuses.items())},
            )
            for key, one in self.logged[0].items()
        }

    @property
    def by_vm(self) -> dict[tuple[int, int], int]:
        """Completed calls by VM, (pid, fd), in the guests' own count."""
        rows = Counter[tuple[int, int]]()
        for call in self.ledger["calls"]:
            rows[call["vm"]["pid"], call["vm"]["fd"]] += call["completed"] + call["orphans"]
        return rows


@contextmanager
def logging() -> Iterator[Log]:
    log = Log("guest")
    try:
        yield log
    finally:
        log.close()


def hold(*options: str) -> Held:
    """Run guests, read everything while they are held, then let them end."""
    command = [HVTRACE, "guest", "--json", "--pause", "--hold", *options]
    pipe = subprocess.PIPE
    with logging() as log, subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        ready = json.loads(guest.stdout.readline())["ready"]
        quiet = [e for e in log.read() if e.name.startswith("kvm_hv_hypercall")]
        tids = [(vm["pid"], tid) for vm in ready for tid in vm["vcpus"]]
        names = {t: Path(f"/proc/{p}/task/{t}/comm").read_text().strip() for p, t in tids}
        lines = {p: Path(f"/proc/{p}/cmdline").read_text().split("\0") for p, _ in tids}
        guest.stdin.write("\n")
        guest.stdin.flush()
        ledger = json.loads(guest.stdout.readline())
        counters = {
            (vm["pid"], vm["fd"]): int(
                (KVM_DEBUGFS / f"{vm['pid']}-{vm['fd']}/hypercalls").read_text()
            )
            for vm in ready
        }
        total = int((KVM_DEBUGFS / "hypercalls").read_text())
        guest.stdin.close()
        assert guest.wait() == 0
        return Held(ready, quiet, ledger, counters, total, names, lines, log.read())
