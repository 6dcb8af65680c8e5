"""One run of real guests, as seen by hvtrace, the guests, and the kernel's own log."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hvtrace.kernel.live import LiveSource
from hvtrace.stats import snapshot
from hvtrace.stats.calls import Call, calls
from hvtrace.stats.snapshot import Snapshot, rollup
from tests.vm.tracefs import EVENTS, Event, Log, Tally, tally
from tests.vm.trips import round_trips

HVTRACE = str(Path(sys.executable).with_name("hvtrace"))
Key = tuple[int, int | None, int, bool, str]  # pid and fd of the VM, code, fast, handler


@dataclass
class Run:
    """One run, from all sides."""

    snapshot: Snapshot  # of this run's VMs only
    orphans: int  # that hvtrace counted in its time
    ledger: dict[str, Any]
    events: list[Event]

    @property
    def traced(self) -> dict[Key, Call]:
        return {(c.vm.pid, c.vm.fd, c.code, c.fast, c.handler): c for c in calls(self.snapshot)}

    @property
    def made(self) -> dict[Key, dict[str, Any]]:
        return {
            (c["vm"]["pid"], c["vm"]["fd"], c["code"], c["fast"], c["handler"]): c
            for c in self.ledger["calls"]
        }

    @property
    def _vm_of(self) -> dict[int, tuple[int, int | None]]:
        vms = self.ledger["vms"]
        return {tid: (vm["pid"], vm["fd"]) for vm in vms for tid in vm["vcpus"]}

    @property
    def logged_trips_ns(self) -> dict[Key, list[int]]:
        """The log's round trips by VM; it must have been made with trips.EVENTS."""
        found: dict[Key, list[int]] = {}
        for (tid, *rest), trips_ns in round_trips(self.events).items():
            found.setdefault((*self._vm_of[tid], *rest), []).extend(trips_ns)
        return found

    @property
    def logged(self) -> tuple[dict[Key, Tally], int]:
        """The log by VM instead of by thread, and its orphans."""
        vm_of = self._vm_of
        by_thread, orphans = tally([event for event in self.events if event.name in EVENTS])
        found: dict[Key, Tally] = {}
        for (tid, *rest), one in by_thread.items():
            both = found.setdefault((*vm_of[tid], *rest), Tally())
            both.completed += one.completed
            both.unfinished += one.unfinished
            both.reps += one.reps
            both.statuses += one.statuses
            both.latencies_ns += one.latencies_ns
        return found, orphans


def record(
    source: LiveSource,
    *options: str,
    mix: str = "everything",
    events: Sequence[str] = EVENTS,
) -> Run:
    """Run a mix, traced and logged from before its first call to its end.

    The VMs are held until hvtrace has looked at them once more: under -icount all
    their calls take less time than there is between two looks.
    """
    orphans = source.snapshot().lost.orphans
    command = [HVTRACE, "guest", "--mix", mix, "--json", "--hold", *options]
    log = Log(events=events)
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as guest:
            assert guest.stdin is not None
            assert guest.stdout is not None
            while not select.select([guest.stdout], [], [], 0.2)[0]:
                source.snapshot()  # as every view does: names, and what has ended
            ledger = json.loads(guest.stdout.readline())
            source.snapshot()
            guest.stdin.close()
        events = log.read()
    finally:
        log.close()
    assert guest.returncode == 0
    after = source.snapshot()
    pids = {vm["pid"] for vm in ledger["vms"]}
    mine = np.array([after.vms[vm].pid in pids for vm in after.rows["vm"]], dtype=bool)
    mine_only = rollup(snapshot.select(after, mine))
    mine_only = replace(mine_only, exits=tuple(e for e in after.exits if e.vm.pid in pids))
    return Run(mine_only, after.lost.orphans - orphans, ledger, events)
