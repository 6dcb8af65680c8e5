"""The command line of `hvtrace top`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from samples import START, FakeSource, row, snapshot, vm

import hvtrace.top
from hvtrace.cli import cli
from hvtrace.errors import HvtraceError
from hvtrace.kernel import live
from hvtrace.stats.snapshot import SlowCall


@pytest.fixture
def opened(monkeypatch):
    """Arguments of each open_source; its source has 7 calls, then 18."""
    calls = []
    sources = []

    def open_source(**arguments):
        calls.append(arguments)
        rows = [[row(code=2, latencies_ns=[700] * n)] for n in (7, 18)]
        sources.append(FakeSource(*(snapshot(r, time=START + i) for i, r in enumerate(rows))))
        return sources[-1]

    monkeypatch.setattr(live, "open_source", open_source)
    yield calls
    assert all(source.closed for source in sources)


def run(*arguments: str):
    return CliRunner().invoke(cli, ["top", *arguments])


def test_one_interval_as_json(opened):
    result = run("--batch", "--json", "-n", "1", "-i", "0.1")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["calls"][0]["calls"] == 11


def test_tables(opened):
    result = run("--batch", "-n", "2", "-i", "0.1")
    assert result.exit_code == 0
    assert result.stdout.count(" 1 VM in 1.00s") == 1
    assert result.stdout.count("No hypercalls") == 1


def test_what_the_source_is_asked_for(opened):
    pid = os.getpid()
    what = ("--pid", str(pid), "--code", "0x5c", "--slots", "4099", "--anyway", "--round-trip")
    run("--batch", "-n", "1", "-i", "0.1", *what)
    (asked,) = opened
    assert asked.pop("keep_ended_seconds") >= 120
    asked.pop("say")("waiting")
    # None: the programs have no trace of slow calls in them.
    extra = {"slow_ns": None, "sizes": False, "measure": False}
    assert asked == {
        **{"pid": pid, "code": 0x5C, "slots": 4099, "anyway": True, "round_trip": True},
        **extra,
    }


@pytest.fixture
def shown(monkeypatch):
    """What the live view is given, in place of being shown."""
    given = []

    def show(open_source, interval_seconds, **more):
        open_source(print).close()
        given.append({"interval_seconds": interval_seconds} | more)
        return 7

    # Not the module itself: a unit test needs no Textual for this.
    monkeypatch.setitem(sys.modules, "hvtrace.top.app", SimpleNamespace(run=show))
    monkeypatch.setattr(hvtrace.top, "app", SimpleNamespace(run=show), raising=False)
    return given


def test_what_the_live_view_is_given(opened, shown):
    run("-i", "2")
    assert shown == [
        {"interval_seconds": 2.0, "mouse": True, "slow_ns": 0, "recording": None},
    ]
    (asked,) = opened
    assert (asked["slow_ns"], asked["sizes"], asked["measure"]) == (0, True, True)
    run("--slow", "1.5ms", "--no-mouse")
    assert opened[1]["slow_ns"] == shown[1]["slow_ns"] == 1_500_000
    assert not shown[1]["mouse"]


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1ns", 1),
        ("250us", 250_000),
        ("250µs", 250_000),  # the micro sign
        ("250μs", 250_000),  # the Greek letter, as keyboards and copies have it
        ("1ms", 1_000_000),
        ("0.1ms", 100_000),
        ("2s", 2 * 10**9),
        ("2 s", 2 * 10**9),
        ("3600s", 3600 * 10**9),
    ],
)
def test_a_limit_for_slow_calls(opened, text, nanoseconds):
    assert run("--once", "-i", "0.1", "--slow", text).exit_code == 0
    assert opened[0]["slow_ns"] == nanoseconds
    assert not opened[0]["sizes"]


@pytest.mark.parametrize(
    "text", ["1", "ms", "", "0ms", "0.1ns", "-1ms", "1e3s", "3601s", "1m", "1ms2", "٣ms", "1 000ms"]
)
def test_a_limit_that_is_none_is_one_line(opened, text):
    result = run("--once", f"--slow={text}")
    assert isinstance(result.exception, HvtraceError)
    assert str(result.exception) == f'"{text}" is no time from 1ns to 3600s: give 250us, 1ms, 2s...'
    assert opened == []


SLOW = SlowCall(START, vm(), 3, 1013, 2, True, "kernel", 1, 5, 0, 2, 1_234_567)


def test_slow_calls_are_listed_where_asked_for(opened, monkeypatch):
    snaps = [snapshot(), replace(snapshot(time=START + 1), slow=(SLOW,))]
    monkeypatch.setattr(live, "open_source", lambda **_: FakeSource(*snaps))
    (line,) = run("--once", "--json", "-i", "0.1", "--slow", "1ms").stdout.splitlines()
    assert [one["duration_ns"] for one in json.loads(line)["slow"]] == [1_234_567]
    (line,) = run("--once", "--json", "-i", "0.1").stdout.splitlines()
    assert "slow" not in json.loads(line)
    assert "\n1 slow call\n" in run("--once", "-i", "0.1", "--slow", "1ms").stdout


def test_once_is_one_table(opened):
    result = run("--once", "-i", "0.1")
    assert result.exit_code == 0
    assert result.stdout.count("hypercall") == 1
    assert "\n11 hypercalls of 1 VM in 1.00s" in result.stdout
    assert run("--once", "-i", "0.1", "--batch").stdout == result.stdout
    (line,) = run("--once", "-i", "0.1", "--json").stdout.splitlines()
    assert json.loads(line)["calls"][0]["calls"] == 11


# --- --replay


@pytest.fixture
def recording(opened, tmp_path):
    """Two lines of 11 calls and of none."""
    path = tmp_path / "recording.jsonl"
    path.write_text(run("--batch", "--json", "-n", "2", "-i", "0.1").stdout)
    opened.clear()
    return path


def test_a_recording_without_waiting(opened, recording):
    result = run("--batch", "--json", "--replay", str(recording))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == recording.read_text()
    table = run("--batch", "--replay", str(recording)).stdout
    assert table.count("\n11 hypercalls of 1 VM in 1.00s") == table.count("No hypercalls") == 1
    assert (
        run("--once", "--replay", str(recording)).stdout == table.partition("\n\n2023")[0] + "\n\n"
    )
    assert (
        len(run("--batch", "--json", "-n", "1", "--replay", str(recording)).stdout.splitlines())
        == 1
    )
    assert opened == []


def test_the_live_view_has_an_interval_of_its_own_where_none_is_given(opened, shown):
    run()
    assert shown[0]["interval_seconds"] is None


def test_a_recording_in_the_live_view(opened, shown, recording):
    run("--replay", str(recording), "-i", "0.5")
    assert shown == [
        {"interval_seconds": 0.5, "mouse": True, "slow_ns": 0, "recording": "recording.jsonl"}
    ]
    assert opened == []


def test_slow_calls_of_a_recording(opened, recording):
    line = json.loads(recording.read_text().splitlines()[0])
    recording.write_text(json.dumps(line | {"slow": []}) + "\n")
    result = run("--batch", "--json", "--replay", str(recording))
    assert json.loads(result.stdout)["slow"] == []


def test_a_cut_end_is_a_note(recording):
    recording.write_text(recording.read_text()[:-50])
    result = run("--batch", "--json", "--replay", str(recording))
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == f"hvtrace: line 2 of {recording} is cut off: it is left out\n"


def test_no_recording(opened, tmp_path):
    result = run("--batch", "--replay", str(tmp_path / "none"))
    assert isinstance(result.exception, HvtraceError)
    assert opened == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--once", "-n", "3"], "--once is one interval: give it or -n, not both"),
        (["--once", "--no-mouse"], "--no-mouse is not for --batch"),
        (["--batch", "--no-mouse"], "--no-mouse is not for --batch"),
        *(
            (["--replay", "x", *option], f"{option[0]} is for the running kernel, not for --replay")
            for option in (
                ["--pid", str(os.getpid())],
                ["--code", "2"],
                ["--slots", "16384"],
                ["--anyway"],
                ["--round-trip"],
                ["--slow", "1ms"],
            )
        ),
        (
            ["--replay", "x", "--batch", "-i", "2"],
            "--interval means nothing here: --batch does not wait",
        ),
    ],
)
def test_options_that_exclude_each_other(opened, options, line):
    result = run(*options)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {line}"
    assert opened == []


def test_vms_are_kept_for_longer_than_an_interval(opened, monkeypatch):
    monkeypatch.setattr("hvtrace.top.batch.run", lambda *_, **__: None)
    run("--batch", "-i", "3000")
    assert opened[0]["keep_ended_seconds"] > 6000


def test_progress_is_not_mixed_into_the_output(opened, monkeypatch):
    inner = live.open_source

    def open_source(say, **more):
        say("waiting for KVM")
        return inner(say=say, **more)

    monkeypatch.setattr(live, "open_source", open_source)
    result = run("--batch", "--json", "-n", "1", "-i", "0.1")
    assert result.stderr == "hvtrace: waiting for KVM\n"
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("option", [["--json"], ["-n", "3"]])
def test_options_of_batch_alone(option):
    result = run(*option)
    assert result.exit_code == 2
    assert "-n and --json are for --batch" in result.stderr


@pytest.mark.parametrize("interval", ["0", "-1", "0.01", "x"])
def test_intervals_that_make_no_sense(interval):
    assert run("--batch", "-i", interval).exit_code == 2


def test_without_a_terminal(opened):
    result = run()
    assert isinstance(result.exception, HvtraceError)
    assert "hvtrace top --batch" in str(result.exception)
    assert opened == []  # nothing was attached for that


def test_an_unknown_code_is_said_before_anything_is_attached(opened):
    result = run("--batch", "--code", "nonsense")
    assert isinstance(result.exception, HvtraceError)
    assert opened == []


def test_help_fits_80_columns():
    result = run("--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
