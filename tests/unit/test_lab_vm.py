"""A VM's life from outside, with a stand-in for QEMU: what goes in, what comes back.

The stand-in gets QEMU's real command line and does with its sockets and files what a
test tells it to. That real kernels boot is shown by tests/vm, which runs in them.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cpio import read

from hvtrace.errors import HvtraceError
from hvtrace.lab import vm
from hvtrace.lab.front import Front
from hvtrace.lab.kernels import Kernel
from hvtrace.lab.progress import Progress

# Gives a test's lines: option(), folder (.lab in the share), terminal and size (sockets),
# attempt (1 or 2), console(text).
STAND_IN = """\
#!{python} -S
import os, re, socket, sys, time
arguments = " ".join(sys.argv)
option = lambda pattern: re.search(pattern, arguments)[1]
folder = option(r"id=share,path=([^,]+)") + "/.lab"
terminal = socket.socket(fileno=int(option(r"id=terminal,fd=(\\d+)")))
size = socket.socket(fileno=int(option(r"id=size,fd=(\\d+)")))
open(folder + "/../attempts", "a").write("x")
attempt = os.path.getsize(folder + "/../attempts")
def console(text):
    open(option(r"id=console,path=(\\S+)"), "a").write(text)
def started():
    open(folder + "/started", "w").close()
def end(status):
    open(folder + "/status", "w").write(str(status))
    sys.exit()
"""


class Bench:
    """A VM to be, whose QEMU does what a test says."""

    def __init__(self, folder: Path, program: Path) -> None:
        modules = folder / "modules"
        modules.mkdir()
        (modules / "modules.dep").touch()
        names = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "kvm_amd")
        (modules / "modules.builtin").write_text("".join(f"{name}.ko\n" for name in names))
        self.share = folder / "share"
        self.share.mkdir()
        self.program = program
        self.shown = b""
        self.said = io.StringIO()
        self.front = Front(self._show)
        self.kernel = Kernel("6.6.6", folder / "vmlinuz", modules)

    def _show(self, data: bytes) -> None:
        self.shown += data

    @property
    def vm(self) -> vm.Vm:
        return vm.Vm(self.kernel, self.share, self.front, Progress(self.said))

    def does(self, lines: str) -> None:
        script = STAND_IN.format(python=sys.executable) + textwrap.dedent(lines)
        self.program.write_text(script)
        self.program.chmod(0o755)

    @property
    def attempts(self) -> int:
        return (self.share / "attempts").stat().st_size


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "busybox").write_bytes(b"\x7fELF")
    (folder / "busybox").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HVTRACE_CACHE", str(tmp_path / "cache"))
    return Bench(tmp_path, folder / "qemu-system-x86_64")


@pytest.mark.parametrize("status", [0, 1, 7, 130])
def test_the_commands_status_comes_back(bench, status):
    bench.does(f"started(); end({status})")
    assert bench.vm.run(["true"]) == status
    assert bench.attempts == 1


def test_output_is_shown_as_it_comes(bench):
    seen: list[tuple[float, bytes]] = []
    bench.front = Front(lambda data: seen.append((time.monotonic(), data)))
    bench.does("started(); terminal.send(b'one'); time.sleep(0.4); terminal.send(b'two'); end(0)")
    bench.vm.run(["true"])
    assert b"".join(data for _, data in seen) == b"onetwo"
    assert seen[-1][0] - seen[0][0] > 0.2


def test_nothing_of_a_long_output_is_lost(bench):
    bench.does("started(); terminal.sendall(bytes(range(256)) * 4001); end(0)")
    bench.vm.run(["true"])
    assert bench.shown == bytes(range(256)) * 4001


def test_the_command_is_a_script_with_our_folder_and_environment(bench, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-kitty")
    bench.does("started(); end(0)")
    bench.vm.run(["sh", "-c", 'echo "$TERM:$PWD:$PYTHONUNBUFFERED:$1"', "-", "it's"])
    script = bench.share / ".lab/command"
    output = subprocess.check_output(["sh", script], cwd="/", text=True)
    assert output == f"xterm-kitty:{tmp_path}:1:it's\n"


def test_a_panic_is_booted_again_once_and_told(bench):
    bench.does("""
        if attempt == 1:
            console("[ 1.0] Kernel panic - not syncing: int3\\n")
            sys.exit()
        started(); end(5)
    """)
    assert bench.vm.run(["true"]) == 5
    assert bench.said.getvalue() == (
        "the VM's kernel panicked: Kernel panic - not syncing: int3; trying once more\n"
    )


def test_two_panics_are_the_end_and_the_console_is_kept(bench, tmp_path):
    bench.does("started(); console('Kernel panic - not syncing: x\\n'); sys.exit()")
    with pytest.raises(HvtraceError, match=r"panicked: .*console: (\S+)\)") as failure:
        bench.vm.run(["true"])
    kept = Path(str(failure.value).rpartition("console: ")[2].rstrip(")"))
    assert bench.attempts == 2
    assert kept.is_relative_to(tmp_path / "cache")
    assert kept.read_text() == "Kernel panic - not syncing: x\n"


def test_qemus_own_complaint_is_told(bench):
    bench.does("print('qemu: no such device'); sys.exit(1)")
    with pytest.raises(HvtraceError, match="ended before its command did: qemu: no such device"):
        bench.vm.run(["true"])


def test_a_boot_that_hangs(bench, monkeypatch):
    monkeypatch.setattr(vm, "_BOOT_SECONDS", 0.5)
    bench.does("time.sleep(600)")
    with pytest.raises(HvtraceError, match="did not boot in"):
        bench.vm.run(["true"])
    assert bench.attempts == 2


def test_the_time_for_the_command_begins_when_it_does(bench):
    bench.does("time.sleep(1.5); started(); end(3)")
    assert bench.vm.run(["true"], timeout_seconds=1) == 3


def test_a_command_that_takes_too_long_is_not_tried_again(bench):
    bench.does("started(); time.sleep(600)")
    with pytest.raises(HvtraceError, match=r"did not end in 0\.5 s"):
        bench.vm.run(["true"], timeout_seconds=0.5)
    assert bench.attempts == 1


def test_what_an_earlier_boot_left_is_gone(bench):
    bench.does("started(); end(4)")
    bench.vm.run(["true"])
    bench.does("sys.exit()")
    with pytest.raises(HvtraceError):
        bench.vm.run(["true"])


def pid_of_stand_in(bench: Bench) -> int:
    return int((bench.share / "pid").read_text())


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


HANGS = """
    open(folder + "/../pid", "w").write(str(os.getpid()))
    started()
    terminal.send(b"here")
    time.sleep(600)
