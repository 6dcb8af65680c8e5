"""What the lab needs from the machine, and the one line that says how to get it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import tools


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine on which exactly the programs exist that the test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "SYSTEM_FOLDERS", "")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))

    def put(*names: str, content: bytes = b"\x7fELF static") -> None:
        for name in names:
            (tmp_path / name).write_bytes(content)
            (tmp_path / name).chmod(0o755)

    return put


def test_all_is_there(machine, tmp_path):
    machine(*tools.PACKAGES)
    tools.check()
    assert tools.tool("depmod") == str(tmp_path / "depmod")


def test_one_command_installs_what_is_missing(machine, monkeypatch):
    machine("depmod", "dpkg-deb", "setpriv")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HvtraceError) as failure:
        tools.check()
    assert str(failure.value).endswith(": apt-get install -y qemu-system-x86 busybox-static")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HvtraceError, match="sudo apt-get install -y qemu-system-x86"):
        tools.tool("qemu-system-x86_64")


def test_a_dynamic_busybox_is_not_the_one(machine):
    machine(*tools.PACKAGES)
    machine("busybox", content=b"\x7fELF" + bytes(700) + b"/lib64/ld-linux-x86-64.so.2")
    with pytest.raises(HvtraceError, match="busybox-static"):
        tools.check()


def test_another_architecture(machine, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="aarch64"))
    with pytest.raises(HvtraceError, match="x86-64"):
        tools.check()


def test_this_machines_shell_is_dynamic():
    assert not tools._is_static(Path("/bin/sh"))


def test_a_program_gets_its_input_and_gives_all_it_says(tmp_path):
    ticks: list[int] = []
    script = 'cat; echo "$LC_ALL $A $PWD" >&2; sleep 0.7; exit 3'
    status, output, complaint = tools.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        variables={"A": "b"},
        stdin="x" * 200_003,
        tick=lambda: ticks.append(1),
    )
    assert (status, output) == (3, "x" * 200_003)
    assert complaint == f"C.UTF-8 b {tmp_path}\n"
    assert ticks


def test_an_interrupted_program_is_killed(tmp_path):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tools.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 600"], tick=interrupt)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
