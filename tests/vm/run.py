"""One run of real guests, as seen by hvtrace, the guests, and the kernel's own log."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvtrace.kernel.live import open_source
from hvtrace.stats.calls import Call, calls
from hvtrace.stats.snapshot import Snapshot, rollup
from tests.vm.tracefs import Event, Log, Tally, tally

HVTRACE = str(Path(sys.executable).with_name("hvtrace"))
Key = tuple[int, int, bool, str]  # pid of the VM, code, fast, handler


@dataclass
class Run:
    """One run, from all sides."""

    snapshot: Snapshot
    ledger: dict[str, Any]
    events: list[Event]

    @property
    def traced(self) -> dict[Key, Call]:
        return {(c.vm.pid, c.code, c.fast, c.handler): c for c in calls(self.snapshot)}

    @property
    def made(self) -> dict[Key, dict[str, Any]]:
        return {
            (c["vm"]["pid"], c["code"], c["fast"], c["handler"]): c for c in self.ledger["calls"]
        }

    @property
    def logged(self) -> tuple[dict[Key, Tally], int]:
        """The log by VM instead of by thread."""
        vm_of = {tid: vm["pid"] for vm in self.ledger["vms"] for tid in vm["vcpus"]}
        by_thread, orphans = tally(self.events)
        found: dict[Key, Tally] = {}
        for (tid, *rest), one in by_thread.items():
            sum_ = found.setdefault((vm_of[tid], *rest), Tally())
            sum_.completed += one.completed
            sum_.unfinished += one.unfinished
            sum_.reps += one.reps
            sum_.statuses += one.statuses
            sum_.latencies_ns += one.latencies_ns
        return found, orphans


def record(folder: Path, vms: int, vcpus: int) -> Run:
    """Run the `everything` mix, traced and logged from before its first call to its end."""
    file = folder / "ledger.json"
    log = Log()
    try:
        with open_source() as source:
            command = [HVTRACE, "guest", "--mix", "everything", "--ledger", str(file)]
            guest = subprocess.Popen([*command, "--vms", str(vms), "--vcpus", str(vcpus)])
            while guest.poll() is None:
                source.snapshot()  # as every view does: names, and what has ended
                time.sleep(0.2)
            snapshot = rollup(source.snapshot())
        events = log.read()
    finally:
        log.close()
    assert guest.returncode == 0
    return Run(snapshot, json.loads(file.read_text()), events)
