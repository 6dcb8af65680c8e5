"""Guests for pictures: VMs that come and go, and whose load changes, in some minutes.

    python -m tests.prometheus.day SECONDS SHARE

It runs in the VM, as inside.py does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.prometheus import inside

# When a guest begins and how long it stays, as shares of the time (None: until it has made all
# calls of its mix), and what it is.
PLAN: tuple[tuple[float, float | None, str], ...] = (
    (0.00, 1.00, "--mix windows-busy --name web --rate 31 --vcpus 2 --seed 1"),
    (0.02, 0.98, "--mix windows-idle --name mail --rate 7 --seed 2"),
    (0.40, 0.25, "--mix windows-busy --name sql --rate 47 --seed 3"),
    (0.55, None, "--mix everything --vms 2 --rounds 3"),
    (0.65, None, "--mix xmm-output --rounds 5"),
    (0.75, 0.25, "--mix windows-busy --name sql --rate 23 --vcpus 2 --seed 5"),
    (0.85, None, "--mix everything --vcpus 2 --rounds 3"),
)


def day(seconds: float) -> inside.Ledgers:
    """Let the guests run; what was called."""
    began, running = time.monotonic(), []
    for begin, stay, options in PLAN:
        time.sleep(max(0.0, began + begin * seconds - time.monotonic()))
        duration = () if stay is None else ("--duration", str(stay * seconds))
        running.append(inside.guest(*options.split(), *duration))
    return [json.loads(one.communicate()[0]) for one in running]


if __name__ == "__main__":
    length = float(sys.argv[1])
    sys.exit(inside.main(Path(sys.argv[2]), lambda _: day(length)))
