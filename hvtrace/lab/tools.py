"""The programs that the lab runs, and the Debian packages they come from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hvtrace.errors import HvtraceError

# Program, and the Debian package that has it.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "setpriv": "util-linux",
}
# What only some of it needs: roots are made by it, as a user by means of uidmap.
MORE_PACKAGES = {"mmdebstrap": "mmdebstrap uidmap"}

# depmod stands in /sbin, which an ordinary user's PATH on Debian leaves out.
SYSTEM_FOLDERS = ":/usr/sbin:/sbin"


def tool(name: str) -> str:
    """Where a program of `PACKAGES` or `MORE_PACKAGES` is.

    Raises:
        HvtraceError: it is not installed.
    """
    path = _find(name)
    if path is None:
        raise _missing([{**PACKAGES, **MORE_PACKAGES}[name]])
    return path


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    stdin: str = "",
    tick: Callable[[], None] | None = None,
) -> tuple[int, str, str]:
    """Run a program to its end: status, output, complaints. It is killed when we are interrupted.

    Args:
        command: the program and its arguments.
        cwd: where to run it.
        variables: for its environment, on top of ours; it speaks English in any case,
            because its complaints are searched for their reason.
        stdin: what it can read.
        tick: called twice a second while it runs.
    """
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(variables or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        text: str | None = stdin
        try:
            while True:
                try:
                    output, complaint = process.communicate(text, timeout=0.5 if tick else None)
                    return process.returncode, output, complaint
                except subprocess.TimeoutExpired:
                    text = None  # it is given once
                    if tick:
                        tick()
        finally:
            process.kill()


def check() -> None:
    """See that everything the lab runs is there, before anything is downloaded.

    Raises:
        HvtraceError: with the one command that installs what is missing, or a machine
            that the lab does not work on.
    """
    if os.uname().machine != "x86_64":
        raise HvtraceError("the VM lab runs x86-64 kernels on an x86-64 machine only")
    missing = [package for name, package in PACKAGES.items() if _find(name) is None]
    if missing:
        raise _missing(missing)


def _missing(packages: list[str]) -> HvtraceError:
    sudo = "" if os.geteuid() == 0 else "sudo "
    return HvtraceError(
        "the VM lab needs programs that are not installed:"
        f" {sudo}apt-get install -y {' '.join(packages)}"
    )


def _find(name: str) -> str | None:
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + SYSTEM_FOLDERS)
    if name == "busybox" and path is not None and not _is_static(Path(path)):
        return None
    return path


def _is_static(program: Path) -> bool:
    """Whether a program needs no loader: the RAM disk has no libraries.

    Debian's package busybox is dynamic, busybox-static is not. A dynamic ELF file
    names its loader (PT_INTERP) right behind its headers.
    """
    with program.open("rb") as file:
        return b"/ld-linux" not in file.read(4096)
