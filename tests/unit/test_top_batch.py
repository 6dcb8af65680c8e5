"""The live view as text."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from samples import START, FakeSource, row, snapshot

from hvtrace.stats.snapshot import Lost
from hvtrace.top import batch

UNIT = Path(__file__).parent


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def source(*counts: int) -> FakeSource:
    """One snapshot a second, with that many calls since the start."""
    return FakeSource(
        *(
            snapshot([row(code=2, latencies_ns=[700] * count)] if count else [], time=START + i)
            for i, count in enumerate(counts)
        )
    )


def run(fake: FakeSource, *, naps: int = 10**6, **more) -> str:
    out = io.StringIO()
    left = [True] * naps

    def nap(seconds: float) -> bool:
        assert 0 < seconds <= batch.POLL_SECONDS
        return not (left and left.pop())

    settings = {"interval_seconds": 0.001, "intervals": None, "as_json": False}
    batch.run(fake, out, nap=nap, **settings | more)
    return out.getvalue()


def test_a_table_for_each_interval():
    text = run(source(0, 7, 18, 1000), intervals=2)
    assert text.startswith("2023-11-14 22:13:21\n7 hypercalls of 1 VM in 1.00s: 7.00/s")
    assert "\n\n2023-11-14 22:13:22\n11 hypercalls of 1 VM in 1.00s: 11.0/s" in text
    assert "2023-11-14 22:13:23" not in text
    assert text.endswith("\n\n")


def test_calls_before_the_first_snapshot_are_not_of_the_first_interval():
    assert "\n11 hypercalls" in run(source(7, 18), intervals=1)


def test_json_is_the_contract_one_object_a_line():
    lines = run(source(0, 7, 18, 1000), intervals=3, as_json=True).splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["calls"][0]["calls"] for one in found] == [7, 11, 982]
    assert [one["start"] for one in found] == [START, START + 1, START + 2]
    assert {one["duration_s"] for one in found} == {1.0}
    assert {one["schema"] for one in found} == {1}
    assert {one["kernel"] for one in found} == {"6.12.0-fake"}


def test_an_interval_without_a_call():
    (line,) = run(source(7, 7), intervals=1, as_json=True).splitlines()
    assert json.loads(line)["calls"] == []
    assert "No hypercalls in 1.00s." in run(source(7, 7), intervals=1)


def test_losses_are_of_the_interval():
    fake = FakeSource(
        *(snapshot(time=START + i, lost=Lost(no_slot=n)) for i, n in enumerate((2, 7)))
    )
    (line,) = run(fake, intervals=1, as_json=True).splitlines()
    assert json.loads(line)["lost"]["no_slot"] == 5


def test_ends_when_the_nap_says_so():
    fake = source(0, 7, 18)
    assert run(fake, naps=0, interval_seconds=60) == ""
    assert fake.taken == 1


def test_long_intervals_are_looked_into(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(batch.time, "monotonic", lambda: clock[0])

    def nap(seconds: float) -> bool:
        clock[0] += seconds
        return False

    fake = source(*range(100))
    out = io.StringIO()
    batch.run(fake, out, interval_seconds=7.5, intervals=1, as_json=True, nap=nap)
    # One after each full second but the last stretch.
    assert (fake.taken, fake.looks) == (2, 7)
    assert clock[0] == pytest.approx(7.5)


def test_intervals_do_not_drift(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(batch.time, "monotonic", lambda: clock[0])

    def nap(seconds: float) -> bool:
        clock[0] += seconds + 0.003  # a late wake-up
        return False

    batch.run(source(0), io.StringIO(), interval_seconds=0.5, intervals=100, as_json=True, nap=nap)
    assert clock[0] == pytest.approx(50.0, abs=0.01)


def test_each_interval_is_flushed():
    class Out(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    out = Out()
    batch.run(
        source(0, 7), out, interval_seconds=0.001, intervals=3, as_json=True, nap=lambda _: False
    )
    assert out.flushed == 3


PROGRAM = """
import atexit, sys
sys.path.insert(0, {unit!r})
from samples import FakeSource, row, snapshot
from hvtrace import cli

