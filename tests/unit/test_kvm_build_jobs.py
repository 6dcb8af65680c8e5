"""Which tests run under which kernel (suites, releases, patched variants), with whose files."""

from __future__ import annotations

import io
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import kernels, roots
from hvtrace.lab.progress import Progress
from tests import in_lab
from tests.kvm import build
from tests.prometheus import package

# By name, not by place: what runs first is not what these tests are about.
VM, SERVERS, XMM = in_lab.VM, in_lab.SERVERS, in_lab.PATCHED
HOST, ICOUNT = in_lab.ONCE, in_lab.ICOUNT


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list[str]:
    """What was fetched, built, made and compiled, in order."""
    names: list[str] = []

    def stand_in(kind: str):
        def find(name: str, progress: Progress) -> kernels.Kernel:
            names.append(f"{kind} {name}")
            return kernels.Kernel(f"6.12.1-{name}", Path(), Path())

        return find

    monkeypatch.setattr(kernels, "find", stand_in("found"))

    def make(suite: str, progress: Progress) -> Path:
        names.append(f"made {suite}")
        return Path("/roots") / suite

    monkeypatch.setattr(build, "kernel", stand_in("built"))
    monkeypatch.setattr(roots, "find", make)
    monkeypatch.setattr(package, "find", lambda suite, _: names.append(f"Prometheus of {suite}"))
    monkeypatch.setattr(
        roots, "compile_checkout", lambda root, *_: names.append(f"compiled for {root}")
    )
    is_on("bookworm", monkeypatch)
    return names


def is_on(suite: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is of that suite, or none of Debian's."""
    release = {"VERSION_CODENAME": suite} if suite else {}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)


def titles(*names: str, suites: Sequence[str] = (), folder: str | None = None) -> list[str]:
    progress = Progress(io.StringIO())
    return [job.title for job in in_lab.jobs(names, suites, folder, (), progress)]


def test_by_default_everything_runs():
    assert titles() == [
        *(f"6.12.1-{suite} {VM}" for suite in ("bookworm", "trixie", "sid")),
        *(f"6.12.1-{suite} trixie {VM}" for suite in ("bookworm", "trixie", "sid")),
        *(f"6.12.1-{suite} sid {VM}" for suite in ("bookworm", "trixie", "sid")),
        f"6.12.1-trixie {HOST}",
        SERVERS,
        *(f"{variant} {XMM}" for variant in ("forward", "grown", "new-type")),
        *(f"6.12.1-{suite} {ICOUNT}" for suite in ("bookworm", "trixie", "sid")),
    ]


def test_each_kernel_and_root_is_fetched_or_made_once(asked):
    titles()
    suites = [f"found {name}" for name in kernels.SUITES]
    variants = [f"built {name}" for name in build.VARIANTS]
    assert asked == [
        *(*suites, *variants, "made trixie", "made sid", "compiled for None"),
        *("compiled for /roots/trixie", "compiled for /roots/sid"),
        *("Prometheus of bookworm", "Prometheus of sid"),
    ]


@pytest.mark.parametrize("own", ["bookworm", "trixie", "noble", None])
def test_the_matrix_has_every_suite_on_any_machine(own, monkeypatch):
    is_on(own, monkeypatch)
    found = {"host" if own in kernels.SUITES else "none"}
    for title in titles("sid", folder=VM)[1:]:
        found.add(title.split()[1])
    assert found - {"host", "none"} == {*kernels.SUITES} - {own}


def test_one_cell():
    assert titles("sid", suites=["trixie"]) == [f"6.12.1-sid trixie {VM}"]
    assert titles("sid", suites=["host"], folder=VM) == [f"6.12.1-sid {VM}"]


def test_this_machines_own_suite_is_made_when_asked_for(asked):
    assert titles("sid", suites=["bookworm"], folder=VM) == [f"6.12.1-sid bookworm {VM}"]
    assert asked[:2] == ["found sid", "made bookworm"]


def test_nothing_is_built_that_does_not_run(asked):
    titles(folder=VM)
    titles("trixie")
    assert not [name for name in asked if name.startswith("built")]


def test_a_variant_runs_its_own_tests_only():
    assert titles("grown") == [f"grown {XMM}"]
    assert titles("grown", "trixie", suites=["host"]) == [
        f"6.12.1-trixie {VM}",
        f"6.12.1-trixie {HOST}",
        f"grown {XMM}",
        f"6.12.1-trixie {ICOUNT}",
    ]


