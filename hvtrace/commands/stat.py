"""`hvtrace stat`: trace for a while, or while a command runs, then say what was counted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

import click
import numpy as np

from hvtrace.commands import options
from hvtrace.commands.interrupts import Interrupts
from hvtrace.errors import HvtraceError
from hvtrace.stats import report, table
from hvtrace.stats.snapshot import Snapshot, Source, delta, rollup, select

POLL_SECONDS = 0.25
"""How often to look while waiting: VMs are to be known by name before they are gone."""

NO_CALLS = """\
Guests make them only with Hyper-V enlightenments on, such as QEMU's
-cpu host,hv-vpindex,hv-synic,hv-tlbflush,hv-ipi (or hv-passthrough).
"""

EXAMPLES = """\b
Examples:
  hvtrace stat -d 10                 all VMs of this host, for ten seconds
  hvtrace stat -p 4711               one VMM process, until Ctrl-C
  hvtrace stat --json -o out.json -- ./run-my-vm
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What was counted, where and when."""

    counted: Snapshot
    kernel: str
    start: float  # unix seconds
    duration_s: float
    status: int = 0  # to exit with


@click.command(context_settings={"allow_interspersed_args": False}, epilog=EXAMPLES)
@click.option(
    "-d",
    "--duration",
    "seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End after this time.",
)
@options.tracing
@options.vms
@click.option(
    "--by",
    type=click.Choice(["vm", "call"]),
    default="vm",
    show_default=True,
    help="A table of each VM, or one of all together.",
)
@options.evidence
@click.option("--json", "form", flag_value="json", help="Print one JSON object instead of tables.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV instead of tables.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the result here, not to standard output.",
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND...]")
def command(
    *,
    seconds: float | None,
    pid: int | None,
    code: int | None,
    slots: int,
    anyway: bool,
    vms: tuple[str, ...],
    by: str,
    evidence: bool,
    round_trip: bool,
    form: str | None,
    output: Path | None,
    argv: tuple[str, ...],
) -> int:
    """Count hypercalls until COMMAND ends, SECONDS have passed, or Ctrl-C; then print a table.

    A line is one call of one VM: how often, at what rate per second, its share
    (%) of all time spent in hypercalls, the time of one call (mean, median,
    99th percentile, longest), then the percentage of calls that were fast,
    that brought input in XMM registers, and that the VMM served, and the
    number of failures. "Unfinished" calls never completed. With --round-trip,
    "trip" is the mean time from the exit that made a call to the next entry to
    the guest; where there is no room for both, it stands in place of the median.

    The status is 0, or that of COMMAND (128 + N if signal N ended it).
    """
    if argv and seconds:
        raise click.UsageError("give either a duration or a command, not both")
    if form and by != "vm":
        raise click.UsageError("--by is for tables: JSON and CSV have a row for each VM and call")
    if argv and shutil.which(argv[0]) is None:
        raise HvtraceError(f"cannot start {argv[0]}: there is no such program")

    from hvtrace.kernel import live

    with _open_output(output) as out:
        with live.open_source(
            pid=pid,
            code=code,
            slots=slots,
            anyway=anyway,
            evidence=evidence,
            round_trip=round_trip,
        ) as source:
            result = _trace(source, list(argv), seconds)
        if vms:
            result = replace(result, counted=_only(result.counted, vms))
        if by == "call":
            whole = rollup(result.counted, ("code", "fast", "handler"))
            result = replace(result, counted=whole)
        out.write(_text(result, form, out))
        out.flush()
    return result.status


def _open_output(path: Path | None) -> AbstractContextManager[TextIO]:
    """Open before anything starts: a run is not lost for want of a place to put it."""
    if path is None:
        return nullcontext(sys.stdout)
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise HvtraceError(f"cannot write {path}: {error.strerror}") from None


def _trace(source: Source, argv: list[str], seconds: float | None) -> Result:
    """Run `argv`, or wait for `seconds`; every VM, rolled up."""
    with Interrupts() as interrupts:
        before = rollup(source.snapshot())
        if argv:
            status = _run(argv, source, interrupts)
        else:
            status = 0
            _wait(source, interrupts, seconds)
        after = rollup(source.snapshot())
    duration_s = (after.monotonic_ns - before.monotonic_ns) / 1e9
    return Result(delta(before, after), source.kernel, before.time, duration_s, status)


def _wait(source: Source, interrupts: Interrupts, seconds: float | None) -> None:
    """Until `seconds` have passed (None: never), or a signal."""
    if seconds is None and sys.stderr.isatty():
        click.echo("hvtrace: counting; Ctrl-C ends it and shows the result", err=True)
    end = float("inf") if seconds is None else time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if interrupts.wait(min(left, POLL_SECONDS)):
            return
        source.look()


def _run(argv: list[str], source: Source, interrupts: Interrupts) -> int:
    """Run a command to its end and return its status, as a shell would; 0 after Ctrl-C.

    Ctrl-C at a terminal reaches the command too, so the first is left to it.
    The second (or a SIGTERM) asks it to end, the third ends it.
    """
    try:
        process = subprocess.Popen(argv)
    except OSError as error:
        raise HvtraceError(f"cannot start {argv[0]}: {error.strerror}") from None
    urgency = 0
    ended = os.pidfd_open(process.pid)
    try:
        while process.poll() is None:
            for number in interrupts.wait(POLL_SECONDS, ended):
                urgency = max(urgency + 1, 2 if number == signal.SIGTERM else 1)
                if urgency > 1:
                    process.send_signal(signal.SIGTERM if urgency == 2 else signal.SIGKILL)
            source.look()
    finally:
        os.close(ended)
        if process.poll() is None:  # tracing failed: do not leave a command behind
            process.terminate()
    return 0 if urgency else _status(argv[0], process.returncode)


def _status(program: str, returncode: int) -> int:
    if returncode == 0:
        return 0
    if returncode > 0:
        click.echo(f"hvtrace: {program} ended with status {returncode}", err=True)
        return returncode
    names = {number.value: number.name for number in signal.Signals}
    name = names.get(-returncode, f"signal {-returncode}")
    click.echo(f"hvtrace: {program} was ended by {name}", err=True)
    return 128 - returncode


def _only(counted: Snapshot, wanted: tuple[str, ...]) -> Snapshot:
    """The rows of VMs whose name matches; says so where there are none."""
    matches = [any(fnmatchcase(vm.name, pattern) for pattern in wanted) for vm in counted.vms]
    found = select(counted, np.isin(counted.rows["vm"], np.flatnonzero(matches)))
    named = {vm.identity for vm, match in zip(counted.vms, matches, strict=True) if match}
    found = replace(found, exits=tuple(e for e in counted.exits if e.vm.identity in named))
    if not len(found.rows) and len(counted.rows):
        names = sorted({counted.vms[index].name for index in counted.rows["vm"]})
        click.echo(f"hvtrace: no such VM made a call; these did: {', '.join(names)}", err=True)
    return found


def _text(result: Result, form: str | None, out: TextIO) -> str:
    """`result` in the form for `out`, which can encode all of it."""
    counted, start, duration_s = result.counted, result.start, result.duration_s
    if form == "json":
        return json.dumps(report.as_json(counted, result.kernel, start, duration_s)) + "\n"
    if form == "csv":
        return report.as_csv(counted, start, duration_s)
    terminal = out.isatty()
    width = max(80, shutil.get_terminal_size().columns) if terminal else 80
    text = table.render(counted, duration_s, width, terminal and "NO_COLOR" not in os.environ)
    if not len(counted.rows):
        text += NO_CALLS
    return text.encode(out.encoding, "replace").decode(out.encoding)
