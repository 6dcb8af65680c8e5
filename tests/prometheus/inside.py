"""What runs in the VM: the exporter for all the time, and guests once it has been scraped.

    python -m tests.prometheus.inside SHARE

Files in SHARE are the words between this and scene.py: "serving" and "ledgers.json" are
ours, "scraped" and "end" are the other's.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HVTRACE = str(Path(sys.executable).with_name("hvtrace"))
EXPORTER = ("exporter", "--listen", ":10942", "--round-trip", "--vcpus", "--probe-cost")
# A VM that calls all the time, and beside it VMs that come, make every call there is in
# prime numbers, and go: the second time as VMs of the same names.
BUSY = ("--mix", "windows-busy", "--rate", "23", "--duration", "30", "--vcpus", "2")
EVERYTHING = ("--mix", "everything", "--vms", "2", "--vcpus", "2")
TIMES = 2

Ledgers = list[dict[str, Any]]


def guest(*options: str) -> subprocess.Popen[str]:
    command = [HVTRACE, "guest", *options, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def in_primes() -> Ledgers:
    """Make calls in prime numbers; what was called."""
    busy = guest(*BUSY)
    ledgers = [json.loads(guest(*EVERYTHING).communicate()[0]) for _ in range(TIMES)]
    return [*ledgers, json.loads(busy.communicate()[0])]


def main(share: Path, guests: Callable[[], Ledgers] = in_primes) -> int:
    """Returns the exporter's exit status."""
    exporter = subprocess.Popen([HVTRACE, *EXPORTER], stderr=subprocess.PIPE, text=True)
    assert exporter.stderr is not None
    line = exporter.stderr.readline()
    (share / "serving").write_text(line)
    wait_for(share / "scraped")
    ledgers = guests()
    (share / ".ledgers").write_text(json.dumps(ledgers))
    (share / ".ledgers").rename(share / "ledgers.json")
    wait_for(share / "end")
    exporter.send_signal(signal.SIGTERM)
    (share / "said").write_text(line + exporter.communicate()[1])
    return exporter.returncode


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