def test_where_one_kernel_is_enough_any_can_be_asked_for():
    assert titles("sid", "bookworm", folder=HOST) == [
        f"6.12.1-sid {HOST}",
        f"6.12.1-bookworm {HOST}",
    ]


def test_a_release_or_a_folder_is_no_variant():
    assert titles("/somewhere/grown", suites=["host"], folder=VM) == [
        f"6.12.1-/somewhere/grown {VM}"
    ]


@pytest.mark.parametrize(("name", "folder"), [("trixie", XMM), ("grown", VM), ("grown", ICOUNT)])
def test_tests_that_a_kernel_is_not_for(name, folder, asked):
    with pytest.raises(HvtraceError, match="tests/xmm runs under forward, grown, new-type, and"):
        titles(name, folder=folder)
    assert asked == []


@pytest.mark.parametrize("folder", [SERVERS, XMM, HOST, ICOUNT])
def test_tests_that_a_root_is_not_for(folder, asked):
    with pytest.raises(HvtraceError, match="only tests/vm runs with other files"):
        titles(suites=["sid"], folder=folder)
    assert asked == []


def test_those_that_boot_a_vm_themselves_run_without_a_kernel_only(asked):
    assert titles(folder=SERVERS) == [SERVERS]
    assert asked == ["compiled for None", "Prometheus of bookworm", "Prometheus of sid"]
    with pytest.raises(HvtraceError, match="tests/prometheus chooses both itself"):
        titles("sid", folder=SERVERS)


def test_those_that_run_here_are_seen_and_their_report_is_read(tmp_path, capsys):
    tests = tmp_path / "test_two.py"
    tests.write_text("def test_good(): pass\n\n\ndef test_bad(): raise ValueError('why')\n")
    job = in_lab.Hosted(str(tests), ())
    outcome = job.run(tmp_path, Progress(io.StringIO()))
    assert (outcome.title, outcome.passed, len(outcome.bad)) == (str(tests), 1, 1)
    assert "ValueError: why" in outcome.bad[0][1]
    assert all(line.startswith("test_two.py | ") for line in capsys.readouterr().out.splitlines())


class Vm:
    """Notes what was to run, and where."""

    ran: ClassVar[list[tuple[Vm, list[str]]]] = []

    def __init__(self, kernel, share, front, progress, *, icount, root, cpus):
        self.icount, self.root, self.cpus = icount, root, cpus

    def run(self, command, timeout_seconds):
        self.ran.append((self, command))
        return 0


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """(VM, command) of each job for these kernels and roots."""
    monkeypatch.setattr(in_lab, "Vm", Vm)
    monkeypatch.setattr(Vm, "ran", [])

    def run(*names: str, suites: Sequence[str]) -> list[tuple[Vm, list[str]]]:
        progress = Progress(io.StringIO())
        for job in in_lab.jobs(names, suites, None, ("-k", "one"), progress):
            job.run(tmp_path, progress)
        return Vm.ran

    return run


def test_pytest_gets_its_arguments_and_the_tests_their_variant(ran):
    by_folder = {}
    for vm, command in ran("grown", "sid", suites=["host"]):
        assert command[-2:] == ["-k", "one"]
        assert sys.executable in command[:4]
        assert (vm.root, vm.cpus) == (None, 2)
        by_folder[command[-3]] = (vm.icount, command[2])
    assert by_folder == {
        VM: (False, sys.executable),
        ICOUNT: (True, sys.executable),
        HOST: (False, sys.executable),
        XMM: (False, "HVTRACE_KVM=grown"),
    }


def test_a_cell_runs_what_runs_everywhere_with_the_roots_own_python(ran):
    [(vm, command)] = ran("bookworm", suites=["sid"])
    assert (vm.root, vm.icount) == (Path("/roots/sid"), False)
    assert command[2] == "/usr/bin/python3"
    assert command[-2 - len(in_lab.EVERYWHERE) : -2] == [*in_lab.EVERYWHERE]
    assert all(Path(in_lab.__file__).parents[1].joinpath(test).exists() for test in command[-3:-2])


def test_every_kernel_meets_one_two_and_four_cpus(ran):
    runs = ran("trixie", suites=["host", "trixie", "sid"])
    assert {vm.cpus for vm, _ in runs} == {1, 2, 4}
