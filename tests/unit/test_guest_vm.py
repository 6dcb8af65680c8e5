"""The VM's process: its words, and its errors as one line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.guest import image, vm
from hvtrace.guest.image import Amount
from hvtrace.guest.memory import GuestMemory
from hvtrace.guest.mix import Call, Mix

PR_SET_PDEATHSIG = 1  # linux/prctl.h
MODEL = Path(__file__).with_name("guest_model.py")


def memory() -> GuestMemory:
    return image.write(Mix("test", (Call(2, times=3),)), 1, Amount())


def process(*memories: GuestMemory) -> subprocess.Popen[str]:
    fds = [memory.fd for memory in memories]
    return subprocess.Popen(
        [sys.executable, str(MODEL), "--name", "test", *map(str, fds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=fds,
        text=True,
    )


def test_words() -> None:
    first, second = memory(), memory()
    with process(first, second) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert first.descriptors(0)[0].started == 0
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "idle\n"
        for one in (first, second):
            assert one.descriptors(0)[0].completed == one.header.kvm_hypercalls == 3
        child.stdin.write("end\n")
        child.stdin.flush()
        assert child.stdout.read() == ""
        assert child.wait(20) == 0


def test_end_of_input_is_the_end() -> None:
    with process(memory()) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.stdin.close()
        assert child.wait(20) == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HvtraceError("no Hyper-V here"), "error no Hyper-V here\n"),
        (OSError(28, "No space left"), "error KVM refused to make the VM: No space left\n"),
    ],
)
def test_errors_are_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    def refuse() -> None:
        raise error

    asked: list[tuple[int, ...]] = []
    libc = SimpleNamespace(prctl=lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(vm, "Kvm", refuse)
    monkeypatch.setattr(vm.ctypes, "CDLL", lambda _: libc)
    vm.main(["--name", "test", str(memory().fd)])
    assert capsys.readouterr().out == line
    assert asked == [(PR_SET_PDEATHSIG, signal.SIGKILL)]  # it ends with its parent


def test_it_needs_the_standard_library_only() -> None:
    """It is started without `site`: an import of anything else would be its end."""
    script = "import sys, hvtrace.guest.vm; print(*sorted(sys.modules))"
    root = str(Path(vm.__file__).parents[2])
    output = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": root},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    heavy = {"json", "re", "dataclasses", "pathlib", "tomllib", "random", "argparse", "click"}
    assert not heavy & set(output)
    assert "hvtrace.guest.machine" in output
