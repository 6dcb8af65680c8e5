"""`hvtrace demo`: where it runs, and that its guests end with its view."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from hvtrace.commands import demo
from hvtrace.errors import HvtraceError
from hvtrace.lab import kernels
from hvtrace.lab.kernels import Kernel

# What stands in for hvtrace: writes down how it was called, and when it ended.
STAND_IN = """
import os, signal, sys, time
name = sys.argv[2]
log = open(sys.argv[1], "a", buffering=1)
print(name, "begins:", *sys.argv[3:], file=log)
if name == "top":
    while "guest begins" not in open(sys.argv[1]).read():
        time.sleep(0.01)
    time.sleep(float(os.environ.get("TOP_SECONDS", "0")))
    print("top ends", file=log)
    sys.exit(int(os.environ.get("TOP_STATUS", "0")))
if "GUEST_FAILS" in os.environ:
    sys.exit("hvtrace: /dev/kvm is gone")
signal.signal(signal.SIGTERM, lambda *_: (print("guest ends", file=log), sys.exit(0)))
time.sleep(600)
"""


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    file, script = tmp_path / "log", tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    ours = (sys.executable, str(script), str(file))
    monkeypatch.setattr(demo, "_HVTRACE", ours)
    monkeypatch.setattr(demo, "_GUEST", (*ours, *demo._GUEST[3:]))
    return file


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(demo.command, arguments)
    if isinstance(result.exception, HvtraceError):
        raise result.exception
    return result.exit_code, result.output


def test_the_guests_end_with_the_view(log):
    assert run("--in-place") == (0, "")
    lines = sorted(log.read_text().splitlines())
    assert lines == [
        "guest begins: --mix windows-busy --vms 2 --vcpus 2",
        "guest ends",
        "top begins: --batch -n 5 -i 2",
        "top ends",
    ]
    assert log.read_text().splitlines()[-1] == "guest ends"


def test_the_views_status_is_ours(log, monkeypatch):
    monkeypatch.setenv("TOP_STATUS", "3")
    assert run("--in-place")[0] == 3


def test_guests_that_fail_are_told(log, monkeypatch):
    monkeypatch.setenv("GUEST_FAILS", "yes")
    monkeypatch.setenv("TOP_SECONDS", "0.5")
    with pytest.raises(HvtraceError, match=r"ended before the view did: /dev/kvm is gone$"):
        run("--in-place")


@pytest.fixture
def lab(monkeypatch):
    """The lab, with a VM that only says how it was asked for."""
    asked: list[object] = []

    class Vm:
        def __init__(self, kernel, share, front, progress) -> None:
            assert share.is_dir()
            asked.append(kernel.release)

        def run(self, command) -> int:
            asked.append(command[-2:])
            return 7

    monkeypatch.setattr(demo, "Vm", Vm)
    monkeypatch.setattr(demo.tools, "check", lambda: None)
    monkeypatch.setattr(
        demo.kernels, "find", lambda name, _: Kernel(f"{name}-release", Path("i"), Path("m"))
    )
    return asked


def host(monkeypatch, *, root: bool = True, device: bool = True, hyperv: bool = True) -> None:
    monkeypatch.setattr(demo.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(demo.kvm, "DEVICE", Path("/dev/null" if device else "/absent"))
    monkeypatch.setattr(demo.kvm, "has_hyperv", lambda: hyperv)


def test_a_host_that_can_serve_does(log, lab, monkeypatch):
    host(monkeypatch)
    assert run()[0] == 0
    assert lab == []
    assert "top begins" in log.read_text()


@pytest.mark.parametrize("lacks", ["root", "device", "hyperv"])
def test_elsewhere_the_lab_does(log, lab, monkeypatch, lacks):
    host(monkeypatch, **{lacks: False})
    status, said = run()
    assert status == 7
    assert lab == [f"{kernels.DEFAULT}-release", ["demo", "--in-place"]]
    assert f"booting {kernels.DEFAULT}-release" in said
    assert not log.exists()


def test_a_kernel_that_is_named_is_used(log, lab, monkeypatch):
    host(monkeypatch)
    run("--kernel", "sid")
    assert lab[0] == "sid-release"


def test_what_is_missing_is_told_before_anything_is_fetched(lab, monkeypatch):
    host(monkeypatch, hyperv=False)

    def check() -> None:
        raise HvtraceError("apt-get install -y qemu-system-x86")

    monkeypatch.setattr(demo.tools, "check", check)
    with pytest.raises(HvtraceError, match="apt-get install"):
        run()
    assert lab == []


def test_it_does_not_wait_for_stubborn_guests_for_ever(log, monkeypatch):
    monkeypatch.setattr(demo, "_GUEST_END_SECONDS", 0.3)
    monkeypatch.setattr(demo, "_GUEST", (sys.executable, "-c", STUBBORN, str(log)))
    begin = time.monotonic()
    assert run("--in-place")[0] == 0
    assert time.monotonic() - begin < 10


STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("guest begins", file=open(sys.argv[1], "a"))
time.sleep(600)
"""
