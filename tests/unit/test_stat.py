"""`hvtrace stat` with a fake source: what it prints, when it starts and ends, what it returns."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from samples import START, FakeSource, row, snapshot, vm

from hvtrace.commands import stat
from hvtrace.errors import HvtraceError
from hvtrace.kernel import live
from hvtrace.kernel.room import SLOTS
from hvtrace.stats.exits import Exit
from hvtrace.stats.snapshot import Lost

FAKE = [sys.executable, str(Path(__file__).with_name("fake_hvtrace.py"))]


@pytest.fixture
def source(monkeypatch):
    """Counts 5 calls of win11 and 2 of linux in a trace of 10 s; `opened` has how it was opened."""
    linux = vm("linux", 1013)
    before = [row(code=2, latencies_ns=[700] * 3)]
    after = [
        row(code=2, tid=101, latencies_ns=[700] * 3),
        row(code=2, tid=103, latencies_ns=[700] * 5),
        row(linux, code=3, latencies_ns=[900] * 2),
    ]
    fake = FakeSource(
        snapshot(before, lost=Lost(orphans=1)),
        snapshot(after, time=START + 10, lost=Lost(orphans=3)),
    )
    fake.opened = []

    def open_source(**arguments):
        fake.opened.append(arguments)
        return fake

    monkeypatch.setattr(live, "open_source", open_source)
    return fake


ASKED = {
    **{"pid": None, "code": None, "slots": SLOTS, "anyway": False},
    **{"evidence": False, "round_trip": False},
}
"""What the source is opened with where nothing is asked for."""


def run(*arguments: str):
    # CliRunner replaces sys.stdout, not descriptor 1: a command's own output is not in here.
    result = CliRunner().invoke(stat.command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


# --- what it prints


def test_table_holds_what_was_counted_since_the_start(source):
    result = run("-d", "0.01")
    assert result.stdout.startswith("7 hypercalls of 2 VMs in 10.0s: 0.70/s, ")
    assert "win11 (qemu, pid 1009): 5 calls" in result.stdout
    assert "lost: 2 completions" in result.stdout
    assert (result.return_value, result.stderr) == (0, "")


def test_json_is_one_object_on_one_line(source):
    (line,) = run("-d", "0.01", "--json").stdout.splitlines()
    out = json.loads(line)
    assert [(c["vm"]["name"], c["code"], c["calls"]) for c in out["calls"]] == [
        ("win11", 2, 5),
        ("linux", 3, 2),
    ]
    assert (out["kernel"], out["start"], out["duration_s"]) == (FakeSource.kernel, START, 10.0)
    assert out["lost"]["orphans"] == 2


def test_csv(source):
    lines = list(csv.DictReader(io.StringIO(run("-d", "0.01", "--csv").stdout)))
    assert [(x["vm_name"], x["calls"], x["duration_s"]) for x in lines] == [
        ("win11", "5", "10.0"),
        ("linux", "2", "10.0"),
    ]


def test_output_goes_to_a_file(source, tmp_path):
    path = tmp_path / "out"
    assert run("-d", "0.01", "-o", str(path)).stdout == ""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("7 hypercalls")
    assert "\x1b" not in text


def test_no_calls_come_with_a_hint(source):
    source.left = [snapshot(), snapshot(time=START + 10)]
    assert run("-d", "0.01").stdout == f"No hypercalls in 10.0s.\n{stat.NO_CALLS}"
    assert max(map(len, stat.NO_CALLS.splitlines())) <= 80
    assert run("-d", "0.01", "--csv").stdout.count("\n") == 1


@pytest.mark.parametrize(("pattern", "calls"), [("win11", "5"), ("lin*", "2"), ("?i*", "7")])
def test_vms_by_name(source, pattern, calls):
    assert run("-d", "0.01", "--vm", pattern).stdout.startswith(f"{calls} hypercalls")


def test_several_vms_by_name(source):
    assert run("-d", "0.01", "--vm", "x", "--vm", "linux").stdout.startswith("2 hypercalls of 1 VM")


def test_a_vm_that_made_no_call_is_said(source):
    result = run("-d", "0.01", "--vm", "win10")
    assert result.stderr == "hvtrace: no such VM made a call; these did: linux, win11\n"
    assert result.stdout.startswith("No hypercalls in ")


def test_by_call_adds_up_the_vms(source):
    source.left[1] = snapshot(
        [row("a", 2, latencies_ns=[5] * 3), row("b", 2, latencies_ns=[5] * 8)]
    )
    source.left[0] = snapshot()
    text = run("-d", "0.01", "--by", "call").stdout
    assert "all VMs: 11 calls" in text
    assert text.count("Flush…Space") + text.count("FlushVirtualAddressSpace") == 1


# --- how it opens the source


def test_filters_are_the_kernel_s(source):
    pid = os.getpid()
    run("-d", "0.01", "-p", str(pid), "--code", "signalevent", "--anyway", "--slots", "65535")
    (asked,) = source.opened
    assert asked == ASKED | {"pid": pid, "code": 0x5D, "anyway": True, "slots": 65535}
    assert source.closed


def test_no_filter(source):
    run("-d", "0.01")
    assert source.opened == [ASKED]


@pytest.mark.parametrize("slots", ["0", "65536", "many"])
def test_room_that_cannot_be(source, slots):
    with pytest.raises(click.UsageError, match="range"):
        run("-d", "0.01", "--slots", slots)
    assert source.opened == []


def test_evidence_is_asked_for(source):
    run("-d", "0.01", "--evidence")
    assert source.opened[0]["evidence"] is True


def test_round_trips_are_asked_for(source):
    run("-d", "0.01", "--round-trip")
    assert source.opened == [ASKED | {"round_trip": True}]


def test_evidence_of_the_vms_shown_only(source):
    win, other = (row(name, 0x5C, latencies_ns=[5]) for name in ("win", "other"))
    source.left[1] = now = snapshot([win, other])
    seen = [Exit(vm, 0x5C, False, 2, 32, calls=1, untouched=0) for vm in now.vms]
    source.left[1] = replace(now, exits=tuple(seen))
    source.left[0] = snapshot()
    found = json.loads(run("-d", "0.01", "--evidence", "--vm", "w*", "--json").stdout)
    assert [(one["vm"]["name"], one["calls"]) for one in found["exits"]] == [("win", 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--code", "FlushEverything"], 'no hypercall is named "FlushEverything"'),
        (["--code", "0x10000"], "call code 0x10000 is out of range"),
        (["-p", "4194304"], "there is no process 4194304"),
        (["--", "no-such-program"], "cannot start no-such-program: there is no such program"),
        (["-d", "1", "-o", "/no/such/folder"], "cannot write /no/such/folder: No such file"),
    ],
)
def test_bad_input_is_one_line_and_opens_nothing(source, arguments, message):
    with pytest.raises(HvtraceError, match=f"^{re.escape(message)}") as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    assert source.opened == []


def test_a_thread_is_no_process(source):
    import threading

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(HvtraceError, match=f"thread of process {os.getpid()}: give --pid"):
            run("-p", str(thread.native_id))
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-d", "1", "--", "true"],
        ["--json", "--by", "call"],
        ["-d", "0"],
        ["-d", "soon"],
        ["-p", "0"],
    ],
)
def test_wrong_use_has_status_2(source, arguments):
    result = CliRunner().invoke(stat.command, arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert source.opened == []


# --- with a command


def test_command_starts_after_the_probes_and_ends_before_the_table(source, tmp_path):
    ran = tmp_path / "ran"
    seen = []
    take = source.snapshot

    def snapshot_and_look():
        seen.append(ran.exists())
        return take()

    source.snapshot = snapshot_and_look
    assert run("--", "touch", str(ran)).return_value == 0
    assert (seen[0], seen[-1]) == (False, True)


def test_options_behind_the_command_are_the_command_s(source, tmp_path):
    path = tmp_path / "out"
    run("sh", "-c", f'echo "$@" > {path}', "--", "--json", "-d", "--", "5")
    assert path.read_text() == "--json -d -- 5\n"


@pytest.mark.parametrize(
    ("script", "status", "line"),
    [
        ("exit 0", 0, ""),
        ("exit 3", 3, "hvtrace: sh ended with status 3\n"),
        ("kill -KILL $$", 137, "hvtrace: sh was ended by SIGKILL\n"),
        ("kill -40 $$", 168, "hvtrace: sh was ended by signal 40\n"),
    ],
)
def test_the_command_s_status_is_handed_on(source, script, status, line):
    result = run("--", "sh", "-c", script)
    assert (result.return_value, result.stderr) == (status, line)
    assert result.stdout.startswith("7 hypercalls")


def test_a_command_that_cannot_be_executed(source, tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\0\1\2 not a program")
    program.chmod(0o755)
    with pytest.raises(HvtraceError, match=r"^cannot start .*/program: Exec format error$"):
        run("--", str(program))
    assert source.closed


def test_the_command_does_not_start_where_tracing_cannot(monkeypatch, tmp_path):
    def refuse(**_):
        raise HvtraceError("not root")

    monkeypatch.setattr(live, "open_source", refuse)
    with pytest.raises(HvtraceError, match="not root"):
        run("--", "touch", str(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


def test_a_command_does_not_outlive_tracing_that_failed(source, tmp_path):
    def fail():
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise HvtraceError("the kernel went away")

    source.look = fail
    with pytest.raises(HvtraceError, match="went away"):
        run("--", "sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 61")
    pid = int((tmp_path / "pid").read_text())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    assert source.closed


def test_looks_at_the_source_while_waiting(source, monkeypatch):
    """So that VMs are known by name before they are gone, and dead threads make room."""
    monkeypatch.setattr(stat, "POLL_SECONDS", 0.01)
    run("-d", "0.5")
    assert 5 <= source.looks <= 53
    source.looks = 0
    run("--", "sleep", "0.5")
    assert 5 <= source.looks <= 53
    assert source.taken == 4


def test_ends_in_time(source):
    started = time.monotonic()
    run("-d", "0.3")
    assert 0.3 <= time.monotonic() - started < 2


# --- as a process of its own: output of the command, and signals


def start(log: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FAKE, str(log), "stat", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def events(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").split() if log.exists() else []


def test_the_command_s_output_is_left_as_it_is(tmp_path):
    process = start(tmp_path / "log", "--", "sh", "-c", "echo out; echo err >&2; exit 5")
    out, err = process.communicate()
    assert out.startswith("out\n7 hypercalls of 1 VM in 10.0s")
    assert err == "err\nhvtrace: sh ended with status 5\n"
    assert process.returncode == 5
    assert events(tmp_path / "log")[-1] == "close"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [[], ["-d", "61"]])
def test_a_signal_ends_the_trace_and_shows_the_table(tmp_path, number, arguments):
    process = start(tmp_path / "log", *arguments)
    wait_for(lambda: events(tmp_path / "log"))
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out.startswith("7 hypercalls of 1 VM in 10.0s")
    assert (process.returncode, err) == (0, "")
    assert events(tmp_path / "log")[-1] == "close"


def test_the_first_ctrl_c_is_left_to_the_command(tmp_path):
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = f"touch {ready}; while ! test -e {go}; do sleep 0.05; done; echo done; exit 7"
    process = start(tmp_path / "log", "--", "sh", "-c", script)
    wait_for(ready.exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    go.touch()
    out, err = process.communicate(timeout=30)
    assert out.startswith("done\n7 hypercalls")
    assert (process.returncode, err) == (0, "")  # what Ctrl-C ended has not failed


@pytest.mark.parametrize(
    ("signals", "stubborn"),
    [
        ([signal.SIGINT, signal.SIGINT], False),
        ([signal.SIGTERM], False),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], True),
        ([signal.SIGTERM, signal.SIGTERM], True),
    ],
)
def test_more_signals_end_the_command(tmp_path, signals, stubborn):
    """Asked first; a command that will not end is killed by the next."""
    ready, asked = tmp_path / "ready", tmp_path / "asked"
    end = "" if stubborn else "; exit 0"
    script = f"trap 'touch {asked}{end}' TERM; touch {ready}; while :; do sleep 0.05; done"
    process = start(tmp_path / "log", "--", "sh", "-c", script)
    wait_for(ready.exists)
    for number in signals:
        time.sleep(0.3)  # signals of one kind that wait are one
        process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert asked.exists()
    assert out.startswith("7 hypercalls")
    assert process.returncode == 0
    assert events(tmp_path / "log")[-1] == "close"


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    process = start(tmp_path / "log", "-d", "0.3")
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    assert events(tmp_path / "log")[-1] == "close"


def test_an_old_encoding_is_no_traceback(tmp_path):
    process = subprocess.run(
        [*FAKE, str(tmp_path / "log"), "stat", "-d", "0.01"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert process.stdout.startswith(b"7 hypercalls")
    assert b"Flush?Space" in process.stdout
