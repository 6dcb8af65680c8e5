"""Golden files: the whole of an output form, committed and compared byte by byte.

`HVTRACE_GOLDEN=write` writes them anew; look at what `git diff` says then.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from samples import row, snapshot, vm

from hvtrace.stats.snapshot import Lost, Snapshot

FOLDER = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    """Compare `text` with the golden file `name`."""
    path = FOLDER / name
    if os.environ.get("HVTRACE_GOLDEN") == "write":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def spread(count: int, first_ns: int) -> list[int]:
    """`count` latencies from `first_ns` up, most of them short, without chance."""
    return [first_ns + first_ns * (i * i % 997) // (97 + i % 89) for i in range(count)]


def sample(*, trips: bool = False, **more: object) -> Snapshot:
    """Two VMs of one name, and all that a form has to show. The counts are prime.

    With `trips`, round trips: each a little longer than its call, and one not over yet.
    """
    first = vm("win11", 1009, uuid="c0ffee00-0000-4000-8000-000000000001")
    second = vm("win11", 1013, fd=11, vmm="cloud-hypervisor")
    rows = [
        row(first, 0x13, fast=True, latencies_ns=spread(1231, 1_700), xmm_input=1231),
        row(first, 0x13, latencies_ns=spread(23, 2_100)),
        row(
            first,
            0x5C,
            handler="vmm",
            latencies_ns=spread(211, 61_000),
            statuses={0x12: 3, 0x5: 2},
            unfinished=2,
        ),
        row(first, 0x5D, fast=True, latencies_ns=spread(4001, 1_100)),
        row(first, 0x5D, fast=True, handler="vmm", latencies_ns=spread(101, 31_000)),
        row(first, 0x15, fast=True, latencies_ns=spread(401, 2_300), xmm_input=401),
        row(first, 0x8, fast=True, latencies_ns=spread(13, 800)),
        row(second, 0x3, fast=True, latencies_ns=spread(73, 2_000), xmm_input=71, reps=359),
        row(
            second,
            0x50,
            fast=True,
            latencies_ns=[901] * 7,
            statuses={2: 7},
            xmm_output={"refused": 7},
        ),
        row(second, 0xFFF0, latencies_ns=[907] * 3, statuses={2: 2, 0x7777: 1}),
        row(second, 0x7B, unfinished=1),
        row(second, 0x46, fast=True, latencies_ns=[5 * 10**9], xmm_output={"claimed": 1}),
    ]
    if trips:
        rows = [replace(r, trips_ns=tuple(ns + 1303 for ns in r.latencies_ns[1:])) for r in rows]
    lost = Lost(
        orphans=3,
        no_slot=2,
        no_thread=5,
        no_status=7,
        no_exit=13,
        no_trip=17,
        missed=11,
        no_event=19,
    )
    return snapshot(rows, [first, second], lost=lost, in_flight=1, **more)
