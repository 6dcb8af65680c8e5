"""User spaces for the lab: the files of a Debian suite, in a cache of the user's.

A root has the suite's own Python and BCC, and what hvtrace and its tests take from PyPI, put
there by that Python itself. hvtrace is not in it: the VM sees the checkout. The cache holds
one folder per suite and recipe, complete or absent (it is renamed into place).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.lab import apt, tools
from hvtrace.lab.kernels import SUITES, cache_folder, only_one
from hvtrace.lab.progress import Progress

CHECKOUT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
"""The interpreter of every root."""

_PACKAGES = ("python3-bpfcc", "python3-pip-whl", "kmod", "procps", "bpftool")
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
# Where an installed hvtrace would be: beside the interpreter, as in any environment.
_PROGRAM = Path("usr/bin/hvtrace")
_PROGRAM_TEXT = f"""\
#!{PYTHON}
import sys

from hvtrace.__main__ import main

sys.exit(main())
"""
# A suite moves; so long a root of it stays what hvtrace is tested with.
_MAKE_AGAIN_SECONDS = 30 * 86400


def find(suite: str, progress: Progress, more: Sequence[str] = ()) -> Path:
    """The root of a Debian suite, made when there is none yet, or when it is old.

    Args:
        suite: one of `kernels.SUITES`.
        progress: hears about what takes time.
        more: Debian packages that it shall have, too.

    Raises:
        HvtraceError: no such suite, or its root can not be made.
    """
    if suite not in SUITES:
        raise HvtraceError(f"no root {suite}: give a Debian suite ({', '.join(SUITES)})")
    packages = sorted({*_PACKAGES, *more})
    modules = _dependencies()
    folder = cache_folder() / "roots"
    root = folder / f"{suite}-{_key(packages, modules)}"
    with only_one(folder / ".lock", progress):
        is_there = root.exists()
        if is_there and not _is_old(root):
            return root
        try:
            _make(suite, packages, modules, root, progress)
        except HvtraceError as error:
            if not is_there:
                raise
            progress.say(f"could not make a newer root of Debian {suite}, go on ({error})")
    return root


def _dependencies() -> list[str]:
    """What hvtrace needs from PyPI, and pytest."""
    try:
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    except FileNotFoundError:
        raise HvtraceError("a root is for a checkout of hvtrace, and this is none") from None
    return [*project["dependencies"], "pytest"]


def _key(packages: Sequence[str], modules: Sequence[str]) -> str:
    """What a root is known by beside its suite: all it is made of, as a hash."""
    recipe = json.dumps([*packages, *modules, *_LEFT_OUT, _PROGRAM_TEXT])
    return hashlib.sha256(recipe.encode()).hexdigest()[:8]


def _is_old(root: Path) -> bool:
    return time.time() - root.stat().st_mtime > _MAKE_AGAIN_SECONDS


def _make(
    suite: str, packages: Sequence[str], modules: Sequence[str], root: Path, progress: Progress
) -> None:
    """Make a root beside its final place, and rename it there."""
    begin = time.monotonic()
    for stale in root.parent.glob(".new-*"):  # of a run that was killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root.parent) as scratch:
        new = Path(scratch) / "root"
        private = apt.PrivateApt(Path(scratch) / "apt", suite, apt.archive())
        progress.say(f"making a root of Debian {suite}, with {', '.join(packages)}")
        _bootstrap(private, packages, new, progress)
        progress.say(f"  and from PyPI: {', '.join(modules)}")
        _install(modules, new)
        (new / _PROGRAM).write_text(_PROGRAM_TEXT)
        (new / _PROGRAM).chmod(0o755)
        new.touch()
        for old in root.parent.glob("[a-z]*"):
            if old == root or _is_old(old):
                old.rename(Path(scratch) / old.name)
        new.rename(root)
    progress.say(f"made in {time.monotonic() - begin:.0f} s")


def _bootstrap(
    private: apt.PrivateApt, packages: Sequence[str], new: Path, progress: Progress
) -> None:
    """The suite's files, owned by us: by way of an archive, as a user may not make others'."""
    begin = time.monotonic()
    archive = new.with_suffix(".tar")
    command = [
        *(tools.tool("mmdebstrap"), "--variant=essential", f"--include={','.join(packages)}"),
        # bookworm leaves it to its installer to join / and /usr; later suites are so.
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        *("--skip=output/dev", *(f"--aptopt={line}" for line in private.network)),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *(private.suite, str(archive), "-"),
    ]
    status, _, complaint = tools.run(
        command,
        stdin=private.sources,
        tick=lambda: progress.count(f"  {time.monotonic() - begin:.0f} s"),
    )
    if not status:
        (new / "dev").mkdir(parents=True)
        status, _, complaint = tools.run(["tar", "-x", "-C", new, "-f", archive])
    if status:
        raise HvtraceError(
            f"no root of Debian {private.suite} from {private.uri}: {apt.first_error(complaint)}"
        )


def _install(modules: Sequence[str], root: Path) -> None:
    """Install from PyPI, by the root's interpreter, among this machine's files.

    There it needs neither a privilege nor a network of its own, and pip finds the user's
    settings.
    """
    (pip,) = (root / "usr/share/python-wheels").glob("pip-*.whl")
    (version,) = (root / "usr/local/lib").glob("python3.*")
    command = [
        *(*_python(root), str(pip / "pip"), "install", "-qq"),
        # Nothing is built: that would be done with this machine's files.
        *("--disable-pip-version-check", "--only-binary=:all:"),
        *("--target", str(version / "dist-packages"), *modules),
    ]
    status, _, complaint = tools.run(command)
    if status:
        raise HvtraceError(f"pip failed for {root.name}: {apt.first_error(complaint)}")


def compile_checkout(root: Path | None, *folders: str) -> None:
    """Leave bytecode of the checkout's Python files where an interpreter finds it (PEP 3147).

    An emulated machine would compile each of them in each of its lives: what it writes is gone
    with it, and what takes a second here takes a minute there.

    Args:
        root: whose interpreter it is for; None for this one.
        folders: of the checkout.
    """
    python = _python(root) if root else (sys.executable, "-I")
    # No status is asked for: without bytecode all goes on, and takes longer.
    tools.run([*python, "-m", "compileall", "-qq", *folders], cwd=CHECKOUT)


def _python(root: Path) -> tuple[str, ...]:
    """A root's interpreter as a command of this machine's, apart from the user's settings.

    Its libraries are the root's, by the dynamic loader that is told so (ld.so(8)).
    """
    libraries = root / "usr/lib/x86_64-linux-gnu"
    loader = (libraries / "ld-linux-x86-64.so.2", "--library-path", libraries)
    return (*map(str, loader), str(root / PYTHON[1:]), "-I")
