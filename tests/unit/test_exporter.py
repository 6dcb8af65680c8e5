"""`hvtrace exporter` as a process of its own, with a fake source."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from hvtrace.commands import exporter
from hvtrace.errors import HvtraceError
from hvtrace.kernel import live

FAKE = [sys.executable, str(Path(__file__).with_name("fake_hvtrace.py"))]


def start(log: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FAKE, str(log), "exporter", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal_ends_it(tmp_path, number):
    process = start(tmp_path / "log", "--listen", "127.0.0.1:0")
    first = process.stderr.readline()
    url = re.fullmatch(r"hvtrace: serving (http://127\.0\.0\.1:\d+/metrics)\n", first)[1]
    with urllib.request.urlopen(url, timeout=30) as response:
        text = response.read().decode()
    assert re.search(r'^hvtrace_hypercalls_total\{.*vm="win11"\} \d\.0$', text, re.MULTILINE)
    assert "\nhvtrace_up 1.0\n" in text
    assert "\nprocess_resident_memory_bytes " in text
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    events = (tmp_path / "log").read_text().split()
    assert set(events[:-1]) == {"snapshot"}
    assert events[-1] == "close"


def test_looks_at_the_source_between_scrapes(tmp_path, monkeypatch):
    process = start(tmp_path / "log", "--listen", "127.0.0.1:0")
    process.stderr.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.5 * exporter.POLL_SECONDS)
    process.terminate()
    process.communicate(timeout=30)
    assert 1 <= (tmp_path / "log").read_text().split().count("look") <= 3


def test_a_port_that_is_taken_attaches_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(tmp_path / "log", "--listen", where)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err == f"hvtrace: cannot listen on {where}: Address already in use\n"
    assert not (tmp_path / "log").exists()


def test_filters_and_the_life_of_ended_vms_are_the_source_s(monkeypatch):
    opened = []

    def refuse(**arguments):
        opened.append(arguments)
        raise HvtraceError("not root")

    monkeypatch.setattr(live, "open_source", refuse)
    what = ["--code", "0x13", "-p", str(os.getpid()), "--slots", "4099", "--anyway", "--round-trip"]
    arguments = ["--listen", "127.0.0.1:0", *what]
    with pytest.raises(HvtraceError, match="not root"):
        CliRunner().invoke(
            exporter.command, arguments, standalone_mode=False, catch_exceptions=False
        )
    assert opened == [
        {"pid": os.getpid(), "code": 0x13, "slots": 4099, "anyway": True, "round_trip": True}
        | {"keep_ended_seconds": 300.0}
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--listen", "nowhere"], 'hvtrace: cannot listen on "nowhere": give HOST:PORT, such as '),
        (["--code", "Nonsense"], 'hvtrace: no hypercall is named "Nonsense"'),
        (["-p", "4194304"], "hvtrace: there is no process 4194304"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, line):
    process = start(tmp_path / "log", *arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(line)
    assert not (tmp_path / "log").exists()


def test_the_default_port_is_nobody_else_s():
    """Neither in this machine's list of services, nor in the range of other exporters."""
    port = exporter.DEFAULT_LISTEN.rpartition(":")[2]
    assert int(port) > 9999
    with pytest.raises(OSError, match="not found"):
        socket.getservbyport(int(port))
