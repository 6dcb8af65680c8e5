"""Runs the tests that need real hypercalls: each folder in a fresh VM, under each kernel.

    python -m tests.in_lab [--kernel trixie]... [FOLDER [-- PYTEST ARGUMENTS]]

The kernels are Debian's current ones. Inside, pytest runs as root with this machine's
files; what it prints is seen as it is printed, and its report (JUnit XML) is read here.
A VM that does not come up, and a folder without a single test, are failures.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from hvtrace.errors import HvtraceError
from hvtrace.lab import front, kernels, tools
from hvtrace.lab.progress import Progress
from hvtrace.lab.vm import Vm
from tests.outcomes import Outcome, read_report, summary

# Folder, and whether its tests want a clock that counts instructions.
FOLDERS = {"tests/vm": False, "tests/icount": True}
# An idle machine takes one to two minutes; one that takes this long is stuck.
TIMEOUT_SECONDS = 1200.0

_PYTEST = (
    *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
    # The options of plugins that are not loaded in there, see below.
    *("-W", "ignore:Unknown config option"),
)


def run_folder(
    kernel: kernels.Kernel, folder: str, arguments: Sequence[str], progress: Progress
) -> Outcome:
    """One folder under one kernel."""
    title = f"{kernel.release} {folder}"
    progress.say(f"\n=== {title}: booting")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hvtrace-tests-") as share:
        report = Path(share) / "report.xml"
        color = "yes" if sys.stdout.isatty() else "no"
        command = (
            # Plugins take seconds to import in an emulated machine, and none is used.
            *("env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", *_PYTEST),
            *("--color", color, "--junit-xml", str(report), folder, *arguments),
        )
        # A pipe even where there is a terminal: Ctrl-C shall end all of it.
        machine = Vm(kernel, Path(share), front.Front(_write), progress, FOLDERS[folder])
        try:
            status = machine.run(command, TIMEOUT_SECONDS)
            found = read_report(report, status)
        except HvtraceError as error:
            found = Outcome(problem=str(error))
    return found.titled(title, time.monotonic() - begin)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@click.command()
@click.option("--kernel", "names", multiple=True, help="Suite or release; all suites by default.")
@click.argument("folder", required=False, type=click.Choice(list(FOLDERS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(names: Sequence[str], folder: str | None, arguments: Sequence[str]) -> None:
    """Run tests/vm and tests/icount in VMs; ARGUMENTS go to pytest."""
    os.chdir(Path(__file__).parents[1])
    progress = Progress(sys.stdout)
    outcomes = []
    try:
        tools.check()
        for name in names or kernels.SUITES:
            kernel = kernels.find(name, progress)
            for each in [folder] if folder else FOLDERS:
                outcomes.append(run_folder(kernel, each, arguments, progress))
    except HvtraceError as error:
        raise click.ClickException(str(error)) from None
    text, is_good = summary(outcomes)
    print(text)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
