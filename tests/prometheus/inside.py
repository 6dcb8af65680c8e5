"""What runs in the VM: the exporter for all the time, and guests once it has been scraped.

    python -m tests.prometheus.inside SHARE

In the middle of it the exporter is killed and started again, while the kernel counts on.
Files in SHARE are the words between this and scene.py: "serving", "ledgers.json" and "said"
are ours, "scraped" and "end" are the other's.
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
PIN = "/sys/fs/bpf/hvtrace"
EXPORTER = ("--listen", ":10942", "--round-trip", "--vcpus", "--probe-cost", "--pin", PIN)
# A VM that calls all the time, and beside it VMs that come, make every call there is in
# prime numbers, and go: the second time as VMs of the same names.
BUSY = ("--mix", "windows-busy", "--rate", "23", "--duration", "40", "--vcpus", "2")
EVERYTHING = ("--mix", "everything", "--vms", "2", "--vcpus", "2")

Ledgers = list[dict[str, Any]]


class Exporter:
    """The one of this host."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._start()

    def _start(self) -> None:
        command = [HVTRACE, "exporter", *EXPORTER]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)
            if "serving" in line:
                return
        raise AssertionError("".join(self.said))

    def kill(self) -> None:
        """As nobody should, and start it again."""
        self._process.kill()
        self._process.wait()
        time.sleep(0.5)  # so long its other process may still listen
        self._start()

    def end(self) -> int:
        """As it should be; nothing is left. The first status that was not 0, or 0."""
        self._process.send_signal(signal.SIGTERM)
        self.said.append(self._process.communicate()[1])
        unpin = [HVTRACE, "unpin", PIN]
        done = subprocess.run(unpin, check=False, stderr=subprocess.PIPE, text=True)
        self.said.append(done.stderr)
        return self._process.returncode or done.returncode or int(Path(PIN).exists())


def guest(*options: str) -> subprocess.Popen[str]:
    command = [HVTRACE, "guest", *options, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def in_primes(exporter: Exporter) -> Ledgers:
    """Make calls in prime numbers, and kill the exporter in the middle; what was called."""
    busy = guest(*BUSY)
    first = guest(*EVERYTHING).communicate()[0]
    second = guest(*EVERYTHING)
    exporter.kill()
    return [json.loads(text) for text in (first, second.communicate()[0], busy.communicate()[0])]


def main(share: Path, guests: Callable[[Exporter], Ledgers] = in_primes) -> int:
    """0 where all ended well."""
    exporter = Exporter()
    (share / "serving").touch()
    wait_for(share / "scraped")
    ledgers = guests(exporter)
    (share / ".ledgers").write_text(json.dumps(ledgers))
    (share / ".ledgers").rename(share / "ledgers.json")
    wait_for(share / "end")
    status = exporter.end()
    (share / "said").write_text("".join(exporter.said))
    return status


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
