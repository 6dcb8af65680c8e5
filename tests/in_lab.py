"""Runs the tests that need real hypercalls: each folder in a fresh VM, under each kernel.

    python -m tests.in_lab [--kernel trixie]... [--root sid]... [FOLDER [-- PYTEST ARGUMENTS]]
    python -m tests.in_lab --fetch [...]    only fetch and build what these need

The kernels are Debian's current ones (for tests/host, one of them); for tests/xmm, the
variants of tests/kvm, which are built first. Inside, pytest runs as root with this machine's
files; its lines are seen as they are printed, and its report (JUnit XML) is read here.
Those of tests/vm that meet every Python, BCC and LLVM (EVERYWHERE) run with the files of
the other suites, too: each kernel with each of these roots is a cell of the matrix. A cell
whose kernel and files are of two suites gets them all where it is asked for by name only.
tests/prometheus runs here and boots a VM of its own, beside the servers that scrape it.
An emulated VM keeps one CPU busy, so as many run at once as there are CPUs, up to three.
A VM that does not come up, and a folder without a single test, are failures.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from hvtrace.errors import HvtraceError
from hvtrace.lab import kernels, roots, tools
from hvtrace.lab.progress import Progress
from hvtrace.lab.vm import Vm
from tests.kvm import build
from tests.outcomes import Lines, Outcome, read_report, summary
from tests.prometheus import package

# The longest first.
FOLDERS = ("tests/vm", "tests/host", "tests/prometheus", "tests/xmm", "tests/icount")
# The one that is about hvtrace more than about the kernel, the one whose tests boot a VM
# themselves, the one that is about the patched KVM, and the one whose tests want a clock that
# counts instructions.
VM, ONCE, SERVERS, PATCHED, ICOUNT = FOLDERS
# What of tests/vm is about the user space, too.
EVERYWHERE = tuple(f"tests/vm/test_{what}.py" for what in ("truth", "round_trip", "single_calls"))
# Of these, where kernel and user space are of two suites, and nobody asked for the two: KVM
# that comes and goes, more vCPUs and single calls were met with each kernel, and with each
# user space.
BETWEEN = ("-k", "not 2-vms-of-4 and not kvm-reloaded and not single_calls")
# A root of this name is this machine's own files.
HOST = "host"
# Every kernel meets one, two and four CPUs, and none is booted for that alone.
CPUS = {HOST: 2, "bookworm": 2, "trixie": 1, "sid": 4}
MOST_AT_ONCE = 3
# An idle machine takes four minutes at most; one that takes this long is stuck.
TIMEOUT_SECONDS = 1800.0

# Plugins take seconds to import in an emulated machine, and none is used.
_ENVIRONMENT = ("env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1")
_PYTEST = (
    *("-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore:Unknown config option", "-v"),
    *("-o", "junit_family=xunit1", "--color", "yes" if sys.stdout.isatty() else "no"),
)
# Those of the servers mostly wait, so they go two by two; some share what one has set up.
_SIDE_BY_SIDE = ("-n", "2", "--dist", "loadgroup")


@dataclass(frozen=True)
class Job:
    """One folder under one kernel, with pytest's further arguments.

    Attributes:
        variant: which patched KVM the kernel has, if it has one.
        suite, root: whose files the VM has, and where they are (None: this machine's).
    """

    kernel: kernels.Kernel
    variant: str | None
    suite: str
    root: Path | None
    folder: str
    arguments: Sequence[str]

    @property
    def title(self) -> str:
        suite = f" {self.suite}" if self.root else ""
        return f"{self.variant or self.kernel.release}{suite} {self.folder}"

    def run(self, scratch: Path, progress: Progress) -> Outcome:
        """Boot, test, power off."""
        begin = time.monotonic()
        share = Path(tempfile.mkdtemp(dir=scratch))
        report = share / "report.xml"
        # A pipe even where there is a terminal: Ctrl-C shall end all of it.
        name = self.variant or ".".join(self.kernel.release.split(".")[:2])
        lines = Lines(f"{name:>4}{f' {self.suite}' if self.root else ''} | ", sys.stdout)
        machine = Vm(
            *(self.kernel, share, lines, progress),
            icount=self.folder == ICOUNT,
            root=self.root,
            cpus=CPUS[self.suite],
        )
        # The tests' own word for what they run on: not for them to find out.
        variant = [f"HVTRACE_KVM={self.variant}"] if self.variant else []
        python = roots.PYTHON if self.root else sys.executable
        tests = EVERYWHERE if self.root else [self.folder]
        pytest = [python, *_PYTEST, "--junit-xml", str(report), *tests, *self.arguments]
        command = [*_ENVIRONMENT, *variant, *pytest]
        try:
            outcome = read_report(report, machine.run(command, TIMEOUT_SECONDS))
        except HvtraceError as error:
            outcome = Outcome(problem=str(error))
        return outcome.titled(self.title, time.monotonic() - begin)


@dataclass(frozen=True)
class Hosted:
    """A folder whose tests run on this machine, with pytest's further arguments."""

    folder: str
    arguments: Sequence[str]

    @property
    def title(self) -> str:
        return self.folder

    def run(self, scratch: Path, progress: Progress) -> Outcome:
        """Test; what is said is shown as a VM's is."""
        begin = time.monotonic()
        report = Path(tempfile.mkdtemp(dir=scratch)) / "report.xml"
        lines = Lines(f"{Path(self.folder).name} | ", sys.stdout)
        pytest = [sys.executable, *_PYTEST, *_SIDE_BY_SIDE, "--junit-xml", str(report)]
        with subprocess.Popen(
            [*pytest, self.folder, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as running:
            assert running.stdout is not None
            for line in running.stdout:
                lines.show(line)
        lines.release()
        outcome = read_report(report, running.returncode)
        return outcome.titled(self.title, time.monotonic() - begin)


def jobs(
    names: Sequence[str],
    suites: Sequence[str],
    folder: str | None,
    arguments: Sequence[str],
    progress: Progress,
) -> list[Job | Hosted]:
    """What to run, with every kernel fetched or built, and every root made.

    Args:
        names: of kernels; empty for all suites and variants.
        suites: whose files, `HOST` for this machine's; empty for all.
        folder: the only one, or None for all.
        arguments: for pytest.
        progress: hears about what takes time.

    Raises:
        HvtraceError: a kernel or a root can not be had, or nothing is for these.
    """
    wanted = [
        (name, suite, each)
        for each in FOLDERS
        for suite in _suites(each, suites)
        for name in names or _names(each)
        if folder in (None, each)
        and each != SERVERS
        and (not suites or suite in suites)
        and (name in build.VARIANTS) == (each == PATCHED)
    ]
    has_servers = folder in (None, SERVERS) and not names and not suites
    if not wanted and not has_servers:
        raise HvtraceError(
            f"only {PATCHED} runs under {', '.join(build.VARIANTS)}, and only there;"
            f" only {VM} runs with other files than this machine's;"
            f" {SERVERS} chooses both itself"
        )
    found = {}
    for name in dict.fromkeys(name for name, *_ in wanted):
        is_patched = name in build.VARIANTS
        found[name] = (build.kernel if is_patched else kernels.find)(name, progress)
    made: dict[str, Path | None] = {HOST: None}
    for suite in dict.fromkeys(suite for _, suite, _ in wanted if suite != HOST):
        made[suite] = roots.find(suite, progress)
    for root in made.values():
        roots.compile_checkout(root, "hvtrace", "tests")
    all_jobs: list[Job | Hosted] = [
        Job(
            *(found[name], name if name in build.VARIANTS else None, suite, made[suite]),
            *(each, arguments if suites or suite in (HOST, name) else (*BETWEEN, *arguments)),
        )
        for name, suite, each in wanted
    ]
    if has_servers:
        for suite in package.SUITES:
            package.find(suite, progress)
        all_jobs.append(Hosted(SERVERS, arguments))
    return sorted(all_jobs, key=lambda job: FOLDERS.index(job.folder))


def _names(folder: str) -> tuple[str, ...]:
    """Kernels that a folder's tests run under, where none was asked for."""
    return (kernels.DEFAULT,) if folder == ONCE else (*kernels.SUITES, *build.VARIANTS)


def _suites(folder: str, suites: Sequence[str]) -> tuple[str, ...]:
    """Whose files a folder's tests run with, of those asked for; all but this machine's twice."""
    if folder != VM:
        return (HOST,)
    own = platform.freedesktop_os_release().get("VERSION_CODENAME")
    return (HOST, *(suite for suite in kernels.SUITES if suite in suites or suite != own))


def run_all(wanted: Sequence[Job | Hosted], progress: Progress) -> list[Outcome]:
    """All jobs, the longest first, and what came of each in the order given."""
    at_once = min(os.cpu_count() or 1, MOST_AT_ONCE)
    progress.say(f"running {len(wanted)} VMs, {at_once} at once")
    with (
        tempfile.TemporaryDirectory(prefix="hvtrace-tests-", ignore_cleanup_errors=True) as folder,
        ThreadPoolExecutor(at_once) as pool,
    ):
        try:
            return list(pool.map(lambda job: job.run(Path(folder), progress), wanted))
        except KeyboardInterrupt:
            # The threads know nothing of it; their VMs end with this process.
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(130)


@click.command()
@click.option("--kernel", "names", multiple=True, help="Suite, release or variant; all by default.")
@click.option(
    "--root",
    "suites",
    multiple=True,
    type=click.Choice(list(CPUS)),
    help="Whose files; this machine's and those of all other suites by default.",
)
@click.option("--fetch", is_flag=True, help="Only fetch and build what these need.")
@click.argument("folder", required=False, type=click.Choice(FOLDERS))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(
    names: Sequence[str],
    suites: Sequence[str],
    fetch: bool,
    folder: str | None,
    arguments: Sequence[str],
) -> None:
    """Run FOLDER, or all that need a VM, each under its kernels; ARGUMENTS go to pytest."""
    os.chdir(Path(__file__).parents[1])
    progress = Progress(sys.stdout)
    try:
        tools.check()
        wanted = jobs(names, suites, folder, arguments, progress)
    except HvtraceError as error:
        raise click.ClickException(str(error)) from None
    if fetch:
        return
    begin = time.monotonic()
    outcomes = run_all(wanted, progress)
    text, is_good = summary(outcomes, time.monotonic() - begin)
    print(text)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
