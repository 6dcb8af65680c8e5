"""Which tests run under which kernel: suites, releases and patched variants."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import kernels
from hvtrace.lab.progress import Progress
from tests import in_lab
from tests.kvm import build

VM, XMM, HOST, ICOUNT = in_lab.FOLDERS


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list[str]:
    """The kernels that were fetched or built, in order."""
    names: list[str] = []

    def stand_in(kind: str):
        def find(name: str, progress: Progress) -> kernels.Kernel:
            names.append(f"{kind} {name}")
            return kernels.Kernel(f"6.12.1-{name}", Path(), Path())

        return find

    monkeypatch.setattr(kernels, "find", stand_in("found"))
    monkeypatch.setattr(build, "kernel", stand_in("built"))
    return names


def titles(*names: str, folder: str | None = None) -> list[str]:
    return [job.title for job in in_lab.jobs(names, folder, (), Progress(io.StringIO()))]


def test_by_default_everything_runs():
    assert titles() == [
        *(f"6.12.1-{suite} {VM}" for suite in ("bookworm", "trixie", "sid")),
        *(f"{variant} {XMM}" for variant in ("forward", "grown", "new-type")),
        f"6.12.1-trixie {HOST}",
        *(f"6.12.1-{suite} {ICOUNT}" for suite in ("bookworm", "trixie", "sid")),
    ]


def test_each_kernel_is_fetched_or_built_once(asked):
    titles()
    suites = [f"found {name}" for name in kernels.SUITES]
    assert asked == [*suites, *(f"built {name}" for name in build.VARIANTS)]


def test_nothing_is_built_that_does_not_run(asked):
    titles(folder=VM)
    titles("trixie")
    assert not [name for name in asked if name.startswith("built")]


def test_a_variant_runs_its_own_tests_only():
    assert titles("grown") == [f"grown {XMM}"]
    assert titles("grown", "trixie") == [
        f"6.12.1-trixie {VM}",
        f"grown {XMM}",
        f"6.12.1-trixie {HOST}",
        f"6.12.1-trixie {ICOUNT}",
    ]


def test_where_one_kernel_is_enough_any_can_be_asked_for():
    assert titles("sid", "bookworm", folder=HOST) == [
        f"6.12.1-sid {HOST}",
        f"6.12.1-bookworm {HOST}",
    ]


def test_a_release_or_a_folder_is_no_variant():
    assert titles("/somewhere/grown", folder=VM) == [f"6.12.1-/somewhere/grown {VM}"]


@pytest.mark.parametrize(("name", "folder"), [("trixie", XMM), ("grown", VM), ("grown", ICOUNT)])
def test_tests_that_a_kernel_is_not_for(name, folder, asked):
    with pytest.raises(HvtraceError, match="tests/xmm runs under forward, grown, new-type, and"):
        titles(name, folder=folder)
    assert asked == []


def test_pytest_gets_its_arguments_and_the_tests_their_variant(monkeypatch, tmp_path):
    commands = []

    class Vm:
        def __init__(self, kernel, share, front, progress, icount):
            self.icount = icount

        def run(self, command, timeout_seconds):
            commands.append((self.icount, command))
            return 0

    monkeypatch.setattr(in_lab, "Vm", Vm)
    progress = Progress(io.StringIO())
    for job in in_lab.jobs(("grown", "sid"), None, ("-k", "one"), progress):
        job.run(tmp_path, progress)
    for _, command in commands:
        assert command[-2:] == ["-k", "one"]
    by_folder = {command[-3]: (icount, command[:2]) for icount, command in commands}
    assert by_folder == {
        VM: (False, ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"]),
        ICOUNT: (True, ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"]),
        HOST: (False, ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"]),
        XMM: (False, ["env", "HVTRACE_KVM=grown"]),
    }
