"""Boot a kernel and run one command inside it, as root, with the host's files or a root's.

The VM sees every file of the host under a throw-away overlay (or those of the root, and the
checkout at its own path), and one folder of the host's read-write at its own path. What the
command prints comes out as it is printed; its exit status comes back through that folder.
"""

from __future__ import annotations

import math
import os
import select
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.lab import initramfs, qemu, roots
from hvtrace.lab.front import Front
from hvtrace.lab.kernels import Kernel, cache_folder
from hvtrace.lab.progress import Progress
from hvtrace.lab.tools import tool

# A boot takes about 10 s on an idle machine; one that is twenty times slower still works.
_BOOT_SECONDS = 200.0
_PANIC = "Kernel panic"
_PASSED_ON = ("TERM", "COLORTERM", "NO_COLOR")


class Died(Exception):
    """The VM ended, or hung, before its command did; the text says how."""


@dataclass(frozen=True)
class Vm:
    """A virtual machine to be: each `run` boots it afresh.

    Attributes:
        kernel: what to boot.
        share: a folder that the VM may write to, at the same path; its sub-folder
            ``.lab`` is ours, with the kernel's console of the last boot in it.
        front: takes what the command prints.
        progress: hears of a boot that has to be repeated.
        icount: one CPU whose clock counts instructions (1 ns each), instead of some
            whose clock is the host's.
        root: a root of `roots.find`, instead of this machine's files.
        cpus: how many the VM has.
        ports: TCP ports of the VM by the port of this machine's loopback that leads there.
    """

    kernel: Kernel
    share: Path
    front: Front
    progress: Progress
    icount: bool = False
    root: Path | None = None
    cpus: int = 2
    ports: Mapping[int, int] = field(default_factory=dict)

    def run(self, command: Sequence[str], timeout_seconds: float | None = None) -> int:
        """Boot, run one command in this process's working directory, power off.

        With a root: in the checkout, and `roots.PYTHON` finds hvtrace there.

        A VM that dies under the command is booted a second time, and no more.

        Args:
            command: the program and its arguments.
            timeout_seconds: for the command, without the boot; None for no limit.

        Returns:
            The command's exit status.

        Raises:
            HvtraceError: the VM did not come up or died, twice; or the time is over.
        """
        try:
            return self._boot(command, timeout_seconds)
        except Died as error:
            self.progress.say(f"{error}; trying once more")
        try:
            return self._boot(command, timeout_seconds)
        except Died as error:
            raise HvtraceError(f"{error} (its console: {self._keep_console()})") from None

    @property
    def _folder(self) -> Path:
        return self.share.absolute() / ".lab"

    def _boot(self, command: Sequence[str], timeout_seconds: float | None) -> int:
        """One boot, from power on to power off; the command's exit status."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (self._folder / "console.log").touch()
        self._write_inside(command)
        self._write_initrd()
        terminal, guest_terminal = socket.socketpair()
        size, guest_size = socket.socketpair()
        with terminal, guest_terminal, size, guest_size:
            wiring = qemu.Wiring(
                folders=self._folders,
                share=self.share.absolute(),
                console=self._folder / "console.log",
                initrd=self._folder / "initrd",
                terminal=guest_terminal.fileno(),
                size=guest_size.fileno(),
                ports=self.ports,
            )
            cpus = 1 if self.icount else self.cpus
            command_line = qemu.command(self.kernel.image, wiring, cpus=cpus, icount=self.icount)
            with _started(command_line, wiring, self._folder / "qemu.log"):
                # Only QEMU holds the other ends now: when it ends, reading ours ends too.
                guest_terminal.close()
                guest_size.close()
                try:
                    self._attend(terminal, size, timeout_seconds)
                finally:
                    self.front.release()
        return _status(self._folder)

    @property
    def _folders(self) -> dict[str, Path]:
        """What the VM sees of this machine, by the names that init.sh mounts."""
        folders = {"root": self.root or Path("/"), "modules": self.kernel.modules}
        return folders if self.root is None else {**folders, "checkout": roots.CHECKOUT}

    def _keep_console(self) -> Path:
        """Copy the console to where it outlives a temporary share; its new place."""
        kept = cache_folder() / "console.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self._folder / "console.log", kept))

    def _write_inside(self, command: Sequence[str]) -> None:
        """The script that runs in the host's root file system, and what it reads."""
        script = files("hvtrace.lab") / "inside.sh"
        (self._folder / "inside.sh").write_text(script.read_text())
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # What a command prints shall be seen when it is printed, not when a buffer is full.
        variables = {**passed_on, "PYTHONUNBUFFERED": "1"}
        folder = Path.cwd()
        if self.root is not None:
            folder = roots.CHECKOUT
            variables["PYTHONPATH"] = str(folder)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines += [f"cd {shlex.quote(str(folder))}", f"exec {shlex.join(command)}", ""]
        (self._folder / "command").write_text("\n".join(lines))
        if window := self.front.window:
            (self._folder / "size").write_text(_size_line(window))

    def _write_initrd(self) -> None:
        script = files("hvtrace.lab") / "init.sh"
        wanted = (*initramfs.MODULES, *(initramfs.NETWORK if self.ports else ()))
        config = {
            "share": self.share.absolute(),
            "folder": self._folder,
            "checkout": self._folders.get("checkout", ""),
        }
        lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in config.items()]
        with (self._folder / "initrd").open("wb") as out:
            initramfs.write(
                out,
                busybox=Path(tool("busybox")),
                script=script.read_text(),
                config="".join(lines),
                modules=initramfs.module_files(self.kernel.modules, wanted),
            )

    def _attend(
        self, terminal: socket.socket, size: socket.socket, timeout_seconds: float | None
    ) -> None:
        """Carry bytes between the VM and the user until the VM is gone."""
        is_up = False
        deadline = time.monotonic() + _BOOT_SECONDS
        while True:
            if not is_up and (self._folder / "started").exists():
                is_up = True
                deadline = time.monotonic() + (timeout_seconds or math.inf)
            if time.monotonic() > deadline:
                if not is_up:
                    raise Died(f"the VM did not boot in {_BOOT_SECONDS:.0f} s")
                raise HvtraceError(
                    f"the command in the VM did not end in {timeout_seconds:g} s"
                    f" (its console: {self._keep_console()})"
                )
            keyboard = self.front.keyboard
            watched = [terminal.fileno(), *([] if keyboard is None else [keyboard])]
            for ready in select.select(watched, [], [], 0.2)[0]:
                if ready == keyboard:
                    terminal.sendall(self.front.typed())
                    continue
                data = terminal.recv(65536)
                if not data:
                    return
                self.front.show(data)
            if window := self.front.resized():
                size.sendall(_size_line(window).encode())


@contextmanager
def _started(command: list[str], wiring: qemu.Wiring, log: Path) -> Iterator[None]:
    """QEMU, in a session of its own (Ctrl-C is ours to act on), killed on every way out."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(wiring.terminal, wiring.size),
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _size_line(window: tuple[int, int]) -> str:
    rows, columns = window
    return f"{rows} {columns}\n"


def _status(folder: Path) -> int:
    """The command's exit status, or why there is none."""
    try:
        return int((folder / "status").read_text())
    except FileNotFoundError:
        pass
    console = (folder / "console.log").read_text(errors="replace")
    for line in console.splitlines():
        if _PANIC in line:
            raise Died(f"the VM's kernel panicked: {line[line.index(_PANIC) :]}")
    last = (folder / "qemu.log").read_text(errors="replace").strip().splitlines()[-1:]
    raise Died("the VM ended before its command did" + "".join(f": {line}" for line in last))