"""


def test_ctrl_c_ends_qemu(bench):
    bench.does(HANGS)

    def interrupt(_: bytes) -> None:
        raise KeyboardInterrupt

    bench.front = Front(interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.vm.run(["true"])
    assert not is_alive(pid_of_stand_in(bench))


def test_the_terminals_ctrl_c_does_not_reach_qemu(bench):
    """It is in a session of its own: we decide what Ctrl-C means, and end it in order."""
    bench.does("started(); terminal.send(str(os.getsid(0)).encode()); end(0)")
    bench.vm.run(["true"])
    assert int(bench.shown) != os.getsid(0)


def test_qemu_does_not_outlive_a_killed_hvtrace(bench, tmp_path):
    bench.does(HANGS)
    program = textwrap.dedent(f"""
        from pathlib import Path
        from hvtrace.lab import front, kernels, progress, vm
        kernel = kernels.Kernel("6", Path("x"), Path({str(bench.kernel.modules)!r}))
        share = Path({str(bench.share)!r})
        vm.Vm(kernel, share, front.Front(print), progress.Progress()).run(["true"])
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    pid = pid_of_stand_in(bench)
    assert is_alive(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


class Typist(Front):
    """Types what a test puts into a pipe, and changes the window's size."""

    def __init__(self, write, keys: int) -> None:
        super().__init__(write)
        self.keys = keys
        self.sizes: list[tuple[int, int]] = []
        self.released = 0

    @property
    def window(self) -> tuple[int, int]:
        return 24, 80

    @property
    def keyboard(self) -> int:
        return self.keys

    def typed(self) -> bytes:
        return os.read(self.keys, 100)

    def resized(self) -> tuple[int, int] | None:
        return self.sizes.pop() if self.sizes else None

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def typist(bench):
    keys, hands = os.pipe()
    bench.front = Typist(bench._show, keys)
    yield lambda data: os.write(hands, data)
    os.close(keys)
    os.close(hands)


def test_keys_reach_the_command(bench, typist):
    bench.does("started(); data = terminal.recv(99); terminal.send(b'got ' + data); end(0)")
    threading.Timer(0.3, typist, [b"q\x03"]).start()
    bench.vm.run(["true"])
    assert bench.shown == b"got q\x03"
    assert (bench.share / ".lab/size").read_text() == "24 80\n"
    assert bench.front.released == 1


def test_a_changed_window_reaches_the_vm(bench, typist):
    bench.front.sizes = [(31, 97)]
    bench.does("started(); terminal.send(size.recv(99)); end(0)")
    bench.vm.run(["true"])
    assert bench.shown == b"31 97\n"


def test_the_terminal_is_given_back_when_the_vm_dies(bench, typist):
    bench.does("sys.exit()")
    with pytest.raises(HvtraceError):
        bench.vm.run(["true"])
    assert bench.front.released == 2


def test_without_a_terminal_there_is_no_size(bench):
    bench.does("started(); end(0)")
    bench.vm.run(["true"])
    assert not (bench.share / ".lab/size").exists()


def test_the_inner_scripts_configuration_survives_a_shell(bench, tmp_path):
    odd = tmp_path / "it's $HOME"
    odd.mkdir()
    bench.share = odd
    bench.does("started(); end(0)")
    bench.vm.run(["true"])
    _, config, _ = read((odd / ".lab/initrd").read_bytes())["config"]
    script = config.decode() + 'printf %s "$share"'
    assert subprocess.check_output(["sh", "-c", script], text=True) == str(odd)


def test_with_a_root_the_command_is_in_the_checkout_and_finds_hvtrace(bench, tmp_path):
    bench.does("""
        for tag in ("root", "checkout", "modules"):
            print(option(f"id={tag},path=([^,]+)"))
        started(); end(0)
    """)
    machine = replace(bench.vm, root=tmp_path / "root", cpus=5)
    machine.run(["sh", "-c", 'echo "$PWD:$PYTHONPATH"'])
    script = (bench.share / ".lab/command").read_text()
    checkout = Path(vm.__file__).parents[2]
    assert subprocess.check_output(["sh", "-c", script], cwd="/", text=True) == (
        f"{checkout}:{checkout}\n"
    )
    seen = (bench.share / ".lab/qemu.log").read_text().split()
    assert seen == [str(tmp_path / "root"), str(checkout), str(bench.kernel.modules)]
    _, config, _ = read((bench.share / ".lab/initrd").read_bytes())["config"]
    assert f"checkout={checkout}\n" in config.decode()


def test_without_one_there_is_no_checkout_to_mount(bench):
    bench.does("started(); end(int('id=checkout' in arguments))")
    assert bench.vm.run(["true"]) == 0
    _, config, _ = read((bench.share / ".lab/initrd").read_bytes())["config"]
    assert "checkout=''\n" in config.decode()
