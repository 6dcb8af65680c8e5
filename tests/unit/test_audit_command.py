"""`hvtrace audit` with a fake host: what it asks for, what it prints, and where."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from types import ModuleType

import pytest
from audit_samples import call, guest, host
from click.testing import CliRunner
from samples import vm

from hvtrace.commands import audit
from hvtrace.errors import HvtraceError
from hvtrace.kernel.room import SLOTS
from hvtrace.stats.snapshot import Lost


@pytest.fixture
def observed(monkeypatch):
    """How the host was observed; it has win11 (an advice) and linux."""
    asked = []

    def observe(pid, seconds, *, evidence, anyway, slots, say, wait):
        asked.append((pid, seconds, evidence, anyway, slots))
        say("attaching")
        wait(0.0)
        win11 = guest(calls=(call(0x02, 211, fast=True),))
        return host(), [win11, guest(vm=vm("linux", 1013))], Lost(orphans=3)

    fake = ModuleType("hvtrace.kernel.audit")
    fake.observe = observe
    monkeypatch.setitem(sys.modules, "hvtrace.kernel.audit", fake)
    return asked


def run(*arguments: str):
    result = CliRunner().invoke(audit.command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def test_text_on_stdout_and_progress_on_stderr(observed):
    result = run()
    assert result.stdout.startswith("2 guests in 10.0s on Linux 6.12.0-fake\n")
    assert "  advice ipi-unused\n" in result.stdout
    assert result.stdout.endswith("lost: 3 completions of calls that began before the trace\n")
    assert "\x1b" not in result.stdout
    assert (result.stderr, result.return_value) == ("hvtrace: attaching\n", 0)


def test_what_is_asked_for(observed):
    run()
    run("-d", "0.5", "--evidence", "--anyway", "--slots", "4099")
    assert observed == [(None, 10.0, False, False, SLOTS), (None, 0.5, True, True, 4099)]


def test_a_process(observed):
    run("-p", str(os.getpid()))
    assert observed == [(os.getpid(), 10.0, False, False, SLOTS)]
    with pytest.raises(HvtraceError, match="there is no process"):
        run("-p", str(2**22 + 1))


def test_json_is_one_object_on_one_line(observed):
    (line,) = run("--json").stdout.splitlines()
    out = json.loads(line)
    assert [one["vm"]["name"] for one in out["guests"]] == ["win11", "linux"]
    assert [found["id"] for found in out["guests"][0]["findings"]] == ["ipi-unused"]
    assert time.time() - 60 < out["start"] < time.time() - 9.9  # before the ten seconds
    assert out["lost"]["orphans"] == 3


@pytest.mark.parametrize(
    ("patterns", "names"),
    [(("win11",), ["win11"]), (("?i*",), ["win11", "linux"]), (("x", "lin*"), ["linux"])],
)
def test_vms_by_name(observed, patterns, names):
    arguments = [word for pattern in patterns for word in ("--vm", pattern)]
    out = json.loads(run("--json", *arguments).stdout)
    assert [one["vm"]["name"] for one in out["guests"]] == names


def test_a_name_that_no_vm_has_is_said(observed):
    result = run("--vm", "win10")
    assert result.stderr.endswith("hvtrace: no VM of this name ran; these did: linux, win11\n")
    assert result.stdout.startswith("No guests in 10.0s")
    assert result.return_value == 0


def test_ctrl_c_ends_the_watch_and_shows_what_was_seen(monkeypatch):
    def observe(pid, seconds, *, wait, **_):
        os.kill(os.getpid(), signal.SIGINT)
        assert wait(60.0)
        return host(duration_s=0.7), [guest()], Lost()

    fake = ModuleType("hvtrace.kernel.audit")
    fake.observe = observe
    monkeypatch.setitem(sys.modules, "hvtrace.kernel.audit", fake)
    result = run()
    assert result.stdout.startswith("1 guest in 700ms")
    assert result.return_value == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "x"])
def test_no_time_at_all_is_wrong_use(observed, seconds):
    result = CliRunner().invoke(audit.command, ["-d", seconds])
    assert result.exit_code == 2
    assert observed == []


def test_help_fits_80_columns_and_needs_no_kernel():
    result = CliRunner().invoke(audit.command, ["--help"])
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert "--evidence" in result.output
