"""QEMU's command line: the options that the lab's promises hang on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from hvtrace.lab import qemu

FOLDERS = {"root": Path("/"), "modules": Path("/k/modules")}
WIRING = qemu.Wiring(FOLDERS, Path("/s/a,b"), Path("/s/console,log"), Path("/s/initrd"), 11, 13)


@pytest.fixture(autouse=True)
def _programs(monkeypatch):
    monkeypatch.setattr(qemu, "tool", lambda name: name)


def pairs(command: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(command))


def command(icount: bool = False, cpus: int = 3) -> list[str]:
    return qemu.command(Path("/k/vmlinuz"), WIRING, cpus=cpus, icount=icount)


def test_a_way_in_and_none_out():
    wiring = replace(WIRING, ports={10942: 9090, 10943: 9091})
    wired = qemu.command(Path("/k/vmlinuz"), wiring, cpus=1, icount=False)
    [netdev] = [value for name, value in pairs(wired) if name == "-netdev"]
    assert netdev.split(",") == [
        *("user", "id=net", "restrict=on"),
        *("hostfwd=tcp:127.0.0.1:10942-:9090", "hostfwd=tcp:127.0.0.1:10943-:9091"),
    ]
    assert ("-device", "virtio-net-pci,netdev=net") in pairs(wired)
    assert "-netdev" not in command()


def test_it_ends_with_us():
    assert command()[:4] == ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]


def test_a_panic_is_an_exit():
    assert "-no-reboot" in command()
    (append,) = [value for name, value in pairs(command()) if name == "-append"]
    assert "panic=-1" in append.split()


def test_the_hosts_files_are_read_only_and_the_share_is_not():
    options = {value for name, value in pairs(command()) if name == "-fsdev"}
    common = "security_model=none,multidevs=remap"
    assert options == {
        f"local,id=root,path=/,{common},readonly=on",
        f"local,id=modules,path=/k/modules,{common},readonly=on",
        f"local,id=share,path=/s/a,,b,{common}",
    }


def test_one_thread_emulates_svm():
    assert ("-accel", "tcg,thread=single") in pairs(command())
    assert ("-cpu", "max,+svm,-avx2,-avx,-erms,-la57") in pairs(command())


@pytest.mark.parametrize(("icount", "cpus"), [(False, 4), (True, 1)])
def test_cpus_and_a_clock_that_counts_instructions(icount, cpus):
    assert ("-smp", str(cpus)) in pairs(command(icount, cpus))
    assert ("-icount" in command(icount, cpus)) == icount


def test_wires():
    assert ("-chardev", "socket,id=terminal,fd=11") in pairs(command())
    assert ("-chardev", "socket,id=size,fd=13") in pairs(command())
    assert ("-device", "virtserialport,chardev=size,name=hvtrace.size") in pairs(command())
    assert ("-chardev", "file,id=console,path=/s/console,,log") in pairs(command())
    inside = Path(qemu.__file__).with_name("inside.sh").read_text()
    assert "hvtrace.size" in inside
