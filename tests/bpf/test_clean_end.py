"""However hvtrace ends, no program stays attached: asked of the kernel, by bpftool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HVTRACE = str(Path(sys.executable).with_name("hvtrace"))
COMMANDS = {
    "stat": ["stat", "--anyway", "-d", "60"],
    "top": ["top", "--anyway", "--batch", "-i", "60"],
    "exporter": ["exporter", "--anyway", "--listen", "127.0.0.1:0"],
}


@pytest.fixture(scope="module", autouse=True)
def _kvm_events() -> None:
    """The tracepoints must exist, if only of a kvm.ko without hardware."""
    if not Path("/sys/kernel/tracing/events/kvm").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "nodev", "/sys/kernel/tracing"], check=False)
    if not Path("/sys/kernel/tracing/events/kvm").is_dir():
        subprocess.run(["modprobe", "kvm"], check=True)


def loaded() -> set[int]:
    """Ids of hvtrace's programs in the kernel."""
    out = subprocess.check_output(["bpftool", "--json", "prog", "show"])
    return {p["id"] for p in json.loads(out) if p.get("name", "").startswith("hvt_")}


def gone(before: set[int]) -> bool:
    """Whether only `before` is left; the kernel frees programs a moment after their end."""
    deadline = time.monotonic() + 10
    while not loaded() <= before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def start(command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [HVTRACE, *COMMANDS[command]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_attached(command: str, number: signal.Signals) -> None:
    before = loaded()
    process = start(command)
    deadline = time.monotonic() + 30
    while len(loaded() - before) < 4:  # all of them: attached, or about to be
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert gone(before)
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert process.returncode == 0, errors


@pytest.mark.parametrize("delay_ms", [0, 53, 101, 211, 307, 401, 503, 701, 907])
def test_ctrl_c_at_any_time_of_the_start(delay_ms: int) -> None:
    """As from a terminal: the whole process group gets it, the loader's child too."""
    before = loaded()
    process = start("stat")
    time.sleep(delay_ms / 1000)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert gone(before)
    # Before Python itself has started, what it says of a Ctrl-C is its own.
    assert "Traceback" not in errors or "Fatal Python error: init" in errors
    assert process.returncode in (0, 130, -signal.SIGINT), errors
