"""Runs the tests that need real hypercalls: each folder in a fresh VM, under each kernel.

    python -m tests.in_lab [--kernel trixie]... [FOLDER [-- PYTEST ARGUMENTS]]

The kernels are Debian's current ones. Inside, pytest runs as root with this machine's
files; its lines are seen as they are printed, and its report (JUnit XML) is read here.
An emulated VM keeps one CPU busy, so as many run at once as there are CPUs, up to three.
A VM that does not come up, and a folder without a single test, are failures.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from hvtrace.errors import HvtraceError
from hvtrace.lab import kernels, tools
from hvtrace.lab.progress import Progress
from hvtrace.lab.vm import Vm
from tests.outcomes import Lines, Outcome, read_report, summary

# Folder, and whether its tests want a clock that counts instructions.
FOLDERS = {"tests/vm": False, "tests/icount": True}
MOST_AT_ONCE = 3
# An idle machine takes four minutes at most; one that takes this long is stuck.
TIMEOUT_SECONDS = 1800.0

_PYTEST = (
    # Plugins take seconds to import in an emulated machine, and none is used.
    *("env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", sys.executable, "-m", "pytest"),
    *("-p", "no:cacheprovider", "-W", "ignore:Unknown config option", "-v"),
    *("-o", "junit_family=xunit1", "--color", "yes" if sys.stdout.isatty() else "no"),
)


@dataclass(frozen=True)
class Job:
    """One folder under one kernel, with pytest's further arguments."""

    kernel: kernels.Kernel
    folder: str
    arguments: Sequence[str]

    @property
    def title(self) -> str:
        return f"{self.kernel.release} {self.folder}"

    def run(self, scratch: Path, progress: Progress) -> Outcome:
        """Boot, test, power off."""
        begin = time.monotonic()
        share = Path(tempfile.mkdtemp(dir=scratch))
        report = share / "report.xml"
        # A pipe even where there is a terminal: Ctrl-C shall end all of it.
        version = ".".join(self.kernel.release.split(".")[:2])
        lines = Lines(f"{version:>4} | ", sys.stdout)
        machine = Vm(self.kernel, share, lines, progress, icount=FOLDERS[self.folder])
        command = [*_PYTEST, "--junit-xml", str(report), self.folder, *self.arguments]
        try:
            outcome = read_report(report, machine.run(command, TIMEOUT_SECONDS))
        except HvtraceError as error:
            outcome = Outcome(problem=str(error))
        return outcome.titled(self.title, time.monotonic() - begin)


def run_all(jobs: Sequence[Job], progress: Progress) -> list[Outcome]:
    """All jobs, the longest first, and what came of each in the order given."""
    at_once = min(os.cpu_count() or 1, MOST_AT_ONCE)
    progress.say(f"running {len(jobs)} VMs, {at_once} at once")
    with (
        tempfile.TemporaryDirectory(prefix="hvtrace-tests-", ignore_cleanup_errors=True) as folder,
        ThreadPoolExecutor(at_once) as pool,
    ):
        try:
            return list(pool.map(lambda job: job.run(Path(folder), progress), jobs))
        except KeyboardInterrupt:
            # The threads know nothing of it; their VMs end with this process.
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(130)


@click.command()
@click.option("--kernel", "names", multiple=True, help="Suite or release; all suites by default.")
@click.argument("folder", required=False, type=click.Choice(list(FOLDERS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(names: Sequence[str], folder: str | None, arguments: Sequence[str]) -> None:
    """Run tests/vm and tests/icount in VMs; ARGUMENTS go to pytest."""
    os.chdir(Path(__file__).parents[1])
    progress = Progress(sys.stdout)
    try:
        tools.check()
        found = [kernels.find(name, progress) for name in names or kernels.SUITES]
    except HvtraceError as error:
        raise click.ClickException(str(error)) from None
    jobs = [Job(kernel, each, arguments) for each in FOLDERS for kernel in found]
    begin = time.monotonic()
    outcomes = run_all([job for job in jobs if folder in (None, job.folder)], progress)
    text, is_good = summary(outcomes, time.monotonic() - begin)
    print(text)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
