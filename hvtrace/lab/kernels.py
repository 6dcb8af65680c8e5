"""Kernels for the lab: Debian's current one of a suite, unpacked in a cache of the user's.

Nothing is installed. The cache holds one folder per kernel release, complete or
absent (it is renamed into place), and one link per suite to the release that was
current when it was asked last.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.lab import apt
from hvtrace.lab.progress import Progress
from hvtrace.lab.tools import tool

SUITES = ("bookworm", "trixie", "sid")
DEFAULT = "trixie"
# A suite's kernel moves every few weeks; between two looks the cached one serves.
_LOOK_AGAIN_SECONDS = 7 * 86400
# The parts of a kernel in linux-image-amd64's dependencies. Since 7.0 a kernel is
# split in four; before, linux-image-RELEASE holds everything.
_PARTS = re.compile(r"linux-(image|binary|modules|base)-(\d.*)")


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted: its release (``uname -r``), image and module folder."""

    release: str
    image: Path
    modules: Path


def cache_folder() -> Path:
    """Where the lab keeps what it downloads; may be deleted at any time.

    ``$HVTRACE_CACHE``, else ``hvtrace`` below ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if own := os.environ.get("HVTRACE_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hvtrace"


def find(name: str, progress: Progress) -> Kernel:
    """The kernel of a Debian suite (fetched when needed), an installed release, or a folder's.

    Args:
        name: one of `SUITES`; or a release that is in the cache or installed here; or
            a folder that an image package was unpacked to, with a slash in its name.
        progress: hears about what takes time.

    Raises:
        HvtraceError: no such kernel, or it can not be fetched.
    """
    if name in SUITES:
        return _of_suite(name, progress)
    if "/" in name and (kernel := in_folder(Path(name).resolve())):
        return kernel
    for root in (cache_folder() / "kernels" / name, Path("/")):
        if kernel := _at(root, name):
            return kernel
    raise HvtraceError(
        f"no kernel {name}: give a Debian suite ({', '.join(SUITES)}), a release that"
        " has its image in /boot and its modules in /lib/modules, or a folder with both"
    )


def in_folder(root: Path) -> Kernel | None:
    """The one kernel below a folder that its packages were unpacked to."""
    indexes = root.glob("lib/modules/*/modules.dep")
    found = [kernel for file in indexes if (kernel := _at(root, file.parent.name))]
    return found[0] if len(found) == 1 else None


def _at(root: Path, release: str) -> Kernel | None:
    """A kernel below a root folder, wherever its packages put its two parts."""
    images = (root / "boot" / f"vmlinuz-{release}", root / "usr/lib/modules" / release / "vmlinuz")
    modules = (root / "lib/modules" / release, root / "usr/lib/modules" / release)
    image = next((path for path in images if path.exists()), None)
    folder = next((path for path in modules if (path / "modules.dep").exists()), None)
    return Kernel(release, image, folder) if image and folder else None


def _of_suite(suite: str, progress: Progress) -> Kernel:
    folder = cache_folder() / "kernels"
    link = folder / suite
    with only_one(folder / ".lock", progress):
        cached = _at(link.resolve(), link.resolve().name) if link.exists() else None
        if cached and time.time() - link.lstat().st_mtime < _LOOK_AGAIN_SECONDS:
            return cached
        try:
            release = _fetch(suite, folder, progress)
        except HvtraceError as error:
            if cached is None:
                raise
            progress.say(f"could not look for a newer kernel, {cached.release} it is ({error})")
            return cached
        point(link, release)
    kernel = _at(folder / release, release)
    if kernel is None:
        raise HvtraceError(f"the packages of kernel {release} hold no image or no modules")
    return kernel


def _fetch(suite: str, folder: Path, progress: Progress) -> str:
    """Make sure that the suite's current kernel is unpacked; its release."""
    progress.say(f"looking for the kernel of Debian {suite}")
    for stale in folder.glob(".new-*"):  # of a run that was killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    # Beside its final place, so that the rename at the end is atomic.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        new = Path(scratch)
        private = apt.PrivateApt(new / "apt", suite, apt.archive())
        private.update()
        release, packages = _parts(private)
        if not (folder / release).exists():
            size_mb = sum(package.size_bytes for package in packages) / 1e6
            progress.say(f"fetching kernel {release} ({size_mb:.0f} MB from {private.uri})")
            files = private.download(packages, new, progress)
            progress.say(f"unpacking kernel {release}")
            unpack(files, new / "root", release)
            (new / "root").rename(folder / release)
    return release


def _parts(private: apt.PrivateApt) -> tuple[str, list[apt.Package]]:
    """The release that linux-image-amd64 stands for, and the packages it is made of."""
    release = ""
    packages: dict[str, apt.Package] = {}
    wanted = list(private.package("linux-image-amd64").depends)
    while wanted:
        name = wanted.pop()
        match = _PARTS.fullmatch(name)
        if match is None or name in packages:
            continue
        packages[name] = private.package(name)
        wanted += packages[name].depends
        if match[1] == "image":
            release = match[2]
    if not release:
        raise HvtraceError(f"linux-image-amd64 of Debian {private.suite} names no kernel")
    return release, list(packages.values())


def unpack(files: list[Path], root: Path, release: str) -> None:
    """Unpack a kernel's packages to a folder and index its modules.

    Raises:
        HvtraceError: a package is broken, or the disk is full.
    """
    for file in files:
        _run([tool("dpkg-deb"), "-x", str(file), str(root)])
    if not (root / "lib").exists():
        # trixie and later ship usr/lib only, and depmod looks in lib.
        (root / "lib").symlink_to("usr/lib")
    _run([tool("depmod"), "-b", str(root), release])
    shutil.rmtree(root / "usr/share", ignore_errors=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise HvtraceError(f"{Path(command[0]).name} failed: {reason}")


def point(link: Path, target: str) -> None:
    """Let a link name another target, in one step."""
    new = link.with_name(f".{link.name}-{os.getpid()}")
    new.symlink_to(target)
    new.replace(link)


@contextmanager
def only_one(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock file (in a folder created when missing): two runs fetch a thing once.

    Raises:
        HvtraceError: the folder can not be written to.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise HvtraceError(
            f"can not write to the cache {lock.parent}: {error.strerror};"
            " name another folder in HVTRACE_CACHE"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("waiting for another hvtrace that is filling the cache")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
