"""The real exporter, as root: what each of its two processes may do, asked of the kernel."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

HVTRACE = str(Path(sys.executable).with_name("hvtrace"))


@pytest.fixture
def exporter() -> Iterator[subprocess.Popen[str]]:
    command = [HVTRACE, "exporter", "--anyway", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> str:
    return " ".join(os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir())


def test_who_serves_has_no_privilege_and_no_program(exporter: subprocess.Popen[str]) -> None:
    assert exporter.stderr
    said = ""
    while "serving" not in said:
        line = exporter.stderr.readline()
        assert line, said
        said += line
    url = re.findall(r"http://\S+", said)[0]
    with urllib.request.urlopen(url) as response:
        assert b"hvtrace_up 1.0" in response.read()
    children = f"/proc/{exporter.pid}/task/{exporter.pid}/children"
    [front] = [int(pid) for pid in Path(children).read_text().split()]
    nobody = pwd.getpwnam("nobody")
    about = status(front)
    assert about["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert about["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert about["Groups"] == ""
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(about[kind], 16) == 0
    assert about["NoNewPrivs"] == "1"
    assert "bpf" not in descriptors(front)
    assert "bpf-prog" in descriptors(exporter.pid)  # as it is called where it is