def check():
    heavy = {{"textual", "rich"}} | ({{"hvtrace.kernel.loader"}} if not {live!r} else set())
    assert not heavy & set(sys.modules), "what is not needed"
    print("ended", file=sys.stderr)
    assert fake.closed == {live!r}

fake = FakeSource(snapshot([row(code=2, latencies_ns=[700])]))
if {live!r}:
    from hvtrace.kernel import live
    live.open_source = lambda **more: fake
atexit.register(check)
sys.argv = ["hvtrace", "top", *{options!r}]
cli.main()
"""


def started(*options):
    """`hvtrace top` over an endless fake source, or over a recording."""
    code = PROGRAM.format(unit=str(UNIT), options=options, live="--replay" not in options)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def recording(tmp_path):
    """More than a pipe holds."""
    path = tmp_path / "recording"
    path.write_text(run(source(0, 7, 18), intervals=1, as_json=True) * 2_000)
    return path


SHORT = ("--batch", "--json", "-i", "0.1")


def test_a_closed_pipe_ends_it_cleanly_and_without_textual():
    closed_pipe(SHORT)


def test_a_closed_pipe_ends_a_recording_without_the_kernel(recording):
    closed_pipe(("--batch", "--json", "--replay", str(recording)))


def closed_pipe(options):
    with started(*options) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["schema"] == 1
        child.stdout.close()
        assert child.stderr is not None
        assert child.stderr.read() == "ended\n"
    assert child.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number):
    with started(*SHORT) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["schema"] == 1
        child.send_signal(number)
        rest, errors = child.communicate(timeout=20)
    assert all(json.loads(line)["schema"] == 1 for line in rest.splitlines())
    assert (errors, child.returncode) == ("ended\n", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [("--once", "-i", "3000"), ("--batch", "--json", "-i", "3000")])
def test_a_signal_ends_a_long_interval(options, number):
    """Nothing is printed of an interval that is not over."""
    with started(*options) as child:
        catches(child, number)
        child.send_signal(number)
        assert child.communicate(timeout=20) == ("", "ended\n")
    assert child.returncode == 0


def catches(child, number):
    """Wait until it has a handler for both signals: of SIGTERM there is none while it starts."""
    status = Path(f"/proc/{child.pid}/status")
    mask = 1 << (number - 1) | 1 << (signal.SIGTERM - 1)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        caught = int(re.search(r"^SigCgt:\s*(\S+)", status.read_text(), re.MULTILINE)[1], 16)
        if caught & mask == mask:
            return
        time.sleep(0.01)
    raise AssertionError("it never caught the signal")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_recording_that_is_being_written(tmp_path, number):
    """It waits in a read, and for no interval."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with started("--batch", "--json", "--replay", str(path)) as child, path.open("w") as file:
        file.write(run(source(0, 7), intervals=1, as_json=True) + '{"schema": 1, ')
        file.flush()
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["calls"][0]["calls"] == 7
        child.send_signal(number)
        assert child.communicate(timeout=20) == ("", "ended\n")
    assert child.returncode == 0


def test_colour_and_width_only_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(batch.shutil, "get_terminal_size", lambda: os.terminal_size((100, 30)))
    monkeypatch.delenv("NO_COLOR", raising=False)
    settings = {
        "interval_seconds": 0.001,
        "intervals": 1,
        "as_json": False,
        "nap": lambda _: False,
    }
    out = Terminal()
    batch.run(source(0, 7), out, **settings)
    assert "\x1b[" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    batch.run(source(0, 7), out, **settings)
    assert "\x1b[" not in out.getvalue()
    assert "\x1b[" not in run(source(0, 7), intervals=1)
