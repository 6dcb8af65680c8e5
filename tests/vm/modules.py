"""KVM's modules, out and in again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

KVM = Path("/sys/module/kvm")


def load() -> None:
    subprocess.run(["modprobe", "kvm_amd"], check=True)


def unload(look: Callable[[], object], seconds: float = 30) -> None:
    """Remove the vendor's module, then kvm.ko as soon as nobody holds it any more.

    `look` is called in between: it lets the sources of this process see what has gone.
    """
    subprocess.run(["rmmod", "kvm_amd"], check=True)
    deadline = time.monotonic() + seconds
    while True:
        done = subprocess.run(["rmmod", "kvm"], capture_output=True, text=True, check=False)
        if not done.returncode:
            break
        assert "Module kvm is in use" in done.stderr
        assert time.monotonic() < deadline, "hvtrace does not let go of kvm.ko"
        look()
        time.sleep(0.1)
    assert not KVM.exists()
