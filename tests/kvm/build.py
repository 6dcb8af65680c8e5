"""Builds the patched KVM modules, out of tree, and lays each out as a kernel of its own.

    python -m tests.kvm.build [VARIANT...]

A variant is Debian's kernel with kvm.ko and kvm-amd.ko replaced. It is built once for
each state of its patches: the cache holds it by their hash, complete or absent, with a
link of the variant's name to the newest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from hvtrace.errors import HvtraceError
from hvtrace.lab import kernels, tools
from hvtrace.lab.progress import Progress
from tests.kvm import base

PATCHES = Path(__file__).parent / "patches"
VARIANTS = {
    "forward": ("0001-forward.patch",),
    "grown": ("0001-forward.patch", "0002-grown.patch"),
    "new-type": ("0001-forward.patch", "0002-new-type.patch"),
}
# Program, and the Debian package that has it. kbuild's own programs come with the headers.
PACKAGES = {
    "gcc": "gcc",
    "make": "make",
    "pahole": "pahole",
    "patch": "patch",
    "strip": "binutils",
    "xz": "xz-utils",
}
# The lab's CPU is an AMD one.
_MAKE = ("CONFIG_KVM_INTEL=n", "modules")
_MODULES = ("kvm.ko", "kvm-amd.ko")


def kernel(variant: str, progress: Progress) -> kernels.Kernel:
    """A variant, built when needed (and its base fetched).

    Args:
        variant: one of `VARIANTS`.
        progress: hears about what takes time.

    Raises:
        HvtraceError: a program is missing, the base can not be had, or the build failed.
    """
    folder = kernels.cache_folder() / "kvm"
    with kernels.only_one(folder / ".lock", progress):
        for stale in folder.glob(".new-*"):  # of a run that was killed: we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        _check_programs()
        found = base.find(folder, progress)
        patches = [PATCHES / name for name in VARIANTS[variant]]
        root = folder / key(variant, found.kernel.release, patches)
        if not root.exists():
            _build(variant, found, patches, root, progress)
        kernels.point(folder / variant, root.name)
    built = kernels.in_folder(root)
    if built is None:
        raise HvtraceError(f"{root} is damaged: delete it, and it is built again")
    return built


def key(variant: str, release: str, patches: Sequence[Path]) -> str:
    """What a built variant is known by: everything that it depends on, as a hash."""
    known = hashlib.sha256("\0".join((variant, release, *_MAKE)).encode())
    for patch in patches:
        known.update(b"\0" + patch.read_bytes())
    return known.hexdigest()[:16]


def _check_programs() -> None:
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        raise HvtraceError(
            "building KVM needs programs that are not installed:"
            f" apt-get install -y {' '.join(missing)}"
        )


def _build(
    variant: str, found: base.Base, patches: Sequence[Path], root: Path, progress: Progress
) -> None:
    """Build a variant beside its final place, and rename it there."""
    begin = time.monotonic()
    progress.say(f"building KVM for {found.kernel.release}, variant {variant}")
    log = root.parent / f"{variant}.log"
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root.parent) as scratch:
        # Hard links: patch and make write new files and leave those of the base alone.
        work = Path(scratch) / "work"
        _link_tree(found.root / "usr", work / "usr")
        tree = work / found.tree
        log.write_text("")
        for patch in patches:
            apply = ("patch", "-p1", "--batch", "--forward", "-d", tree, "-i", patch)
            _run(apply, log, f"{patch.name} does not fit {found.kernel.release}")
        # Debian's Makefile of the headers names the tree where it would be installed;
        # ours is named here.
        make = ("make", f"-j{os.cpu_count()}", "-C", work / found.headers, "-f", tree / "Makefile")
        _run(
            (*make, f"M={tree / 'arch/x86/kvm'}", *_MAKE),
            log,
            f"KVM variant {variant} does not build",
        )
        new = Path(scratch) / "new"
        _lay_out(found, [tree / "arch/x86/kvm" / name for name in _MODULES], new, log)
        new.rename(root)
    progress.say(f"built in {time.monotonic() - begin:.0f} s")


def _lay_out(found: base.Base, modules: Sequence[Path], new: Path, log: Path) -> None:
    """Debian's kernel with other modules of KVM, as its packages would be unpacked."""
    release = found.kernel.release
    (new / "boot").mkdir(parents=True)
    (new / "boot" / found.kernel.image.name).hardlink_to(found.kernel.image)
    _link_tree(found.kernel.modules, new / "lib/modules" / release)
    place = new / "lib/modules" / release / "kernel/arch/x86/kvm"
    for stock in place.glob("kvm*.ko*"):  # kvm-intel would not fit the new kvm either
        stock.unlink()
    for module in modules:
        # BTF is no debugging section, and stays.
        _run(["strip", "--strip-debug", "-o", place / module.name, module], log, "strip failed")
    _run([tools.tool("depmod"), "-b", new, release], log, "depmod failed")


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)


def _run(command: Sequence[str | Path], log: Path, failure: str) -> None:
    """Run a program, what it says at the end of the log.

    Raises:
        HvtraceError: it failed; with the line that says why.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    with log.open("ab") as out:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, check=False
        )
    if done.returncode:
        said = reason(log.read_text(errors="replace"))
        raise HvtraceError(f"{failure}: {said} (all of it: {log})")


def reason(said: str) -> str:
    """The line that says why a build failed: the first error, or else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror:|undefined!|FAILED", line)]
    return (errors[:1] or lines[-1:] or ["no reason given"])[0]


@click.command()
@click.argument("variants", nargs=-1, type=click.Choice(list(VARIANTS)))
def main(variants: Sequence[str]) -> None:
    """Build VARIANTS (all by default), and print where they are."""
    progress = Progress()
    try:
        tools.check()
        for variant in variants or VARIANTS:
            kernel(variant, progress)
            print(f"{variant:<8} {kernels.cache_folder() / 'kvm' / variant}")
    except HvtraceError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
