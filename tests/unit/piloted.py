"""The live view under test: a source that gives a snapshot when told to, keys, and the screen."""

from __future__ import annotations

import queue
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import takewhile

from goldens import sample, spread
from samples import START, row, snapshot, vm
from screens import text_of

from hvtrace.stats.snapshot import Lost, Probe, SlowCall, Snapshot
from hvtrace.top.app import TopApp
from hvtrace.top.calltable import CallTable

WAIT_SECONDS = 20.0


class Told:
    """A source whose snapshots, or errors, are pushed by the test."""

    kernel = "6.12.107+deb13-amd64"
    probes = 4

    def __init__(self) -> None:
        self.queue = queue.Queue()
        self.over = False
        self.closed = False
        self.limits = []

    def snapshot(self):
        while not self.over:
            try:
                given = self.queue.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(given, Exception):
                raise given
            return given
        return snapshot(time=START)

    def look(self) -> None:
        pass

    def set_slow(self, limit_ns: int) -> None:
        self.limits.append(limit_ns)

    def close(self) -> None:
        self.closed = True


class View:
    """The app under test, its source, and its keys."""

    def __init__(self, app: TopApp, source: Told, pilot) -> None:
        self.app, self.source, self.pilot = app, source, pilot

    async def until(self, condition) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            await self.pilot.pause(0.005)
            if condition():
                return
        raise AssertionError(self.text)

    @property
    def number(self) -> int:
        """Of the newest frame."""
        newest = self.app.desk.state.newest
        return newest.number if newest else 0

    async def push(self, *snapshots: Snapshot) -> None:
        """Give snapshots, and wait until the last of them is there."""
        wanted = self.number + len(snapshots)
        for one in snapshots:
            self.source.queue.put(one)
        await self.until(lambda: self.number >= wanted)
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    @property
    def table(self) -> CallTable:
        return self.app.screen_stack[0].query_one(CallTable)

    @property
    def text(self) -> str:
        return text_of(self.app.export_screenshot())

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def headings(self) -> str:
        return self.lines[1]

    @property
    def rows(self) -> list[str]:
        """Lines of calls."""
        return list(takewhile(lambda line: line and line[0] != " ", self.lines[2:]))

    @property
    def names(self) -> list[str]:
        """What was called, by row."""
        return [line.split()[1] for line in self.rows]

    @property
    def status(self) -> str:
        return next((line for line in self.lines if "every " in line), "")

    @property
    def at_cursor(self) -> str:
        """The line of the screen that has the cursor, as it is drawn."""
        table = self.table
        place = table._place - table.scroll_offset.y
        strip = table.render_line(1 + place)
        assert all(s.style and s.style.reverse for s in strip if s.text.strip())
        others = [table.render_line(y) for y in range(1, table.size.height) if y != 1 + place]
        assert not any(s.style and s.style.reverse for strip in others for s in strip)
        return self.rows[place]


@asynccontextmanager
async def top(size=(80, 24), open_source=None, interval_seconds=0.01, **more):
    source = Told()
    app = TopApp(open_source or (lambda say: source), interval_seconds, **more)
    async with app.run_test(size=size, notifications=True) as pilot:
        view = View(app, source, pilot)
        try:
            yield view
        finally:
            source.over = True
    assert source.closed or open_source


@asynccontextmanager
async def sampled(size=(80, 24)):
    """With one interval of the sample on the screen."""
    async with top(size) as view:
        one = replace(sample(time=START), lost=Lost(orphans=3, no_slot=2))
        await view.push(snapshot(time=START - 1), one)
        yield view


WIN11 = vm("win11", 1009, vcpus=2)
WIN12 = vm("win2022-build-agent-17", 1013, vcpus=1)


def lived(seconds: int) -> Snapshot:
    """All that a screen has to show, `seconds` (1 at least) after attaching. Counts are prime.

    One VM comes in the 3rd second, and one ends in the 5th.
    """
    n = seconds
    rows = [
        row(
            WIN11,
            0x13,
            fast=True,
            latencies_ns=spread(401, 1_700) * n,
            xmm_input=401 * n,
            tid=31 + vcpu,
            vcpu=vcpu,
            sizes=[(3, 1)] * 401 * n,
        )
        for vcpu in (0, 1)
    ]
    rows += [
        row(
            WIN11,
            0x5C,
            handler="vmm",
            latencies_ns=spread(53, 61_000) * n,
            statuses={0x12: 3 * n},
            unfinished=2,
            tid=31,
            vcpu=0,
            sizes=[],
        ),
        row(WIN11, 0x5D, fast=True, latencies_ns=spread(997, 1_100) * n, tid=31, vcpu=0, sizes=[]),
        row(
            WIN11,
            0x5D,
            fast=True,
            handler="vmm",
            latencies_ns=spread(11, 31_000) * n,
            tid=32,
            vcpu=1,
            sizes=[],
        ),
    ]
    vms = [replace(WIN11, ended=n >= 5)]
    rows = [replace(one, vm=vms[0]) for one in rows]
    if n >= 3:
        vms.append(WIN12)
        latencies = spread(73, 2_000) * (n - 2) + [38_000_000]
        rows += [
            row(WIN12, 0x3, fast=True, latencies_ns=latencies, tid=41, vcpu=0, reps=359, sizes=[])
        ]
    slow = []
    if n >= 3:
        slow = [
            SlowCall(
                START + n - 0.25, WIN12, 0, 41, 0x3, True, "kernel", 0, 4, 0, 4, 38_000_000 // n
            ),
            SlowCall(
                START + n - 0.5, WIN11, None, 31, 0x5C, False, "vmm", 2, 7, 0x12, 3, 1_234_567
            ),
        ]
    probes = [
        Probe("kvm_hv_hypercall", True, 1009 * n, 190_700 * n),
        Probe("kvm_hv_hypercall_done", True, 1009 * n, 110_300 * n),
        Probe("kvm_userspace_exit", True, 67 * n, 5_309 * n),
        Probe("sched_process_exit", True),
    ]
    lost = Lost(no_event=3) if n >= 4 else Lost()
    one = snapshot(rows, vms, time=START + n, in_flight=1, lost=lost)
    return replace(one, slow=tuple(slow), probes=tuple(probes))


def many(vms: int, seconds: float = 0) -> Snapshot:
    """A row for each VM, the last with most calls."""
    rows = [
        row(vm(f"instance-{i:04d}", 2000 + i), 2, latencies_ns=[700] * (i + 1)) for i in range(vms)
    ]
    return snapshot(rows, time=START + seconds)
