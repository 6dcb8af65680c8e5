"""The command line of `hvtrace top`."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner
from samples import START, FakeSource, row, snapshot

from hvtrace.cli import cli
from hvtrace.errors import HvtraceError
from hvtrace.kernel import live


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
    assert asked == {"pid": pid, "code": 0x5C, "slots": 4099, "anyway": True, "round_trip": True}


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
