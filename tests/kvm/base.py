"""Linux 6.12 of this machine's Debian: kernel, headers and KVM's source, in the cache.

A module wants the compiler and the kbuild programs that its kernel was made with, so
the machine's own release decides. Nothing is installed; what was fetched once is used
until the folder ``kvm`` of the cache is deleted: a test fixture need not be the newest.
"""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.lab import apt, kernels
from hvtrace.lab.progress import Progress

SOURCE = "linux-source-6.12"
# By codename: the suite that has Linux 6.12, and the package that stands for its headers.
SUITES = {
    "bookworm": ("bookworm-security", "linux-headers-6.12-amd64"),
    "trixie": ("trixie", "linux-headers-amd64"),
}
# What headers of one kernel depend on: the image among it, the compiler not.
_PARTS = re.compile(r"linux-(headers|image|kbuild)-6\.12\..*")


@dataclass(frozen=True)
class Base:
    """What a variant is built from.

    Attributes:
        root: the packages, unpacked, with ``arch/x86/kvm`` and ``virt`` of the source
            in the tree of headers.
        kernel: as Debian made it.
    """

    root: Path
    kernel: kernels.Kernel

    @property
    def tree(self) -> str:
        """The source tree, below the root."""
        flavour = self.kernel.release.removesuffix("-amd64")
        return f"usr/src/linux-headers-{flavour}-common"

    @property
    def headers(self) -> str:
        """Configuration, generated headers and types (BTF) of this kernel, below the root."""
        return f"usr/src/linux-headers-{self.kernel.release}"


def find(folder: Path, progress: Progress) -> Base:
    """The base for this machine, fetched when it is not in the folder.

    Args:
        folder: whose lock the caller holds.
        progress: hears about what takes time.

    Raises:
        HvtraceError: another distribution, no network, or packages unlike the expected.
    """
    codename = _codename()
    root = folder / f"base-{codename}"
    if not root.exists():
        _fetch(codename, root, progress)
    kernel = kernels.in_folder(root)
    if kernel is None:
        raise HvtraceError(f"{root} is damaged: delete it, and it is fetched again")
    return Base(root, kernel)


def _codename() -> str:
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    codename = system.get("VERSION_CODENAME", "")
    if codename not in SUITES:
        raise HvtraceError(
            "the patched KVM is built on Debian 12 and 13, with their own Linux 6.12;"
            f" this is {system.get('PRETTY_NAME', 'another system')}"
        )
    return codename


def _fetch(codename: str, root: Path, progress: Progress) -> None:
    suite, headers = SUITES[codename]
    progress.say(f"looking for Linux 6.12 of Debian {codename}")
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root.parent) as scratch:
        new = Path(scratch)
        archive = apt.archive(security=suite.endswith("-security"))
        private = apt.PrivateApt(new / "apt", suite, archive)
        private.update()
        release, packages = _packages(private, headers)
        size_mb = sum(package.size_bytes for package in packages) / 1e6
        progress.say(f"fetching {release} and its source ({size_mb:.0f} MB from {private.uri})")
        files = private.download(packages, new, progress)
        progress.say("unpacking them")
        kernels.unpack(files, new / "root", release)
        base = Base(new / "root", kernels.Kernel(release, Path(), Path()))
        _unpack_source(base)
        for link in ("build", "source"):  # to where the headers would be installed
            (base.root / "lib/modules" / release / link).unlink(missing_ok=True)
        base.root.rename(root)


def _packages(private: apt.PrivateApt, headers: str) -> tuple[str, Sequence[apt.Package]]:
    """The release, and the packages of its kernel, all of one version."""
    (name, *_) = private.package(headers).depends
    first = private.package(name)
    others = [private.package(part) for part in first.depends if _PARTS.fullmatch(part)]
    packages = [first, *others, private.package(SOURCE)]
    if len(packages) != 5 or len({package.version for package in packages}) != 1:
        found = ", ".join(f"{package.name} {package.version}" for package in packages)
        raise HvtraceError(f"Debian {private.suite} has no complete Linux 6.12, only {found}")
    return name.removeprefix("linux-headers-"), packages


def _unpack_source(base: Base) -> None:
    """KVM's source, from its large archive to where the headers stand."""
    archive = base.root / f"usr/src/{SOURCE}.tar.xz"
    wanted = [f"{SOURCE}/{folder}" for folder in ("arch/x86/kvm", "virt")]
    command = ["tar", "-xJf", str(archive), "-C", str(base.root / base.tree)]
    command += ["--strip-components=1", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HvtraceError(f"can not unpack {SOURCE}: {done.stderr.strip().splitlines()[0]}")
    archive.unlink()
