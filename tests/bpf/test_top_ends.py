"""However `hvtrace top` ends, on real probes: its exit status, its terminal, nothing attached."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tmux import HVTRACE, PROMPT, WAIT_SECONDS, Terminal, programs, terminal

HERE = "No VM makes hypercalls"


@pytest.fixture(scope="module", autouse=True)
def _kvm_events() -> None:
    """The tracepoints must exist, if only of a kvm.ko without hardware."""
    if not Path("/sys/kernel/tracing/events/kvm").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "nodev", "/sys/kernel/tracing"], check=False)
    if not Path("/sys/kernel/tracing/events/kvm").is_dir():
        subprocess.run(["modprobe", "kvm"], check=True)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """The kernel has the programs that it had before."""
    before = programs()
    yield
    deadline = time.monotonic() + WAIT_SECONDS
    while programs() - before:  # it frees them a moment after the last descriptor is closed
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def view(tmp_path: Path, nothing_stays: None) -> Iterator[Terminal]:
    with terminal(tmp_path) as opened:
        yield opened


def opened(view: Terminal) -> int:
    """Start the live view, and wait for it; its process id."""
    before = programs()
    view.run("top", "--anyway")
    view.until(HERE)
    assert len(programs() - before) >= 3
    shell = int(view.tmux("display", "-p", "-t", "test", "#{pane_pid}"))
    (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    assert b"hvtrace" in Path(f"/proc/{child}/cmdline").read_bytes()
    return int(child)


def clock(lines: list[str]) -> str:
    """When the picture is of."""
    return lines[0].split()[1]


def goes_on(view: Terminal) -> None:
    """Wait for a newer picture than the one there is."""
    before = clock(view.until(HERE))
    view.until(lambda lines: "hvtrace " in lines[0] and clock(lines) > before)


def test_it_lives_on_without_its_terminal_and_in_the_background(view: Terminal) -> None:
    """tmux detached and attached again, Ctrl-Z and fg; then q."""
    opened(view)
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color"}
    for _ in range(2):
        with subprocess.Popen(
            view.tmux_command("attach", "-t", "test"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        ) as client:
            view.until(lambda _: "test" in view.tmux("list-clients"))
            goes_on(view)
            view.tmux("detach-client", "-s", "test")
        assert client.returncode == 0
        goes_on(view)
    os.close(ours)
    os.close(theirs)
    view.type("C-z")
    view.until("Stopped")
    view.type("fg", "Enter")
    goes_on(view)
    view.type("q")
    assert view.status() == 0


def test_a_signal_ends_it_well(view: Terminal) -> None:
    os.kill(opened(view), signal.SIGTERM)
    assert view.status() == 0
    assert HERE not in "\n".join(view.lines)


def test_it_ends_with_its_terminal(view: Terminal) -> None:
    process = Path("/proc", str(opened(view)))
    view.tmux("kill-session", "-t", "test")
    deadline = time.monotonic() + WAIT_SECONDS
    while process.exists():
        assert time.monotonic() < deadline, (process / "status").read_text()
        time.sleep(0.2)


def test_batch_ends_with_its_reader(view: Terminal) -> None:
    view.command(f"{HVTRACE} top --anyway --batch -i 0.5 2>/dev/null | head -1")
    lines = view.until(lambda lines: PROMPT in lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", lines[0])
    assert [line for line in lines[1:] if line] == [PROMPT]
    assert view.status() == 0


def test_once_is_one_table(view: Terminal) -> None:
    view.command(f"{HVTRACE} top --anyway --once -i 0.5")
    lines = view.until(lambda lines: PROMPT in lines)
    assert sum(bool(re.match(r"\d{4}-", line)) for line in lines) == 1
    assert "no hypercalls" in "\n".join(lines).lower()
    assert view.status() == 0
