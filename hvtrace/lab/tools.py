"""The programs that the lab runs, and the Debian packages they come from."""

from __future__ import annotations

import os
import shutil
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

# depmod stands in /sbin, which an ordinary user's PATH on Debian leaves out.
SYSTEM_FOLDERS = ":/usr/sbin:/sbin"


def tool(name: str) -> str:
    """Where a program of `PACKAGES` is.

    Raises:
        HvtraceError: it is not installed.
    """
    path = _find(name)
    if path is None:
        raise _missing([PACKAGES[name]])
    return path


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
